"""Code that no YAML file of this checkout names: a run made with it needs trust= when it is opened."""

import time

from tiny import NoisyPoints, TinyLoss
from torch import Tensor, nn


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
