"""Composing configs: Hydra's result on top of the schema, checked; and as a run keeps it, without secrets."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from ..errors import UserError, nearest
from ..find import absolute, of_machine, read_output_root
from ..secrets import HIDDEN, hide_secrets, is_secret, without_keys
from ..tree import leaves, specs
from .explain import explain, unknown_key
from .explain import groups as groups  # of a folder of configs
from .grammar import readable

NOT_KEPT = ("resume", "fork", "fork_state", "fork_weights", "rerun")  # how a run starts; not in its config
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)  # of user's words
TOP_KEY = re.compile(r"(?m)^([A-Za-z]\w*):")
GLOBAL = "# @package _global_"
PLAIN_WORD = re.compile(r"(?!(null|true|false|nan|inf)$)[A-Za-z_*][\w.*-]*", re.ASCII)

VERSION = 4  # of a run's config.yaml; 1 had none, 2 drew splits by run.seed, 3 took a limit of 1.0 for one item


@dataclass(frozen=True)
class Project:
    """What the machinery must know of the project around it."""

    root: Path
    package: str
    schema: type
    former_names: tuple[str, ...] = ()  # of the package, so that runs made under them still load
    trusted: tuple[str, ...] = ()  # what a loaded run may name as targets: everything below these dotted names
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] = lambda config, _: config  # of an earlier version
    fetching: tuple[str, ...] = ()  # what a loaded run may not name, though a YAML file here does
    configs: Path = dataclasses.field(init=False)
    sources: Path = dataclasses.field(init=False)  # of the package

    def __post_init__(self) -> None:
        object.__setattr__(self, "configs", self.root / "configs")
        object.__setattr__(self, "sources", self.root / "src" / self.package)
        ConfigStore.instance().store("schema", self.schema)

    def present_name(self, target: str) -> str:
        """A dotted name, under the package's present name where it has a former one."""
        first, dot, rest = target.partition(".")
        return f"{self.package}{dot}{rest}" if first in self.former_names else target

    @property
    def output_root(self) -> Path:
        """Where runs are found when the command line says nothing."""
        return read_output_root(self.root)


def compose_config(project: Project, overrides: list[str]) -> DictConfig:
    """A checked config; leaves none of Hydra's global state behind. UserError: what is wrong with which override."""
    overrides = readable(overrides, project.schema, is_sweep=False)
    try:
        return checked(compose_unchecked(project, overrides), project)
    except UserError:
        raise
    except COMPOSE_ERRORS as error:
        raise composing_error(error, project, overrides) from error


