"""`replace=[OLD,NEW]`: one text in the place of another in all values of a config, before the config is checked."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf

from ..config.grammar import key_of
from ..errors import UserError
from .append import append_items

KEY = "replace"
REFERENCE = re.compile(r"(\$\{[^{}]*\})")  # ${data.path}: what is in it is a key
KEPT = (KEY, "resume", "fork", "rerun", "run.name")  # say which run it is

Pair = tuple[str, str]
Replaced = dict[Pair, list[str]]  # the keys whose values had the first text


def pairs_of(words: Iterable[str]) -> Iterator[Pair]:
    """The (old, new) of all `replace=` among the words of a command line, in their order.

    Raises:
        UserError: a value is not two texts, or a list of such pairs.
    """
    for word in words:
        if key_of(word) != KEY or word.partition("=")[2] in ("", "null"):
            continue
        try:
            given: Any = OverridesParser.create().parse_override(word).value()
        except HydraException as error:
            raise _unreadable(word) from error
        if not isinstance(given, list):
            raise _unreadable(word)
        for pair in given if given and isinstance(given[0], list) else [given]:
            is_pair = isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
            if not is_pair or not pair[0]:
                raise _unreadable(word)
            yield str(pair[0]), str(pair[1])


def _unreadable(word: str) -> UserError:
    return UserError(
        f"{word}: it is not a pair of texts\nwrite 'replace=[OLD,NEW]', or several: 'replace=[[OLD,NEW],[OLD,NEW]]'; "
        "put numbers, and texts with spaces or commas, into quotes"
    )


def rewrite(composed: DictConfig, words: list[str]) -> Replaced:
    """Do to a composed config what `append:` and all `replace=` among the words say; returns what was replaced."""
    append_items(composed, words)
    return replace_texts(composed, words)


def replace_texts(composed: DictConfig, words: Iterable[str]) -> Replaced:
    """Change the values of a config as all `replace=` among the words say, one after the other.

    Keys stay, and so do the value of `_target_` (a class is chosen by its own key), what is in `${...}`, and the name
    of the run.

    Returns:
        The keys whose values changed, for each pair; none where its first text is not there.

    Raises:
        UserError: a pair is not one, or a file of configs has a `replace:`, which no command line repeats.
    """
    found, words = Replaced(), list(words)
    if composed.get(KEY) is not None and not any(key_of(word) == KEY for word in words):
        raise UserError(f"{KEY}: a YAML file sets it\nput it on the command line, which a run keeps: {KEY}=[OLD,NEW]")
    for pair in pairs_of(words):
        plain: Any = OmegaConf.to_container(composed, resolve=False)
        found.setdefault(pair, [])
        found[pair] += _replace(composed, plain, pair, "")
    return found


def _replace(node: Any, plain: Any, pair: Pair, key: str) -> Iterator[str]:
    for name, value in plain.items() if isinstance(plain, Mapping) else enumerate(plain):
        full = f"{key}.{name}".lstrip(".")
        if full in KEPT or name == "_target_" or value == MISSING:
            continue
        if isinstance(value, Mapping | list):
            yield from _replace(node[name], value, pair, full)
        elif isinstance(value, str):
            new = replaced(value, pair)
            if new != value:
                node[name] = new
                yield full


def replaced(text: str, pair: Pair) -> str:
    """A text with the second of the pair in the place of the first, but not within `${...}`."""
    parts = REFERENCE.split(text)
    return "".join(part if index % 2 else part.replace(*pair) for index, part in enumerate(parts))


def check_all_found(found: Replaced, inherited: Iterable[str] = ()) -> None:
    """UserError: a pair that is not among the `inherited` words replaced nothing; it may hold a typing error."""
    known = set(pairs_of(inherited))
    for (old, new), keys in found.items():
        if not keys and (old, new) not in known:
            raise UserError(
                f"{KEY}=[{old},{new}]: no value of the config has {old!r}\n--cfg job prints the config without it; "
                "what a ${...} refers to is replaced where it is set"
            )


def is_moved(before: Any, after: Any, pairs: Iterable[Pair]) -> bool:
    """Whether a value became another by `replace=` alone, and all that changed in it are paths."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        return bool(changed) and all(is_moved(old, new, pairs) for old, new in changed)
    if not isinstance(before, str) or not isinstance(after, str):
        return False
    text = before
    for pair in pairs:
        text = replaced(text, pair)
    return text == after != before and (_is_absolute(before) or _is_absolute(after))


def _is_absolute(text: str) -> bool:
    is_path = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return is_path or text.startswith(("~/", "./", "../"))
