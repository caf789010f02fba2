"""What a training row says of the steps since the row before it: means, weighted by the items of each step."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .means import Metrics, copied, merged, on_cpu, stack

MAX_TENSORS = 1000  # kept on the device before they are put together


class Meter:
    """Keeps the values of steps on the device until a row or a checkpoint needs them.

    What losses give is averaged (`Metrics`); other numbers of a step, as its learning rate, are those of the last one.
    Sums are in float64 and in the order of steps, so that they do not depend on when they were read.

    Args:
        processes: those that train together.
        is_on: whether rows are logged at all.
    """

    def __init__(self, processes: Any, is_on: bool = True) -> None:
        self.processes, self.is_on = processes, is_on
        self.sums: dict[str, list[float]] = {}  # by name: sum of value * items, sum of items
        self.last: dict[str, float] = {}  # values of the last step, over all processes
        self.steps: list[tuple[dict[str, Any], int]] = []  # not read yet: names and numbers, or parts; items
        self.tensors: list[Tensor] = []  # one process: the values of these steps, one after the other

    def add(self, metrics: Mapping[str, Any], num_items: int) -> None:
        """Count a step; nothing is read from the device.

        Args:
            metrics: as train_step returns them.
            num_items: training items of the step, in all processes.
        """
        if not self.is_on or not isinstance(metrics, Metrics):
            return
        if self.processes.count > 1:
            self.steps.append(({name: copied(parts) for name, parts in metrics.parts().items()}, num_items))
            return
        values = {name: metrics[name] for name in metrics.parts()}
        scalars = [value for value in values.values() if isinstance(value, Tensor)]
        if scalars:
            self.tensors.append(stack(scalars))  # a copy: it does not keep alive what a scalar is a part of
        kept = {name: None if isinstance(value, Tensor) else value for name, value in values.items()}
        self.steps.append((kept, num_items))
        if len(self.tensors) > MAX_TENSORS:
            self.tensors = [torch.cat(self.tensors)]

    def average(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row, and a new beginning. Waits for the device.

        Args:
            metrics: of the last step. What was changed in it stays as it is.

        Returns:
            The same with means over the steps since the last row; also of what only some of them gave.
        """
        self.settle()
        values, own = dict(metrics), set(metrics)
        if isinstance(metrics, Metrics):
            own -= metrics.parts().keys()
        for name, (total, num_items) in self.sums.items():
            if name not in own:
                values[name] = total / num_items
        self.sums = {}
        return values

    def settle(self) -> None:
        """Read the values of all steps. All processes do so together."""
        steps, self.steps = self.steps, []
        for values, num_items in zip(self._read(steps), [num_items for _, num_items in steps], strict=True):
            self.last = values
            for name, value in values.items():
                sums = self.sums.setdefault(name, [0.0, 0.0])
                sums[0] += value * num_items
                sums[1] += num_items

    def _read(self, steps: list[tuple[dict[str, Any], int]]) -> list[dict[str, float]]:
        """The values of steps by name, over all processes."""
        if self.processes.count > 1:
            found = self.processes.gather(on_cpu([parts for parts, _ in steps]))
            return [_floats(merged(parts, self.processes.device)) for parts in zip(*found, strict=True)]
        numbers = iter(())
        if self.tensors:
            device = self.tensors[-1].device
            numbers = iter(torch.cat([tensor.to(device) for tensor in self.tensors]).tolist())
            self.tensors = []
        return [
            {name: next(numbers) if value is None else float(value) for name, value in kept.items()}
            for kept, _ in steps
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a row between this step and the next needs."""
        self.settle()
        return {"sums": {name: list(sums) for name, sums in self.sums.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.steps, self.tensors = [], []
        self.sums = {name: list(sums) for name, sums in state["sums"].items()}


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
