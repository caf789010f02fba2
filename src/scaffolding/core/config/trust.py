"""What a loaded run may name: its folder is data, perhaps a stranger's.

The owner's code is the command line, and what this checkout's YAML files (configs/, tests/configs/) and TRUSTED name.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from torch import nn, optim, utils

from ..errors import UserError
from ..tree import specs
from .build import locate
from .compose import VERBS, Project, checked
from .plain import MAX_SIZE, SafeLoader, check_plain, read_plain
from .plugins import import_plugins

DOTTED = re.compile(r"\w+(\.\w+)+", re.ASCII)
PRIVATE = re.compile(r"(^|\.)_")
SETTING = re.compile(r"[+~]{0,2}(?!hydra\b)[a-zA-Z]\w*([./]\w+)*(=.*)?", re.ASCII | re.DOTALL)
LIBRARIES = ("torch.", "torchvision.", "torchmetrics.")  # of these only what can be part of an experiment
PARTS = (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler, utils.data.Dataset)
INSIDE = ("*", "facts/*", "checkpoints/*", "figures/*")  # of a run: where files are written


def read_config(folder: Path, project: Project, trust: Iterable[str] | None = None) -> DictConfig:
    """The checked config of a run, fit to be built if `trust` is given; UserError as in open_config."""
    return checked(OmegaConf.create(open_config(folder, project, trust)), project)


def open_config(folder: Path, project: Project, trust: Iterable[str] | None) -> dict[str, Any]:
    """The plain config of a run; with `trust` fit to be built: all that it names is the owner's code, or in `trust`.

    A setting that the run did not know yet has the value of base.yaml.

    Raises:
        UserError: there is none in `folder`, or it holds what could run code (nothing of it has been imported), or a
            link in the folder leads out of it: what is written would go there.
    """
    file, known = folder / "config.yaml", {field.name: field for field in dataclasses.fields(project.schema)}
    if not file.is_file():
        raise UserError(f"{folder} is not a run: there is no config.yaml in it")
    for path in (path for pattern in INSIDE for path in folder.glob(pattern)):
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{path} is a link to {path.readlink()}, out of the run\nput there what it points to")
    config = read_plain(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a mapping of settings")
    for key in config:
        if key not in known or key in VERBS:
            allowed = ", ".join(sorted(set(known).difference(VERBS)))
            raise UserError(f"{file}: {key!r:.100} is not a part of a run's config\nallowed: {allowed}")
    config = project.upgrade(config)
    if trust is not None:
        check_trusted(config, project, trust)
    base = yaml.safe_load((project.configs / "base.yaml").read_text("utf-8"))
    for section, field in known.items():
        if dataclasses.is_dataclass(field.type) and isinstance(config.get(section), dict):
            names = [inner.name for inner in dataclasses.fields(field.type)]
            new = {name: value for name, value in base[section].items() if name in names}
            config[section] = new | config[section]
    return config


def open_to_resume(run: Path, project: Project, trust: Iterable[str]) -> str:
    """Give the config of a run to Hydra, as it was checked, under the name returned: Hydra does not read the folder.

    Raises:
        UserError: as open_config.
    """
    ConfigStore.instance().store(name := "config of the run", open_config(run, project, trust))
    return name


def read_words(file: Path, project: Project, trust: Iterable[str]) -> list[str]:
    """The settings that made a run, from its overrides.yaml; UserError: one that is more than a plain setting."""
    found = read_plain(file)
    words = [str(word) for word in (found if isinstance(found, list) else [found])]
    words = [word for word in words if word.partition("=")[0].lstrip("+~") not in VERBS]
    present: dict[str, list[str]] = {}
    for word in sorted(words, key=lambda word: not word.lstrip("+").startswith("imports")):  # others may need them
        try:
            setting = OverridesParser.create().parse_override(word)
            key = setting.key_or_group.split(".")
            value: Any = setting.value()
            if SETTING.fullmatch(word) is None or setting.package is not None or len(word) > MAX_SIZE // 30:
                raise ValueError("it reaches for what does not belong to the experiment")
            is_choice = len(key) == 1 and key != ["imports"] and not isinstance(value, dict)
            if is_choice and re.search(r"[^\w\[\], '-]", str(value)):
                raise ValueError("it may name a file outside of a group")
        except (HydraException, ValueError, RecursionError) as error:
            text = f"{file}: {word!r:.100} is refused"
            raise UserError(f"{text}\nallowed: KEY=VALUE, and GROUP=OPTION of this checkout") from error
        for part in reversed(key):
            value = {part: value}
        check_plain(value, file)
        now = project.upgrade(value)
        check_trusted(now, project, trust)
        present[word] = [word] if now == value else _as_words(now, word)
    return [now for word in words for now in present[word]]


def _as_words(config: Any, word: str) -> list[str]:
    """A setting that was moved, as a word again; none where it was dropped."""
    keys = []
    while isinstance(config, dict) and len(config) == 1:
        ((key, config),) = config.items()
        keys.append(str(key))
    if isinstance(config, dict):
        return []
    prefix = word[: len(word) - len(word.lstrip("+~"))]
    return [f"{prefix}{'.'.join(keys)}={config}"]


def check_trusted(config: Any, project: Project, trust: Iterable[str]) -> None:
    """UserError: a plain config names what is not the owner's code, and `trust` does not list it."""
    found = untrusted(config, project, trust)
    if found:
        key, (_, shown) = next(iter(found.items()))
        listed = ",".join(dict.fromkeys(f"{name:.100}" for name, _ in found.values()))
        raise UserError(
            f"{key}: {shown} is not in the list of trusted targets"
            f"\nallowed: what the YAML files of this checkout name, and {', '.join(project.trusted)}"
            f"\nif you trust this run, add trust={listed} to resume= or fork= (from_path: trust={listed.split(',')}), "
            f"or add it to TRUSTED in src/{project.package}/config.py"
        )


