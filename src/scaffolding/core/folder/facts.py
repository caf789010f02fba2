"""The facts of a run: facts/scalars.csv has a row per logged step and split, facts/events.jsonl what happened when."""

import contextlib
import csv
import errno
import functools
import io
import json
import os
from collections import deque
from collections.abc import Callable, Collection
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import StorageError, UserError
from .folder import storage_error, write_text
from .reading import MAX_FACTS, open_here, open_plain, read_text

TIMINGS = ("time", "items_per_second", "peak_memory_mb", "epoch_seconds")  # columns that measure the machine
SECONDS = "seconds/"  # so begin others of this kind: what each phase of the loop took since the last training row
AXES = ("step", "epoch", "samples", "split")
COLUMNS = (*AXES, *TIMINGS)  # of every row; a value of such a name would take their place


def is_timing(name: str) -> bool:
    """Whether a column measures the machine, not the model: it differs between two runs that are equal."""
    return name in TIMINGS or name.startswith(SECONDS)


class Facts:
    """The two files of one run; append-only while it runs.

    What the disk does not take waits in memory, in order; `error` says why, and `sync` raises.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.scalars_file, self.events_file = folder, folder / "scalars.csv", folder / "events.jsonl"
        self.cut_file = folder / "cut.jsonl"
        self.waiting: deque[tuple[Callable[[dict[str, Any]], None], dict[str, Any]]] = deque()
        self.error: StorageError | None = None

    def event(self, name: str, **values: Any) -> None:
        """Append one line to events.jsonl."""
        now = datetime.now().astimezone().isoformat()
        self.waiting.append((self._add_event, {"event": name, "time": now, **values}))
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
                with open(file, "ab", opener=open_here) as stream:
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
        _append(self.events_file, json.dumps(values) + "\n")

    def _add_row(self, row: dict[str, Any]) -> None:
        columns = self._columns()
        new = [name for name in row if name not in columns]
        if new:
            self._write([*self.rows(), row], columns + new)
            return
        line = io.StringIO(newline="")
        csv.DictWriter(line, columns, lineterminator="\n").writerow(row)
        _append(self.scalars_file, line.getvalue())

    def rows(self) -> list[dict[str, Any]]:
        """All whole rows, oldest first; numbers as numbers, empty cells left out."""
        return NewRows(self).read()

    def values(self) -> list[dict[str, Any]]:
        """The rows without what measures the machine: those of two equal runs are equal."""
        return [{name: value for name, value in row.items() if not is_timing(name)} for row in self.rows()]

    def cut_after(self, step: int, looks: Collection[str]) -> int:
        """Cut what a run that is resumed at `step` does again: later rows and, at `step`, those of the splits `looks`.

        The final test and torn last lines go as well. All that is cut is kept in cut.jsonl.

        Returns:
            How many rows were cut.
        """
        self._put_aside()
        kept, cut = [], []
        for row in self.rows():
            is_later = row["step"] > step or row["split"] == "test"
            if is_later or (row["step"] == step and row["split"] in looks):
                cut.append(row)
            else:
                kept.append(row)
        torn = {file: _torn(file) for file in (self.scalars_file, self.events_file)}
        lines = [{"cut_at": step, **row} for row in cut]
        lines += [{"cut_at": step, "file": file.name, "torn": text} for file, text in torn.items() if text]
        if lines:
            _append(self.cut_file, "".join(json.dumps(line) + "\n" for line in lines))
        if torn[self.events_file]:
            write_text(self.events_file, self.events_file.read_text("utf-8").removesuffix(torn[self.events_file]))
        if cut or torn[self.scalars_file]:
            self._write(kept, self._columns())
        return len(cut)

    def _put_aside(self) -> None:
        """Rename a file that is damaged, with a warning: the run begins another one."""
        for file, read in (
            (self.scalars_file, self.rows),
            (self.events_file, lambda: read_text(self.events_file, MAX_FACTS)),
        ):
            try:
                if os.path.lexists(file):
                    read()
            except UserError as error:
                logger.warning(f"{error}; it is kept as {file.name}.damaged, and a new one begins")
                file.rename(file.with_name(f"{file.name}.damaged"))

    def _columns(self) -> list[str]:
        with contextlib.suppress(FileNotFoundError), open(self.scalars_file, encoding="utf-8") as file:
            return next(csv.reader(file), [])
        return []

    def _write(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.scalars_file, text.getvalue())


class NewRows:
    """The rows of a run, each once, while another process adds them."""

    def __init__(self, facts: Facts) -> None:
        self.file, self.num_rows = facts.scalars_file, 0
        self.head, self.position = b"", 0  # the line of column names, and what has been read

    def read(self) -> list[dict[str, Any]]:
        """The whole rows that were added since the last call; UserError: the file is damaged."""
        if not self.file.exists():
            return []
        with open_plain(self.file, MAX_FACTS) as stream:
            head, num_known = stream.readline(), 0
            if head != self.head:  # the first time, or a new column: the file was written anew
                self.head, self.position, num_known = head, len(head), self.num_rows
            stream.seek(self.position)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.position += len(whole)
        rows = self._parse(head + whole)[num_known:]
        self.num_rows += len(rows)
        return rows

    def _parse(self, content: bytes) -> list[dict[str, Any]]:
        try:
            lines = content.decode().splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise UserError(f"{self.file} is damaged: it is not text (byte {error.start})") from error
        whole = [line for line in lines if line.endswith("\n")]
        if whole and not {"step", "split"} <= set(whole[0].rstrip().split(",")):
            raise UserError(f"{self.file} is damaged: its first line is {whole[0]!r:.100}")
        try:
            names, *cells = list(csv.reader(whole)) or [[]]
        except csv.Error as error:
            raise UserError(f"{self.file} is damaged: {error}") from error
        columns = map(_numbers, zip_longest(*cells, fillvalue=""))  # by columns: more than twice as fast
        rows = [
            {name: value for name, value in zip(names, row, strict=False) if name and value is not None}
            for row in zip(*columns, strict=True)
        ]
        return [row for row in rows if isinstance(row.get("step"), int) and "split" in row]


def _append(file: Path, text: str) -> None:
    """Append whole or not at all, as far as errors go; a kill may leave a torn last line."""
    with open(file, "ab", buffering=0, opener=open_here) as stream:
        size, data = stream.tell(), text.encode()
        try:
            if stream.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # it took a part
        except OSError:
            stream.truncate(size)
            raise


def _torn(file: Path) -> str:
    """What follows the last newline of a file."""
    if not file.exists():
        return ""
    return file.read_text("utf-8", "replace").rpartition("\n")[2]


def _numbers(texts: tuple[str, ...]) -> list[Any]:
    """The cells of a column, most of which hold numbers of one kind; None where one is empty."""
    with contextlib.suppress(ValueError):
        return [int(text) if text else None for text in texts]
    with contextlib.suppress(ValueError):
        return [_float(text) if text else None for text in texts]
    return [_number(text) if text else None for text in texts]


def _float(text: str) -> float:
    return int(text) if text.strip("+- ").isdigit() else float(text)


@functools.lru_cache(100)  # names of splits come again and again
def _number(text: str) -> Any:
    for convert in (int, float):
        with contextlib.suppress(ValueError):
            return convert(text)
    return text
