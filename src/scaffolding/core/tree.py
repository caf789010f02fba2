"""Walks over nested dicts, lists and tuples: their leaves, what differs in them, what they look like."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested dicts, lists and tuples; the containers themselves are left out."""
    if not isinstance(content, Mapping | list | tuple):
        yield name, content
        return
    items: Any = enumerate(content)
    if isinstance(content, Mapping):
        items = content.items()
    for key, value in items:
        yield from leaves(value, f"{name}.{key}".lstrip("."))


def containers(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, mapping or sequence) of every container in nested ones, outer ones first."""
    if not isinstance(content, Mapping | list | tuple):
        return
    yield name, content
    items: Any = enumerate(content)
    if isinstance(content, Mapping):
        items = content.items()
    for key, value in items:
        yield from containers(value, f"{name}.{key}".lstrip("."))


def specs(config: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, mapping) of every mapping in a plain config that has a `_target_`, outer ones first."""
    items: Any = ()
    if isinstance(config, list | tuple):
        items = enumerate(config)
    if isinstance(config, Mapping):
        items = config.items()
        if "_target_" in config:
            yield key, dict(config)
    for name, value in items:
        yield from specs(value, f"{key}.{name}".lstrip("."))


def changed_keys(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values (None where there is no such key)."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {key: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for part in [*before, *(name for name in after if name not in before)]:
        changes |= changed_keys(before.get(part), after.get(part), f"{key}.{part}".lstrip("."))
    return changes


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The batch with `function` applied to every tensor in nested tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(value, function) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [map_tensors(value, function) for value in batch]
        if hasattr(batch, "_fields"):  # a named tuple takes its parts one by one
            return type(batch)(*values)
        return type(batch)(values)
    return batch


def tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of every tensor in a nested batch."""
    for name, value in leaves(batch):
        if isinstance(value, Tensor):
            yield name, value


def describe(batch: Any) -> str:
    """A nested batch in one line: {image: (8, 3, 32, 32) float32 in [0, 1], label: (8,) int64 in [0, 9]}."""
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name}: {describe(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return "[" + ", ".join(describe(value) for value in batch) + "]"
    if isinstance(batch, Tensor):
        return describe_tensor(batch)
    return type(batch).__name__


def describe_tensor(tensor: Tensor) -> str:
    """Shape, dtype, range and how many values are not finite, in one line."""
    text = f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_complex() or not tensor.numel():
        return text
    finite = tensor[tensor.isfinite()]
    if finite.numel():
        text += f" in [{float(finite.min()):.3g}, {float(finite.max()):.3g}]"
    num_broken = tensor.numel() - finite.numel()
    if num_broken:
        text += f", {num_broken} not finite"
    return text
