"""summary.json: settings, status and results of a run, which tables and pages of many runs read. Does not import torch.

It is written when a session ends and removed when one begins. What a run without it is (one that is running or was
killed, or of an older version) follows from config.yaml, status.json and facts/scalars.csv.
"""

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..clock import duration, training_seconds
from ..errors import ONE_LINE, UserError
from ..find import created
from .facts import AXES, SECONDS, is_timing
from .folder import read_status, write_text
from .reading import MAX_FACTS, open_plain, read_json, read_text, read_yaml

FILE, NOTE = "summary.json", "note.txt"
LAST = ("train", "test")  # splits of whose rows the last one counts
FROM_STATUS = ("status", "reason", "step", "num_steps", "best", "best_step")


def summarise(path: Path, content: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What summary.json is to hold; UserError: the rows of the run cannot be read.

    Args:
        path: the run's folder.
        content: what it says, but for settings and results.
        config: that of the run, without secrets.
    """
    rows = LastRows(path / "facts" / "scalars.csv", content["best_step"], content["monitor"], content["monitor_mode"])
    seconds = dict(rows.seconds)
    for phase, value in content["seconds"].items():
        seconds[phase] = round(seconds.get(phase, 0.0) + value, 3)
    whole = {**content, "seconds": seconds, "results": rows.results(), "settings": dict(flat(config))}
    return {name: plain(value) for name, value in whole.items()}


def write_summary(path: Path, content: Mapping[str, Any]) -> None:
    """Write summary.json."""
    write_text(path / FILE, json.dumps(content, allow_nan=False) + "\n")


def result_line(content: Mapping[str, Any]) -> str:
    """What came out of a run, in a line: the test, the best weights, and what part of the time was training."""
    results, parts = content["results"], []
    tested = {name.removeprefix("test/"): value for name, value in results.items() if name.startswith("test/")}
    best = f"step {content['step']}"
    if content["best_step"] is not None:
        best = f"best weights: step {content['best_step']}"
        if content["best"] is not None:
            best += f", {content['monitor'].replace('/', ' ', 1)} {content['best']:.4g}"
    if tested:
        parts = ["test " + ", ".join(f"{name} {value:.4g}" for name, value in tested.items() if value is not None)]
        best = f"({best})"
    total = sum(content["seconds"].values())
    share = training_seconds(content["seconds"]) / (total or 1)
    return f"result:   {' '.join([*parts, best])}; {duration(total)}, of which training {share:.0%}"


def read_summary(path: Path) -> dict[str, Any]:
    """What a run is and what came out of it.

    Returns:
        name, path; status (one of running, finished, failed, interrupted, preempted, died, unknown, damaged), reason;
        started, ended (seconds since 1970; None: not known, or not yet); step, num_steps, best, best_step, monitor,
        monitor_mode; results ("<split>/<name>": of validation at the best step, otherwise the last value; None: not
        finite); seconds (of the host, by phase); settings (by dotted key); description, tags, note. Nothing is raised
        for a damaged run: its status and reason say so.
    """
    found: dict[str, Any] = {"name": path.name, "path": str(path), "note": _read_note(path)}
    try:
        if os.path.lexists(path / FILE):
            content = read_json(path / FILE)
            _check(path / FILE, content)
        else:
            content = _from_files(path)
    except UserError as error:
        reason = str(error).partition("\n")[0].translate(ONE_LINE)
        content = _EMPTY | {"status": "damaged", "reason": reason}
    return _EMPTY | content | found


_EMPTY: dict[str, Any] = {
    "status": "unknown",
    "reason": None,
    "started": None,
    "ended": None,
    "step": 0,
    "num_steps": None,
    "best": None,
    "best_step": None,
    "monitor": None,
    "monitor_mode": "min",
    "results": {},
    "seconds": {},
    "settings": {},
    "description": None,
    "tags": [],
}
_NUMBER, _TEXT = (int, float, type(None)), (str, type(None))
_KINDS: dict[str, tuple[type, ...]] = {
    "status": (str,),
    "step": (int,),
    "tags": (list,),
    **dict.fromkeys(("results", "seconds", "settings"), (dict,)),
    **dict.fromkeys(("started", "ended", "num_steps", "best", "best_step"), _NUMBER),
    **dict.fromkeys(("reason", "monitor", "description"), _TEXT),
}


def _check(file: Path, content: Mapping[str, Any]) -> None:
    """UserError: a value is not of the kind that readers expect."""
    for name, kinds in _KINDS.items():
        if not isinstance(content.get(name, _EMPTY[name]), kinds):
            raise UserError(f"{file} is damaged: {name} is {content[name]!r:.50}")


def _from_files(path: Path) -> dict[str, Any]:
    """The summary of a run that has none."""
    config = read_yaml(path / "config.yaml")
    if not isinstance(config, dict):
        raise UserError(f"{path / 'config.yaml'} is not a mapping of settings")
    status = read_status(path)
    if status["status"] == "damaged":
        raise UserError(str(status["reason"]))
    run = config.get("run")
    if not isinstance(run, dict):
        run = {}
    monitor, mode = run.get("monitor"), run.get("monitor_mode")
    if monitor == "auto":
        monitor = "val/loss"  # a run with several losses has no such column
    rows = LastRows(path / "facts" / "scalars.csv", None, monitor, str(mode))
    content = {name: status.get(name) for name in FROM_STATUS}
    content["step"] = max(rows.step, status.get("step", 0))
    if rows.best is not None:
        content |= {"best": rows.best, "best_step": rows.best_step}
    tags, description = run.get("tags"), run.get("description")
    content |= {
        "started": created(path),
        "ended": status.get("time") if status["status"] != "running" else None,
        "monitor": monitor if isinstance(monitor, str) else None,
        "monitor_mode": "max" if mode == "max" else "min",
        "results": plain(rows.results()),
        "seconds": rows.seconds,
        "settings": plain(dict(flat(config))),
        "description": description,
        "tags": tags if isinstance(tags, list) else [],
    }
    _check(path / "status.json", content)
    return content


def _read_note(path: Path) -> str:
    with contextlib.suppress(UserError):
        if os.path.lexists(path / NOTE):
            return read_text(path / NOTE).strip()
    return ""


class LastRows:
    """What the rows of a run end with. A line that is just being written is left out.

    Args:
        file: facts/scalars.csv, which need not exist.
        best_step: of the best weights; None: the step of the best monitored value.
        monitor: "<split>/<name>" of that value, or None.
        mode: whether the smallest ("min") or the largest ("max") is the best.

    Raises:
        UserError: the file is not text, or not a plain file.
    """

    def __init__(self, file: Path, best_step: int | None, monitor: Any, mode: str) -> None:
        self.columns: list[str] = []
        rows = self._read(file) if os.path.lexists(file) else []
        places = {name: index for index, name in enumerate(self.columns)}
        self.step = max((int(row[places["step"]]) for row in rows), default=0)  # the last row may be of the best step
        self.best: float | None = None
        self.best_step = best_step
        if best_step is None:
            self._find_best(rows, places, monitor, mode)
        self.rows: dict[str, list[str]] = {}  # by split: of validation that of the best step, otherwise the last one
        for row in rows:
            split, before = row[places["split"]], self.rows.get(row[places["split"]])
            has_best = before is not None and before[places["step"]] == str(self.best_step)
            if split in LAST or not has_best:
                self.rows[split] = row
        timed = [(name.removeprefix(SECONDS), place) for name, place in places.items() if name.startswith(SECONDS)]
        self.seconds = {
            phase: round(sum(number(row[place]) for row in rows if row[place]), 3) for phase, place in timed
        }

    def _read(self, file: Path) -> list[list[str]]:
        with open_plain(file, MAX_FACTS) as stream:
            content = stream.read()
        try:
            reader = csv.reader(content[: content.rfind(b"\n") + 1].decode().splitlines())
            self.columns = next(reader, [])
            if not {"step", "split"} <= set(self.columns):
                return []
            step = self.columns.index("step")
            return [row for row in reader if len(row) == len(self.columns) and row[step].isdecimal()]
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{file} is damaged: {error!s:.100}") from error

    def _find_best(self, rows: list[list[str]], places: Mapping[str, int], monitor: Any, mode: str) -> None:
        split, _, name = str(monitor).partition("/")
        if name not in places:
            return
        pick = max if mode == "max" else min
        of_split = (row for row in rows if row[places["split"]] == split)
        values = [(number(row[places[name]]), int(row[places["step"]])) for row in of_split]
        values = [pair for pair in values if math.isfinite(pair[0])]
        if values:
            self.best, self.best_step = pick(values, key=lambda pair: pair[0])  # of equal ones the first

    def results(self) -> dict[str, float]:
        """The values by "<split>/<name>", those that measure the machine left out."""
        found = {}
        for split, row in self.rows.items():
            for name, text in zip(self.columns, row, strict=True):
                if text and name not in AXES and not is_timing(name):
                    found[f"{split}/{name}"] = number(text)
        return found


def number(text: str) -> float:
    """The number that a cell holds; NaN where it holds none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def flat(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a config by dotted key; lists and empty mappings are values."""
    if isinstance(config, Mapping) and config:
        for name, value in config.items():
            yield from flat(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, config


def plain(content: Any) -> Any:
    """The same in what JSON holds: None for what is not finite, text for what it does not know."""
    if isinstance(content, Mapping):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, str | int | None):
        return content
    return str(content)
