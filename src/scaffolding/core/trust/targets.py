"""What the config of a loaded run may name.

The owner's code is the command line, and what this checkout's YAML files (configs/, tests/configs/) and TRUSTED name.
"""

import functools
import inspect
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
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

Arguments = dict[str, list[Any]]  # what YAML files give an argument of a target, by its dotted name


def check_trusted(config: Any, project: Project, trust: Iterable[str]) -> None:
    """UserError: a plain config names what is not the owner's code, and `trust` does not list it."""
    found = untrusted(config, project, trust)
    if found:
        key, (_, shown) = next(iter(found.items()))
        listed = ",".join(dict.fromkeys(f"{name:.100}" for name, _ in found.values()))
        raise UserError(
            f"{key}: {shown} is not in the list of trusted targets"
            f"\nallowed: what the YAML files of this checkout name, and {', '.join(project.trusted)}"
            f"\nif you trust this run, add trust={listed} to resume=, fork= or rerun= "
            f"(from_path: trust={listed.split(',')}), or add it to TRUSTED in src/{project.package}/config.py"
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
    lists = _lists(project, trust)
    found = {f"imports.{i}": (name, f"{name!r:.100}") for i, name in enumerate(imports) if name not in lists.given}
    blocks: dict[str, tuple[str, dict[str, Any]]] = {}  # those that are judged by what the name stands for
    for key, spec in specs(config):
        key, name = f"{key}._target_".lstrip("."), str(spec["_target_"])
        if project.former_names:
            name = project.present_name(name)
        strange = _strange_arguments_of_library(name, spec, lists)
        if strange:
            found[key] = (name, f"{name!r:.100} with {strange:.100}")
        elif DOTTED.fullmatch(name) is None:
            found[key] = ("NAME", f"{name!r:.100}")
        elif not _is_written_out(name, spec, lists):
            if PRIVATE.search(name) or not _may_be_named(name, spec, lists):
                found[key] = (name, f"{name!r:.100}")
            else:
                blocks[key] = (name, spec)
    if found:
        return found
    if imports:
        import_plugins(imports, project.root)
    for key, (name, spec) in blocks.items():
        thing = locate(name, key)
        unfit = _unfit(name, spec, thing, lists)
        if unfit:
            found[key] = (name, f"{name!r:.100} (the {type(thing).__name__} {unfit})")
    return found


@dataclass(frozen=True)
class Lists:
    """Lists that decide what a run may name: an entry stands for itself and, but for `own`, for all names below it."""

    own: dict[str, Arguments]  # targets of this checkout's YAML files, with their arguments
    modules: tuple[str, ...]  # those of these targets that lie in this checkout
    trusted: tuple[str, ...]  # TRUSTED of config.py
    fetching: tuple[str, ...]  # FETCHING of config.py
    given: tuple[str, ...]  # trust= of the command line


def _lists(project: Project, trust: Iterable[str]) -> Lists:
    own, modules = owned(project)
    return Lists(own, tuple(modules), tuple(project.trusted), tuple(project.fetching), tuple(trust))


def is_below(name: str, entries: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the entries, or a name below one."""
    return f"{name}.".startswith(tuple(f"{entry}." for entry in entries))


def _strange_arguments_of_library(name: str, spec: dict[str, Any], lists: Lists) -> str:
    """The first argument that YAML files do not give a target of theirs that is not in this checkout; empty: none."""
    if name not in lists.own or is_below(name, (*lists.given, *lists.trusted, *lists.modules)):
        return ""
    return strange_arguments(spec, lists.own[name])


def _is_safe(name: str, spec: dict[str, Any], lists: Lists) -> bool:
    return not fetches(name, spec) and not is_below(name, lists.fetching)


def _is_written_out(name: str, spec: dict[str, Any], lists: Lists) -> bool:
    """Whether a list holds the name in full: then it is meant, whatever it is."""
    return name in (*lists.given, *lists.trusted) or (name in lists.own and _is_safe(name, spec, lists))


def _may_be_named(name: str, spec: dict[str, Any], lists: Lists) -> bool:
    if is_below(name, lists.given):
        return True
    return is_below(name, (*lists.trusted, *lists.modules)) and _is_safe(name, spec, lists)


def _unfit(name: str, spec: dict[str, Any], thing: Any, lists: Lists) -> str:
    """The real name of what must not be built; "" where it may be.

    It must be a part of an experiment, and lie itself where things may be named: a name may lead through the imports of
    another module.
    """
    made, real = thing, _real_name(thing)
    if not isinstance(thing, type):
        if not inspect.isfunction(thing) or "." in thing.__qualname__:
            return real
        if not is_below(name, (*lists.trusted, *lists.given)):
            return real  # next to what a YAML file names there may be functions that write
    if not is_below(name, lists.given) and (is_below(real, lists.fetching) or fetches(real, spec, thing)):
        return real
    if real.startswith(LIBRARIES):
        if not isinstance(thing, type):
            made = inspect.signature(thing).return_annotation
        is_part = isinstance(made, type) and issubclass(made, PARTS)
        if not is_part and not (isinstance(made, type) and real.startswith("torchvision.transforms.")):
            return real
    places = (*lists.trusted, *lists.modules, *lists.given)
    for each in (real, _real_name(made)):
        if each not in lists.own and not is_below(each, places):
            return each
    return ""


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
        names = itertools.accumulate(key.split("."), "{}.{}".format)  # of a list that is referred to, each part
        refers = any("${" in str(each) for name in names for each in own.get(name, []))
        if value is None or refers or (is_number and numbers):
            continue
        if not any(value is each or (value == each and type(value) is type(each)) for each in known):
            return f"{key}={value!r}"
    return ""


def _real_name(found: Any) -> str:
    return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning(text)
