"""Reading the files of a run's folder, which may be a stranger's, damaged, or just being written.

Each must be a plain file that is small enough: a pipe would never end, a device neither. Does not import torch.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from .. import system
from ..errors import UserError

MAX_SIZE, MAX_DEPTH = 300_000, 30  # of a file of settings: bytes, levels of nesting
MAX_FACTS = 1_000_000_000  # bytes of a file that grows with the run
SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times faster


@contextlib.contextmanager
def open_plain(file: Path, max_size: int) -> Iterator[BinaryIO]:
    """Open a plain file of at most `max_size` bytes; UserError: it is another thing, or cannot be read."""
    try:
        with open(os.open(file, os.O_RDONLY | system.PLAIN_FILE), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise UserError(f"{file} is not a plain file")
            if found.st_size > max_size:
                raise UserError(f"{file} is larger than {max_size} bytes")
            yield stream
    except OSError as error:
        what = "is a link" if file.is_symlink() else f"cannot be read: {error.strerror}"
        raise UserError(f"{file} {what}") from error


def read_bytes(file: Path, max_size: int = MAX_SIZE) -> bytes:
    """The content of a plain file; UserError as in `open_plain`."""
    with open_plain(file, max_size) as stream:
        return stream.read()


def read_text(file: Path, max_size: int = MAX_SIZE) -> str:
    """The text of a plain file; UserError as in `read_bytes`, or it is not text."""
    try:
        return read_bytes(file, max_size).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is damaged: it is not text (byte {error.start})") from error


def read_json(file: Path) -> dict[str, Any]:
    """The mapping in a JSON file; UserError as in `read_text`, or it holds something else."""
    try:
        content = json.loads(read_text(file, MAX_FACTS))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file} is damaged: {error!s:.100}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is damaged: it is not a mapping")
    return content


def read_yaml(file: Path) -> Any:
    """The plain content of a YAML file; UserError as in `read_bytes`, or it is not plain: it has tags or aliases."""
    text, depth = read_bytes(file), 0
    try:
        for event in yaml.parse(text, SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # a few lines of aliases can stand for gigabytes
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias, or nested too deep", problem_mark=event.start_mark)  # type: ignore[arg-type]
        return yaml.load(text, SafeLoader)
    except (yaml.YAMLError, ValueError) as error:
        mark, what = getattr(error, "problem_mark", None), ": not YAML"
        if mark is not None:
            what = f":{mark.line + 1}: {getattr(error, 'problem', '')}"
        raise UserError(f"{file}{what:.300}\nthe files of a run hold plain values only") from error


def check_plain_files(folder: Path) -> None:
    """UserError: something in a run's folder is not a plain file, or a link that leads out of it.

    What is written there would go where the link points to, or wait for ever.
    """
    root = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                target = Path(os.path.realpath(path))
                if not target.is_relative_to(root):
                    raise UserError(f"{path} is a link to {target}, out of the run\nput there what it points to")
            elif not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise UserError(f"{path} is not a plain file\ndelete it")
        if Path(place) == folder / "wandb":
            folders.clear()  # folders of earlier sessions: W&B links its own logs there, and nobody writes there again


def open_here(path: str, flags: int) -> int:
    """An `opener` that does not write through links, which a stranger's folder may have."""
    return os.open(path, flags | system.PLAIN_FILE, 0o666)
