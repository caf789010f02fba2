"""From a plain config to objects; errors name the key and the cause.

A block is a mapping with a `_target_`, the dotted name of a class or function; its other keys are the arguments.
"""

import importlib
import inspect
import pkgutil
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from loguru import logger
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import RunError, UserError, failure, is_of_library, nearest
from ..faults import fault
from ..secrets import hide_secrets, is_hidden
from ..tree import leaves


def without_groups(optimizer: Any) -> Any:
    """The optimizer part of a config without parameter groups, which are not an argument of an optimizer's class."""
    if not isinstance(optimizer, Mapping):
        return optimizer
    return {name: without_groups(part) for name, part in optimizer.items() if name != "groups"}


def by_network(spec: Any, key: str, names: Iterable[str] = ("",), marker: str = "_target_") -> dict[str, Any]:
    """A config block by network: one spec (it has `marker`) serves all of `names`, else it is a mapping already."""
    if not isinstance(spec, Mapping):
        advice = "give a block with a _target_, or one under each name"
        if key == "loss":
            advice = "the file of the model names its loss; another one: loss._target_, a dotted name"
        raise fault(key, spec, "it is not a mapping", advice)
    if marker in spec:
        return dict.fromkeys(names, spec)
    return dict(spec)


def subnetworks(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The parts of a model that have their own loss, "" being all of it.

    Raises:
        UserError: the model has no such part, or parameters whose sizes are not known yet.
    """
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise UserError(
                f"model: {name} of {type(model).__name__} has no size before its first batch: it is in a Lazy module"
                "\ngive the size, e.g. as an argument in the YAML: optimizers and checkpoints need it at the start"
            )
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            near = ", ".join(nearest(name, [part for part in parts if part], 3)) or "it has none"
            raise UserError(f"loss.{name}: {type(model).__name__} has no network {name!r}\nnearest: {near}")
    return {name: parts[name] for name in names}


def interval_of(spec: Mapping[str, Any], key: str = "scheduler") -> str:
    """When a schedule advances: "metric" if it watches a logged value, "step" if it takes `num_steps`, else as it says.

    Raises:
        UserError: it says something else, or nothing where it has a choice.
    """
    given, allowed = spec.get("interval"), ["step", "epoch"]
    if spec.get("monitor") is not None:
        allowed = ["metric"]
    elif takes_total(str(spec["schedule"]["_target_"])):
        allowed = ["step"]
    if given is None and len(allowed) == 1:
        return allowed[0]
    if given not in allowed:
        more = "" if len(allowed) == 1 else f"; or {key}.monitor, a logged value to watch, e.g. val/loss"
        raise fault(f"{key}.interval", given, "not allowed", f"allowed for this schedule: {', '.join(allowed)}{more}")
    return str(given)


def takes_total(target: str) -> bool:
    """Whether a schedule, given by its dotted name, depends on the total number of steps."""
    return "num_steps" in inspect.signature(locate(target, "scheduler.schedule")).parameters


def locate(target: str, key: str) -> Any:
    """The object a dotted name stands for; FaultsError: which part of it is missing, and the nearest name there."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if f"{name}.".startswith(f"{error.name}."):
                continue  # this module itself, not something that it imports
            raise fault(key, target, f"importing {name} failed: {error}") from error
        except Exception as error:
            what, _, where = failure(error, f"importing {name} failed").partition("\n")
            raise fault(key, target, what, where) from error
        for index, part in enumerate(parts[count:], count):
            if not hasattr(found, part):
                place = ".".join(parts[:index])
                near = nearest(part, _names_of(found))
                raise fault(key, target, f"{place} has no {part!r}", f"nearest: {place}.{''.join(near)}")
            found = getattr(found, part)
        return found
    raise fault(key, target, f"Python finds no module {parts[0]!r}", "give a dotted name of a class or function")


def _names_of(found: Any) -> list[str]:
    """The names of a module or class that a config may mean: what it defines, and its modules."""
    names = [name for name in dir(found) if not name.startswith("_")]
    if not inspect.ismodule(found):
        return names
    package = found.__name__.partition(".")[0]
    own = [name for name in names if str(getattr(getattr(found, name), "__module__", package)).startswith(package)]
    return own + [module.name for module in pkgutil.iter_modules(getattr(found, "__path__", []))]


def build(spec: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a `_target_` mapping with plain containers as arguments.

    Raises:
        UserError: the constructor raised an error: the key, the cause and where it arose.
    """
    for name, value in leaves(spec):
        if is_hidden(value):
            logger.warning(f"{key}.{name}: the run did not keep it, because it is a secret: it is {value!r} here")
    try:
        return instantiate(spec, *args, _convert_="all", **kwargs)
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | RunError):
            raise cause from None
        frames = traceback.extract_tb(cause.__traceback__)
        frame = ([frame for frame in frames if not is_of_library(frame.filename)] or frames)[-1]
        said = str(cause)
        if not isinstance(cause, TypeError | OSError | ValueError | ImportError):  # it may say no more than a name
            said = f"{type(cause).__name__}: {said}"
        lines = [f"{key}: {spec['_target_']}: {said}"]
        if "\n" not in said:
            lines[0] += f" ({frame.filename}:{frame.lineno})"
        if not isinstance(cause, OSError | ValueError | ImportError):  # they explain themselves
            given: Any = spec
            if OmegaConf.is_config(spec):  # with what it refers to
                given = OmegaConf.to_container(spec, resolve=True)
            lines.append(f"given: {hide_secrets({name: given[name] for name in given if name != '_target_'})}")
        raise UserError("\n".join(lines)) from error
