"""Composing configs: Hydra's result checked against the schema, and every mistake named with the nearest right word."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError
from ..folder.run_folder import read_output_root
from .build import targets

VERBS = ("resume", "fork", "fork_state", "rerun")  # said of a run, not part of its config
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)  # of user's words


@dataclass(frozen=True)
class Project:
    """What the machinery must know of the project around it."""

    root: Path
    package: str
    schema: type
    former_names: tuple[str, ...] = ()  # of the package, so that runs made under them still load
    trusted: tuple[str, ...] = ()  # what a loaded run may name as targets: everything below these dotted names

    def __post_init__(self) -> None:
        ConfigStore.instance().store("schema", self.schema)

    @property
    def configs(self) -> Path:
        return self.root / "configs"

    def present_name(self, target: str) -> str:
        """A dotted name, under the package's present name where it has a former one."""
        first, dot, rest = target.partition(".")
        return f"{self.package}{dot}{rest}" if first in self.former_names else target

    def untrusted(self, config: Any, trust: Iterable[str] = ()) -> dict[str, str]:
        """The targets and imports of a plain config that neither `trusted` nor `trust` lists, by key."""
        names = {f"{key}._target_": self.present_name(str(spec["_target_"])) for key, spec in targets(config)}
        names |= {f"imports.{index}": name for index, name in enumerate(config.get("imports") or ())}
        listed = tuple(f"{entry}." for entry in (*self.trusted, *trust))
        return {key.lstrip("."): name for key, name in names.items() if not f"{name}.".startswith(listed)}

    @property
    def output_root(self) -> Path:
        """Where runs are found when the command line says nothing."""
        try:
            return read_output_root(self.root)
        except yaml.YAMLError as error:
            raise explained(error, self, []) from error


def compose_config(project: Project, overrides: list[str]) -> DictConfig:
    """A checked config; leaves none of Hydra's global state behind. UserError: what is wrong with which override."""
    try:
        return checked(compose_unchecked(project, overrides), project)
    except UserError:
        raise
    except COMPOSE_ERRORS as error:
        raise explained(error, project, overrides) from error


def compose_unchecked(project: Project, overrides: list[str]) -> DictConfig:
    """Hydra's composition, also where Hydra is at work already (within a run, twice in a notebook)."""
    hydra = GlobalHydra.instance()
    before, hydra.hydra = hydra.hydra, None
    try:
        with initialize_config_dir(str(project.configs), version_base="1.3"):
            return compose("base", overrides)
    finally:
        hydra.hydra = before


def read_config(folder: Path, project: Project, trust: Iterable[str] | None = None) -> DictConfig:
    """The checked config of a run, fit to be built if `trust` is given; UserError as in trust.open_config."""
    from .trust import open_config

    return checked(OmegaConf.create(open_config(folder, project, trust)), project)


def checked(composed: Any, project: Project) -> DictConfig:
    """The config on top of the schema: ranges checked, paths absolute, `_target_`s under the package's present name.

    Raises:
        UserError: a key that no YAML declares, a wrong type, a value out of range, an interpolation to nothing.
    """
    known = list(dotted_keys(OmegaConf.to_container(composed)))
    for key in composed:
        if key not in _fields(project.schema):
            inner = [name for name in known if name.startswith(f"{key}.")]
            known = [name for name in known if name.partition(".")[0] in _fields(project.schema)]
            raise unknown_key(inner[0] if inner else str(key), known, project)
    try:
        cfg: Any = OmegaConf.merge(OmegaConf.structured(project.schema), composed)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise explained(error, project, []) from error
    for key, spec in targets(plain):
        if (name := project.present_name(str(spec["_target_"]))) != spec["_target_"]:
            OmegaConf.update(cfg, f"{key}._target_", name)
    for section, field in _fields(project.schema).items():
        if not dataclasses.is_dataclass(field.type):
            continue
        for name, value in plain[section].items():
            if name not in _fields(field.type):
                raise unknown_key(wrong := f"{section}.{name}", [key for key in known if key != wrong], project)
            rules = _fields(field.type)[name].metadata
            if value == "???":
                raise UserError(f"{section}.{name} has no value\ngive it one in configs/base.yaml")
            if value is not None and not rules["check"](value):
                raise UserError(f"{section}.{name}={value}: not allowed\nallowed: {rules['allowed']}")
    for name in cfg.paths:  # in order: later ones refer to earlier ones
        cfg.paths[name] = str(project.root / cfg.paths[name])
    OmegaConf.set_struct(cfg, True)
    return cfg  # type: ignore[no-any-return]


def _fields(schema: Any) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(schema)}


def portable(cfg: DictConfig, project: Project) -> dict[str, Any]:
    """The config as config.yaml holds it: resolved, but paths relative to the project and referred to as ${paths...},
    so that a run still finds its data where the project or the data has been moved.
    """
    copy = cfg.copy()
    paths = {}
    for name, path in cfg.paths.items():
        inside = Path(path).is_relative_to(project.root)
        paths[str(name)] = os.path.relpath(path, project.root) if inside else path
        copy.paths[name] = f"\\${{paths.{name}}}"
    plain: Any = OmegaConf.to_container(copy, resolve=True)
    return {key: value for key, value in plain.items() if key not in VERBS} | {"paths": paths}


def groups(folder: Path) -> dict[str, list[str]]:
    """Config groups below a folder and their options."""
    found = {sub.name: sorted(file.stem for file in sub.glob("*.yaml")) for sub in sorted(folder.glob("*/"))}
    return {name: options for name, options in found.items() if options}


def dotted_keys(node: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of a plain config, inner ones included."""
    for name, value in node.items() if isinstance(node, dict) else ():
        dotted = f"{key}.{name}" if key else str(name)
        yield dotted
        yield from dotted_keys(value, dotted)


def explained(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    from .explain import explain  # imported only here

    return explain(error, project, overrides)


def unknown_key(key: str, keys: list[str], project: Project) -> UserError:
    """The error for a key that no YAML declares, with the nearest one that is."""
    from .explain import unknown_key

    return unknown_key(key, keys, project)
