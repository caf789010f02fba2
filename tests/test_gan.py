"""Adversarial training through the loop as it stands: who learns from which loss, metric names, n-critic."""

import copy
import math
import re

import pytest
import torch
from conftest import TRAIN
from pairs import build, options
from torch import Tensor

from scaffolding.evaluate import evaluate
from scaffolding.train import train_step

MODELS = {"gan": "generator", "gan_autoencoder": "autoencoder"}  # and the network that the discriminator judges
HERE = [name for name in MODELS if name in options("model")]
pytestmark = pytest.mark.skipif("digits" not in options("data") or not HERE, reason="the examples have been deleted")
needs_gan = pytest.mark.skipif("gan" not in HERE, reason="the example has been deleted")
GAN = ("discriminator", "generator")


@pytest.mark.parametrize("model", HERE)
def test_each_loss_moves_its_own_network_alone(model: str) -> None:
    exp = build("digits", model)
    micro_batches = next(exp.train_loader.steps(copy.copy(exp.state), 1))
    optimizers, losses = exp.optimizers, exp.losses
    assert list(optimizers) == ["discriminator", MODELS[model]]
    for name, optimizer in optimizers.items():
        before = {key: value.clone() for key, value in exp.model.state_dict().items()}
        exp.__dict__["optimizers"], exp.losses = {name: optimizer}, {name: losses[name]}
        train_step(exp, micro_batches)
        for key, value in exp.model.state_dict().items():
            assert torch.equal(value, before[key]) != key.startswith(f"{name}."), key


@pytest.mark.parametrize("model", HERE)
def test_values_are_named_by_network(model: str) -> None:
    exp = build("digits", model)
    assert {f"{name}/loss" for name in ("discriminator", MODELS[model])} < set(evaluate(exp, "val"))
    assert exp.monitor is None
    assert build("digits", model, "run.monitor=val/discriminator/loss").monitor == "val/discriminator/loss"


@pytest.mark.parametrize("model", HERE)
def test_losses_in_closed_form(model: str) -> None:
    """With logits a for real images and b for others: -log s(a) - log(1 - s(b)), and -log s(b) for the other side."""

    class Judge(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images),), 1.5 if images is batch[0] else -0.5)

    exp = build("digits", model)
    batch = next(iter(exp.val_loader))
    exp.model.discriminator = Judge()
    real, fake = (1 / (1 + math.exp(-logit)) for logit in (1.5, -0.5))
    loss, metrics = exp.losses["discriminator"](exp.model, batch)
    assert float(loss) == pytest.approx(-math.log(real) - math.log(1 - fake))
    assert [float(metrics[key]) for key in ("real", "fake")] == pytest.approx([real, fake])
    loss_fn = exp.losses[MODELS[model]]
    loss, metrics = loss_fn(exp.model, batch)
    assert float(metrics.get("adversarial", loss)) == pytest.approx(-math.log(fake))
    if model == "gan_autoencoder":
        error = (exp.model(batch[0]) - batch[0]).square().mean()
        assert float(loss.detach()) == pytest.approx(float(error.detach()) - loss_fn.adversarial * math.log(fake))


@pytest.mark.parametrize("model", HERE)
def test_an_image_that_does_not_fit_is_refused(model: str) -> None:
    with pytest.raises(Exception, match="10x8 cannot be halved 2 times"):
        build("digits", model, "data.image_shape=[1,10,8]")


@needs_gan
def test_one_optimizer_spec_or_two() -> None:
    exp = build("digits", "gan", "optimizer=sgd", "scheduler=step")
    assert [exp.optimizers[name].param_groups[0]["lr"] for name in GAN] == [0.05, 0.05]
    assert len({id(schedule.scheduler) for schedule in exp.schedulers.values()}) == 2
    exp = build("digits", "gan")
    rates = {"discriminator": 0.3, "generator": 0.5}
    exp.cfg.optimizer = {name: {"_target_": "torch.optim.SGD", "lr": rate} for name, rate in rates.items()}
    assert {name: exp.optimizers[name].param_groups[0]["lr"] for name in GAN} == rates


@needs_gan
def test_several_discriminator_updates_to_one_of_the_generator() -> None:
    """With the very line that train.py recommends, in the place where it stands."""
    source = TRAIN.read_text()
    line = re.search(r"# YOURS: to update one only every fifth step: (.+: continue)\n", source)
    if line is None:
        pytest.skip("this train.py is yours")
    changed = {"__name__": "changed"}
    exec(compile(source.replace(line[0], f"{line[1]}\n"), str(TRAIN), "exec"), changed)
    exp = build("digits", "gan")
    steps = exp.train_loader.steps(exp.state, 1)
    for _ in range(11):
        metrics = changed["train_step"](exp, next(steps))  # type: ignore[operator]
        exp.state.advance(1, 8, len(exp.train_loader))
        has_moved = {name: f"{name}/loss" in metrics for name in GAN}
        assert has_moved == {"discriminator": True, "generator": exp.state.step % 5 == 0}  # also where rows are logged
    updates = {name: int(optimizer.state_dict()["state"][0]["step"]) for name, optimizer in exp.optimizers.items()}
    assert updates == {"discriminator": 11, "generator": 2}
