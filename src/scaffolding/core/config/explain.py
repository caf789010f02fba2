"""Composing errors in words."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from ..errors import UserError, at_mark, nearest
from ..tree import leaves
from .grammar import SEVERAL, key_of

KINDS = {"converted to Integer": "a whole number", "converted to Float": "a number", "a valid bool": "true or false"}


def groups(folder: Path) -> dict[str, list[str]]:
    """Config groups below a folder and their options; a folder `_...` holds parts of files, not options."""
    found = {sub.name: sorted(file.stem for file in sub.glob("*.yaml")) for sub in sorted(folder.glob("[!_]*/"))}
    return {name: options for name, options in found.items() if options}


def unknown_key(key: str, keys: list[str], configs: Path) -> UserError:
    """The error for a key that no YAML declares, with the nearest one that is."""
    near = nearest(key, keys)[0]
    place = "configs/base.yaml"
    if near.partition(".")[0] in groups(configs):
        place = f"configs/{near.partition('.')[0]}/"
    add = f"to add a key, write +{key}=VALUE, or declare it in YAML"
    if key.partition(".")[0] in ("run", "loader", "paths"):
        add = "a key of run, loader or paths is added in config.py"
    return UserError(f"{key}: no such key\nnearest: {near} (declared in {place})\n{add}")


def explain(
    error: BaseException, configs: Path, overrides: list[str], compose: Callable[[list[str]], Any]
) -> UserError:
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
        options = sorted(error.options or groups(configs).get(group, []))
        near = ", ".join(nearest(option, options)) or "none"
        return UserError(f"{group}={option}: no such option\nnearest: {near}; options: {', '.join(options) or 'none'}")
    found = re.search(r"Could not (?:override|delete from config\.(?: The key)?) '([^']+)'", text)
    if found:
        known = _known(overrides, configs, compose)
        wrong = found[1]
        if wrong in known:  # the key is there, one within its value is not
            wrong = str(getattr(cause, "full_key", None) or wrong)
        return unknown_key(wrong, known, configs)
    found = re.search(r"Error merging override (.+)", text)
    if found:
        return _wrong_kind(found[1], str(cause).splitlines()[0])
    found = re.search(r"Missing mandatory value: ([\w.]+)", text)
    if found:
        return UserError(f"{found[1]} is not set\ngive {found[1]}=VALUE")
    found = re.search(r"Interpolation key '([^']+)' not found\s+full_key: ([\w.]+)", text)
    if found:
        return _no_such_reference(found[2], found[1], configs)
    found = re.search(r"Multiple values for (\w+)|(\w+) appears more than once", text)
    if found:
        group = found[1] or found[2]
        words = [word.lstrip("+") for word in overrides if key_of(word) == group and word.startswith("+")]
        return UserError(f"{group}: chosen already\nleave out the +: {(words or [f'{group}=...'])[0]}")
    misread = at_mark(cause)
    if misread is not None:
        return misread
    for word in overrides:
        group, _, option = word.partition("=")
        items = {item.strip() for item in option.strip("[]").split(",")}
        if group in SEVERAL and option.startswith("[") and items <= set(groups(configs).get(group, ())):
            continue
        if group in groups(configs) and (option in ("", "null") or option[0] in "[{"):
            return UserError(f"{word}: no such option\noptions: {', '.join(groups(configs)[group])}")
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    lines = "; ".join(line for line in text.splitlines()[:2] if line)
    return UserError(f"{key}: {lines}" if key else lines)


def _wrong_kind(word: str, problem: str) -> UserError:
    """The error for a setting whose value is of another kind than config.py says; `problem` is OmegaConf's sentence."""
    key, _, value = word.partition("=")
    if "is not a ListConfig" in problem:
        return UserError(f"{word}: not a list\ngive one: {key}=[{value}]")
    for said, wanted in KINDS.items():
        if said in problem:
            return UserError(f"{word}: not {wanted}")
    return UserError(f"{word}: {problem}")


def _known(overrides: list[str], configs: Path, compose: Callable[[list[str]], Any]) -> list[str]:
    """The keys there are with the group choices of a command line; the groups, where those do not compose."""
    options = groups(configs)
    chosen = [text for text in overrides if key_of(text) in options]
    try:
        config: Any = OmegaConf.to_container(compose(chosen))
    except Exception:  # whatever else is wrong with the command line: this one is being told already
        return list(options)
    return [*config, *(name for name, _ in leaves(config))]


def _no_such_reference(key: str, other: str, configs: Path) -> UserError:
    """The error for a key that refers to one which the chosen files do not have: what would have it."""
    group, _, fact = other.partition(".")
    files = {name: configs / group / f"{name}.yaml" for name in groups(configs).get(group, ())}
    having = [name for name, file in files.items() if re.search(rf"(?m)^{re.escape(fact)}:", file.read_text("utf-8"))]
    choose, why = "", "is not a key"
    if having:
        choose = f"choose one that has it ({', '.join(f'{group}={name}' for name in having)}), "
    if fact:
        why = f"the chosen {group} does not have"
    return UserError(f"{key} refers to {other}, which {why}\n{choose}declare {other} in YAML, or set {key} itself")
