"""Run folders: claiming one, finding one, its status and its facts. Does not import torch."""

import contextlib
import csv
import errno
import io
import json
import os
import random
import re
import socket
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from ..errors import StorageError, UserError
from . import lock
from .files import storage_error, sync_folder, write_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,199}")
TIMINGS = ("time", "items_per_second", "peak_memory_mb")  # columns that measure the machine, not the model


def claim(output: Path, name: str | None, suffix: str = "") -> Path:
    """Make a new run folder, <date>_<time>_<adjective>_<animal>, that no other process has or gets (exclusive mkdir).

    Raises:
        UserError: `name` is taken or not fit for a folder; the folder cannot be made.
    """
    state = random.getstate()
    import coolname  # draws from the global generator when it is imported

    random.setstate(state)
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"run.name={name!r} is not a folder name\nallowed: letters, digits and . _ - = , +, up to 200")
    coolname.replace_random(random.Random())  # not the global generator: a name must not change what the run draws
    while True:
        path = output / f"{name or f'{datetime.now():%Y-%m-%d_%H-%M-%S}_' + '_'.join(coolname.generate(2))}{suffix}"
        try:
            output.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            sync_folder(output)
            sync_folder(output.parent)
            return path
        except FileExistsError:
            if name is not None or not output.is_dir():
                what = f"run.name={name}: {path} exists" if output.is_dir() else f"paths.output={output} is a file"
                raise UserError(f"{what}\nchoose another name, or carry a run on with resume=NAME") from None
        except OSError as error:
            raise UserError(f"paths.output={output}: no run folder can be made there: {error.strerror}") from error


def read_output_root(project_root: Path) -> Path:
    """Where the runs are: paths.output_root of this machine's local.yaml, else of base.yaml."""
    for name in ("local.yaml", "base.yaml"):
        file = project_root / "configs" / name
        if file.exists():
            with open(file) as stream:  # a stream: errors then name the file
                paths = (yaml.safe_load(stream) or {}).get("paths") or {}
            if "output_root" in paths:
                return project_root / str(paths["output_root"])
    return project_root / "_output"


class Facts:
    """facts/events.jsonl and facts/scalars.csv of one run; append-only while it runs.

    What the disk does not take waits in memory, in order; `error` says why, and `sync` raises.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.scalars_file, self.events_file = folder, folder / "scalars.csv", folder / "events.jsonl"
        self.cut_file = folder / "cut.jsonl"
        self.waiting: deque[tuple[Callable[[dict[str, Any]], None], dict[str, Any]]] = deque()
        self.error: StorageError | None = None

    def event(self, name: str, **values: Any) -> None:
        """Append one line to events.jsonl."""
        self.waiting.append(
            (self._add_event, {"event": name, "time": datetime.now().astimezone().isoformat(), **values})
        )
        self._flush()

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row to scalars.csv; a metric seen for the first time adds a column."""
        self.waiting.append((self._add_row, row))
        self._flush()

    def sync(self) -> None:
        """Bring everything to the disk; StorageError if it does not take it."""
        self._flush()
        if self.error is not None:
            raise self.error
        try:
            for file in filter(Path.exists, (self.events_file, self.scalars_file)):
                with open(file, "ab") as stream:
                    os.fsync(stream.fileno())
        except OSError as error:
            raise storage_error(self.folder, error) from error

    def _flush(self) -> None:
        self.error = None
        try:
            while self.waiting:
                write, values = self.waiting[0]
                write(values)
                self.waiting.popleft()
        except OSError as error:
            self.error = storage_error(self.folder, error)

    def _add_event(self, values: dict[str, Any]) -> None:
        append(self.events_file, json.dumps(values) + "\n")

    def _add_row(self, row: dict[str, Any]) -> None:
        columns = self.columns()
        if new := [name for name in row if name not in columns]:
            self.write([*self.rows(), row], columns + new)
            return
        line = io.StringIO(newline="")
        csv.DictWriter(line, columns, lineterminator="\n").writerow(row)
        append(self.scalars_file, line.getvalue())

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, oldest first; numbers as numbers, empty cells left out."""
        lines = [line for line in self._text().splitlines(keepends=True) if line.endswith("\n")]
        return [{name: _number(text) for name, text in row.items() if name and text} for row in csv.DictReader(lines)]

    def _text(self) -> str:
        return self.scalars_file.read_text() if self.scalars_file.exists() else ""

    def columns(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), open(self.scalars_file) as file:
            return next(csv.reader(file), [])
        return []

    def write(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.scalars_file, text.getvalue())


def append(file: Path, text: str) -> None:
    """Append whole or not at all, as far as errors go; a kill may leave a torn last line."""
    with open(file, "ab", buffering=0) as stream:
        size, data = stream.tell(), text.encode()
        try:
            if stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it took a part
        except OSError:
            stream.truncate(size)
            raise


def _number(text: str) -> Any:
    for convert in (int, float):
        with contextlib.suppress(ValueError):
            return convert(text)
    return text


def write_status(path: Path, status: str, **values: Any) -> None:
    """Replace status.json: running, finished, interrupted, preempted or failed, with step, reason, pid and host."""
    content = {"status": status, "time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), **values}
    write_text(path / "status.json", json.dumps(content, indent=2) + "\n")


def read_status(path: Path) -> dict[str, Any]:
    """status.json; a run whose process is gone from this machine without a word reads `died`."""
    file = path / "status.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"status": "unknown"}
    if content["status"] == "running" and content["host"] == socket.gethostname() and not lock.is_held(path):
        content["status"] = "died"
    return content
