"""Noticing numbers that went wrong, without waiting for the device in every step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import leaves


class FiniteWatch:
    """Adds up the losses on the device; looks at the sum, and at the weights, only when asked."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.total = model, torch.zeros((), device=device)

    def add(self, loss: Tensor) -> None:
        """Count the loss of an applied update: an infinite or NaN one stays in the sum."""
        self.total += loss

    def fault(self) -> str | None:
        """What was not finite since the last look, in words, or None. Waits for the device."""
        if not math.isfinite(float(self.total)):
            return "the training loss"
        self.total.zero_()
        return first_nonfinite(self.model.state_dict())


def first_nonfinite(state: Any) -> str | None:
    """The first tensor in nested states that holds an infinite or NaN value, by its dotted name, or None."""
    tensors = {name: value for name, value in leaves(state) if isinstance(value, Tensor)}
    floating = {name: value for name, value in tensors.items() if value.is_floating_point() and value.numel()}
    devices: dict[torch.device, list[Tensor]] = {}
    for value in floating.values():
        devices.setdefault(value.device, []).append(value)
    norms = (torch.stack([norm.float() for norm in torch._foreach_norm(values)]) for values in devices.values())
    if all(bool(norm.isfinite().all()) for norm in norms):  # one wait per device; looks closer only where it must
        return None
    return next((name for name, value in floating.items() if not bool(value.isfinite().all())), None)
