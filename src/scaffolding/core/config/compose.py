"""Composing configs: Hydra's result on top of the schema, checked; and as a run keeps it, without secrets."""

import contextlib
import dataclasses
import functools
import os
import re
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from ..edits.replace import check_all_found, rewrite
from ..errors import UserError
from ..faults import FaultsError
from ..find import absolute, of_machine
from ..preflight.sections import examine
from ..secrets import HIDDEN, hide_secrets, is_secret, without_keys
from ..tree import specs
from .explain import explain
from .explain import groups as groups  # of a folder of configs
from .grammar import as_word, readable
from .project import COMPOSE_ERRORS as COMPOSE_ERRORS
from .project import Project as Project
from .project import check_files, hydra_at

NOT_KEPT = ("resume", "fork", "fork_state", "fork_weights", "rerun")  # how a run starts; not in its config

RESOLVER = re.compile(r"\$\{[\w.]+:[^${}]*\}")  # ${oc.env:HOME}, with nothing else within it
NOT_WRITTEN = (*NOT_KEPT, "replace", "append")  # config.yaml has what they made; overrides.yaml has the words

VERSION = 4  # of a run's config.yaml; 1 had none, 2 drew splits by run.seed, 3 took a limit of 1.0 for one item


def compose_config(project: Project, overrides: list[str]) -> DictConfig:
    """A checked config; leaves none of Hydra's global state behind. FaultsError: all that is wrong with the words."""
    try:
        words = readable(overrides, project.schema, is_sweep=False)
        composed = compose_unchecked(project, words)
        check_all_found(rewrite(composed, words))
        return checked(composed, project)
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


def composing_error(error: BaseException, project: Project, overrides: list[str]) -> UserError:
    """A composing error in words: key, value, what is allowed or nearest."""
    return FaultsError([explain(error, project.configs, overrides, functools.partial(compose_unchecked, project))])


def checked(composed: Any, project: Project) -> DictConfig:
    """The config on top of the schema: ranges checked, paths absolute, `_target_`s under the package's present name.

    Raises:
        FaultsError: keys that no YAML declares, wrong types, values out of range, interpolations to nothing.
    """
    return checked_and_plain(composed, project)[0]


def checked_and_plain(composed: Any, project: Project) -> tuple[DictConfig, dict[str, Any]]:
    """The checked config, and its plain values for further checks, in which paths are as they were given."""
    cfg, plain, faults = examine(composed, project.schema, project.configs)
    if faults:
        raise FaultsError(faults)
    if project.former_names:
        for key, spec in specs(plain):
            OmegaConf.update(cfg, f"{key}._target_", project.present_name(str(spec["_target_"])))
        plain = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    for name in cfg.paths:  # in order: later ones refer to earlier ones
        if cfg.paths[name] == "":  # an environment variable that is empty
            cfg.paths[name] = None
        elif cfg.paths[name] is not None:
            cfg.paths[name] = str(absolute(cfg.paths[name], project.root))
    OmegaConf.set_struct(cfg, True)
    return cfg, plain


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
    config = {key: value for key, value in plain.items() if key not in NOT_WRITTEN}
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
    """The overrides of the running command, without the machinery's, as a fork may repeat them; secrets hidden."""
    if not HydraConfig.initialized():
        return []
    # what ${oc.env:HOME} stands for may be another thing elsewhere; what ${data.size} refers to is in the config
    return [masked(RESOLVER.sub(_value_of, word)) for word in task_words()]


def _value_of(found: re.Match[str]) -> str:
    return str(OmegaConf.create([found[0]])[0])


def task_words() -> list[str]:
    """The overrides of the running command as Hydra got them, without the machinery's; references are not resolved."""
    words: Any = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)
    return [str(word) for word in words]
