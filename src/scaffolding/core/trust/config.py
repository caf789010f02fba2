"""What a loaded run may name: its folder is data, perhaps a stranger's.

The owner's code is the command line, and what this checkout's YAML files (configs/, tests/configs/) and TRUSTED name.
"""

import dataclasses
import functools
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from loguru import logger
from omegaconf import DictConfig, OmegaConf
from torch import nn, optim, utils

from ..config.build import locate
from ..config.compose import NOT_KEPT, VERSION, Project, checked
from ..config.plugins import import_plugins
from ..errors import CONTROL, UserError
from ..folder.reading import SafeLoader, check_plain_files, read_yaml
from ..tree import leaves, specs, walk

PATHS = re.compile(r"\$\{paths\.\w+\}", re.ASCII)
DOTTED = re.compile(r"\w+(\.\w+)+", re.ASCII)
PRIVATE = re.compile(r"(^|\.)_")
WEIGHTS = re.compile("weights|pretrained")
LIBRARIES = ("torch.", "torchvision.", "torchmetrics.")  # of these only what can be part of an experiment
PARTS = (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler, utils.data.Dataset)


def read_config(
    folder: Path, project: Project, trust: Iterable[str] | None = None, needs_imports: bool = True
) -> DictConfig:
    """The checked config of a run, fit to be built if `trust` is given; UserError as in open_config."""
    return checked(OmegaConf.create(open_config(folder, project, trust, needs_imports)), project)


def open_config(
    folder: Path, project: Project, trust: Iterable[str] | None, needs_imports: bool = True
) -> dict[str, Any]:
    """The plain config of a run; with `trust` fit to be built: all that it names is the owner's code, or in `trust`.

    A setting that the run did not know yet has the value of base.yaml. Without `needs_imports`, `imports:` that are not
    trusted are left out, with a warning, where nothing else needs trust: training may need them, a look at it need not.

    Raises:
        UserError: there is none in `folder`, or it holds what could run code (nothing of it has been imported), or
            there are links out of the folder, or pipes and devices in it.
    """
    file, known = folder / "config.yaml", {field.name: field for field in dataclasses.fields(project.schema)}
    if not file.is_file():
        raise UserError(f"{folder} is not a run: there is no config.yaml in it")
    check_plain_files(folder)
    config = read_plain(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a mapping of settings")
    version = version_of(config, file)
    config.pop("version", None)
    for key in config:
        if key in (*NOT_KEPT, "trust", "defaults", "hydra") or not str(key).isidentifier():
            allowed = ", ".join(sorted(set(known).difference(NOT_KEPT)))
            raise UserError(f"{file}: {key!r:.100} is not a part of a run's config\nallowed: {allowed}")
    if version != VERSION:
        config = project.upgrade(config, version)
    if trust is not None:
        if not needs_imports:
            config = _without_imports(config, project, trust, folder)
        check_trusted(config, project, trust)
    base, new = yaml.safe_load((project.configs / "base.yaml").read_text("utf-8")), list[str]()
    gone = [key for key in config if is_gone([str(key)], project)]
    for section, field in known.items():
        if dataclasses.is_dataclass(field.type) and isinstance(config.get(section), dict):
            own, names = config[section], [inner.name for inner in dataclasses.fields(field.type)]
            missing = {name: value for name, value in base[section].items() if name in names and name not in own}
            config[section] = missing | {name: value for name, value in own.items() if name in names}
            new += [f"{section}.{name}={value}" for name, value in missing.items()]
            gone += [f"{section}.{name}" for name in own if name not in names]
    if trust is not None:
        tell_of_age(folder, new, gone)
    return {key: value for key, value in config.items() if key in known}


def version_of(config: dict[str, Any], file: Path) -> int:
    """The version that wrote a run's config; UserError: it is not a number."""
    version = config.get("version", 1)
    if not isinstance(version, int):
        raise UserError(f"{file}: version={version!r:.100} is not a whole number")
    return version


def is_gone(key: list[str], project: Project) -> bool:
    """Whether a setting of a run, by the parts of its key, is one that this checkout no longer has."""
    known = {field.name: field.type for field in dataclasses.fields(project.schema)}
    if key[0] not in known:
        return not (project.configs / key[0]).is_dir()  # mode, experiment
    section = known[key[0]]
    if len(key) == 1 or not dataclasses.is_dataclass(section):
        return False
    return key[1] not in {field.name for field in dataclasses.fields(section)}


def tell_of_age(folder: Path, new: Iterable[str], gone: Iterable[str]) -> None:
    """Say once which settings are newer than a run, and which of its settings no longer exist."""
    new, gone = ([text for text in texts if (folder, text) not in _told] for texts in (new, gone))
    _told.update((folder, text) for text in (*new, *gone))
    if new:
        logger.info(f"{folder.name} is older than {', '.join(new)}: the values of base.yaml")
    if gone:
        logger.warning(f"{folder.name} has settings that no longer exist; they are ignored: {', '.join(gone)}")


_told: set[tuple[Path, str]] = set()


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)


