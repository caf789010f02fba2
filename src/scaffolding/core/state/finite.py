"""Noticing numbers that went wrong, without waiting for the device in every step."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import RunError
from ..tree import tensors

MAX_LOSSES = 64  # kept on the device before they are added up


class FiniteWatch:
    """Keeps the losses on the device; they are added up now and then, and read only when somebody asks."""

    def __init__(self, device: torch.device) -> None:
        self.total = torch.zeros((), device=device)
        self.losses: list[Tensor] = []  # not added up yet: an operation a step would cost as much as a row of the log

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count the losses of an applied update: an infinite or NaN one stays in the sum."""
        self.losses += [value for name, value in metrics.items() if name.rpartition("/")[2] == "loss"]
        if len(self.losses) >= MAX_LOSSES:
            self._add_up()

    def _add_up(self) -> None:
        if self.losses:
            self.total += torch.stack([loss.float() for loss in self.losses]).sum()
            self.losses.clear()

    def check(self, states: Any, step: int, run: str = "RUN") -> None:
        """Look at the losses since the last look of a run, and at nested states. Waits for the device.

        Raises:
            RunError: something is not finite; it is named.
        """
        fault = first_nonfinite(states)
        self._add_up()
        if not math.isfinite(float(self.total)):
            fault = "the training loss"
        self.total.zero_()
        if fault is not None:
            raise RunError(
                f"{fault} was not finite at or before step {step}; nothing was saved since"
                f"\npython scripts/replay.py {run} stops before the update that did it; a lower optimizer.lr, "
                "run.clip_grad_norm or run.precision=float32 may avoid it"
            )


def first_nonfinite(state: Any) -> str | None:
    """The first tensor in nested states that holds an infinite or NaN value, by its dotted name, or None."""
    floating = {name: value for name, value in tensors(state) if value.is_floating_point() and value.numel()}
    devices: dict[torch.device, list[Tensor]] = {}
    for value in floating.values():
        devices.setdefault(value.device, []).append(value)
    norms = [torch.stack([norm.float() for norm in torch._foreach_norm(values)]) for values in devices.values()]
    if all(bool(norm.isfinite().all()) for norm in norms):  # one wait per device; looks closer only where it must
        return None
    return next((name for name, value in floating.items() if not bool(value.isfinite().all())), None)
