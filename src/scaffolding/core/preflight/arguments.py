"""A block of a config against the signature of its target: arguments that are unknown, missing or of another kind."""

import inspect
import math
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from torch import Tensor

from ..errors import nearest
from ..faults import ABSENT, UNKNOWN, Fault

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
ORDERED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
LISTS = (list, tuple, set, frozenset)
TEXTS_TOO = (Sequence, Collection, Iterable)  # of which a text is one, to Python
WORDS: dict[Any, str] = {types.NoneType: "null", int: "int", float: "float", str: "str", bool: "bool"}


def signature(found: Any) -> inspect.Signature | None:
    """What a target takes; None: it does not say, as some built-in classes do not."""
    try:
        return inspect.signature(found, eval_str=True)
    except (TypeError, ValueError):
        return None
    except Exception:  # annotations in quotes that name what only a type checker sees
        return inspect.signature(found)


def argument_faults(
    key: str,
    spec: Mapping[str, Any],
    takes: inspect.Signature,
    passed: tuple[int, Collection[str]],
    is_strict: bool,
    is_whole: bool,
) -> Iterator[Fault]:
    """Compare the arguments of a block with what its target takes.

    Args:
        key: of the block.
        spec: its target and arguments.
        takes: the target's signature.
        passed: how many arguments the template passes in order, and the names of those that it passes by name.
        is_strict: kinds are compared, too.
        is_whole: nothing is added later, so what is missing is a fault.
    """
    target, parameters, (num_given, given) = str(spec["_target_"]), takes.parameters, passed
    listed = ", ".join(name for name, one in parameters.items() if one.kind in NAMED) or "none"
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for name in (*spec, *given):
        if takes_any or str(name).startswith("_") or (name in parameters and parameters[name].kind in NAMED):
            continue
        if name in given:
            wrong = f"{target} takes no argument {name!r}, which the template passes to it"
            yield Fault(f"{key}._target_", target, wrong, f"it takes {listed}")
        else:
            near = "".join(f"nearest: {one}; " for one in nearest(str(name), parameters))
            wrong = f"{target} takes no argument {name!r}"
            yield Fault(f"{key}.{name}".lstrip("."), spec[name], wrong, f"{near}it takes {listed}")
    in_order = num_given + len(spec.get("_args_") or ())
    for index, (name, one) in enumerate(parameters.items()):
        if is_strict and name in spec and not accepts(one, spec[name]):
            wrong = f"{target} wants {shown(one.annotation)}"
            yield Fault(f"{key}.{name}", spec[name], wrong, _nearest_word(one.annotation, spec[name]))
        is_passed = name in spec or name in given or (one.kind in ORDERED and index < in_order)
        if is_whole and one.kind in (*NAMED, *ORDERED) and one.default is one.empty and not is_passed:
            wrong = f"{target} needs it, and it is not given"
            advice = f"declare it in the YAML of {key}; it takes {listed}"
            if not re.search(r"\.\d+(\.|$)", key):  # a word cannot reach into a list
                advice = f"declare it in the YAML of {key}, or write +{key}.{name}=VALUE; it takes {listed}"
            yield Fault(f"{key}.{name}", ABSENT, wrong, advice, near=f"{key}._target_")


def accepts(parameter: inspect.Parameter, value: Any) -> bool:
    """Whether a parameter may take a plain value; True where its annotation does not say."""
    if parameter.annotation is parameter.empty or parameter.kind not in NAMED:
        return True
    return (value is None and parameter.default is None) or fits(parameter.annotation, value)


def fits(kind: Any, value: Any) -> bool:
    """Whether a plain value of a config may be what an annotation says; True where that is not certain.

    Whole numbers serve as floats, numbers as texts, lists as any sequence; other classes may take anything.
    """
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if value is UNKNOWN or (isinstance(value, Mapping) and "_target_" in value):  # an object, once it is built
        return True
    if origin in (Union, types.UnionType):
        return any(fits(part, value) for part in parts)
    if origin is Annotated:
        return fits(parts[0], value)
    if origin is Literal:
        return value in parts
    if kind in (None, types.NoneType):
        return value is None
    if origin in LISTS or origin in TEXTS_TOO:
        return _fits_list(origin, parts, value)
    is_container, is_flag = isinstance(value, list | dict), isinstance(value, bool)
    if kind is Tensor:
        return not isinstance(value, str)
    if origin in (dict, Mapping):
        return is_container
    if kind is bool:
        return not (is_container or value is None or isinstance(value, str))
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and not _has_fraction(value))
    if kind is float:
        return isinstance(value, int | float)
    if kind is str:
        return isinstance(value, str | int | float) and not is_flag
    return True


def _has_fraction(value: float) -> bool:
    return math.isfinite(value) and not value.is_integer()


def _fits_list(origin: Any, parts: tuple[Any, ...], value: Any) -> bool:
    """Whether a value may be a list or another sequence of some kinds; how many there are is not compared."""
    if origin in TEXTS_TOO and isinstance(value, str | dict):
        return True
    wanted = [part for part in parts if part is not Ellipsis]
    return isinstance(value, list) and (not wanted or all(any(fits(part, one) for part in wanted) for one in value))


def shown(kind: Any) -> str:
    """An annotation as a config's author reads it: "float | Tensor", "one of none, linear, vq"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " | ".join(shown(part) for part in parts)
    if kind in WORDS:
        return WORDS[kind]
    if origin is None and isinstance(kind, type):
        return kind.__name__
    return re.sub(r"\b(\w+\.)+(?=\w)", "", inspect.formatannotation(kind))


def _nearest_word(kind: Any, value: Any) -> str:
    """The nearest of the words that an annotation allows."""
    words = [word for part in (kind, *get_args(kind)) if get_origin(part) is Literal for word in get_args(part)]
    return f"nearest: {nearest(str(value), map(str, words))[0]}" if words else ""
