"""JSON schemas of the YAML files in configs/, with which an editor completes keys, explains them, and marks mistakes.

    python scripts/schema.py          # writes .vscode/schemas/; VS Code does it when the folder is opened

Known of a file: the fields of config.py with their types and ranges, the options of the groups in `defaults:`, and the
arguments of everything that a file of configs/ names under `_target_`. Run it again after you have added to these.
"""

import argparse
import dataclasses
import inspect
import json
import operator
import pkgutil
import re
import types
import typing
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from scaffolding.config import PROJECT_ROOT, Config
from scaffolding.core.intervals import FORM, is_limit, parse

Schema = dict[str, Any]
REFERENCE: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}  # to another value; or it must be given
KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null", list: "array"}
HYDRA = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
OF_GROUPS = {"optimizer": ("groups",)}  # keys of a block that are not arguments
ANY: Schema = {"$ref": "#/$defs/value"}
GLOBAL = ("base", "local", "experiment", "mode")  # files that set keys of the whole config


def value(kind: Any) -> Schema:
    """The schema of what has a Python type; a type that JSON does not know allows everything."""
    parts = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    names = [KINDS.get(typing.get_origin(part) or part) for part in parts]
    if None in names:
        return ANY
    if "string" in names:  # YAML reads 500 as a number, and Hydra turns it into a text
        names += ["number"]
    if "number" in names and "integer" in names:
        names.remove("integer")
    return {"anyOf": [{"type": names}, REFERENCE]}


def setting(field: "dataclasses.Field[Any]", comment: str) -> Schema:
    """The schema of a field of config.py: its type, what it allows, its comment in base.yaml."""
    rules, check = field.metadata, field.metadata["check"]
    found: Schema = {}
    if rules["words"]:
        found["enum"] = [json.loads(word) if word in ("true", "false") else word for word in rules["words"]]
    elif isinstance(check, partial) and check.func in (operator.le, operator.lt):
        found["minimum" if check.func is operator.le else "exclusiveMinimum"] = check.args[0]
    elif check is is_limit:
        found = {"type": ["number", "null"], "exclusiveMinimum": 0}
    elif check is parse or (isinstance(check, partial) and check.func is parse):
        found = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": ["string"], "pattern": f"^{FORM.pattern}$"}]}
    if found and "null" in str(value(field.type)):
        found = {"anyOf": [found, {"type": "null"}]}
    allowed = f"Allowed: {rules['allowed']}." if rules["allowed"] else ""
    whole = {"allOf": [value(field.type), {"anyOf": [found, REFERENCE]}]} if found else value(field.type)
    return whole | {"description": f"{comment} {allowed}".strip()}


def comments(text: str) -> dict[str, str]:
    """Dotted key -> the comment on its line, of base.yaml."""
    found, section = {}, ""
    for line in text.splitlines():
        match = re.match(r"( *)(\w+):[^#]*(?:# (.*))?", line)
        if match:
            section = section if match[1] else match[2]
            found[f"{section}.{match[2]}" if match[1] else match[2]] = match[3] or ""
    return found


def block(target: str, more: tuple[str, ...] = ()) -> Schema | None:
    """The schema of a block with this `_target_`; None: it takes anything, or its arguments are not known."""
    try:
        parameters = inspect.signature(pkgutil.resolve_name(target)).parameters.values()
    except (ImportError, AttributeError, ValueError, TypeError):  # a package that is not installed, a class in C
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    keys: Schema = {name: {} for name in (*HYDRA, *more, "defaults")}
    for parameter in parameters:
        keys[parameter.name] = value(parameter.annotation)
    return {"properties": keys, "additionalProperties": False}


def blocks(found: Mapping[str, str]) -> list[Schema]:
    """What holds for the blocks with each target; `found` has the group that names it."""
    rules = []
    for target, group in sorted(found.items()):
        known = block(target, OF_GROUPS.get(group, ()))
        if known is not None:
            rules.append(
                {"if": {"properties": {"_target_": {"const": target}}, "required": ["_target_"]}, "then": known}
            )
    return rules


