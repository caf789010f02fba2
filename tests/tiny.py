"""A dataset, a model and an optimizer small enough to be trained, killed and resumed many times in a test.

`point` marks the places where a run can be struck. In the environment of a run, TRACE names a file that gets a line for
each, STRIKE="9" or "metric 2" sends the process a signal at its ninth, or at the second of that name (KILL_WITH; unset,
it is SIGKILL), KILL_AT="7" is short for STRIKE="update 7", KILL_CHILD names a child process that gets the signal in its
place, and FAIL="metric 2" makes that one fail: a full disk where it is a system call, else a bug. Where several
processes train together, KILL_RANK names the one that is struck ("all": each of them).
NO_LINKS names the calls that fail as on a file system without links: "link symlink".
"""

import contextlib
import errno
import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from hydra.experimental.callback import Callback
from torch import Tensor, nn

FAULTY = 75  # the position of the faulty item, which the validation split does not have
passed: list[str] = []  # the points of this process


def point(name: str) -> None:
    """A place where a run may be struck."""
    passed.append(name)
    if "TRACE" in os.environ:
        with open(os.environ["TRACE"], "a") as file:
            file.write(f"{name}\n")
    if os.environ.get("KILL_RANK", "0") not in ("all", os.environ.get("RANK", "0")):
        return
    counted = f"{name} {passed.count(name)}"
    if os.environ.get("STRIKE", f"update {os.environ.get('KILL_AT')}") in (counted, str(len(passed))):
        os.kill(victim(), getattr(signal, os.environ.get("KILL_WITH", "SIGKILL")))
    if os.environ.get("FAIL") == counted:
        if name.startswith("os."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise ZeroDivisionError("planted")


def victim() -> int:
    """The number of this process or, where KILL_CHILD names one, of a child of its child, once it has been at work."""
    if "KILL_CHILD" not in os.environ:
        return os.getpid()
    found: list[str] = []
    while not found:
        time.sleep(0.1)
        for child in _children():
            found += _children(child, os.environ["KILL_CHILD"])
    time.sleep(1)
    return int(found[0])


def _children(parent: int | str | None = None, name: str = "") -> list[str]:
    """The numbers of the children of a process, this one if none is given, that have a name."""
    search = ["pgrep", "-P", str(parent or os.getpid()), name]
    return subprocess.run(search, capture_output=True, text=True).stdout.split()


def marked(call: Any, name: str) -> Any:
    """A system call as a point, named by the call and the file it makes."""

    def call_here(*arguments: Any, **more: Any) -> Any:
        file = ""
        if len(arguments) > 1:
            file = f" {Path(arguments[1]).name}"
        point(f"os.{name}{file}")
        return call(*arguments, **more)

    return call_here


if {"TRACE", "STRIKE", "FAIL"} & os.environ.keys():
    for each in ("replace", "link", "fsync"):
        setattr(os, each, marked(getattr(os, each), each))


def no_link(*_: Any, **__: Any) -> None:
    """os.link or os.symlink on a file system that has no links."""
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


for each in os.environ.get("NO_LINKS", "").split():
    setattr(os, each, no_link)


def hang_as_forked() -> None:
    """In a forked process: hang for ever, if HANG_FORKS names a file with a number above 0, which is counted down."""
    file = Path(os.environ["HANG_FORKS"])
    number = int(file.read_text())
    if number > 0:
        file.write_text(str(number - 1))
        time.sleep(1000)


if "HANG_FORKS" in os.environ:
    os.register_at_fork(after_in_child=hang_as_forked)


class NoisyPoints:
    """Points around class centres, with noise drawn in `__getitem__` from torch's, numpy's and python's generators."""

    def __init__(self, split: str, num_items: int) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.labels = torch.randint(0, 3, (num_items,), generator=generator)
        self.points = F.one_hot(self.labels, 8) + 0.5 * torch.randn(num_items, 8, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        scale = 1 + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return self.points[index] * scale + 0.1 * torch.randn(8), self.labels[index]


class StillPoints(NoisyPoints):
    """The same without noise."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.points[index], self.labels[index]


class PlacedPoints(StillPoints):
    """Notes in the file PLACES which process read it, and where it was told to unpack."""

    def __init__(self, split: str, num_items: int, place: str | None) -> None:
        super().__init__(split, num_items)
        with open(os.environ["PLACES"], "a") as file:
            file.write(f"{os.getpid()} {place}\n")


class TinyNet(nn.Sequential):
    """A layer with batch norm and dropout, and a linear classifier."""

    def __init__(self, num_features: int, num_classes: int, is_frozen: bool = False) -> None:
        hidden = nn.Sequential(nn.Linear(num_features, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))
        super().__init__(hidden.requires_grad_(not is_frozen), nn.Linear(16, num_classes))


class HalfNet(nn.Module):
    """Weights in bfloat16."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_features, num_classes, dtype=torch.bfloat16)

    def forward(self, points: Tensor) -> Tensor:
        return self.layer(points.bfloat16()).float()


class TinyLoss:
    """Cross-entropy and accuracy."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        points, labels = batch
        logits = model(points)
        return F.cross_entropy(logits, labels), {"accuracy": (logits.argmax(1) == labels).float().mean()}


class FatalAdamW(torch.optim.AdamW):
    """AdamW with a point before its update and one after it; PLANT ("PATH=TARGET") makes a link before the first."""

    def step(self, closure: Any = None) -> Any:
        if "PLANT" in os.environ and "update" not in passed:
            path, _, target = os.environ["PLANT"].partition("=")
            os.symlink(target, path)
        point("update")
        result = super().step(closure)
        point("updated")
        return result


class HungryAdamW(FatalAdamW):
    """Fills the disk with the file in FILL before step FILL_AT, and frees it before step FREE_AT."""

    def step(self, closure: Any = None) -> Any:
        at = str(passed.count("update") + 1)
        if at == os.environ.get("FILL_AT"):
            fill(os.environ["FILL"])
        if at == os.environ.get("FREE_AT"):
            os.unlink(os.environ["FILL"])
        return super().step(closure)


def fill(file: str | Path) -> None:
    """Make a file as large as its disk allows."""
    with contextlib.suppress(OSError), open(file, "wb", buffering=0) as stream:
        while stream.write(bytes(4096)):
            pass


class Pair(nn.Module):
    """Two networks that are trained in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.discriminator, self.generator = nn.Linear(8, 1), nn.Linear(8, 8)

    def forward(self, points: Tensor) -> Tensor:
        return self.discriminator(self.generator(points))


class PairLoss:
    """Tells what the discriminator, or the generator, has to lower."""

    def __init__(self, name: str) -> None:
        self.sign = 1 if name == "discriminator" else -1

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        value = model(batch[0]).sigmoid().mean()
        return self.sign * value, {"value": value.detach()}


class FinalLabels:
    """A metric that is not a mean: the number of different labels seen."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        point("metric")
        self.seen |= set(batch[1].tolist())

    def compute(self) -> Any:
        return len(self.seen)

    def reset(self) -> None:
        self.seen.clear()


class OddMetric(FinalLabels):
    """A metric whose value is nothing that a tracker expects."""

    VALUES: ClassVar = {
        "object": object(), "undefined": float("nan"), "infinite": float("inf"), "nothing": None,
        "tensor": torch.ones(1), "tensors": torch.ones(3),
    }  # fmt: skip

    def __init__(self, value: str) -> None:
        super().__init__()
        self.value = self.VALUES[value]

    def compute(self) -> Any:
        return self.value


class Figure:
    """A figure that shows nothing, and draws random numbers to find out."""

    moment = "val"

    def __call__(self, exp: Any) -> Any:
        point("figure")
        return f"nothing to be seen at {torch.rand(())} {np.random.rand()} {random.random()}"


class FigureOfOthers(Figure):
    """A figure that the first process alone can draw."""

    def __call__(self, exp: Any) -> Any:
        if exp.processes.rank > 0:
            raise ValueError("planted")
        return super().__call__(exp)


class StartFigure(Figure):
    """The same after the first step."""

    moment = "start"


class EndFigure(Figure):
    """A figure at the end, which says how many test rows there are."""

    moment = "end"

    def __call__(self, exp: Any) -> Any:
        point("figure")
        return f"test rows: {sum(row['split'] == 'test' for row in exp.history())}"


class Dot(Figure):
    """A figure that shows something."""

    def __call__(self, exp: Any) -> Any:
        from matplotlib.figure import Figure as Drawn

        figure = Drawn(figsize=(1, 1))
        figure.subplots().plot([exp.state.step], [0], "o")
        return figure


class CountingFigure(Figure):
    """A figure that counts how often it was drawn, and keeps the count in checkpoints."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, exp: Any) -> Any:
        self.calls += 1
        return super().__call__(exp)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class Leak:
    """An expensive evaluation that prints a password, and fails with a key in its message."""

    def __call__(self, model: nn.Module, loader: Any) -> dict[str, float]:
        secret = "SEK" + "RET"  # so that it is not in this file, which may be in changes.patch
        print({"password": secret})
        raise RuntimeError(f"401 of https://host/x?token={secret}")


class Rollout:
    """An expensive evaluation: how many items it saw, under a name, and with which weights."""

    def __init__(self, name: str = "items") -> None:
        self.name = name

    def __call__(self, model: nn.Module, loader: Any) -> dict[str, float]:
        point("rollout")
        weights = sum(float(parameter.double().sum()) for parameter in model.parameters())
        items = float(sum(len(labels) for _, labels in loader))
        return {self.name: items, "weights": weights, "drawn": float(torch.rand(())) + random.random()}


class Returned(Callback):
    """Prints what `main` returned."""

    def on_job_end(self, config: Any, job_return: Any, **more: Any) -> None:
        print("returned", job_return.return_value)


class FaultyPoints(NoisyPoints):
    """An item of the training split raises, hangs, is not a number or ends its process; or each item takes a while."""

    def __init__(self, split: str, num_items: int, how: str) -> None:
        super().__init__(split, num_items)
        self.how = how if split == "train" else ""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item, label = super().__getitem__(index)
        if self.how == "is slow":
            time.sleep(0.01)
        elif index == FAULTY and self.how == "raises":
            raise LookupError("no label for this point")
        elif index == FAULTY and self.how == "hangs":
            time.sleep(1000)
        elif index == FAULTY and self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        elif index == FAULTY and self.how == "exits":
            sys.exit(0)
        elif index == FAULTY and self.how == "leaves":
            os._exit(0)
        elif index == FAULTY and self.how == "interrupts":
            raise KeyboardInterrupt
        elif index == FAULTY and self.how == "is nan":
            item = item * float("nan")
        return item, label


class HiddenLoss(TinyLoss):
    """Its value depends on how often it was called in training, which no checkpoint says."""

    calls = 0

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().__call__(model, batch)
        if model.training:
            self.calls += 1
            loss = loss * (1 + 0.1 * self.calls)
        return loss, values


class CountingLoss(HiddenLoss):
    """The same, with a state that checkpoints hold."""

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


class SetOrder(NoisyPoints):
    """Its items are in the order of a set of names, which is another in every process."""

    def __init__(self, split: str, num_items: int) -> None:
        super().__init__(split, num_items)
        self.names = list({f"item_{index}" for index in range(num_items)})

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return super().__getitem__(int(self.names[index].removeprefix("item_")))


class ExplodingLoss(TinyLoss):
    """Finite at every step; its gradient is not, at the step in EXPLODE_AT."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().__call__(model, batch)
        if model.training and str(passed.count("update") + 1) == os.environ.get("EXPLODE_AT"):
            loss = loss + (model(batch[0]) * 0).sum().abs().sqrt()  # d sqrt(x) at 0
        return loss, values


class SlowAtFirstLoss(TinyLoss):
    """As slow in the first run of a process as a machine is on which something else is just starting."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if passed.count("update") < 10:
            time.sleep(0.3)
        return super().__call__(model, batch)


class TalkingPoints(NoisyPoints):
    """Says something in every way that Python has, when it is built and at its first item for training."""

    def __init__(self, split: str, num_items: int) -> None:
        super().__init__(split, num_items)
        self.says = split == "train"
        if self.says:
            self.talk("built")

    def talk(self, where: str) -> None:
        print(f"MARK {where} print", flush=True)
        logging.getLogger("some.package").info("MARK not shown")
        logging.getLogger("some.package").warning(f"MARK {where} logging")
        logging.getLogger("scaffolding.some.module").info(f"MARK {where} of our own")
        warnings.warn(f"MARK {where} warning", stacklevel=1)  # the line itself is shown, too
        logger = logging.getLogger("own.handler")
        logger.handlers, logger.propagate = [logging.StreamHandler()], False
        logger.error(f"MARK {where} configured")

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if self.says:
            self.says = False
            self.talk("read")
        return super().__getitem__(index)


class Draws:
    """A stream of numbers: how many there were before, and one from each global generator."""

    def __init__(self, length: int | None = None) -> None:
        self.count, self.length = 0, length

    def __iter__(self) -> Iterator[Tensor]:
        while self.count != self.length:
            self.count += 1
            yield torch.tensor([self.count, float(torch.rand(())), np.random.rand(), random.random()])

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def annealed(optimizer: torch.optim.Optimizer, num_steps: int) -> torch.optim.lr_scheduler.SequentialLR:
    """Two steps of warm-up and a cosine, which keep the total in their states."""
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps - 2)
    return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], [2])


