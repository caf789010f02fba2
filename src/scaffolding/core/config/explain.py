"""Composing errors in words. Imported only when there is one."""

import re

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf

from ..errors import UserError, nearest
from .compose import COMPOSE_ERRORS, Project, compose_unchecked, dotted_keys, groups


def _known(overrides: list[str], project: Project) -> list[str]:
    """The keys there are with the group choices of a command line; the groups, where those do not compose."""
    options = groups(project.configs)
    try:
        chosen = [text for text in overrides if text.partition("=")[0].lstrip("+~") in options]
        return list(dotted_keys(OmegaConf.to_container(compose_unchecked(project, chosen))))
    except COMPOSE_ERRORS:
        return list(options)


def unknown_key(key: str, keys: list[str], project: Project) -> UserError:
    """The error for a key that no YAML declares, with the nearest one that is."""
    known, near = groups(project.configs), nearest(key, keys)[0]
    place = f"configs/{near.partition('.')[0]}/" if near.partition(".")[0] in known else "configs/base.yaml"
    return UserError(
        f"{key}: no such key\nnearest: {near} (declared in {place})"
        f"\nto add a key, write +{key}=VALUE, or declare it in YAML (in run, loader and paths: in config.py)"
    )


def _no_such_reference(key: str, other: str, project: Project) -> UserError:
    """The error for a key that refers to one which the chosen files do not have: what would have it."""
    group, _, fact = other.partition(".")
    files = {name: project.configs / group / f"{name}.yaml" for name in groups(project.configs).get(group, ())}
    having = [name for name, file in files.items() if re.search(rf"(?m)^{re.escape(fact)}:", file.read_text("utf-8"))]
    choose = f"choose one that has it ({', '.join(f'{group}={name}' for name in having)}), " if having else ""
    return UserError(
        f"{key} refers to {other}, which {f'the chosen {group} does not have' if fact else 'is no key'}\n"
        f"{choose}declare {other} in YAML, or set {key} itself"
    )


def explain(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    text, cause = str(error), error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        near, options = nearest(option, error.options or ()), ", ".join(sorted(error.options or ())) or "none"
        return UserError(f"{group}={option}: no such option\nnearest: {', '.join(near) or 'none'}; options: {options}")
    if found := re.search(r"Could not (?:override|delete from config\.(?: The key)?) '([^']+)'", text):
        return unknown_key(found[1], _known(overrides, project), project)
    if found := re.search(r"Error merging override (.+)", text):
        return UserError(f"{found[1]}: {str(cause).splitlines()[0]}")
    if found := re.search(r"Missing mandatory value: ([\w.]+)", text):
        return UserError(f"{found[1]} is not set\ngive {found[1]}=VALUE")
    if found := re.search(r"Interpolation key '([^']+)' not found\s+full_key: ([\w.]+)", text):
        return _no_such_reference(found[2], found[1], project)
    if mark := getattr(cause, "problem_mark", None):
        return UserError(
            f"{mark.name}:{mark.line + 1}:{mark.column + 1}: {getattr(cause, 'problem', 'not valid YAML')}"
        )
    for word in overrides:
        group, _, option = word.partition("=")
        if group in groups(project.configs) and (option in ("", "null") or option[0] in "[{"):
            return UserError(f"{word}: no such option\noptions: {', '.join(groups(project.configs)[group])}")
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    return UserError((f"{key}: " if key else "") + "; ".join(line for line in text.splitlines()[:2] if line))
