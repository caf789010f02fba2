"""What the config of a loaded run may name.

The owner's code is the command line, and what this checkout's YAML files (configs/, tests/configs/) and TRUSTED name.
"""

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any

import yaml
from loguru import logger
from torch import nn, optim, utils

from ..config.build import locate
from ..config.compose import Project
from ..config.plugins import import_plugins
from ..errors import UserError
from ..folder.reading import SafeLoader
from ..tree import leaves, specs

DOTTED = re.compile(r"\w+(\.\w+)+", re.ASCII)
PRIVATE = re.compile(r"(^|\.)_")
WEIGHTS = re.compile("weights|pretrained")
LIBRARIES = ("torch.", "torchvision.", "torchmetrics.")  # of these only what can be part of an experiment
PARTS = (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler, utils.data.Dataset)


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


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)
