"""Settings that say how a device computes: compiled networks, memory formats, data that lie there, fused updates, and
what is said where its memory is full. What of it needs a GPU stands in scripts/template/gpu.py, if that is here.
"""

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BASE, TESTS, TINY, Train, assert_same_run, generators, latest
from torch import Tensor, nn

from scaffolding.core.batches.loader import Loader
from scaffolding.core.batches.resident import Resident, difference, keep_on_device, num_bytes, reason_against
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import UserError
from scaffolding.core.folder.folder import read_status
from scaffolding.core.optimizers import build_optimizer
from scaffolding.core.precision import begin_pass, compile_network
from scaffolding.core.session.failure import out_of_memory
from scaffolding.core.state import keys
from scaffolding.core.state.checkpoint import load_optimizer
from scaffolding.core.state.progress import RunState
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.splits import Split
from scaffolding.train import train_step

CPU = torch.device("cpu")
SEARCH = f"hydra.searchpath=['file://{TESTS / 'configs'}']"
PICTURES = ("data.dataset._target_=test_devices.Pictures", "model._target_=test_devices.Convolutions")
TRUST = (*TINY[:2], "trust=tiny,test_devices")
LAST = "run.memory_format=channels_last"


class Pictures:
    """Noise of shape (3, 6, 6), held in memory."""

    def __init__(self, split: str, num_items: int) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.images = torch.randn(num_items, 3, 6, 6, generator=generator)
        self.labels = torch.arange(num_items) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[indices], self.labels[indices]


class Convolutions(nn.Sequential):
    """Two convolutions with batch norm, and a linear classifier."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        first = (nn.Conv2d(3, num_features, 3), nn.BatchNorm2d(num_features), nn.ReLU(), nn.Dropout(0.2))
        second = (nn.Conv2d(num_features, 4, 3), nn.ReLU(), nn.Flatten())
        super().__init__(*first, *second, nn.Linear(16, num_classes))


def build(*overrides: str) -> Experiment:
    words = [SEARCH, "data=noisy", "model=tiny", "plots=none", "tracker=none", "mode=prod", "run.device=cpu"]
    exp = Experiment(compose_config(PROJECT, [*words, *overrides]))
    exp.prepare()
    exp.model.train()
    return exp


# --- compiled networks


def test_what_a_graph_gave_keeps_its_value() -> None:
    """Fails where two outputs, or gradients that micro-batches add up, share the memory that a graph uses again."""
    network, memory = nn.Linear(2, 2), torch.zeros(2)

    def replay(value: float) -> dict[str, Tensor]:
        return {"logits": memory.fill_(value)}

    network.compile = lambda **settings: setattr(network, "_compiled_call_impl", replay)  # type: ignore[assignment]
    compile_network(network, "reduce-overhead", torch.device("cuda"))
    first, second = network(1.0), network(2.0)
    assert first["logits"].tolist() == [1, 1] and second["logits"].tolist() == [2, 2]
    network.bias.grad = memory
    begin_pass(network)
    replay(3.0)
    assert network.bias.grad.tolist() == [2, 2] and network.weight.grad is None


@pytest.mark.parametrize("mode", ["false", "true", "reduce-overhead", "max-autotune"])
def test_the_mode_reaches_torch(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    found: list[Any] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **settings: found.append(settings))
    build(f"run.compile={mode}")
    assert found == ([] if mode == "false" else [{"dynamic": False, "mode": None if mode == "true" else mode}])


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_the_precision_of_products_is_set_and_kept(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        exp = build(f"run.matmul={precision}")
        assert torch.get_float32_matmul_precision() == precision
        assert exp.state_dict()["numerics"]["matmul_precision"] == precision
    finally:
        torch.set_float32_matmul_precision(before)


# --- memory formats


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()


def test_images_and_weights_get_the_memory_format() -> None:
    exp = build(*PICTURES, LAST)
    (batch,) = next(exp.train_loader.steps(exp.state, 1))
    assert is_channels_last(batch.batch[0]) and not is_channels_last(next(iter(build(*PICTURES).val_loader))[0])
    assert is_channels_last(next(iter(exp.val_loader))[0]) and is_channels_last(exp.model[0].weight)
    train_step(exp, [batch])
    states = exp.optimizers[""].state[exp.model[0].weight]
    assert is_channels_last(states["exp_avg"]) and is_channels_last(exp.model[0].weight.grad)


@pytest.mark.parametrize("formats", [("contiguous", "channels_last"), ("channels_last", "contiguous")])
def test_a_checkpoint_loads_into_another_memory_format_exactly(formats: tuple[str, str]) -> None:
    """Fails where a value changes, or an optimizer's averages keep a layout that its fused kernel refuses."""
    exp, other = (build(*PICTURES, f"run.memory_format={name}") for name in formats)
    train_step(exp, next(exp.train_loader.steps(exp.state, 1)))
    content = copy.deepcopy(exp.state_dict())
    other.load_state_dict(content)
    del content["config"]
    assert first_difference(content, {name: other.state_dict()[name] for name in content}) is None
    weight = other.model[0].weight
    states = other.optimizers[""].state[weight]
    assert weight.stride() == states["exp_avg"].stride() != exp.model[0].weight.stride()
    train_step(other, next(other.train_loader.steps(RunState(), 1)))


