"""`append:` adds items to lists of a config, which other files or the command line would replace as a whole."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from ..config.grammar import key_of
from ..errors import UserError, nearest
from ..tree import walk

KEY = "append"


def append_items(composed: DictConfig, words: Iterable[str]) -> None:
    """Add to each list what stands under its key within `append:`, which is empty afterwards.

    Args:
        composed: in which Hydra put the last word of each key in the place of those before.
        words: of the command line; all that name a key count, one after the other.

    Raises:
        UserError: the config has no such list, or what is to be added is not a list.
    """
    given: Any = composed.get(KEY) or {}
    if OmegaConf.is_config(given):
        given = OmegaConf.to_container(given, resolve=False)
    if not isinstance(given, Mapping):
        raise UserError(f"{KEY}={given}: it is not a mapping\nwrite +{KEY}.KEY=[ITEM]")
    for key, items in (dict(_lists(given, "")) | _of_words(words)).items():
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


def _of_words(words: Iterable[str]) -> dict[str, Any]:
    """What the words `+append.KEY=[ITEM]` add, by key; a value that is not a list stands for itself."""
    found: dict[str, Any] = {}
    for word in words:
        key = appended_to(word)
        if not key:
            continue
        override = OverridesParser.create().parse_override(word)
        items: Any = override.value()
        earlier = found.pop(key, [])
        if override.is_delete():
            continue
        found[key] = items
        if isinstance(items, list) and isinstance(earlier, list):
            found[key] = [*earlier, *items]
    return found


def appended_to(word: str) -> str:
    """The key of the list that a word of a command line adds to; "": it adds to none."""
    first, _, key = key_of(word).partition(".")
    return key if first == KEY else ""


def _lists(given: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, items) of everything that is not a mapping."""
    for name, value in given.items():
        full = f"{key}.{name}".lstrip(".")
        if isinstance(value, Mapping):
            yield from _lists(value, full)
        else:
            yield full, value
