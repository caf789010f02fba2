"""Weighted means of the scalars that losses give, over batches and, where there are several, over processes."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .tree import map_parts

NOT_METRICS = ("weight", "output")  # keys of a loss that are not means: what it counts, what the model gave
MAX_PARTS = 1000  # scalars that are kept on the device before they are put together

Part = tuple[Any, Any, Any]  # number of the batch, value, weight; or those of many: list, (n,), (n,)


class Metrics(dict[str, Any]):
    """Values by name, which may be changed.

    Args:
        values: by name.
        means: where those values come from that are means.
    """

    def __init__(self, values: Mapping[str, Any], means: "Means") -> None:
        super().__init__(values)
        self.given, self.means = dict(values), means

    def parts(self) -> "dict[str, list[Part]]":
        """The parts of each mean that still stands here as `means` gave it."""
        return {name: part for name, part in self.means.parts.items() if self.get(name) is self.given.get(name)}


class Means:
    """Weighted means of the scalars that losses give. They stay on the device; nothing is read from it."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, list[Part]] = defaultdict(list)
        self.num_added: dict[str, int] = {}  # batches, by network

    def add(self, network: str, loss: Tensor, values: Mapping[str, Any], weight: float) -> Any:
        """Add what a loss returned for a batch, as "<network>/<key>".

        Args:
            network: the key of the loss.
            loss: the value.
            values: the metrics. Where they hold "weight", that is what the batch counts.
            weight: what it counts otherwise; 0: it counts nothing, because another process counts it.

        Returns:
            The weight that was used.
        """
        number = self.num_added.get(network, 0)
        self.num_added[network] = number + 1
        own = scalar(values.get("weight", weight))
        if weight == 0:
            return own * 0
        for key, value in {"loss": loss, **values}.items():
            if key in NOT_METRICS:
                continue
            parts = self.parts[f"{network}/{key}" if network else key]
            parts.append((number, scalar(value), own))
            if len(parts) > MAX_PARTS:
                parts[:] = [packed(parts)]
        return own

    def values(self) -> Metrics:
        """The means, by name."""
        return Metrics({name: mean([part[1:] for part in parts]) for name, parts in self.parts.items()}, self)


def packed(parts: list[Part]) -> Part:
    """Several parts in one, its tensors on the device of the values."""
    numbers = [number for part in parts for number in (part[0] if isinstance(part[0], list) else [part[0]])]
    values = stack([value for _, value, _ in parts])
    return numbers, values, stack([weight for *_, weight in parts]).to(values.device)


def copied(parts: list[Part]) -> Part:
    """Several parts in one, which does not keep alive what its scalars are parts of."""
    if len(parts) > 1 or isinstance(parts[0][0], list):
        return packed(parts)
    number, value, weight = parts[0]
    if isinstance(value, Tensor):
        value = value.clone()
    return number, value, weight


def of_all(metrics: Mapping[str, Any], gather: Callable[[Any], list[Any]], device: torch.device) -> dict[str, Any]:
    """The values over all processes, computed in the order of batches, as one process would.

    Args:
        metrics: those of this process. What is not from its `Means` is averaged with equal weights.
        gather: gives what each process has, in the order of their ranks.
        device: where one process would compute.
    """
    parts = {}
    if isinstance(metrics, Metrics):
        parts = {name: part[0] if len(part) == 1 else packed(part) for name, part in metrics.parts().items()}
    others = {name: scalar(value) for name, value in metrics.items() if name not in parts}
    found: list[tuple[dict[str, Part], dict[str, Any]]] = gather(on_cpu((parts, others)))
    values = merged([parts for parts, _ in found], device)
    for name in dict.fromkeys(name for _, others in found for name in others):
        if name not in values:
            values[name] = _average([others[name] for _, others in found if name in others])
    return values


def merged(found: Sequence[Mapping[str, Part]], device: torch.device) -> dict[str, Any]:
    """Means by name from the parts that each process has, computed as one process would.

    Args:
        found: the parts by name, of each process by rank.
        device: where one process would compute.
    """
    values = {}
    for name in dict.fromkeys(name for parts in found for name in parts):
        pieces = [(rank, parts[name]) for rank, parts in enumerate(found) if name in parts]
        values[name] = mean(_in_order(pieces, device))
    return values


def _in_order(pieces: list[tuple[int, Part]], device: torch.device) -> list[tuple[Any, Any]]:
    """(values, weights) of the parts of several processes: batch k of one comes before batch k of the next."""
    if len(pieces) == 1 and not isinstance(pieces[0][1][0], list):
        return [pieces[0][1][1:]]
    numbers, values, weights = packed([part for _, part in pieces])
    ranks = [rank for rank, part in pieces for _ in (part[0] if isinstance(part[0], list) else [part[0]])]
    order = torch.tensor(sorted(range(len(ranks)), key=lambda place: (numbers[place], ranks[place])))
    return [(values[order].to(device), weights[order].to(device))]


def _average(values: list[Any]) -> Any:
    """The mean of what each process has; exactly the same where all have the same, or where it is not a number."""
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError, RuntimeError):
        return values[0]
    if all(number == numbers[0] for number in numbers):
        return values[0]
    return sum(numbers) / len(numbers)


def on_cpu(content: Any) -> Any:
    """Nested values with all tensors on the CPU, and whole."""
    if hasattr(content, "full_tensor"):
        content = content.full_tensor()
    return content.cpu() if isinstance(content, Tensor) else map_parts(content, on_cpu)


def scalar(value: Any) -> Any:
    """The value as a number or a detached 0-d tensor, so that sums do not broadcast."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.ndim > 0:
            value = value.reshape(())
    return value


def mean(parts: list[tuple[Any, Any]]) -> Any:
    """Weighted mean of scalars, from (value, weight) pairs; in float32 or wider: a sum in bfloat16 stops growing.

    What has weight 0 counts for nothing, even if it is not finite, as the mean over a batch of padding is. Where all
    has weight 0, all counts alike. A pair may also hold tensors of many, (n,).
    """
    if len(parts) == 1 and not (isinstance(parts[0][0], Tensor) and parts[0][0].ndim):
        return parts[0][0]
    values, weights = map(stack, zip(*parts, strict=True))
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    weights = weights.to(values)
    weights = torch.where(weights.any(), weights, 1)
    return (torch.where(weights != 0, values, 0) * weights).sum() / weights.sum()


def stack(scalars: Sequence[Any]) -> Tensor:
    """Scalars, numbers and tensors of one device, as a tensor of shape (n,); a tensor of many gives all of them."""
    devices = [scalar.device for scalar in scalars if isinstance(scalar, Tensor)]
    if not devices:
        return torch.tensor(scalars)
    tensors = [torch.as_tensor(scalar, device=devices[0]) for scalar in scalars]
    if any(tensor.ndim for tensor in tensors):
        return torch.cat([tensor.reshape(-1) for tensor in tensors])
    return torch.stack(tensors)
