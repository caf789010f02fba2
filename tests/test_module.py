"""Somebody else's parts: any module with any criterion, and datasets, optimizers and schedules of a plugin folder."""

import json
from pathlib import Path

import pytest
import torch
from conftest import Train
from pairs import options

from scaffolding.core.errors import UserError
from scaffolding.experiment import Experiment

if "module" not in options("model"):
    pytest.skip("configs/model/module.yaml is not here", allow_module_level=True)

from scaffolding.model.module import MappedLoss

TESTS = Path(__file__).parent
BASE = ("--config-dir", str(TESTS / "configs"), "data=noisy", "plots=none", "tracker=none")
SEARCH = f"hydra.searchpath=['file://{TESTS / 'configs'}']"
LINEAR = ("model=module", "model._target_=torch.nn.Linear", "+model.in_features=8", "+model.out_features=3")
STEP = "+scheduler.schedule={_target_: torch.optim.lr_scheduler.StepLR, step_size: 1}"

PLUGIN = '''
import torch
from torch import nn


class Birds:
    """Nested batches, read item by item."""

    def __init__(self, split):
        generator = torch.Generator().manual_seed(len(split))
        self.songs = torch.randn(40, 2, 8, generator=generator)

    def __len__(self):
        return len(self.songs)

    def __getitem__(self, index):
        song = self.songs[index]
        return {"song": (song[0], song[1]), "height": song.sum() + 0.1 * torch.randn(())}


class Two(nn.Module):
    """Two inputs by name, a tuple out of which only one part is wanted."""

    def __init__(self, size):
        super().__init__()
        self.linear = nn.Linear(2 * size, 1)

    def forward(self, left, right, *, scale=1.0):
        return "more", {"height": scale * self.linear(torch.cat([left, right], dim=1)).squeeze(1)}


class Momentum(torch.optim.SGD):
    pass


class Halving(torch.optim.lr_scheduler.LRScheduler):
    def get_lr(self):
        return [group["lr"] * (0.5 if self.last_epoch else 1.0) for group in self.optimizer.param_groups]
'''
BIRDS = """
dataset:
  _target_: feathers.Birds
size: 8
"""
WORDS = (
    "data=birds", "model=module", "model._target_=feathers.Two", "+model.size=${data.size}",
    "loss.criterion._target_=torch.nn.SmoothL1Loss", "loss.metrics=null", "loss.output=[1,height]",
    "loss.inputs={right:[song,1],left:[song,0]}", "loss.targets=[[height]]",
    "optimizer=sgd", "optimizer._target_=feathers.Momentum", "+scheduler.schedule._target_=feathers.Halving",
    "+scheduler.interval=epoch", "plots=none", "tracker=none",
)  # fmt: skip


