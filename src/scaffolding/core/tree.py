"""Walks over nested containers: dicts, lists and tuples."""

from collections.abc import Iterator
from typing import Any


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of everything in nested dicts, lists and tuples that is not one of these."""
    if isinstance(content, dict):
        parts: Any = content.items()
    elif isinstance(content, list | tuple):
        parts = enumerate(content)
    else:
        yield name, content
        return
    for key, value in parts:
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def changed_keys(before: Any, after: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {name: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for key in [*before, *(key for key in after if key not in before)]:
        changes |= changed_keys(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
    return changes


def specs(config: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, mapping) of every mapping in a plain config that has a `_target_`."""
    if isinstance(config, dict) and "_target_" in config:
        yield name, config
    parts: Any = ()
    if isinstance(config, dict):
        parts = config.items()
    elif isinstance(config, list):
        parts = enumerate(config)
    for key, value in parts:
        yield from specs(value, f"{name}.{key}" if name else str(key))