def test_a_run_in_channels_last_resumes_exactly(train: Train, output_root: Path) -> None:
    words = (*BASE, *PICTURES, LAST)
    train(*words, "run.name=whole")
    train(*words, "run.name=run", env={"STRIKE": "update 8"}, code=-9)
    train(f"resume={output_root / 'run'}", *TRUST)
    assert_same_run(output_root / "whole", output_root / "run")
    done = train(f"fork={output_root / 'run'}", *TRUST, "run.memory_format=contiguous", "run.budget=2")
    assert "memory_format=contiguous takes effect" in done.stderr


def test_weights_of_five_dimensions_are_refused_in_words() -> None:
    with pytest.raises(UserError, match=r"run\.memory_format=channels_last: .*\nset it to contiguous"):
        build(LAST, "model._target_=torch.nn.Conv3d", "~model.num_features", "~model.num_classes",
              "+model.in_channels=1", "+model.out_channels=1", "+model.kernel_size=1")  # fmt: skip


# --- data on the device


class Windows:
    """Overlapping windows of a row, whose view is much larger than the row."""

    def __init__(self) -> None:
        self.row = torch.arange(1000, dtype=torch.int32)
        self.windows, self.starts = self.row.unfold(0, 101, 1), torch.arange(0, 900, 3)

    def __len__(self) -> int:
        return len(self.starts)

    def get_batch(self, indices: Tensor) -> dict[str, Tensor]:
        windows = self.windows.index_select(0, self.starts.index_select(0, indices)).long()
        return {"inputs": windows[:, :-1], "targets": windows[:, 1:]}


class Scaled(Pictures):
    """What a batch is made of beyond picking items, by name."""

    def __init__(self, how: str) -> None:
        super().__init__("train", 40)
        self.how, self.calls = how, 0

    def get_batch(self, indices: Tensor) -> Any:
        images = self.images.index_select(0, indices)
        if self.how == "divides":
            images = images / 3
        elif self.how == "draws":
            images = images + torch.rand(len(images), 1, 1, 1)
        elif self.how == "draws from python":
            images = images + random.random()
        elif self.how == "counts":
            self.calls += 1
        elif self.how == "learns":
            self.labels.add_(1)
        elif self.how == "averages":
            images = images - images.mean()
        return images.to(torch.float32).mul_(2.0).add_(1.0)


@pytest.mark.parametrize("dataset", [Pictures("train", 40), Windows(), Scaled("")])
def test_a_dataset_that_picks_items_may_lie_on_the_device(dataset: Any) -> None:
    indices = torch.tensor([3, 0, 7])
    before = generators()
    assert reason_against(dataset, indices) == ""
    assert generators() == before
    resident = Resident(dataset, CPU)
    assert difference(dataset, resident, indices, CPU) == ""
    for name, value in vars(dataset).items():
        if isinstance(value, Tensor):
            there = getattr(resident.there, name)
            assert torch.equal(there, value) and there.stride() == value.stride()
            assert there.untyped_storage().data_ptr() != value.untyped_storage().data_ptr()
    assert num_bytes(resident.there) == num_bytes(dataset) < 40 * 500


@pytest.mark.parametrize(
    ("dataset", "why"),
    [
        (Scaled("divides"), "get_batch uses div"),
        (Scaled("averages"), "get_batch uses mean"),
        (Scaled("draws"), "draws random numbers"),
        (Scaled("draws from python"), "draws random numbers"),
        (Scaled("counts"), "changes the dataset"),
        (Scaled("learns"), "changes the dataset"),
        (Split(Pictures("train", 9), torch.arange(9), "train"), ""),
        (object(), "cannot be listed"),
        (type("Empty", (), {"path": "x"})(), "none of its attributes is a tensor"),
    ],
)
def test_any_other_dataset_stays_where_it_is(dataset: Any, why: str) -> None:
    before = generators()
    assert why in reason_against(dataset, torch.tensor([1, 2]))
    assert generators() == before


