"""What a tracker is given, and in which order: rows and figures of a run's files, each once. Only tracked runs need it.

A tracker is an object with

    start(folder, config) -> first     begin or carry on; the first ordinal it has not got yet
    log(row, ordinal), log_figure(kind, file, step, ordinal)
    finish(exit_code), abandon()       the end; the end after a failure, or when time is up

Ordinals rise and are made of a row's step and place in it: a row that comes again after a resume has the one it had, so
it is not delivered twice. The figures of a step come behind its rows.
"""

import heapq
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ..folder.run_folder import Facts

ORDINALS = 100  # for each step


def follow(tracker: Any, folder: Path, config: dict[str, Any], waiting: "SimpleQueue[tuple[str, int, Any]]") -> None:
    """Deliver what the run's files hold already, then what comes, until it is "finish".

    Args:
        waiting: (what, number of rows there are by then, the thing itself) of a "row", a "figure" (its file) or
            "finish" (the exit code). Rows that are missing in between are read from the file.
    """
    first, facts = tracker.start(folder, config), Facts(folder / "facts")
    figures = sorted(map(_figure, folder.glob("figures/*-*-*.png")))  # a heap: those to be delivered
    delivered, reached, ordinal, what = 0, 0, -1, ""

    def deliver_figures(before: int) -> None:
        while figures and figures[0][0] < before:
            step, kind, file = heapq.heappop(figures)
            place = max((step + 1) * ORDINALS - 1, ordinal)
            if place >= first and step >= 0:
                tracker.log_figure(kind, file, step, place)

    while what != "finish":
        what, count, item = waiting.get()
        rows = [item] if what == "row" else []
        if count > delivered + len(rows):  # from before the start, or too many waited
            rows = facts.rows()[delivered:count]
        for row in rows:
            deliver_figures(reached := row["step"])
            ordinal = max(reached * ORDINALS, ordinal + 1)
            if ordinal >= first:
                tracker.log(row, ordinal)
        delivered = count
        if what == "figure" and (figure := _figure(item)) not in figures:
            heapq.heappush(figures, figure)
            reached = max(reached, figure[0])
    deliver_figures(reached + 1)  # later ones are of steps that were cut and come again
    tracker.finish(item)


def _figure(file: Path) -> tuple[int, str, Path]:
    """(step, kind, file) of a figure <kind>-<moment>-<step>.png; step -1: it is none."""
    kind, _, step = file.stem.rsplit("-", 2)
    return (int(step) if step.isdecimal() else -1), kind, file
