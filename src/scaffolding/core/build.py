"""Building what a `_target_` names, with errors that name the config key and the cause."""

import importlib
import inspect
import traceback
from collections.abc import Iterator
from typing import Any

from hydra.utils import instantiate

from .errors import UserError, nearest


def locate(target: str, key: str) -> Any:
    """The object a dotted name stands for.

    Raises:
        UserError: which part of the name is missing, and the nearest name there.
    """
    parts = target.split(".")
    for count in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue  # the module itself is missing, not something it imports
            raise UserError(f"{key}: {target}: importing {module_name} failed: {error}") from error
        for index, part in enumerate(parts[count:], count):
            if not hasattr(found, part):
                near = nearest(part, [name for name in dir(found) if not name.startswith("_")])
                raise UserError(
                    f"{key}: {target}: {'.'.join(parts[:index])} has no {part!r}"
                    + (f"\nnearest: {'.'.join([*parts[:index], near[0]])}" if near else "")
                )
            found = getattr(found, part)
        return found
    raise UserError(f"{key}: {target}: there is no module {parts[0]!r}\ngive the full dotted name of a class or function")


def targets(node: Any, key: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(dotted key, mapping) of every mapping in a plain config that has a `_target_`."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, value in node.items():
            yield from targets(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from targets(value, f"{key}.{index}")


def check_targets(config: dict[str, Any], template_arguments: dict[str, tuple[str, ...]]) -> None:
    """Check that every `_target_` exists and takes the arguments its YAML gives, without building anything.

    Args:
        config: the whole config as plain containers.
        template_arguments: names the template passes itself, by key.

    Raises:
        UserError: the key, the dotted name, and what is wrong with it.
    """
    for key, spec in targets(config):
        target = spec["_target_"]
        if not isinstance(target, str) or target == "???":
            raise UserError(f"{key}._target_ is not set\ngive the dotted name of a class, e.g. {key}._target_=package.Class")
        found = locate(target, f"{key}._target_")
        if not callable(found):
            raise UserError(f"{key}._target_: {target} is a {type(found).__name__}, not a class or function")
        try:
            signature = inspect.signature(found)
        except (TypeError, ValueError):  # some built-in classes tell nothing of their arguments
            continue
        given = {name for name in spec if not name.startswith("_")} | set(template_arguments.get(key, ()))
        parameters = signature.parameters.values()
        named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        unknown = sorted(given - named)
        if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise UserError(
                f"{key}.{unknown[0]}: {target} takes no argument {unknown[0]!r}"
                f"\nit takes {signature}; nearest: {', '.join(nearest(unknown[0], named)) or 'none'}"
            )


def build(spec: Any, key: str, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a `_target_` mapping with plain containers as arguments.

    Raises:
        UserError: missing or wrong arguments, missing files, wrong values: the key, the cause and where it arose.
        Exception: anything else the constructor raises, as it was raised.
    """
    try:
        return instantiate(spec, *args, _convert_="all", **kwargs)
    except Exception as error:
        cause: BaseException = error
        while type(cause).__name__ == "InstantiationException" and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        frames = traceback.extract_tb(cause.__traceback__)
        where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
        target = spec["_target_"]
        if isinstance(cause, OSError | ValueError | ImportError):
            raise UserError(f"{key}: {target}: {cause}{where}") from error
        own = [frame for frame in frames if "hydra" not in frame.filename]
        if isinstance(cause, TypeError) and not own:  # the call itself did not fit
            signature = inspect.signature(locate(target, key))
            raise UserError(f"{key}: {target}: {cause}\nit takes {signature}") from error
        raise cause from None
