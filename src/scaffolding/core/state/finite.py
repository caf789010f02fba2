"""Noticing numbers that went wrong, without waiting for the device in every step."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RunError
from ..provenance.policy import NOTHING_KEPT
from ..tree import tensors

MAX_LOSSES = 64  # kept on the device before they are added up


class FiniteWatch:
    """Keeps the losses on the device; they are added up now and then, and read only when somebody asks.

    What is not finite before the first step is meant to be (a mask of -inf), and so are infinities, though not NaNs,
    that `aside` holds at the first look: buffers and optimizer states that begin at the first step (a running minimum).

    Args:
        device: that of the losses.
        states: nested states before the first step, as `check` will get them.
    """

    def __init__(self, device: torch.device, states: Mapping[str, Any]) -> None:
        self.total = torch.zeros((), device=device)
        self.losses: list[Tensor] = []  # not added up yet: an operation a step would cost as much as a row of the log
        self.exempt = set(nonfinite(states))
        self.is_first = True

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Count the losses of an applied update: an infinite or NaN one stays in the sum."""
        for name, value in metrics.items():
            if name.rpartition("/")[2] == "loss":
                self.losses.append(torch.as_tensor(value, device=self.total.device))
        if len(self.losses) >= MAX_LOSSES:
            self._add_up()

    def _add_up(self) -> None:
        if self.losses:
            self.total += torch.stack([loss.float() for loss in self.losses]).sum()
            self.losses.clear()

    def check(self, states: Mapping[str, Any], step: int, run: str = "RUN") -> None:
        """Look at the losses since the last look of a run, and at nested states. Waits for the device.

        Args:
            states: "model" holds the weights; the rest may be infinite from the first step on.
            step: of the run, for the message.
            run: its path, or what stands for it; empty: nothing of it is kept.

        Raises:
            RunError: something is not finite; it is named.
        """
        faults = nonfinite(states, self.exempt)
        if self.is_first:
            self.exempt |= {
                name
                for name, value in faults.items()
                if not name.startswith("model.") and not bool(value.isnan().any())
            }
            self.is_first = False
        fault = next((name for name in faults if name not in self.exempt), None)
        self._add_up()
        if not math.isfinite(float(self.total)):
            fault = "the training loss"
        self.total.zero_()
        if fault is not None:
            look = NOTHING_KEPT
            if run:
                look = f"python scripts/replay.py {run} stops before the update that did it"
            raise RunError(
                f"{fault} was not finite at or before step {step}; nothing was saved since"
                f"\n{look}; a lower optimizer.lr, run.clip_grad_norm or run.precision=float32 may avoid it"
            )


def watched(exp: Any) -> dict[str, Any]:
    """The states of an experiment that must be finite: of the model, of losses that are modules, of optimizers."""
    states = {name: optimizer.state_dict()["state"] for name, optimizer in exp.optimizers.items()}
    weights, buffers = dict(exp.model.named_parameters()), dict(exp.model.named_buffers())
    losses = {
        f"loss.{name}".rstrip("."): loss.state_dict()
        for name, loss in exp.losses.items()
        if isinstance(loss, nn.Module)
    }
    return {"model": weights, "buffers": buffers, **losses, "optimizers": states}


def nonfinite(states: Any, exempt: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors in nested states that hold an infinite or NaN value, by their dotted names; some are left out."""
    values = {name: numbers(value) for name, value in tensors(states) if name not in exempt}
    values = {name: value for name, value in values.items() if value.is_floating_point() and value.numel()}
    devices: dict[torch.device, list[Tensor]] = {}
    for value in values.values():
        devices.setdefault(value.device, []).append(value)
    norms = [torch.stack([norm.float() for norm in torch._foreach_norm(group)]) for group in devices.values()]
    if all(bool(norm.isfinite().all()) for norm in norms):  # one wait per device; looks closer only where it must
        return {}
    return {name: value for name, value in values.items() if not bool(value.isfinite().all())}


def numbers(value: Tensor) -> Tensor:
    """The values of a tensor as a dense, real one: of a sparse one those that are stored, of a sharded one its part."""
    if hasattr(value, "to_local"):
        value = value.to_local()
    if value.layout is torch.sparse_coo:
        value = value._values()
    elif value.layout is not torch.strided:
        value = value.values()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if value.is_floating_point() and value.itemsize == 1:  # float8 has few operations
        value = value.float()
    return value