class PlainNet(nn.Sequential):
    """What does not depend on how items are divided into micro-batches: no batch norm. Dropout draws for each."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(nn.Linear(num_features, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_classes))


class HalfUsedNet(PlainNet):
    """It has a parameter that no loss depends on, and weights that are whole numbers and stay what they are."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.unused = nn.Parameter(torch.ones(num_classes))
        self.coarse = nn.Parameter(torch.ones(num_classes, dtype=torch.int8), requires_grad=False)


class SometimesNet(nn.Module):
    """It uses a branch now and then."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = PlainNet(num_features, num_classes)
        self.branch = nn.Linear(num_features, num_classes)

    def is_on(self, points: Tensor) -> bool:
        return bool(torch.rand(()) < 0.25)

    def forward(self, points: Tensor) -> Tensor:
        logits = self.trunk(points)
        if self.is_on(points):
            logits = logits + self.branch(points)
        return logits


class RarelyNotNet(SometimesNet):
    """It uses its branch with two items, as a trial has them, and then where the first one says so."""

    def is_on(self, points: Tensor) -> bool:
        return len(points) == 2 or bool(points[0, 0] > 0)


class ScalarNet(PlainNet):
    """It has a parameter without dimensions."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.scale = nn.Parameter(torch.ones(()))


class PenaltyLoss(TinyLoss):
    """It reads weights by itself."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, values = super().__call__(model, batch)
        return loss + 0.1 * sum(parameter.square().sum() for parameter in model.parameters()), values


class NestedNet(nn.Module):
    """Blocks in lists in lists."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        pairs = [nn.ModuleList([nn.Linear(num_features, num_features), nn.Linear(num_features, num_features)])]
        self.layers = nn.ModuleList([*pairs, nn.ModuleList([nn.Linear(num_features, num_classes)])])

    def forward(self, points: Tensor) -> Tensor:
        for blocks in self.layers:
            for block in blocks:
                points = block(points.tanh())
        return points


