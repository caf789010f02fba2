"""The rows of a run as columns of numbers, for drawing: all of them, or evenly chosen ones."""

import csv
import math
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..folder.facts import SECONDS, Facts
from ..folder.reading import MAX_FACTS, read_text

AXES = ("step", "epoch", "samples", "time")  # what a curve can be drawn over

Number = float | str | None  # "nan", "inf" or "-inf" where a value is not finite; None: the row has none


def read_curves(run: Path, started: float | None, most: int | None = None) -> dict[str, dict[str, Any]]:
    """The curves of each split, `{"step": [...], "epoch": ..., "samples": ..., "time": ..., "values": {name: [...]}}`.

    Args:
        run: its folder.
        started: what `time` counts from, in seconds since 1970; None: the first row.
        most: rows of a split, chosen evenly, the first and the last one among them; None: all.

    Raises:
        UserError: facts/scalars.csv is damaged.
    """
    columns, splits = _rows_by_split(Facts(run / "facts").scalars_file)
    per_epoch = _samples_per_epoch(columns, splits)
    if started is None:
        started = _first_time(columns, splits)
    curves = {}
    for split, rows in splits.items():
        if most is not None and len(rows) > most:
            rows = [rows[round(index * (len(rows) - 1) / (most - 1))] for index in range(most)]
        cells = dict(zip(columns, zip(*rows, strict=True), strict=True))
        curves[split] = _curves_of(cells, started, per_epoch)
    return curves


def _rows_by_split(file: Path) -> tuple[list[str], dict[str, list[list[str]]]]:
    """The names of the columns and, of each split, the cells of its whole rows."""
    if not file.exists():
        return [], {}
    whole = read_text(file, MAX_FACTS).rpartition("\n")[0]  # a last line without an end is just being written
    reader = csv.reader(whole.splitlines())
    splits: dict[str, list[list[str]]] = {}
    try:
        columns = next(reader, [])
        if columns and not {"step", "split"} <= set(columns):
            raise UserError(f"{file} is damaged: its first line is {','.join(columns)!r:.100}")
        for cells in reader:
            if len(cells) == len(columns) and cells[columns.index("step")].isdecimal():
                splits.setdefault(cells[columns.index("split")], []).append(cells)
    except csv.Error as error:
        raise UserError(f"{file} is damaged: {error}") from error
    return columns, splits


def _curves_of(cells: dict[str, tuple[str, ...]], started: float, per_epoch: float | None) -> dict[str, Any]:
    """The columns of one split as numbers, without those that are empty in it."""
    curves: dict[str, Any] = {"step": [int(text) for text in cells["step"]], "values": {}}
    curves["samples"] = [_whole(text) for text in cells.get("samples", ())]
    curves["epoch"] = [_whole(text) for text in cells.get("epoch", ())]
    if per_epoch is not None:
        pairs = zip(curves["samples"], curves["epoch"], strict=True)
        curves["epoch"] = [_fractional_epoch(samples, epoch, per_epoch) for samples, epoch in pairs]
    curves["time"] = [_seconds_since(started, text) for text in cells.get("time", ())]
    for name, texts in cells.items():
        if name not in (*AXES, "split") and not name.startswith(SECONDS) and any(texts):
            curves["values"][name] = [_number(text) for text in texts]
    return curves


def _number(text: str) -> Number:
    """Six digits of a number: more cannot be seen, and less than half of a float's 17 has to be stored."""
    try:
        value = float(text)
    except ValueError:  # an empty cell
        return None
    if math.isfinite(value):
        return float(f"{value:.6g}")
    return str(value)


def _seconds_since(started: float, text: str) -> float | None:
    try:
        seconds = float(text) - started
    except ValueError:
        return None
    return round(seconds, 3) if math.isfinite(seconds) else None


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _first_time(columns: list[str], splits: dict[str, list[list[str]]]) -> float:
    """The earliest time of a row, in seconds since 1970; 0 where no row has one."""
    if "time" not in columns:
        return 0.0
    firsts = [_seconds_since(0.0, rows[0][columns.index("time")]) for rows in splits.values()]
    return min((first for first in firsts if first is not None), default=0.0)


def _samples_per_epoch(columns: list[str], splits: dict[str, list[list[str]]]) -> float | None:
    """The most samples per epoch begun: exact if a row is of the end of an epoch; None: there is only one epoch."""
    if not {"epoch", "samples"} <= set(columns):
        return None
    pairs = {
        (_whole(cells[columns.index("samples")]), _whole(cells[columns.index("epoch")]))
        for rows in splits.values()
        for cells in rows
    }
    known = [(samples, epoch) for samples, epoch in pairs if samples is not None and epoch is not None]
    if max((epoch for _, epoch in known), default=0) == 0:
        return None
    return max(samples / (epoch + 1) for samples, epoch in known) or None


def _fractional_epoch(samples: int | None, epoch: int | None, per_epoch: float) -> float | None:
    """How many epochs had passed: within the one that the row is of."""
    if samples is None or epoch is None:
        return None
    return round(min(max(samples / per_epoch, epoch), epoch + 1), 4)
