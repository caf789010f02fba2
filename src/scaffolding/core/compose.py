"""Composing configs: Hydra's result checked against the schema, and every mistake named with the nearest right word."""

import dataclasses
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import intervals
from .build import targets
from .errors import UserError, nearest

# what may go wrong in composing and is the user's to mend
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)


@dataclass(frozen=True)
class Project:
    """What the machinery must know of the project around it."""

    root: Path
    package: str
    schema: type
    former_names: tuple[str, ...] = ()  # of the package, so that runs made under them still load

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    def path(self, text: str) -> Path:
        """A path of the config: relative ones start at the project's folder, wherever the command was given."""
        return self.root / text

    @property
    def output_root(self) -> Path:
        """Where runs are found when the command line says nothing: base.yaml's, or this machine's local.yaml."""
        for name in ("local.yaml", "base.yaml"):
            file = self.configs / name
            paths = (yaml.safe_load(file.read_text()) or {}).get("paths", {}) if file.exists() else {}
            if found := paths.get("output_root"):
                return self.path(found)
        return self.root / "_output"


def register(project: Project) -> None:
    """Make the schema known to Hydra."""
    ConfigStore.instance().store("schema", project.schema)


def compose_config(project: Project, overrides: list[str], config_folder: Path | None = None) -> DictConfig:
    """A checked config, composed without Hydra's global state staying behind.

    Raises:
        UserError: what is wrong with which override, and the nearest right one.
    """
    register(project)
    try:
        with initialize_config_dir(str(config_folder or project.configs), version_base="1.3"):
            composed = compose("base" if config_folder is None else "config", overrides)
    except COMPOSE_ERRORS as error:
        raise explain(error, project, overrides) from error
    return checked(composed, project)


def read_config(folder: Path, project: Project) -> DictConfig:
    """The checked config of a run.

    Raises:
        UserError: there is no run in `folder`, or its config does not fit the schema.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise UserError(f"{folder} is no run: there is no config.yaml in it")
    composed = OmegaConf.create(yaml.safe_load(file.read_text()))
    assert isinstance(composed, DictConfig)
    return checked(composed, project)


def checked(composed: DictConfig, project: Project) -> DictConfig:
    """The config on top of the schema, resolved, its ranges checked, `_target_`s under the package's present name.

    Raises:
        UserError: a key that no YAML declares, a wrong type, a value out of range, an interpolation to nothing.
    """
    schema = OmegaConf.structured(project.schema)
    declared = {section.name for section in dataclasses.fields(project.schema)}
    unknown = [key for key in composed if key not in declared]
    if unknown:
        raise unknown_key(str(unknown[0]), composed, project)
    try:
        cfg = OmegaConf.merge(schema, composed)
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise explain(error, project, []) from error
    assert isinstance(plain, dict)
    for key, spec in targets(plain):
        name, _, rest = str(spec["_target_"]).partition(".")
        if name in project.former_names:
            OmegaConf.update(cfg, f"{key}._target_", f"{project.package}.{rest}")
    for section in dataclasses.fields(project.schema):
        if dataclasses.is_dataclass(section.type):
            for rule in dataclasses.fields(section.type):
                value = plain[section.name][rule.name]
                if problem := _violation(value, rule):
                    raise UserError(f"{section.name}.{rule.name}={value}: {problem}")
    for name in cfg.paths:  # in order: later ones refer to earlier ones
        cfg.paths[name] = str(project.path(cfg.paths[name]))
    OmegaConf.set_struct(cfg, True)
    assert isinstance(cfg, DictConfig)
    return cfg


def portable(cfg: DictConfig, project: Project) -> dict[str, Any]:
    """The config as config.yaml holds it: resolved, but paths relative to the project and referred to as ${paths...},
    so that a run still finds its data where the project or the data has been moved.
    """
    copy = cfg.copy()
    OmegaConf.set_struct(copy, False)
    paths = {name: os.path.relpath(path, project.root) for name, path in cfg.paths.items()}
    paths = {name: path if not path.startswith("..") else cfg.paths[name] for name, path in paths.items()}
    for name in paths:
        copy.paths[name] = f"\\${{paths.{name}}}"
    plain = OmegaConf.to_container(copy, resolve=True)
    assert isinstance(plain, dict)
    return {key: value for key, value in plain.items() if key not in ("resume", "fork")} | {"paths": paths}


def changed_keys(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {
            name: pair
            for part in [*before, *(name for name in after if name not in before)]
            for name, pair in changed_keys(before.get(part), after.get(part), f"{key}.{part}" if key else part).items()
        }
    return {} if before == after else {key: (before, after)}


def _violation(value: Any, rule: dataclasses.Field[Any]) -> str | None:
    """What a setting's value breaks of the rules in its field, in words."""
    rules = rule.metadata
    if value == "???":
        return "has no value\ngive it one in configs/base.yaml or on the command line"
    if value is None:
        return None
    if "one_of" in rules and value not in rules["one_of"]:
        return f"not one of {', '.join(rules['one_of'])}\nnearest: {nearest(str(value), rules['one_of'])[0]}"
    if "at_least" in rules and not value >= rules["at_least"]:
        return f"at least {rules['at_least']} is needed"
    if "above" in rules and not value > rules["above"]:
        return f"more than {rules['above']} is needed"
    if "below" in rules and not value < rules["below"]:
        return f"less than {rules['below']} is needed"
    if "form" in rules:
        try:
            unit = intervals.parse(value)[1]
        except ValueError as error:
            return f"{error}\nallowed: 500 or 500steps, 5epochs" + (", 10min" if rules["form"] == "interval" else "")
        if unit == "min" and (rules["form"] == "budget" or rule.name == "log_every"):
            return "minutes cannot be used here\nallowed: 500 or 500steps, 5epochs"
    return None


