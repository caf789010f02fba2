"""`append:` adds items to lists of a config, which other files or the command line would replace as a whole."""

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from ..errors import UserError, nearest
from ..tree import walk

KEY = "append"


def append_items(composed: DictConfig) -> None:
    """Add to each list what stands under its key within `append:`, which is empty afterwards.

    Raises:
        UserError: the config has no such list, or what is to be added is not a list.
    """
    given: Any = composed.get(KEY) or {}
    if OmegaConf.is_config(given):
        given = OmegaConf.to_container(given, resolve=False)
    if not isinstance(given, Mapping):
        raise UserError(f"{KEY}={given}: it is not a mapping\nwrite +{KEY}.KEY=[ITEM]")
    for key, items in _lists(given, ""):
        before: Any = OmegaConf.select(composed, key)
        if OmegaConf.is_list(before):
            before = OmegaConf.to_container(before, resolve=False)
        if not isinstance(before, list):
            plain: Any = OmegaConf.to_container(composed, resolve=False)
            lists = [name for name, node in walk(plain) if isinstance(node, list) and not name.startswith(f"{KEY}.")]
            near = ", ".join(nearest(key, lists)) or "none"
            raise UserError(
                f"{KEY}.{key}: {key} is not a list of this config\nnearest: {near}; a new one: +{key}=[ITEM]"
            )
        if not isinstance(items, list):
            raise UserError(f"{KEY}.{key}={items}: it is not a list\nwrite +{KEY}.{key}=[{items}]")
        OmegaConf.update(composed, key, [*before, *items])
    if given:
        with open_dict(composed):
            composed[KEY] = {}


def _lists(given: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, items) of everything that is not a mapping."""
    for name, value in given.items():
        full = f"{key}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _lists(value, full)
        else:
            yield full, value
