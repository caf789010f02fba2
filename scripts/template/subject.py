"""What torture.py trains: small, with everything that could make a resumed run another run. It builds on tests/tiny.py.

In the environment of a run, LEAVE_OUT names states of the checkpoint ("ema/raw ema/count") that are not restored.
"""

import copy
import functools
import operator
import os
import random
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor, nn

from scaffolding.experiment import Experiment

_load = Experiment.load_state_dict


def load_the_rest(exp: Experiment, content: dict[str, Any]) -> None:
    """Restore a checkpoint, except for what LEAVE_OUT names, which stays as in a new experiment."""
    fresh = copy.deepcopy(exp.state_dict())
    for path in os.environ["LEAVE_OUT"].split():
        *parents, last = path.split("/")
        saved, unsaved = (functools.reduce(operator.getitem, parents, whole) for whole in (content, fresh))
        saved[last] = unsaved[last]
    _load(exp, content)


if "LEAVE_OUT" in os.environ:
    Experiment.load_state_dict = load_the_rest  # type: ignore[method-assign]


class Points(tiny.NoisyPoints):
    """Noisy points, drawn with all three generators, and their ids."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:  # type: ignore[override]
        return *super().__getitem__(index), index


class Loss(tiny.TinyLoss):
    """Draws from numpy's and python's generators, and grows with the training batches it has seen.

    Logs a hash of the ids, their order included.
    """

    def __init__(self, factor: float = 1) -> None:
        self.factor, self.seen = factor, 0

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        points, labels, ids = batch
        self.seen += model.training
        noise = 0.1 * float(np.random.rand()) + 0.1 * random.random()
        loss, values = super().__call__(model, (points * (1 + noise + 0.001 * self.seen), labels))
        places = torch.arange(1, len(ids) + 1, dtype=torch.float64)
        return self.factor * loss, values | {"ids": (places * (ids + 2).double().sqrt()).sum()}


class Rollout(tiny.Rollout):
    """An expensive evaluation of points without their ids."""

    def __call__(self, model: nn.Module, loader: Any) -> dict[str, float]:
        return super().__call__(model, [batch[:2] for batch in loader])