@pytest.mark.full
def test_a_plugin_folder_is_trained_resumed_and_loaded(train: Train, output_root: Path, tmp_path: Path) -> None:
    """Fails where code from outside of the checkout is found by a new run alone."""
    folder = tmp_path / "plugins"  # outside of the checkout: a module, and configs
    (folder / "configs" / "data").mkdir(parents=True)
    (folder / "feathers.py").write_text(PLUGIN)
    (folder / "configs" / "data" / "birds.yaml").write_text(BIRDS)
    configs, trust = ("--config-dir", str(folder / "configs")), f"trust={folder}/,feathers"
    done = train(*configs, f"imports=[{folder}/]", *WORDS, "loader.num_workers=1", "run.name=birds", "mode=dev")
    assert "tensors identical" in done.stdout
    assert "feathers.Birds" in done.stderr + done.stdout
    run = output_root / "dev" / "birds"
    assert "accuracy" not in (run / "facts" / "scalars.csv").read_text()
    content = torch.load(run / "checkpoints" / "latest.pt", weights_only=True)
    assert content["schedulers"][""]["last_epoch"] == 2 and content["optimizers"][""]["param_groups"][0]["lr"] == 0.0125
    done = train("resume=dev/birds", "run.budget=3epochs", code=2)
    assert "add trust=" in done.stderr and f"{folder}/" in done.stderr
    train("resume=dev/birds", "run.budget=3epochs", trust, "loader.num_workers=0")
    assert json.loads((run / "status.json").read_text())["step"] == 15
    exp = Experiment.from_path(run, trust=(f"{folder}/", "feathers"))
    batch = next(iter(exp.val_loader))
    value, _ = exp.losses[""](exp.model, batch)
    expected = torch.nn.functional.smooth_l1_loss(exp.model(*batch["song"])[1]["height"], batch["height"])
    assert value == expected
    train("fork=dev/birds", *configs, "run.name=more", "loader.num_workers=0", trust)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["loss.inputs=[[0],[1]]"], ["inputs gives 2 by position", "Linear takes (input"]),
        (["loss.inputs={x:[0]}"], ["inputs gives x", "'input'", "Linear takes (input"]),
        (["loss.inputs=[[image]]"], ["inputs.0: there is no ['image']", "(2, 8) float32 in [", "(2,) int64 in ["]),
        (["loss.inputs={input:[0,7]}"], ["inputs.input: there is no [0, 7] in a batch"]),
        (["loss.targets=[[2]]"], ["targets.0: there is no [2] in a batch"]),
        (["loss.targets=[]"], ["targets gives 0 by position after the module's output", "CrossEntropyLoss takes"]),
        (["loss.targets={label:[1]}"], ["targets gives label", "'target'", "CrossEntropyLoss takes"]),
        (["loss.inputs=foo"], ["inputs=foo: give a list of paths"]),
        (["loss=foo"], ["loss=foo: it is not a mapping"]),
        (["loss.criterion._target_=torch.nn.MSELos"], ["nearest: torch.nn.MSELoss"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast: torch.optim.AdamW wants float"]),
        (["data.dataset=foo"], ["data.dataset=foo: it is not a block with a _target_"]),
        (["rollout=foo"], ["rollout=foo: it is not a block with a _target_"]),
        (["+metrics.auroc=foo"], ["metrics.auroc=foo: it is not a block"]),
        (["scheduler.schedule=cosine"], ["scheduler.schedule=cosine: it is not a block"]),
        (["+scheduler.interval=day", STEP], ["scheduler.interval=day: not allowed", "this schedule: step, epoch"]),
        ([STEP], ["scheduler.interval=null: not allowed", "allowed for this schedule: step, epoch"]),
        (["+scheduler.gamma=1"], ["scheduler.gamma=1: not a part of a schedule"]),
        (["scheduler=plateau", "scheduler.monitor=null"], ["scheduler.interval=null", "scheduler.monitor", "val/loss"]),
        (["scheduler=plateau", "run.eval_every=null"], ["run.eval_every=null"]),
        (["scheduler=cosine", "+scheduler.interval=epoch"], ["scheduler.interval=epoch", "for this schedule: step"]),
        (["+tracker._target_=tiny.Pair"], ["its blocks have names", "+tracker.NAME._target_=tiny.Pair"]),
        (["imports=[nowhere]"], ["imports=nowhere: importing it failed", "imports=[./nowhere]"]),
        (["imports=[./nowhere]"], ["imports=./nowhere: it is not a folder"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_before_a_run_is_made(words: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Experiment.from_config(SEARCH, *BASE[2:], *LINEAR, *words).prepare()
    assert all(part in str(error.value) for part in parts), error.value
    assert len(str(error.value).splitlines()) <= 2


def test_what_does_not_fit_makes_no_run(train: Train, output_root: Path) -> None:
    for words in (["loss.inputs=[[0],[1]]"], ["imports=[nowhere]"]):
        done = train(*BASE, *LINEAR, *words, code=2)
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) <= 3
        assert not output_root.exists()


def test_the_mapped_loss_is_the_criterion_on_the_parts_named() -> None:
    model, criterion = torch.nn.Bilinear(2, 3, 4), torch.nn.functional.cross_entropy
    batch = {"x": [torch.randn(5, 2), torch.randn(5, 3)], "y": torch.randint(4, (5,))}
    inputs = {"input2": ["x", 1], "input1": ["x", 0]}
    loss = MappedLoss(criterion, inputs, [["y"]], metrics={"n": lambda output, y: output.mean()})
    loss.check(model, batch)
    value, metrics = loss(model, batch)
    assert torch.equal(value, criterion(model(*batch["x"]), batch["y"]))
    assert torch.equal(metrics["n"], model(*batch["x"]).mean())


def test_networks_and_their_optimizers_go_by_the_same_names(train: Train, output_root: Path) -> None:
    own = (*BASE, "model=pair")
    done = train(*own, "+loss.critic._target_=tiny.PairLoss", "+loss.critic.name=generator", code=2)
    assert "loss.critic: Pair has no network 'critic'" in done.stderr and "generator" in done.stderr
    spec = "{generator: {_target_: torch.optim.SGD}}"
    done = train(*own, "~optimizer", f"+optimizer={spec}", code=2)
    assert "optimizer: it has blocks for generator, and loss for discriminator, generator" in done.stderr
    assert not output_root.exists()
