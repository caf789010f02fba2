"""Building what a `_target_` names, with errors that name the config key and the cause."""

import importlib
import inspect
import traceback
from collections.abc import Iterator
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ..errors import UserError, nearest
from ..folder.provenance import hide_secrets


def locate(target: str, key: str) -> Any:
    """The object a dotted name stands for; UserError: which part of it is missing, and the nearest name there."""
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and f"{name}.".startswith(f"{error.name}."):
                continue  # this module itself is missing, not something that it imports
            raise UserError(f"{key}: {target}: importing {name} failed: {error}") from error
        for index, part in enumerate(parts[count:], count):
            if not hasattr(found, part):
                place = ".".join(parts[:index])
                near = nearest(part, [name for name in dir(found) if not name.startswith("_")])
                raise UserError(f"{key}: {target}: {place} has no {part!r}\nnearest: {place}.{''.join(near)}")
            found = getattr(found, part)
        return found
    raise UserError(f"{key}: {target}: there is no module {parts[0]!r}\ngive the dotted name of a class or function")


def targets(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, mapping) of every mapping in a plain config that has a `_target_`."""
    if isinstance(node, dict) and "_target_" in node:
        yield key, node
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from targets(value, f"{key}.{name}" if key else str(name))


def check_targets(config: Any) -> None:
    """UserError, with key and dotted name: a `_target_` does not exist, or takes no such argument. Builds nothing."""
    for key, spec in targets(config):
        target = str(spec["_target_"])
        if target == "???":
            raise UserError(f"{key}._target_ is not set\ngive a dotted name: {key}._target_=package.module.Class")
        found = locate(target, f"{key}._target_")
        if not callable(found):
            raise UserError(f"{key}._target_: {target} is a {type(found).__name__}, not a class or function")
        try:
            parameters = inspect.signature(found).parameters
        except (TypeError, ValueError):  # some built-in classes tell nothing of their arguments
            continue
        unknown = [name for name in spec if not str(name).startswith("_") and name not in parameters]
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            near = ", ".join(nearest(unknown[0], parameters)) or "none"
            raise UserError(
                f"{key}.{unknown[0]}: {target} takes no argument {unknown[0]!r}\nnearest: {near}; "
                f"it takes {', '.join(parameters)}"
            )


def build(spec: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a `_target_` mapping with plain containers as arguments.

    Raises:
        UserError: arguments that are missing or wrong, a file that is missing: the key, the cause and where it arose.
        Exception: anything else the constructor raises, as it was raised.
    """
    try:
        return instantiate(spec, *args, _convert_="all", **kwargs)
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        frame = traceback.extract_tb(cause.__traceback__)[-1]
        wrong_call = isinstance(cause, TypeError) and "site-packages" in frame.filename  # raised by a library
        if isinstance(cause, UserError) or not (wrong_call or isinstance(cause, OSError | ValueError | ImportError)):
            raise cause from None
        where = "" if "\n" in str(cause) else f" ({frame.filename}:{frame.lineno})"
        values: Any = OmegaConf.to_container(spec, resolve=True) if OmegaConf.is_config(spec) else spec
        given = [f"given: {hide_secrets({k: v for k, v in values.items() if k != '_target_'})}"] if wrong_call else []
        raise UserError("\n".join([f"{key}: {spec['_target_']}: {cause}{where}", *given])) from error