class TiedNet(NestedNet):
    """Two of its blocks share a weight."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.layers[0][1].weight = self.layers[0][0].weight


class LearningLoss(nn.Module):
    """It learns a scale, and remembers a mean of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()) * torch.ones(3))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        points, labels = batch
        if self.training:
            self.mean.lerp_(points.mean(0), 0.1)
        return F.cross_entropy(model(points - self.mean) * self.scale, labels), {}


class StrayAdamW(torch.optim.AdamW):
    """Moves weights in another direction in each process."""

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 + 0.01 * int(os.environ.get("RANK", "0")))


class Ids(StillPoints):
    """Points with their numbers."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        return *super().__getitem__(index), torch.tensor(index)


class IdLoss(TinyLoss):
    """Logs which items were read, whatever their order: the mean over them of a power of a root of unity."""

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        points, labels, ids = batch
        loss, values = super().__call__(model, (points, labels))
        angles = 2 * np.pi * torch.frac(ids.double() * 0.6180339887498949)
        return loss, {**values, "ids": angles.sin().mean(), "other_ids": (angles * angles).sin().mean()}


class WeightedLoss(TinyLoss):
    """Counts only some items, as tokens that are not padding are counted; a batch may have none."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        points, labels = batch
        counted = (labels == 1).float()
        losses = F.cross_entropy(model(points), labels, reduction="none")
        return (losses * counted).sum() / counted.sum().clamp_min(1), {"weight": counted.sum()}


