"""What `config.py` declares against what was composed: unknown keys, kinds, ranges, references, empty values."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..config.explain import explain, keys_of, unknown_key, wrong_kind
from ..errors import nearest
from ..faults import ABSENT, UNKNOWN, Fault
from ..find import of_machine
from ..tree import leaves


def examine(composed: DictConfig, schema: type, configs: Path) -> tuple[DictConfig, dict[str, Any], list[Fault]]:
    """Hold a composed config against the schema.

    Args:
        composed: by Hydra, with or without the schema's types.
        schema: the dataclass of the whole config.
        configs: the folder of configs, to say where the nearest key is declared.

    Returns:
        The config on top of the schema (of no use if there are faults), its plain and resolved values, in which UNKNOWN
        stands for what has a fault, and the faults.
    """
    known, faults = schema.__dataclass_fields__, list[Fault]()  # type: ignore[attr-defined]
    strange = [str(key) for key in composed if key not in known]
    if strange:
        faults += _unknown_sections(composed, strange, list(known), configs)
        composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key in known])
    typed: Any = OmegaConf.structured(schema)
    plain: Any
    try:
        typed = OmegaConf.merge(typed, composed)
        plain = OmegaConf.to_container(typed, resolve=True)
    except OmegaConfBaseException:  # it tells of the first only: look at each value by itself
        plain = _one_by_one(composed, schema, configs, faults)
    typed_parts = [name for name, field in known.items() if dataclasses.is_dataclass(field.type)]
    empty = [name for name in typed_parts if all(value == MISSING for value in plain[name].values())]
    if empty:
        faults.append(Fault(", ".join(empty), ABSENT, "nothing gives their settings a value", "see configs/base.yaml"))
    for section, field in known.items():
        if section in typed_parts and section not in empty:
            faults += _section_faults(section, plain[section], composed, field.type, configs)
    faults += _path_faults(plain["paths"], schema)
    for key, value in leaves(plain):
        if isinstance(value, str) and "${" in value:  # escaped; a run that is read again would take it for a reference
            faults.append(Fault(key, value, "a text with ${ could not be read again", "write it in other letters"))
    return typed, plain, faults


def _unknown_sections(composed: DictConfig, strange: list[str], known: list[str], configs: Path) -> Iterator[Fault]:
    plain: Any = OmegaConf.to_container(composed)
    named = dict(leaves(plain))
    for section in strange:
        wrong = {name: value for name, value in named.items() if name.partition(".")[0] == section} or {section: ABSENT}
        for key, value in list(wrong.items())[:1]:
            others = {str(name): value for name, value in plain.items() if name in known}
            yield unknown_key(key, [*known, *keys_of(others)], configs, value)


def _section_faults(section: str, values: dict[str, Any], composed: Any, schema: Any, configs: Path) -> Iterator[Fault]:
    """Keys that are not declared, settings without a value or with one that is not allowed."""
    fields = schema.__dataclass_fields__
    for name, value in values.items():
        key = f"{section}.{name}"
        if name not in fields:
            yield unknown_key(key, [f"{section}.{field}" for field in fields], configs, value)
            continue
        rules = fields[name].metadata
        if value == MISSING:
            yield Fault(key, ABSENT, "it has no value", f"give it one: {key}=VALUE, or in configs/base.yaml")
        elif value is not None and value is not UNKNOWN and rules["check"] is not None:
            try:
                is_allowed = rules["check"](value)
            except ValueError:
                is_allowed = False
            if not is_allowed:
                near = "".join(nearest(str(value), rules["words"])[:1])
                advice = f"nearest: {near}; allowed: {rules['allowed']}" if near else f"allowed: {rules['allowed']}"
                whole: Any = OmegaConf.to_container(composed)
                as_given = whole.get(section)
                if isinstance(as_given, dict) and "${" not in str(as_given.get(name, "${")):
                    value = as_given[name]  # 1, and not 1.0
                yield Fault(key, value, "not allowed", advice)


def _path_faults(paths: dict[str, Any], schema: type) -> Iterator[Fault]:
    """Folders that are nowhere, or where a file is already."""
    for name, value in paths.items():
        key = f"paths.{name}"
        if value == "" and name not in of_machine(schema):
            yield Fault(key, value, "it is empty", "give it a folder; . is that of the project")
        elif isinstance(value, str) and value:
            for part in (Path(value).expanduser(), *Path(value).expanduser().parents):
                if part.is_absolute() and part.is_file():
                    yield Fault(key, value, f"{part} is a file, not a folder", "give it a folder")


def _one_by_one(composed: DictConfig, schema: type, configs: Path, faults: list[Fault]) -> dict[str, Any]:
    """The plain values of a config, of which some have faults that OmegaConf sees: those become UNKNOWN."""
    typed: Any = OmegaConf.structured(schema)
    plain: dict[str, Any] = OmegaConf.to_container(typed)  # type: ignore[assignment]
    fields = schema.__dataclass_fields__  # type: ignore[attr-defined]
    for key in map(str, composed):
        value = _resolved(composed, key, key, configs, faults)
        section = fields[key].type
        if not dataclasses.is_dataclass(section):
            plain[key] = _typed(typed, key, key, value, faults, fields[key].metadata)
        elif isinstance(value, dict):
            for name, part in value.items():
                plain[key][name] = part
                if name in section.__dataclass_fields__:
                    rules = section.__dataclass_fields__[name].metadata
                    plain[key][name] = _typed(typed[key], name, f"{key}.{name}", part, faults, rules)
        else:
            faults.append(Fault(key, value, "not a mapping of settings", f"set them one by one: {key}.KEY=VALUE"))
            plain[key] = dict.fromkeys(plain[key], UNKNOWN)
    return plain


def _typed(typed: Any, name: str, key: str, value: Any, faults: list[Fault], rules: Mapping[Any, Any]) -> Any:
    """A value of the kind that the schema says; UNKNOWN, and a fault, if it is not one."""
    if value is UNKNOWN or value == MISSING:
        return value
    if _holds_unknown(value):  # OmegaConf could not hold it
        return value
    allowed = rules.get("allowed")
    try:
        typed[name] = value
    except OmegaConfBaseException as error:
        one = wrong_kind(key, value, str(error).splitlines()[0])
        faults.append(replace(one, advice=one.advice or (f"allowed: {allowed}" if allowed else "")))
        return UNKNOWN
    found = typed[name]
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def _holds_unknown(value: Any) -> bool:
    return any(part is UNKNOWN for _, part in leaves(value))


def _resolved(parent: Any, name: Any, key: str, configs: Path, faults: list[Fault]) -> Any:
    """A value with what it refers to; UNKNOWN, and a fault, in place of what refers to nothing."""
    try:
        if OmegaConf.is_missing(parent, name):
            return MISSING
        node = parent[name]
    except OmegaConfBaseException as error:
        one = explain(error, configs, [], lambda _: {})
        if one not in faults:  # several may refer to one that is not set
            faults.append(one)
        return UNKNOWN
    if OmegaConf.is_dict(node):
        return {part: _resolved(node, part, f"{key}.{part}", configs, faults) for part in node}
    if OmegaConf.is_list(node):
        return [_resolved(node, index, f"{key}.{index}", configs, faults) for index in range(len(node))]
    return node