def part(found: Mapping[str, str], group: str) -> Schema:
    """The schema of what a file sets of a group: a key that one of its blocks takes, or a network's name."""
    keys = {"_target_", *OF_GROUPS.get(group, ())}
    for target in [target for target, each in found.items() if each == group]:
        known = block(target)
        if known is None:
            return ANY
        keys |= set(known["properties"])
    of_network = {"type": ["object", "null"]}
    without_target = {"properties": dict.fromkeys(sorted(keys), True), "additionalProperties": of_network}
    return {"allOf": [ANY, {"if": {"not": {"required": ["_target_"]}}, "then": without_target}]}


def defaults(options: dict[str, list[str]], group: str, parts: list[str]) -> Schema:
    """The schema of a `defaults:` list; its texts may name options of the file's own group, and `parts` of files."""
    own = options.get(group, [])
    texts = ["_self_", "schema", *own, *parts, *(f"/{name}/{each}" for name in options for each in options[name])]
    choices: Schema = {}
    for name, names in options.items():
        one: Schema = {"enum": [*names, None]}
        choice = {"anyOf": [one, {"type": "array", "items": one}]}
        choices |= {f"{prefix}{name}": choice for prefix in ("", "/", "override ", "override /", "optional ")}
    chosen = {"type": "object", "properties": choices, "additionalProperties": False}
    chosen["patternProperties"] = {"@": {}}  # into another package
    return {"type": "array", "items": {"anyOf": [{"enum": texts}, chosen]}}


def read(file: Path) -> Any:
    """The content of a YAML file as Hydra reads it."""
    return OmegaConf.to_container(OmegaConf.load(file)) or {}


def targets(configs: Path) -> dict[str, str]:
    """Every `_target_` that the files name, and the group that it is of."""
    from scaffolding.core.tree import specs

    found: dict[str, str] = {}
    for file in sorted(configs.rglob("*.yaml")):
        for key, spec in specs(read(file)):
            is_optimizer = "optimizer" in (file.parent.name, key.partition(".")[0])
            found[str(spec["_target_"])] = "optimizer" if is_optimizer else file.parent.name
    return {target: group for target, group in found.items() if "${" not in target and target != "???"}


def sections(base: str) -> Schema:
    """The schema of each key of the whole config."""
    said, found = comments(base), {}
    for field in dataclasses.fields(Config):
        found[field.name] = ANY
        if dataclasses.is_dataclass(field.type):
            settings = dataclasses.fields(field.type)
            inner = {each.name: setting(each, said.get(f"{field.name}.{each.name}", "")) for each in settings}
            found[field.name] = {"type": "object", "properties": inner, "additionalProperties": False}
    return found


def schemas(configs: Path) -> dict[str, Schema]:
    """A schema for each folder of configs/, and one, "base", for the files that lie in none."""
    from scaffolding.core.config.explain import groups

    options, known = groups(configs), targets(configs)
    parts = [f"/{file.relative_to(configs).with_suffix('').as_posix()}" for file in sorted(configs.glob("_*/*.yaml"))]
    whole = sections((configs / "base.yaml").read_text("utf-8"))
    whole["optimizer"] = part(known, "optimizer")
    of_value = {"allOf": blocks(known), "additionalProperties": ANY, "items": ANY}
    found = {}
    for group in ("base", *options, "_shared"):
        listed = defaults(options, group, parts)
        everything: Schema = {"properties": whole | {"defaults": listed}, "additionalProperties": False}
        own = {"allOf": [ANY, {"properties": {"defaults": listed}}]}
        # a file of a group that holds the group's own name, or `loss`, sets keys of the whole config
        is_whole = {"anyOf": [{"required": [key]} for key in ("loss", group)]}
        rule: Schema = everything if group in GLOBAL else {"if": is_whole, "then": everything, "else": own}
        head: Schema = {"$schema": "http://json-schema.org/draft-07/schema#", "$defs": {"value": of_value}}
        found[group] = head | {"type": "object"} | rule
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    folder = PROJECT_ROOT / ".vscode" / "schemas"
    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in schemas(PROJECT_ROOT / "configs").items():
        (folder / f"{name.replace('/', '.')}.json").write_text(json.dumps(schema, indent=1) + "\n", "utf-8")
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
