"""Composing errors in words."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from ..errors import nearest
from ..faults import ABSENT, Fault
from .grammar import NAMED, SEVERAL, key_of

KINDS = {  # what OmegaConf says of a value, and what a setting of that kind wants
    "converted to Integer": "not a whole number",
    "converted to Float": "not a number",
    "a valid bool": "not true or false",
    "not Optional": "it needs a value, not null",
    "to string": "not a text",
    "Cannot convert": "not a text",
    "merge DictConfig with": "not a mapping",
}


def groups(folder: Path) -> dict[str, list[str]]:
    """Config groups below a folder and their options; a folder `_...` holds parts of files, not options."""
    folders = [*sorted(folder.glob("[!_]*/")), *sorted(folder.glob("[!_]*/[!_]*/"))]  # model/encoder/: of a part
    names = {sub.relative_to(folder).as_posix(): sub for sub in folders}
    found = {name: sorted(file.stem for file in sub.glob("*.yaml")) for name, sub in names.items()}
    return {name: options for name, options in found.items() if options}


def unknown_key(key: str, keys: list[str], configs: Path, value: Any = ABSENT) -> Fault:
    """The fault of a key that no YAML declares, with the nearest one that is."""
    near = nearest(key, keys)[0]
    place = "configs/base.yaml"
    if near.partition(".")[0] in groups(configs):
        place = f"configs/{near.partition('.')[0]}/"
    add = f"to add a key, write +{key}=VALUE, or declare it in YAML"
    if key in [f"{part}._target_" for part in NAMED]:
        return Fault(key, value, "its blocks have names", named_advice(key, value))
    if key.partition(".")[0] in ("run", "loader", "paths"):
        add = "to add a key of run, loader or paths, declare it in config.py and base.yaml"
    elif key.partition(".")[0] not in {known.partition(".")[0] for known in keys}:
        add = "to add a new part of the config, declare it in config.py"
    return Fault(key, value, "no such key", f"nearest: {near} (declared in {place})\n{add}")


def named_advice(key: str, value: Any) -> str:
    """How to give `tracker._target_`, which names no block, a name."""
    target = "VALUE" if value is ABSENT else value
    return f"give the block a name of your choice: +{key.partition('.')[0]}.NAME._target_={target}"


def unknown_option(group: str, option: str, options: list[str]) -> Fault:
    """The fault of a choice that is not there."""
    near = ", ".join(nearest(option, options)) or "none"
    return Fault(group, option, "no such option", f"nearest: {near}; options: {', '.join(options) or 'none'}")


def explain(error: BaseException, configs: Path, overrides: list[str], compose: Callable[[list[str]], Any]) -> Fault:
    """A composing error in words: key, value, what is allowed or nearest.

    Args:
        error: what Hydra or OmegaConf raised.
        configs: the folder of configs.
        overrides: the words of the command line.
        compose: gives the config of other overrides, to name the keys that there are.
    """
    text, cause = str(error), error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return unknown_option(group, option, sorted(error.options or groups(configs).get(group, [])))
    found = re.search(r"Could not (?:override|delete from config\.(?: The key)?) '([^']+)'", text)
    if found and "/" in found[1] and found[1] in groups(configs):
        return _no_such_part(found[1], _value_of(found[1], overrides), configs)
    if found:
        known = _known(overrides, configs, compose)
        wrong = found[1]
        if wrong in known and f"~{wrong}" in overrides:
            return Fault(wrong, ABSENT, "it cannot be removed", f"to do without it: {wrong}=null")
        if wrong in known:  # the key is there, one within its value is not
            wrong = str(getattr(cause, "full_key", None) or wrong)
        return unknown_key(wrong, known, configs, _value_of(wrong, overrides))
    found = re.search(r"An item is already at '([^']+)'", text)
    if found:
        word = f"{found[1]}={_value_of(found[1], overrides)}"
        return Fault(found[1], ABSENT, "it is set already", f"leave out the +: {word}")
    found = re.search(r"Error merging override (.+)", text)
    if found:
        key, _, value = found[1].partition("=")
        return wrong_kind(key, value, str(cause).splitlines()[0])
    found = re.search(r"Missing mandatory value: ([\w.]+)", text)
    if found:
        return Fault(found[1], ABSENT, "not set", f"give {found[1]}=VALUE")
    found = re.search(r"Interpolation key '([^']+)' not found\s+full_key: ([\w.]+)", text)
    if found:
        return _no_such_reference(found[2], found[1], configs)
    found = re.search(r"Multiple values for (\w+)|(\w+) appears more than once", text)
    if found:
        group = found[1] or found[2]
        words = [word.lstrip("+") for word in overrides if key_of(word) == group and word.startswith("+")]
        return Fault(group, ABSENT, "chosen already", f"leave out the +: {(words or [f'{group}=...'])[0]}")
    mark = getattr(cause, "problem_mark", None)
    if mark is not None:
        place = f"{mark.name}:{mark.line + 1}:{mark.column + 1}"
        return Fault("", ABSENT, f"not valid YAML: {getattr(cause, 'problem', cause)}", place=place)
    for word in overrides:
        group, _, option = word.partition("=")
        items = {item.strip() for item in option.strip("[]").split(",")}
        if group in SEVERAL and option.startswith("[") and items <= set(groups(configs).get(group, ())):
            continue
        if group in groups(configs) and (option in ("", "null") or option[0] in "[{"):
            return Fault(group, option, "no such option", f"options: {', '.join(groups(configs)[group])}")
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None) or ""
    return Fault(str(key), ABSENT, "; ".join(line for line in text.splitlines()[:2] if line))


def _no_such_part(part: str, value: Any, configs: Path) -> Fault:
    """The fault of a choice for a part (model/encoder) that the chosen file has not: which files have it."""
    group = part.partition("/")[0]
    files = sorted((configs / group).glob("*.yaml"))
    having = [f"{group}={file.stem}" for file in files if re.search(rf"(?m)^ *- /?{part}\b", file.read_text("utf-8"))]
    return Fault(part, value, f"the chosen {group} has no such part", f"choose one that has it: {', '.join(having)}")


def _value_of(key: str, overrides: list[str]) -> Any:
    """What a command line gives a key; ABSENT: nothing, or it removes the key."""
    given = [word.partition("=") for word in overrides if key_of(word) == key]
    return next((value for _, equals, value in given if equals), ABSENT)


def wrong_kind(key: str, value: Any, problem: str) -> Fault:
    """The fault of a value of another kind than config.py says; `problem` is OmegaConf's sentence."""
    if "is not a ListConfig" in problem:
        return Fault(key, value, "not a list", f"give one: {key}=[{value}]")
    for said, wrong in KINDS.items():
        if said in problem:
            return Fault(key, value, wrong)
    return Fault(key, value, problem)