def test_a_dataset_that_gives_other_values_there_stays() -> None:
    dataset = Pictures("train", 40)
    resident = Resident(dataset, CPU)
    resident.there.labels[3] += 1
    assert "another 1 there" in difference(dataset, resident, torch.tensor([3]), CPU)
    resident.there.get_batch = lambda indices: [][0]
    with pytest.raises(IndexError):
        difference(dataset, resident, torch.tensor([3]), CPU)
    resident.there.get_batch = lambda indices: torch.zeros(2) @ torch.zeros(3)
    assert "get_batch fails there" in difference(dataset, resident, torch.tensor([3]), CPU)


@pytest.mark.parametrize("setting", [True, False, "auto"])
def test_nothing_is_kept_on_the_device_where_that_is_the_cpu(setting: Any) -> None:
    assert keep_on_device(Pictures("train", 40), torch.tensor([1]), CPU, setting, "loader.on_device") is None


class Grid:
    """Gives out what it keeps."""

    scale = 1.0

    def __init__(self, array: np.ndarray | None = None) -> None:
        self.items, self.grid = torch.arange(8.0), torch.zeros(3)
        if array is not None:
            self.array, self.items = array, torch.from_numpy(array)

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.items[indices] * self.scale, self.grid[None].expand(len(indices), 3)


def test_a_batch_that_shares_memory_with_the_dataset_is_not_given_out() -> None:
    """A loss that changes its batch would change all later ones."""
    dataset, indices = Grid(), torch.tensor([1])
    assert "shares the memory" in difference(dataset, Resident(dataset, CPU), indices, CPU)


def test_what_is_changed_later_is_noticed_or_kept_off_the_device() -> None:
    dataset = Pictures("train", 40)
    resident = Resident(dataset, CPU)
    assert resident.is_current()
    dataset.scale = 10.0  # hides an attribute of the class
    assert not resident.is_current()
    resident = Resident(dataset, CPU)
    resident.there.labels.add_(1)
    assert not resident.is_current()
    assert "shares its memory with an array" in reason_against(Grid(np.arange(8.0)), torch.tensor([1]))


def test_what_cannot_be_kept_there_is_refused_where_it_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"loader\.on_device=true: Scaled .*draws random numbers\nset it to auto"):
        keep_on_device(Scaled("draws"), torch.tensor([1]), torch.device("meta"), True, "loader.on_device")


def resident_loader(dataset: Any, positions: Tensor | None, **changes: Any) -> tuple[Loader, Loader]:
    """A loader that reads the dataset, and one that reads a copy of it."""
    settings = {"batch_size": 4, "shuffle": True, "seed": 5, "device": CPU} | changes
    usual, resident = (Loader(Split(dataset, positions, "train"), "train", **settings) for _ in range(2))
    resident.resident = Resident(dataset, CPU)
    return usual, resident


@pytest.mark.parametrize("positions", [None, torch.arange(3, 40, 2)])
def test_batches_from_the_device_are_the_same(positions: Tensor | None) -> None:
    loaders = resident_loader(Pictures("train", 40), positions)
    calls: list[int] = []
    loaders[1].dataset.get_batch = lambda indices: calls.append(1)
    keys.seed_all(1)
    before = generators()
    for epoch, start in ((0, 0), (3, 2)):
        one, other = ([*loader.batches(epoch, start)] for loader in loaders)
        assert len(one) == len(other) and first_difference(one, other) is None
    assert generators() == before and not calls
    steps = [loader.steps(RunState(position=1), 2) for loader in loaders]
    left, right = ([next(step) for _ in range(3)] for step in steps)
    assert first_difference([list(part) for part in left], [list(part) for part in right]) is None
    keys.seed_all(1)


def test_a_dataset_that_is_changed_is_read_where_it_is() -> None:
    """Fails where the copy on the device gives what was there before, even within an epoch."""
    dataset = Pictures("train", 40)
    loader = resident_loader(dataset, None, shuffle=False)[1]
    batches = loader.batches(0)
    assert next(batches)[1].tolist() == [0, 1, 2, 0]
    dataset.labels += 10
    assert next(batches)[1].tolist() == [11, 12, 10, 11]
    dataset.labels = dataset.labels - 10
    assert next(batches)[1].tolist() == [2, 0, 1, 2]


# --- updates