def compose_unchecked(project: Project, overrides: list[str]) -> DictConfig:
    """Hydra's composition, also where Hydra is at work already (within a run, twice in a notebook)."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(project.configs), version_base="1.3"):
            composed = compose("base", overrides, return_hydra_config=True)
    finally:
        GlobalHydra.instance().hydra = before  # another instance: Hydra puts a copy in its place
    check_files(composed.hydra.runtime, project)
    with open_dict(composed):
        del composed["hydra"]
    return composed


def composing_error(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    return explain(error, project.configs, overrides, functools.partial(compose_unchecked, project))


def check_files(runtime: Any, project: Project) -> None:
    """Check that the chosen files of groups set what they can set; `runtime` is Hydra's account of the choices.

    Raises:
        UserError: a file sets what base.yaml, which is read after it, would silently override; or keys outside its
            group, but Hydra puts them into the group.
    """
    known = {field.name: field for field in dataclasses.fields(project.schema)}
    sections = {name for name, field in known.items() if dataclasses.is_dataclass(field.type)}
    places = [source.path for source in runtime.config_sources if source.schema == "file"]
    for group, option in runtime.choices.items():
        for file in [Path(place, group, f"{option}.yaml") for place in places]:
            if group not in known or not file.is_file():
                continue
            text = file.read_text("utf-8")
            keys = TOP_KEY.findall(text)
            wrong = [key for key in keys if key in sections]
            if wrong and text.startswith(GLOBAL):
                raise UserError(
                    f"{file}: sets {wrong[0]}:, which base.yaml, read later, would override without a word"
                    "\nput it into base.yaml or an experiment"
                )
            if not text.startswith(GLOBAL) and (wrong or group in keys or f"\n{GLOBAL}" in text):
                raise UserError(
                    f"{file}: sets {(wrong or keys)[0]}:, and Hydra would put it into {group}:"
                    f"\nmake `{GLOBAL}` its very first line, or set keys of {group} only"
                )


def checked(composed: Any, project: Project) -> DictConfig:
    """The config on top of the schema: ranges checked, paths absolute, `_target_`s under the package's present name.

    Raises:
        UserError: a key that no YAML declares, a wrong type, a value out of range, an interpolation to nothing.
    """
    schema = project.schema.__dataclass_fields__  # type: ignore[attr-defined]
    for key in composed:
        if key not in schema:
            names = [name for name, _ in leaves(OmegaConf.to_container(composed))]
            wrong = [name for name in names if name.partition(".")[0] == key]
            known = [name for name in names if name.partition(".")[0] in schema]
            raise unknown_key((wrong or [str(key)])[0], [*schema, *known], project.configs)
    try:
        cfg: Any = OmegaConf.merge(OmegaConf.structured(project.schema), composed)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise composing_error(error, project, []) from error
    if project.former_names:
        for key, spec in specs(plain):
            OmegaConf.update(cfg, f"{key}._target_", project.present_name(str(spec["_target_"])))
    for key, value in leaves(plain):
        if "${" in str(value):  # escaped; a run that is read again would take it for a reference
            raise UserError(f"{key}: {value!r}: a text with ${{ could not be read again\nwrite it in other letters")
    for section, content in schema.items():
        if not dataclasses.is_dataclass(content.type):
            continue
        fields = content.type.__dataclass_fields__
        for name, value in plain[section].items():
            if name not in fields:
                known = [f"{section}.{field}" for field in fields]
                raise unknown_key(f"{section}.{name}", known, project.configs)
            rules = fields[name].metadata
            if value == "???":
                raise UserError(f"{section}.{name} has no value\ngive it one in configs/base.yaml")
            if value is None or rules["check"] is None:
                continue
            try:
                is_allowed = rules["check"](value)
            except ValueError:
                is_allowed = False
            if not is_allowed:
                near = "".join(nearest(str(value), rules["words"])[:1])
                advice = f"nearest: {near}; allowed: {rules['allowed']}" if near else f"allowed: {rules['allowed']}"
                raise UserError(f"{section}.{name}={value}: not allowed\n{advice}")
    for name in cfg.paths:  # in order: later ones refer to earlier ones
        if cfg.paths[name] == "" and name in of_machine(project.schema):  # an environment variable that is empty
            cfg.paths[name] = None
        elif cfg.paths[name] == "":
            raise UserError(f"paths.{name}: it is empty\ngive it a folder; . is that of the project")
        elif cfg.paths[name] is not None:
            cfg.paths[name] = str(absolute(cfg.paths[name], project.root))
    OmegaConf.set_struct(cfg, True)
    return cfg  # type: ignore[no-any-return]


def portable(cfg: DictConfig, project: Project) -> dict[str, Any]:
    """The config as config.yaml holds it: resolved, but paths relative to the project and referred to as ${paths...},
    so that a run still finds its data where the project or the data has been moved. Secrets are still in it; what
    belongs to the machine is not.
    """
    copy = cfg.copy()
    paths = {}
    for name, path in cfg.paths.items():
        copy.paths[name] = f"\\${{paths.{name}}}"
        if name in of_machine(project.schema):
            continue
        inside = path is not None and Path(path).is_relative_to(project.root)
        paths[str(name)] = os.path.relpath(path, project.root) if inside else path
    plain: Any = OmegaConf.to_container(copy, resolve=True)
    config = {key: value for key, value in plain.items() if key not in NOT_KEPT}
    return {"version": VERSION, **config, "paths": paths}


def lasting(config: dict[str, Any], project: Project) -> dict[str, Any]:
    """The part of a run's config that its weights depend on: without its name and settings that only take effect."""
    kept: dict[str, Any] = {}
    for field in dataclasses.fields(project.schema):
        value = config.get(field.name)
        if dataclasses.is_dataclass(field.type) and isinstance(value, dict):
            words = {inner.name: inner.metadata["change"] for inner in dataclasses.fields(field.type)}
            kept[field.name] = {name: part for name, part in value.items() if words.get(name) != "free"}
        elif field.name in config and field.metadata.get("change") != "free":
            kept[field.name] = value
    kept["run"].pop("name", None)
    kept["version"] = config.get("version")
    return kept


def masked(override: str) -> str:
    """An override `key=value`, its value, or the secrets in it, hidden."""
    key, equals, value = override.partition("=")
    number: Any = value.strip("'\"")
    with contextlib.suppress(ValueError):
        number = float(number)
    if equals and is_secret(key, number):
        return f"{key}={HIDDEN}"
    if equals and value.startswith(("{", "[")):
        try:
            plain: Any = OverridesParser.create().parse_override(override).value()
        except HydraException:  # it is refused, perhaps with its text in the message
            return without_keys(override, is_config=True)
        shown = hide_secrets(plain)
        if shown != plain:
            return f"{key}={as_word(shown)}"
    return without_keys(override)


def as_word(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_word(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_word, value)) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    if isinstance(value, str) and not PLAIN_WORD.fullmatch(value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)


def without_words(text: str, words: list[str]) -> str:
    """A message without the secrets of the command line, which it may repeat."""
    for word in words:
        shown = masked(word)
        if shown != word:
            text = text.replace(word, shown)
            value = word.partition("=")[2].strip("'\"")
            if len(value) > 3:
                text = text.replace(value, HIDDEN)
    return without_keys(text)


def own_words() -> list[str]:
    """The overrides of the running command, without the machinery's; secrets hidden."""
    if not HydraConfig.initialized():
        return []
    return [masked(word) for word in HydraConfig.get().overrides.task]
