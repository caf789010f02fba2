"""Adversarial training through the loop as it stands: who learns from which loss, metric names, resume, n-critic."""

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TRAIN, Train
from pairs import options
from torch import Tensor

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.state import checkpoint
from scaffolding.evaluate import evaluate
from scaffolding.experiment import Experiment
from scaffolding.train import train_step

MODELS = {"gan": "generator", "gan_autoencoder": "autoencoder"}  # and the network beside the discriminator
HERE = [name for name in MODELS if name in options("model")]
pytestmark = pytest.mark.skipif("digits" not in options("data") or not HERE, reason="the examples have been deleted")
needs_gan = pytest.mark.skipif("gan" not in HERE, reason="the example has been deleted")
QUICK = ("data=digits", "mode=dev", "tracker=none", "plots=none", "rollout.num_samples=8", "run.rehearse_resume=false")
GAN = ("discriminator", "generator")
README = (PROJECT_ROOT / "README.md").read_text()


def experiment(model: str, *words: str) -> Experiment:
    return Experiment.from_config("data=digits", f"model={model}", "mode=dev", "tracker=none", *words)


@pytest.mark.parametrize("model", HERE)
def test_each_loss_moves_its_own_network_alone(model: str) -> None:
    exp = experiment(model)
    window = next(exp.train_loader.windows(exp.state, 1))
    kept = dict(exp.optimizers)
    assert list(kept) == ["discriminator", MODELS[model]]
    for name, optimizer in kept.items():
        before = {key: value.clone() for key, value in exp.model.state_dict().items()}
        exp.__dict__["optimizers"] = {name: optimizer}
        losses, exp.losses = exp.losses, {name: exp.losses[name]}
        train_step(exp, window)
        exp.losses = losses
        for key, value in exp.model.state_dict().items():
            assert torch.equal(value, before[key]) != key.startswith(f"{name}."), key


@pytest.mark.parametrize("model", HERE)
def test_evaluation_is_the_same_each_time_and_named_by_network(model: str) -> None:
    exp = experiment(model)
    values, generators = evaluate(exp, "val"), torch.get_rng_state()
    assert evaluate(exp, "val") == values
    assert torch.equal(torch.get_rng_state(), generators)
    assert {f"{name}/loss" for name in ("discriminator", MODELS[model])} < set(values)
    assert exp.monitor is None
    exp = experiment(model, "run.monitor=val/discriminator/loss")
    assert exp.monitor == "val/discriminator/loss"


@pytest.mark.parametrize("model", HERE)
def test_losses_in_closed_form(model: str) -> None:
    """With logits a for real images and b for others: -log s(a) - log(1 - s(b)), and -log s(b) for the other side."""

    class Judge(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images),), 1.5) if images is batch[0] else torch.full((len(images),), -0.5)

    exp = experiment(model)
    batch = next(iter(exp.val_loader))
    exp.model.discriminator = Judge()
    sigmoid = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    loss, metrics = exp.losses["discriminator"](exp.model, batch)
    assert float(loss) == pytest.approx(-math.log(sigmoid(1.5)) - math.log(1 - sigmoid(-0.5)))
    assert [float(metrics[key]) for key in ("real", "fake")] == pytest.approx([sigmoid(1.5), sigmoid(-0.5)])
    loss, metrics = exp.losses[MODELS[model]](exp.model, batch)
    adversarial = metrics.get("adversarial", loss)
    assert float(adversarial) == pytest.approx(-math.log(sigmoid(-0.5)))
    if model == "gan_autoencoder":
        error = (exp.model(batch[0]) - batch[0]).square().mean()
        assert float(loss.detach()) == pytest.approx(
            float(error.detach() + exp.losses[MODELS[model]].adversarial * adversarial.detach())
        )


@pytest.mark.parametrize("model", HERE)
def test_an_image_that_does_not_fit_is_refused(model: str) -> None:
    with pytest.raises(Exception, match="10x8 cannot be halved 2 times"):
        experiment(model, "data.image_shape=[1,10,8]")