class BrokenLoss(TinyLoss):
    """Raises an error for a batch of training that begins with two items of the last class."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        point("loss")
        if model.training and batch[1][:2].tolist() == [2, 2]:
            raise LookupError("two of a kind\nand more words")
        return super().__call__(model, batch)


def broken_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
    """A loss that is a function."""
    return BrokenLoss()(model, batch)


def broken_function() -> Any:
    """Gives a loss that is a function."""
    return broken_loss


class BrokenLayer(nn.Linear):
    """Has a point in its forward pass."""

    def forward(self, points: Tensor) -> Tensor:
        point("layer")
        return super().forward(points)


class BrokenNet(nn.Sequential):
    """A network with a layer that may fail."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(nn.Sequential(BrokenLayer(num_features, 16), nn.ReLU()), nn.Linear(16, num_classes))


class HalfTied(NestedNet):
    """A tied weight, a buffer that is kept, one that the constructor computes, and one drawn anew each time."""

    def __init__(self, num_features: int, num_classes: int, is_drawn: bool = False) -> None:
        super().__init__(num_features, num_classes)
        self.layers[0][1].weight = self.layers[0][0].weight
        self.register_buffer("mean", torch.full((num_features,), 0.5))
        self.register_buffer("scale", torch.ones(num_features) * 2, persistent=False)
        if is_drawn:
            self.register_buffer("noise", torch.rand(num_features), persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        self.mean: Tensor
        self.scale: Tensor
        if self.training:
            self.mean.lerp_(points.mean(0), 0.1)
        return super().forward((points - self.mean) * self.scale)


class FileOfPoints(StillPoints):
    """Points that a user may have in a file: numbers, one a line. Where AWAY is set, the data are not there."""

    def __init__(self, split: str, num_items: int) -> None:
        if "AWAY" in os.environ:
            raise FileNotFoundError("no points here")
        super().__init__(split, num_items)

    @staticmethod
    def read_file(path: Path) -> Tensor:
        numbers = [float(line) for line in path.read_text().split()]
        if len(numbers) != 8:
            raise ValueError(f"{len(numbers)} numbers, and a point has 8")
        return torch.tensor(numbers)