def _known(overrides: list[str], configs: Path, compose: Callable[[list[str]], Any]) -> list[str]:
    """The keys there are with the group choices of a command line; the groups, where those do not compose."""
    options = groups(configs)
    chosen = [text for text in overrides if key_of(text) in options]
    try:
        config: Any = OmegaConf.to_container(compose(chosen))
    except Exception:  # whatever else is wrong with the command line: this one is being told already
        return list(options)
    return list(keys_of(config))


def keys_of(config: dict[str, Any], key: str = "") -> Iterator[str]:
    """The dotted keys of a plain config; lists are not entered."""
    for name, value in config.items():
        yield f"{key}{name}"
        if isinstance(value, dict):
            yield from keys_of(value, f"{key}{name}.")


def _no_such_reference(key: str, other: str, configs: Path) -> Fault:
    """The fault of a key that refers to one which the chosen files do not have: what would have it."""
    group, _, fact = other.partition(".")
    files = {name: configs / group / f"{name}.yaml" for name in groups(configs).get(group, ())}
    having = [name for name, file in files.items() if re.search(rf"(?m)^{re.escape(fact)}:", file.read_text("utf-8"))]
    choose, why = "", "is not a key"
    if having:
        choose = f"choose one that has it ({', '.join(f'{group}={name}' for name in having)}), "
    if fact and group in groups(configs):
        why = f"the chosen {group} does not have"
    advice = f"{choose}declare {other} in YAML, or set {key} itself"
    return Fault(key, ABSENT, f"it refers to {other}, which {why}", advice)
