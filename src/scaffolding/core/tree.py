"""Walks over nested dicts, lists and tuples: their leaves, what differs in them, what they look like."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def walk(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, node) of everything in nested dicts, lists and tuples: containers too, each before its parts."""
    yield name, content
    parts: Any = ()
    if isinstance(content, Tensor):  # by far the most frequent, and no container
        return
    if isinstance(content, Mapping):
        parts = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    for key, value in parts:
        yield from walk(value, f"{name}.{key}".lstrip("."))


def leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value; the containers themselves are left out."""
    return ((name, node) for name, node in walk(content) if not isinstance(node, Mapping | list | tuple))


def specs(config: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, mapping) of every mapping in a plain config that has a `_target_`."""
    return ((key, dict(node)) for key, node in walk(config) if isinstance(node, Mapping) and "_target_" in node)


def tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """(dotted name, tensor) of every tensor in a nested batch."""
    return ((name, node) for name, node in walk(batch) if isinstance(node, Tensor))


def changed_keys(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values (None where there is no such key)."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        is_same = before == after or repr(before) == repr(after)  # nan equals nan here
        if key.rpartition(".")[2].startswith("limit_") and before == after == 1:  # 1 is one item, 1.0 are all of them
            is_same = isinstance(before, float) == isinstance(after, float)
        return {} if is_same else {key: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for part in [*before, *(name for name in after if name not in before)]:
        changes |= changed_keys(before.get(part), after.get(part), f"{key}.{part}".lstrip("."))
    return changes


def map_parts(batch: Any, function: Callable[[Any], Any]) -> Any:
    """A dict, list or tuple with `function` applied to each of its parts; anything else as it is."""
    if isinstance(batch, Mapping):
        return {name: function(value) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = [function(value) for value in batch]
        if hasattr(batch, "_fields"):  # a named tuple takes its parts one by one
            return type(batch)(*values)
        return type(batch)(values)
    return batch


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
    if tensor.layout != torch.strided or tensor.is_complex() or not tensor.numel():
        return text
    finite = tensor[tensor.isfinite()]
    if finite.numel():
        text += f" in [{float(finite.min()):.3g}, {float(finite.max()):.3g}]"
    num_broken = tensor.numel() - finite.numel()
    if num_broken:
        text += f", {num_broken} not finite"
    return text