@needs_gan
def test_samples_are_images() -> None:
    assert experiment("gan").model.sample(3, torch.Generator()).shape == (3, 1, 8, 8)


@pytest.mark.full
@needs_gan
def test_rollouts_are_logged_at_their_steps(train: Train, output_root: Path) -> None:
    train("model=gan", *QUICK, "run.rollout_every=1", "run.budget=4", "run.name=run")
    rows = [row for row in Facts(output_root / "dev" / "run" / "facts").rows() if row["split"] == "rollout"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(0 <= row["coverage"] <= 1 for row in rows)


@needs_gan
def test_one_optimizer_spec_or_two() -> None:
    exp = experiment("gan", "optimizer=sgd", "scheduler=step")
    assert [exp.optimizers[name].param_groups[0]["lr"] for name in GAN] == [0.05, 0.05]
    assert len({id(schedule.scheduler) for schedule in exp.schedulers.values()}) == 2
    exp = experiment("gan")
    rates = {"discriminator": 0.3, "generator": 0.5}
    exp.cfg.optimizer = {name: {"_target_": "torch.optim.SGD", "lr": rate} for name, rate in rates.items()}
    assert {name: exp.optimizers[name].param_groups[0]["lr"] for name in GAN} == rates


@pytest.mark.full
@needs_gan
@pytest.mark.skipif(not (PROJECT_ROOT / "scripts" / "template").exists(), reason="this README.md is yours")
def test_several_discriminator_updates_to_one_of_the_generator(output_root: Path, tmp_path: Path) -> None:
    """With the very line of README.md, in the very place that it names, in a copy of train.py."""
    line, place = re.findall(r'`(if name == "generator" .*: continue)`', README), "exp.scaler.step(optimizer)"
    assert len(line) == 1 and f"above\n`{place}`" in README
    package = shutil.copytree(TRAIN.parent, tmp_path / "src" / TRAIN.parent.name)
    shutil.copytree(PROJECT_ROOT / "configs", tmp_path / "configs")
    text = (package / "train.py").read_text()
    assert text.count(f"        {place}\n") == 1
    (package / "train.py").write_text(text.replace(f"        {place}\n", f"        {line[0]}\n        {place}\n"))
    words = ("model=gan", *QUICK, "run.budget=11", "run.num_checkpoints=20", f"paths.output_root={output_root}")
    command = [sys.executable, str(package / "train.py"), *words, "run.name=run"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    folder = output_root / "dev" / "run" / "checkpoints"
    states = [checkpoint.load(folder / f"step_{step}.pt") for step in range(1, 11)] + [
        checkpoint.load(folder / "latest.pt")
    ]
    assert [content["state"]["step"] for content in states] == list(range(1, 12))
    updates = {name: [int(c["optimizers"][name]["state"][0]["step"]) for c in states] for name in GAN}
    assert updates == {"discriminator": list(range(1, 12)), "generator": [1] * 5 + [2] * 5 + [3]}
    weights = [content["model"]["generator.layers.0.weight"] for content in states]
    moved = [not torch.equal(before, after) for before, after in itertools.pairwise(weights)]
    assert [step for step, did in enumerate(moved, 2) if did] == [6, 11]


@pytest.mark.full
@pytest.mark.skipif("digits_gan" not in options("experiment"), reason="the recipe has been deleted")
def test_result_of_the_recipe(train: Train, output_root: Path) -> None:
    """What its header promises; and all ten classes are drawn, going by the nearest training image."""
    train("experiment=digits_gan", "mode=prod", "tracker=none", "plots=none", "run.name=run")
    row = [row for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "rollout"][-1]
    assert row["mmd2"] < 0.01 and row["coverage"] > 0.85
    exp = Experiment.from_path(output_root / "run")
    known, labels = exp.datasets["train"].get_batch(torch.arange(len(exp.datasets["train"])))
    samples = exp.model.sample(500, torch.Generator().manual_seed(1))
    drawn = labels[torch.cdist(samples.flatten(1), known.flatten(1)).argmin(dim=1)]
    assert int(torch.bincount(drawn, minlength=10).min()) >= 15