def test_an_update_is_only_fused_where_the_config_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU nothing changes; that it is a CUDA device is pretended."""
    parameters = {"weight": nn.Parameter(torch.ones(2)), "bias": nn.Parameter(torch.ones(2))}
    spec: dict[str, Any] = {"_target_": "torch.optim.Adam", "lr": 0.1}

    def fused(**more: Any) -> list[Any]:
        return [group["fused"] for group in build_optimizer(spec | more, "optimizer", parameters).param_groups]

    assert fused() == [None]
    monkeypatch.setattr("scaffolding.core.optimizers.FUSED_ON", "cpu")
    assert fused() == [True] and fused(groups=[{"match": "bias", "weight_decay": 0.1}]) == [True, True]
    assert fused(fused=False) == [False] and fused(foreach=True) == [None] and fused(capturable=False) == [None]
    assert fused(groups=[{"match": "bias", "foreach": False}]) == [None, None]
    for target in ("torch.optim.Adadelta", "tiny.StrayAdamW"):
        build_optimizer({"_target_": target}, "optimizer", parameters)
    parameters["weight"] = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    assert fused() == [None]


@pytest.mark.parametrize(("saved", "here"), [(True, None), (None, True), (True, True)])
def test_an_optimizer_goes_on_as_its_checkpoint_says(saved: Any, here: Any) -> None:
    """Fails where the gradient scaler leaves to a fused kernel what the one that runs does not do."""

    def make(fused: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW([nn.Parameter(torch.ones(2))], fused=fused)

    one, other = make(saved), make(here)
    one.param_groups[0]["params"][0].grad = torch.ones(2)
    one.step()
    load_optimizer(other, one.state_dict())
    assert other.param_groups[0]["fused"] is saved
    assert not getattr(other, "_step_supports_amp_scaling", False) or saved
    for optimizer in (one, other):
        optimizer.param_groups[0]["params"][0].data.fill_(1)
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
        optimizer.step()
    assert torch.equal(one.param_groups[0]["params"][0], other.param_groups[0]["params"][0])


# --- memory


class HungryLoss:
    """Wants more memory than there is, at a step."""

    progress: Any = None

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        if self.progress.step == 6:
            torch.empty(1 << 60)
        return model(batch[0]).mean(), {}


def test_a_run_that_is_out_of_memory_says_what_helps(train: Train, output_root: Path) -> None:
    words = (*BASE, "loss._target_=test_devices.HungryLoss", "run.device=cpu", "run.name=run")
    done, run = train(*words, code=1), output_root / "run"
    error = done.stderr[done.stderr.index("\nerror: ") + 1 :]
    assert "Traceback" not in done.stderr and len(error.splitlines()) == 3
    assert re.match(r"error: out of memory with batches of 16 items: .*can't allocate memory", error)
    assert "loader.batch_size=8 run.accumulate=2 or run.precision=bfloat16 or torch.utils.checkpoint" in error
    assert "fork=run, a new run from these weights" in error and latest(run)["state"]["step"] == 5
    status = read_status(run)
    assert status["status"] == "failed" and "out of memory" in status["reason"]
    assert "Traceback" in (run / "log.txt").read_text()
    train(f"fork={run}", *TRUST, "loader.batch_size=8", "run.accumulate=2", "run.budget=2")  # as it says
    said = train(f"resume={run}", *TRUST, "loader.batch_size=8", code=2).stderr
    assert "refused, run has loader.batch_size=16" in said


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB"),
         "CUDA out of memory. Tried to allocate 2.00 GiB\n"),
        (MemoryError(), "MemoryError\n"),
    ],
)  # fmt: skip
def test_what_was_said_of_memory_is_told_shortly(tmp_path: Path, error: BaseException, what: str) -> None:
    config = {"run": {"precision": "bfloat16", "accumulate": 1, "provenance": "allow"}, "loader": {"batch_size": 1}}
    text = str(out_of_memory(error, tmp_path, config))
    assert text.startswith(f"out of memory with batches of 1 items: {what}") and "batch_size=" not in text
    assert "precision" not in text and "a new run; after a change of the code alone, resume=" in text


def test_settings_of_devices_change_nothing_on_a_cpu(train: Train, output_root: Path, whole_run: Path) -> None:
    """Data on the device are for GPUs; a run on a CPU is the same, bit by bit."""
    train(*BASE, "loader.on_device=true", "run.name=run")
    assert_same_run(whole_run, output_root / "run")


def test_what_such_settings_do_to_a_resumed_run(train: Train, output_root: Path) -> None:
    train(*TINY, "run.budget=2", "run.name=run", "run.compile=false")
    words = ("run.budget=3", "run.matmul=high", "loader.on_device=false", LAST)
    said = train(f"resume={output_root / 'run'}", *words).stderr
    for word in words:
        assert f"{word} takes effect" in said or word.startswith("loader"), said
    assert "matmul_precision is high, was highest: from here on the last bits may differ" in said
    assert "refused" in train(f"rerun={output_root / 'run'}", "run.matmul=highest", code=2).stderr