def groups(folder: Path) -> dict[str, list[str]]:
    """Config groups below a folder and their options."""
    return {
        sub.name: sorted(file.stem for file in sub.glob("*.yaml"))
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and any(sub.glob("*.yaml"))
    }


def leaf_keys(node: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of a plain config, inner ones included."""
    if key:
        yield key
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaf_keys(value, f"{key}.{name}" if key else str(name))


def unknown_key(key: str, composed: DictConfig | None, project: Project) -> UserError:
    """The error for a key that no YAML declares."""
    plain = OmegaConf.to_container(composed, resolve=False) if composed is not None else {}
    if isinstance(plain, dict) and key in plain:  # in the composed config because `+` forced it in: look deeper
        inner = [name for name in leaf_keys(plain) if name.startswith(key + ".")]
        key = inner[0] if inner else key
    declared = {section.name for section in dataclasses.fields(project.schema)}
    known = {name for name in leaf_keys(plain) if name.split(".")[0] in declared}
    close = nearest(key, known | set(groups(project.configs)))
    return UserError(
        f"{key}: no such key\nnearest: {close[0] if close else 'none'}"
        f" (declared in {_declared_in(close[0], project) if close else 'configs'})"
        f"\nto add a key, declare it in YAML (and, in run, loader or paths, in config.py)"
    )


def _declared_in(key: str, project: Project) -> str:
    """The config file or folder a key belongs to."""
    top = key.split(".")[0]
    return f"configs/{top}/" if top in groups(project.configs) else "configs/base.yaml"


def explain(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    text = str(error)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, option = error.missing_cfg_file.partition("/")
        return UserError(
            f"{group}={option}: no such option\nnearest: {nearest(option, error.options)[0]}; "
            f"options: {', '.join(sorted(error.options))}"
        )
    if found := re.search(r"Could not (?:override|delete from config\. The key) '([^']+)'", text):
        return unknown_key(found[1], _groups_only(project, overrides), project)
    if found := re.search(r"Error merging override (.+)", text):
        return UserError(f"{found[1]}: {str(cause).splitlines()[0]}")
    mark = getattr(cause, "problem_mark", None)
    if mark is not None:
        problem = getattr(cause, "problem", "not valid YAML")
        return UserError(f"{mark.name}:{mark.line + 1}:{mark.column + 1}: {problem}")
    key = getattr(cause, "full_key", None) or getattr(error, "full_key", None)
    return UserError((f"{key}: " if key else "") + "; ".join(line for line in text.splitlines()[:2] if line))


def _groups_only(project: Project, overrides: list[str]) -> DictConfig | None:
    """The config with only the group choices of a command line, to look for near keys in."""
    known = groups(project.configs)
    chosen = [text for text in overrides if text.partition("=")[0].lstrip("+~") in known]
    try:
        with initialize_config_dir(str(project.configs), version_base="1.3"):
            return compose("base", chosen)
    except COMPOSE_ERRORS:
        return None
