"""Faults that a resume cannot survive, for verify_resume.py to find: state that is in no checkpoint."""

import copy
import time

import numpy as np
import torch
import torch.nn.functional as F
from tiny import NoisyPoints, TinyLoss
from torch import Tensor, nn

NOISE = np.random.default_rng(0)


class OwnGenerator(NoisyPoints):
    """Draws from a generator of the module."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        point, label = super().__getitem__(index)
        return point + 0.1 * float(NOISE.standard_normal()), label


class SetOrder(NoisyPoints):
    """Its items are in the order of a set of names, which is another in every process."""

    def __init__(self, split: str, num_items: int) -> None:
        super().__init__(split, num_items)
        self.names = list({f"item_{index}" for index in range(num_items)})

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return super().__getitem__(int(self.names[index].removeprefix("item_")))


class Clock(NoisyPoints):
    """Augments by the time of day."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        point, label = super().__getitem__(index)
        return point + 1e-9 * (time.time_ns() % 10**9), label


class CountingLoss(TinyLoss):
    """Warms up by counting its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().__call__(model, batch)
        self.calls += 1
        return loss * min(1.0, self.calls / 20), metrics


class AverageLoss(TinyLoss):
    """Pulls the model towards an average of its weights, kept by hand."""

    def __init__(self) -> None:
        self.average: nn.Module | None = None

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().__call__(model, batch)
        if self.average is None:
            self.average = copy.deepcopy(model)
        for mean, weight in zip(self.average.parameters(), model.parameters(), strict=True):
            mean.data.lerp_(weight.data, 0.1)
        with torch.no_grad():
            wanted = self.average.eval()(batch[0])
        return loss + F.mse_loss(model(batch[0]), wanted), metrics


class AverageAccuracy:
    """A metric of an average of the weights, kept by hand: training does not depend on it, what is logged does."""

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.right: list[Tensor] = []

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        for name, weight in model.state_dict().items():
            self.average[name] = 0.5 * (weight + self.average.get(name, weight))
        logits = torch.func.functional_call(model, self.average, (batch[0],))
        self.right.append(F.cross_entropy(logits, batch[1], reduction="none"))

    def compute(self) -> Tensor:
        return torch.cat(self.right).mean()

    def reset(self) -> None:
        self.right.clear()