def read_plain(file: Path) -> Any:
    """The content of a run's YAML file: plain values that refer to nothing but ${paths.NAME}; else UserError."""
    content = read_yaml(file)
    check_no_references(content, file)
    return content


def check_no_references(content: Any, file: Path) -> None:
    """UserError: a value or key that is not plain, or that refers to more than a path of the run."""
    for key, node in walk(content):
        if isinstance(node, dict):
            values = list(node)  # its keys; what they hold comes later
        elif isinstance(node, list):
            continue
        else:
            values = [node]
        for value in values:
            text = str(value)
            # a path with a $ in it, or a $ before one, could become a reference where they are put together
            rest = PATHS.sub("", text)
            refers = "${" in rest or ("$" in rest and (rest != text or key.startswith("paths.")))
            if refers or text != text.translate(CONTROL) or not isinstance(value, str | int | float | None):
                raise UserError(
                    f"{file}: {key!r:.100}: {value!r:.100} is refused"
                    "\nallowed: plain values, which may hold ${paths.NAME}"
                )


def _without_imports(config: dict[str, Any], project: Project, trust: Iterable[str], folder: Path) -> dict[str, Any]:
    """The config without the imports that are not trusted, if all else is; else as it is."""
    trust, imports = tuple(trust), config.get("imports")
    if not isinstance(imports, list):
        return config
    kept = [name for name in imports if name in trust]
    rest = {**config, "imports": kept}
    if kept == imports or untrusted(rest, project, trust):
        return config
    left_out = ", ".join(f"{name!r:.100}" for name in imports if name not in trust)
    logger.warning(f"{folder}: imports are left out, as they are not trusted: {left_out}".translate(CONTROL))
    return rest


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
    given, fetching = (tuple(f"{entry}." for entry in names) for names in (trust, project.fetching))
    names: dict[str, str] = {}  # what is to be judged by what it stands for
    named: dict[str, dict[str, Any]] = {}  # and its block
    found: dict[str, tuple[str, str]] = {}
    for index, name in enumerate(imports):
        if name not in trust:
            found[f"imports.{index}"] = (name, f"{name!r:.100}")
    for key, spec in specs(config):
        key, name = f"{key}._target_".lstrip("."), str(spec["_target_"])
        if project.former_names:
            name = project.present_name(name)
        is_given = f"{name}.".startswith(given)
        is_safe = not fetches(name, spec) and not f"{name}.".startswith(fetching)
        if name in own and not is_given and not f"{name}.".startswith(listed):  # a library's
            strange = strange_arguments(spec, own[name])
            if strange:
                found[key] = (name, f"{name!r:.100} with {strange:.100}")
                continue
        is_listed = is_safe and (name in own or f"{name}.".startswith(listed))
        if DOTTED.fullmatch(name) is None:
            found[key] = ("NAME", f"{name!r:.100}")
        elif name in (*trust, *project.trusted) or (name in own and is_safe):
            continue  # written out in full, it is meant, whatever it is
        elif PRIVATE.search(name) or not (is_given or is_listed):
            found[key] = (name, f"{name!r:.100}")
        else:
            names[key], named[key] = name, spec
    if found:
        return found
    if imports:
        import_plugins(imports, project.root)
    for key, name in names.items():
        thing = made = locate(name, key)
        is_fit = isinstance(thing, type) or (inspect.isfunction(thing) and "." not in thing.__qualname__)
        if not isinstance(thing, type) and not f"{name}.".startswith(
            (*(f"{entry}." for entry in project.trusted), *given)
        ):
            is_fit = False  # next to what a YAML file names there may be functions that write
        real = _real_name(thing)
        if is_fit and not f"{name}.".startswith(given):  # the name may lead there through another module's imports
            spec = named[key]
            if f"{real}.".startswith(fetching) or fetches(real, spec, thing):
                is_fit = False
        if is_fit and real.startswith(LIBRARIES):
            if not isinstance(thing, type):
                made = inspect.signature(thing).return_annotation
            is_fit = isinstance(made, type) and (issubclass(made, PARTS) or real.startswith("torchvision.transforms."))
        for each in (real, _real_name(made)):
            if not is_fit or not (each in own or f"{each}.".startswith((*listed, *given))):
                found[key] = (name, f"{name!r:.100} (the {type(thing).__name__} {each})")
    return found


