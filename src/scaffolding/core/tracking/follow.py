"""Runs in a tracker's process, which tracking.py starts: reads a run's files and passes their content to the tracker.

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

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from loguru import logger

from ..errors import UserError, own_place
from ..folder.facts import Facts, NewRows
from ..folder.reading import open_plain
from ..signals import handle

LOOK_EVERY = 0.5  # seconds
MAX_FIGURE = 100_000_000  # bytes
MARK = "\0tracker "  # begins a line of output that is a report; any other line is the tracker's own


class End(NamedTuple):
    """How a run ended."""

    exit_code: int
    step: int  # the last step, if known


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
        """Pass on what is new. Figures of the last step wait, because more rows of that step may come."""
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
        """Pass on the rest and say how the run ended. Figures of later steps were cut and will be drawn again."""
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
        with open_plain(file, MAX_FIGURE) as stream:
            stream.seek(-min(8, os.fstat(stream.fileno()).st_size), os.SEEK_END)
            return stream.read() == b"IEND\xaeB`\x82"
    except UserError:
        return False


def report(kind: str, **content: Any) -> None:
    """Tell the process of the run something: a mapping that JSON can hold."""
    sys.stdout.write(f"\n{MARK}{json.dumps({'kind': kind, **content})}\n")  # at once: other threads print, too
    sys.stdout.flush()


def log(level: str, message: str) -> None:
    """Have the process of the run log something, there and in log.txt."""
    report("log", level=level, message=message)


def read_message() -> dict[str, Any]:
    """What the process of the run has sent; ValueError: it is gone."""
    message: dict[str, Any] = yaml.safe_load(json.loads(sys.stdin.readline()))
    return message


def main() -> None:
    """Follow one run from its first row to its end. Exit code 1: the tracker failed or the run was killed."""
    handle(lambda *_: None)  # a Ctrl-C or a scheduler's signal is for the run, which says when it has ended
    for stream in (sys.stdout, sys.stderr):  # what is printed is logged at once, in whatever letters
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    task = read_message()
    folder = Path(task["folder"])
    ends: queue.Queue[End] = queue.Queue()
    threading.Thread(target=_wait_for_end, args=[ends], daemon=True).start()
    logger.remove()
    logger.add(lambda text: log(text.record["level"].name, text.rstrip()), format="{message}", diagnose=False)
    try:
        tracker = instantiate(task["spec"], _convert_="all")
        tracker.start(folder, task["config"])
        follower = Follower(tracker, folder)
        end = None
        while end is None:
            follower.look()
            with contextlib.suppress(queue.Empty):
                end = ends.get(timeout=LOOK_EVERY)
        follower.finish(end)
    except BaseException as error:  # whatever a tracker does, sys.exit() too
        cause: BaseException = error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        first_line = str(cause).partition("\n")[0]
        log("DEBUG", "".join(traceback.format_exception(error)))
        where = own_place(cause)
        report("problem", message=f"stopped ({type(cause).__name__}: {first_line}){where and f' at {where}'}")
        os._exit(1)  # what libraries do at an exit may wait for a silent server
    where = str(getattr(tracker, "where", ""))
    report("end", num_rows=follower.rows.num_rows, num_figures=len(follower.told), where=where)


def _wait_for_end(ends: "queue.Queue[End]") -> None:
    """Wait for the run's end. Where its process is gone, this one ends as well, whatever the tracker is doing."""
    with contextlib.suppress(ValueError):  # nothing came, or half a message
        ends.put(End(**read_message()))
        while os.read(0, 4096):  # sys.stdin has a lock, which may not be held at the interpreter's exit
            pass
    os._exit(1)  # when the run is resumed, or by sync.py, the tracker gets it whole
