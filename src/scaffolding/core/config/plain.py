"""Reading the YAML files of a run, which may be a stranger's: plain values only, and never a file that hurts."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError

MAX_SIZE, MAX_DEPTH = 300_000, 30  # bytes of a file, levels of nesting
PATHS = re.compile(r"\$\{paths\.\w+\}", re.ASCII)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a terminal obeys them
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times faster


def read_plain(file: Path) -> Any:
    """The content of a run's YAML file: plain values that refer to nothing but ${paths.NAME}; else UserError."""
    if not file.is_file() or file.stat().st_size > MAX_SIZE:
        raise UserError(f"{file}: there is no such file, or it is larger than {MAX_SIZE} bytes")
    text, depth = file.read_bytes(), 0
    try:
        for event in yaml.parse(text, SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # a few lines of aliases can stand for gigabytes
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias, or nested too deep", problem_mark=event.start_mark)  # type: ignore[arg-type]
        content = yaml.load(text, SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark, what = getattr(error, "problem_mark", None), ": not YAML"
        if mark is not None:
            what = f":{mark.line + 1}: {getattr(error, 'problem', '')}"
        raise UserError(f"{file}{what:.300}\nthe files of a run hold plain values only") from error
    check_plain(content, file)
    return content


def check_plain(node: Any, file: Path, key: str = "") -> None:
    """UserError: a value that is not plain, or that refers to more than a path of the run."""
    if isinstance(node, dict | list):
        parts: Any = enumerate(node)
        if isinstance(node, dict):
            parts = node.items()
        for name, value in parts:
            inner = f"{key}.{name}".lstrip(".")
            check_plain(name, file, inner)
            check_plain(value, file, inner)
        return
    text = str(node)
    # a path with a $ in it could become a reference where it is put into another value
    refers = "${" in PATHS.sub("", text) or (key.startswith("paths.") and "$" in text)
    if refers or CONTROL.search(text) or not isinstance(node, str | int | float | None):
        raise UserError(
            f"{file}: {key!r:.100}: {node!r:.100} is refused\nallowed: plain values, which may hold ${{paths.NAME}}"
        )
