"""Composing configs: Hydra's result on top of the schema, checked; and as a run keeps it, without secrets."""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator
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

from ..errors import UserError
from ..find import absolute, of_machine, read_output_root
from ..preflight.sections import examine
from ..secrets import HIDDEN, hide_secrets, is_secret, without_keys
from ..tree import specs
from .explain import explain
from .explain import groups as groups  # of a folder of configs
from .faults import ABSENT, Fault, FaultsError
from .grammar import as_word, readable

NOT_KEPT = ("resume", "fork", "fork_state", "fork_weights", "rerun")  # how a run starts; not in its config
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)  # of user's words
TOP_KEY = re.compile(r"(?m)^([A-Za-z]\w*):")
GLOBAL = "# @package _global_"

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
    """A checked config; leaves none of Hydra's global state behind. FaultsError: all that is wrong with the words."""
    try:
        return checked(compose_unchecked(project, readable(overrides, project.schema, is_sweep=False)), project)
    except (UserError, *COMPOSE_ERRORS) as error:
        from ..preflight.gather import refusal  # only where something is wrong

        raise refusal(error, project, overrides) from error


def compose_unchecked(project: Project, overrides: list[str]) -> DictConfig:
    """Hydra's composition, also where Hydra is at work already (within a run, twice in a notebook)."""
    with hydra_at(project):
        composed = compose("base", overrides, return_hydra_config=True)
    check_files(composed.hydra.runtime, project)
    with open_dict(composed):
        del composed["hydra"]
    return composed


@contextlib.contextmanager
def hydra_at(project: Project) -> Iterator[None]:
    """Hydra at the project's configs; afterwards it is what it was."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(project.configs), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before  # another instance: Hydra puts a copy in its place


def composing_error(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    return FaultsError([explain(error, project.configs, overrides, functools.partial(compose_unchecked, project))])


def check_files(runtime: Any, project: Project) -> None:
    """FaultsError: a chosen file of a group sets what it cannot set; `runtime` is Hydra's account of the choices."""
    faults = list(file_faults(runtime, project))
    if faults:
        raise FaultsError(faults)


def file_faults(runtime: Any, project: Project) -> Iterator[Fault]:
    """The files of groups that set what base.yaml, which is read after them, would silently override; or keys outside
    of their group, but Hydra puts them into the group.
    """
    known = {field.name: field for field in dataclasses.fields(project.schema)}
    sections = {name for name, field in known.items() if dataclasses.is_dataclass(field.type)}
    places = [source.path for source in runtime.config_sources if source.schema == "file"]
    for group, option in runtime.choices.items():
        for file in [Path(place, group, f"{option}.yaml") for place in places]:
            if group not in known or not file.is_file():
                continue
            text = file.read_text("utf-8")
            lines = {found[1]: text.count("\n", 0, found.start()) + 1 for found in TOP_KEY.finditer(text)}
            wrong = [key for key in lines if key in sections]
            key = (wrong or [*lines, ""])[0]
            place = f"{shown_path(file, project)}:{lines.get(key, 1)}:1"
            if wrong and text.startswith(GLOBAL):
                said = f"sets {key}:, which base.yaml, read later, would override without a word"
                yield Fault("", ABSENT, said, "put it into base.yaml or an experiment", place)
            if not text.startswith(GLOBAL) and (wrong or group in lines or f"\n{GLOBAL}" in text):
                said = f"sets {key}:, and Hydra would put it into {group}:"
                yield Fault(
                    "", ABSENT, said, f"make `{GLOBAL}` its very first line, or set keys of {group} only", place
                )


def shown_path(file: Path, project: Project) -> str:
    """A config file as messages name it: from the project's folder, or the one where we are, if it lies there."""
    if file.is_relative_to(project.configs):
        return f"configs/{file.relative_to(project.configs)}"
    for folder in (project.root, Path.cwd()):
        if file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)


def checked(composed: Any, project: Project) -> DictConfig:
    """The config on top of the schema: ranges checked, paths absolute, `_target_`s under the package's present name.

    Raises:
        FaultsError: keys that no YAML declares, wrong types, values out of range, interpolations to nothing.
    """
    cfg, plain, faults = examine(composed, project.schema, project.configs)
    if faults:
        raise FaultsError(faults)
    if project.former_names:
        for key, spec in specs(plain):
            OmegaConf.update(cfg, f"{key}._target_", project.present_name(str(spec["_target_"])))
    for name in cfg.paths:  # in order: later ones refer to earlier ones
        if cfg.paths[name] == "":  # an environment variable that is empty
            cfg.paths[name] = None
        elif cfg.paths[name] is not None:
            cfg.paths[name] = str(absolute(cfg.paths[name], project.root))
    OmegaConf.set_struct(cfg, True)
    return cfg


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