def fetches(name: str, spec: dict[str, Any], function: Any = None) -> bool:
    """Whether a model of torchvision would download weights, as its arguments say or its signature's defaults."""
    if not name.startswith("torchvision.models."):
        return False
    if name.startswith("torchvision.models._api."):  # get_model: its models have defaults, too
        return True
    arguments = dict(spec)
    if inspect.isfunction(function):
        defaults = {part: value.default for part, value in inspect.signature(function).parameters.items()}
        arguments = {part: value for part, value in defaults.items() if value is not inspect.Parameter.empty} | spec
    return any(value for part, value in arguments.items() if part == "_args_" or WEIGHTS.search(str(part)))


Arguments = dict[str, list[Any]]  # what YAML files give an argument of a target, by its dotted name


def owned(project: Project) -> tuple[dict[str, Arguments], set[str]]:
    """The targets that this checkout's YAML files name, with their arguments, and the modules of those that are files
    of it.
    """
    names, modules = dict[str, Arguments](), set[str]()
    for folder in (project.configs, project.root / "tests" / "configs"):
        for file in folder.rglob("[!.]*.yaml"):  # .#base.yaml: an editor's lock
            try:
                content = yaml.load(file.read_text("utf-8"), SafeLoader)
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                _warn_once(f"{file}: {' '.join(str(error).split()):.200}; what it names is not trusted")
                continue
            for _, spec in specs(content):
                arguments = names.setdefault(str(spec["_target_"]), {})
                for key, value in leaves(spec):
                    arguments.setdefault(key, []).append(value)
    for name in names:
        module, first = name.rpartition(".")[0], name.partition(".")[0]
        if first == project.package or (project.root / "tests" / f"{first}.py").is_file():
            modules.add(module)
    return names, modules


def strange_arguments(spec: dict[str, Any], own: Arguments) -> str:
    """The first argument of a block that this checkout's YAML files do not give its target; empty: there is none.

    A number may be another one. A text or a truth value may not: it may say what to fetch, to import or to allow. What
    refers to another key (`${data.name}`) may have become anything.
    """
    for key, value in leaves(spec):
        known = own.get(key, [])
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        numbers = [each for each in known if isinstance(each, int | float) and not isinstance(each, bool)]
        if value is None or any("${" in str(each) for each in known) or (is_number and numbers):
            continue
        if not any(value is each or (value == each and type(value) is type(each)) for each in known):
            return f"{key}={value!r}"
    return ""


def _real_name(found: Any) -> str:
    return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"
