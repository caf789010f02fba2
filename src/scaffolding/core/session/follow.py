"""What the process of a tracker does (tracking.py starts it): it tells the tracker what the files of a run hold.

Its standard input says what to follow and, in the end, how the run ended. It does not import torch.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from hydra.utils import instantiate
from loguru import logger

from ..errors import UserError
from ..folder.facts import Facts, NewRows
from ..folder.reading import MAX_FACTS, read_bytes
from ..signals import handle

LOOK_EVERY = 0.5  # seconds
MARK = "\0tracker "  # begins a line of output that is a report; any other line is the tracker's own


class Task(NamedTuple):
    """What a process is started for."""

    spec: dict[str, Any]  # the tracker's block in the config, with its secrets
    folder: str
    config: dict[str, Any]


class End(NamedTuple):
    """How a run ended."""

    exit_code: int
    step: int  # the last one, as far as it is known


class Figure(NamedTuple):
    """A file figures/<kind>-<moment>-<step>.png."""

    step: int
    kind: str
    file: Path


class Follower:
    """Tells a tracker about the run in a folder: each row once and in order, the figures of a step after its rows."""

    def __init__(self, tracker: Any, folder: Path) -> None:
        self.tracker, self.folder = tracker, folder
        self.rows = NewRows(Facts(folder / "facts"))
        self.step = 0  # the last one of which there is a row
        self.told: set[Figure] = set()
        self.damaged: set[Figure] = set()

    def look(self) -> None:
        """Tell what is new. The figures of the last step wait: it may get more rows."""
        rows = self.rows.read()
        figures = []
        if rows:
            figures = self._new_figures()  # read after the rows: a figure is written before the rows of later steps
        for row in rows:
            while figures and figures[0].step < row["step"]:
                self._tell(figures.pop(0))
            self.tracker.log(row)
            self.step = max(self.step, row["step"])  # a test row is of the best step

    def finish(self, end: End) -> None:
        """Tell the rest, and that the run has ended. Figures of later steps were cut, and will come again."""
        self.look()
        for figure in self._new_figures():
            if figure.step <= max(self.step, end.step):
                self._tell(figure)
        self.tracker.finish(end.exit_code)

    def _new_figures(self) -> list[Figure]:
        """The figures that have not been told, by step."""
        found = set()
        for file in self.folder.glob("figures/*-*-*.png"):
            kind, _, step = file.stem.rsplit("-", 2)
            if step.isdecimal():
                found.add(Figure(int(step), kind, file))
        return sorted(found - self.told - self.damaged)

    def _tell(self, figure: Figure) -> None:
        if is_whole(figure.file):
            self.tracker.log_figure(figure.kind, figure.file, figure.step)
            self.told.add(figure)
        else:
            log("WARNING", f"{figure.file} is damaged, and left out")
            self.damaged.add(figure)


def is_whole(file: Path) -> bool:
    """Whether a PNG file has its end; a kill may have cut it short."""
    try:
        return read_bytes(file, MAX_FACTS).endswith(b"IEND\xaeB`\x82")
    except UserError:
        return False


def report(**content: Any) -> None:
    """Tell the process of the run something: a mapping that JSON can hold."""
    print(f"\n{MARK}{json.dumps(content)}", flush=True)


def log(level: str, message: str) -> None:
    """Have the process of the run log something, there and in log.txt."""
    report(level=level, message=message)


def main() -> None:
    """Follow one run from its first row to its end. Exit code 1: the tracker failed, or the run was killed."""
    handle(lambda *_: None)  # a Ctrl-C or a scheduler's signal is for the run, which says when it has ended
    task = Task(*json.loads(sys.stdin.readline()))
    folder = Path(task.folder)
    ends: queue.Queue[End] = queue.Queue()
    threading.Thread(target=_wait_for_end, args=[ends], daemon=True).start()
    logger.remove()
    logger.add(lambda text: log(text.record["level"].name, text.rstrip()), format="{message}", diagnose=False)
    try:
        tracker = instantiate(task.spec, _convert_="all")
        tracker.start(folder, task.config)
        follower = Follower(tracker, folder)
        end = None
        while end is None:
            follower.look()
            with contextlib.suppress(queue.Empty):
                end = ends.get(timeout=LOOK_EVERY)
        follower.finish(end)
    except BaseException as error:  # whatever a tracker does, sys.exit() too
        first_line = str(error).partition("\n")[0]
        log("DEBUG", "".join(traceback.format_exception(error)))
        report(problem=f"stopped ({type(error).__name__}: {first_line})")
        os._exit(1)  # what libraries do at an exit may wait for a silent server
    where = str(getattr(tracker, "where", ""))
    report(num_rows=follower.rows.num_rows, num_figures=len(follower.told), where=where)


def _wait_for_end(ends: "queue.Queue[End]") -> None:
    try:
        ends.put(End(*json.loads(sys.stdin.readline())))
    except ValueError:  # there is none, or half of one
        os._exit(1)  # the run was killed: when it is resumed, or by sync.py, the tracker gets it whole