def needed_trust(config: Any, project: Project) -> list[str]:
    """What trust= must list to open a run of this plain config again; empty for most runs."""
    words: list[str] = []
    for _ in range(3):  # what is not trusted by its name, then what that hid
        words += [name for name, _ in untrusted(config, project, words).values() if name not in words]
    return words


def untrusted(config: Any, project: Project, trust: Iterable[str]) -> dict[str, tuple[str, str]]:
    """(what trust= would list, how to show it) by key of what neither the owner nor `trust` lists.

    All are judged by name before anything is imported; where all pass, by what the names stand for.
    """
    imports = config.get("imports") or []
    if not isinstance(imports, list) or not all(isinstance(name, str) for name in imports):
        raise UserError(f"imports: {imports!r:.100} is not a list of names")
    trust = tuple(trust)
    own, modules = owned(project)
    listed = tuple(f"{entry}." for entry in (*project.trusted, *modules))
    given = tuple(f"{entry}." for entry in trust)
    names: dict[str, str] = {}  # what is to be judged by what it stands for
    found: dict[str, tuple[str, str]] = {}
    for index, name in enumerate(imports):
        if name not in trust:
            found[f"imports.{index}"] = (name, f"{name!r:.100}")
    for key, spec in specs(config):
        key, name = f"{key}._target_".lstrip("."), project.present_name(str(spec["_target_"]))
        is_given = f"{name}.".startswith(given)
        is_listed = name in own or f"{name}.".startswith(listed)
        if DOTTED.fullmatch(name) is None:
            found[key] = ("NAME", f"{name!r:.100}")
        elif name in trust or (name in own and not _fetches(name, spec, project)):
            continue  # written out in full, it is meant, whatever it is
        elif PRIVATE.search(name) or not (is_given or (is_listed and not _fetches(name, spec, project))):
            found[key] = (name, f"{name!r:.100}")
        else:
            names[key] = name
    if found:
        return found
    import_plugins(imports, project.root)
    for key, name in names.items():
        thing = made = locate(name, key)
        is_fit = isinstance(thing, type) or (inspect.isfunction(thing) and "." not in thing.__qualname__)
        if is_fit and name.startswith(LIBRARIES):
            if not isinstance(thing, type):
                made = inspect.signature(thing).return_annotation
            is_fit = isinstance(made, type) and (issubclass(made, PARTS) or name.startswith("torchvision.transforms."))
        for real in (_real_name(thing), _real_name(made)):
            if not is_fit or not (real in own or f"{real}.".startswith((*listed, *given))):
                found[key] = (name, f"{name!r:.100} (the {type(thing).__name__} {real})")
    return found


def owned(project: Project) -> tuple[set[str], set[str]]:
    """The targets that this checkout's YAML files name, and those of their modules that are files of it."""
    names, modules = set(), set()
    for folder in (project.configs, project.root / "tests" / "configs"):
        for file in folder.rglob("*.yaml"):
            for _, spec in specs(yaml.load(file.read_text("utf-8"), SafeLoader)):
                names.add(str(spec["_target_"]))
    for name in names:
        module, first = name.rpartition(".")[0], name.partition(".")[0]
        if first == project.package or (project.root / "tests" / f"{first}.py").is_file():
            modules.add(module)
    return names, modules


def _fetches(name: str, spec: dict[str, Any], project: Project) -> bool:
    """Whether a target downloads what its arguments say."""
    if f"{name}.".startswith(tuple(f"{entry}." for entry in project.fetching)):
        return True
    weights = [value for key, value in spec.items() if "weights" in str(key) or key in ("pretrained", "_args_")]
    return name.startswith("torchvision.models.") and any(weights)


def _real_name(found: Any) -> str:
    return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"
