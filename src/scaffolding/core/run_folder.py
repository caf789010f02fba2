"""Run folders: claiming one, finding one, its status and its facts. Does not import torch."""

import csv
import io
import json
import os
import random
import re
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import UserError, nearest
from .files import write_text

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,199}")
FINGERPRINT = "config.yaml"  # a folder is a run where this file is
# columns that measure the machine, not the model: they differ between a run and its exact repetition
TIMINGS = ("time", "items_per_second", "peak_memory_mb")


def make_name() -> str:
    """<YYYY-MM-DD_HH-MM-SS>_<adjective>_<animal>."""
    import coolname

    coolname.replace_random(random.Random())  # not the global generator: a name must not change what the run draws
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{'_'.join(coolname.generate(2))}"


def claim(output: Path, name: str | None, suffix: str = "") -> Path:
    """Make a new run folder that no other process has or gets (exclusive mkdir).

    Raises:
        UserError: `name` is taken or has other characters than letters, digits and . _ - = , +; the folder cannot be made.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"run.name={name!r} is not a folder name\nallowed: letters, digits and . _ - = , +, up to 200")
    try:
        output.mkdir(parents=True, exist_ok=True)
        while True:
            path = output / f"{name or make_name()}{suffix}"
            try:
                path.mkdir()
                return path
            except FileExistsError:
                if name is not None:
                    raise UserError(
                        f"run.name={name}: {path} exists\nchoose another name, or carry it on with resume={name}"
                    ) from None
    except OSError as error:
        raise UserError(f"paths.output={output}: cannot make a run folder there: {error.strerror}") from error


def is_run(path: Path) -> bool:
    return (path / FINGERPRINT).is_file()


def list_runs(output_root: Path) -> list[Path]:
    """All run folders under the output root (sweeps and dev runs too), oldest first by when they were claimed."""
    found = [file.parent for depth in ("*", "*/*", "*/*/*") for file in output_root.glob(f"{depth}/{FINGERPRINT}")]
    runs = [path for path in found if not any(is_run(parent) for parent in path.parents)]
    return sorted(runs, key=lambda path: (path / FINGERPRINT).stat().st_mtime)


def find_run(name: str, output_root: Path) -> Path:
    """The run that `name` stands for: a name, a unique prefix, `latest`, `dev/NAME`, or a path under the output root.

    Raises:
        UserError: none, or several; the nearest or all of them are named.
    """
    root = output_root.resolve()
    runs = {str(path.relative_to(root)): path for path in list_runs(root)}
    if name == "latest":
        real = [path for key, path in runs.items() if not key.startswith("dev/")]
        if not real:
            raise UserError(f"latest: there is no run in {root} (dev runs do not count)\nno run was created")
        return real[-1]
    given = Path(name)
    for path in (given.resolve(), root.parent / given):  # a path, as a shell completes it
        if "/" in name and is_run(path) and path.resolve().is_relative_to(root):
            return path.resolve()
    if given.is_absolute() or ".." in given.parts or not name or not all(NAME.fullmatch(part) for part in given.parts):
        raise UserError(
            f"{name!r} is no run in {root}\ngive a run name, its first letters, `latest`, or a path under that folder"
        )
    wanted = name.rstrip("/")
    if wanted in runs:
        return runs[wanted]
    matches = [key for key in runs if key.startswith(wanted) or ("/" not in wanted and Path(key).name == wanted)]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        raise UserError(f"{name!r} is the beginning of {len(matches)} runs: {', '.join(matches[-5:])}\ngive more of it")
    near = ", ".join(nearest(wanted, runs, 3)) or "none"
    raise UserError(f"there is no run {name!r} in {root}\nnearest: {near}\nno run was created")


@dataclass
class Facts:
    """facts/events.jsonl and facts/scalars.csv of one run; append-only while it runs."""

    folder: Path

    @property
    def scalars_file(self) -> Path:
        return self.folder / "scalars.csv"

    def event(self, name: str, **values: Any) -> None:
        """Append one line to events.jsonl."""
        line = json.dumps({"event": name, "time": datetime.now().astimezone().isoformat(), **values})
        with open(self.folder / "events.jsonl", "a") as file:
            file.write(line + "\n")

    def add_row(self, row: dict[str, Any]) -> None:
        """Append one row to scalars.csv; a metric seen for the first time adds a column."""
        columns = self._columns()
        if any(name not in columns for name in row):
            columns += [name for name in row if name not in columns]
            self._write([*self.rows(), row], columns)
            return
        with open(self.scalars_file, "a", newline="") as file:
            csv.DictWriter(file, columns, lineterminator="\n").writerow(row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows, oldest first; numbers as numbers, empty cells left out."""
        if not self.scalars_file.exists():
            return []
        with open(self.scalars_file, newline="") as file:
            return [{name: _number(text) for name, text in row.items() if text} for row in csv.DictReader(file)]

    def cut_after(self, step: int) -> int:
        """Drop rows later than `step`, of the final test, and a torn last line: they will come again. Returns their number."""
        kept, dropped = [], 0
        for row in self.rows():
            whole = isinstance(row.get("step"), int) and "time" in row
            if whole and row["step"] <= step and row["split"] != "test":
                kept.append(row)
            else:
                dropped += 1
        if dropped:
            self._write(kept, self._columns())
        return dropped

    def _columns(self) -> list[str]:
        if not self.scalars_file.exists():
            return []
        with open(self.scalars_file, newline="") as file:
            return next(csv.reader(file), [])

    def _write(self, rows: list[dict[str, Any]], columns: list[str]) -> None:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.scalars_file, text.getvalue())


def _number(text: str) -> Any:
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def write_status(path: Path, status: str, **values: Any) -> None:
    """Replace status.json: running, finished, interrupted or failed, with step, reason, pid and host."""
    content = {"status": status, "time": time.time(), "pid": os.getpid(), "host": socket.gethostname(), **values}
    write_text(path / "status.json", json.dumps(content, indent=2) + "\n")


def read_status(path: Path) -> dict[str, Any]:
    """status.json; a run whose process is gone from this machine without a word reads `died`."""
    file = path / "status.json"
    content: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"status": "unknown"}
    if content["status"] == "running" and content["host"] == socket.gethostname() and not _alive(content["pid"]):
        content["status"] = "died"
    return content


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
