"""Trackers: each is told about a run in its own thread, which training never waits for.

A tracker is an object with four methods. Whenever it starts, at a resume and in scripts/sync.py too, it is told the
whole run from the first row on; the figures of a step come after its rows. What it raises ends it, and nothing else.

    start(folder, config)         begin, or carry on
    log(row)                      a row of facts/scalars.csv
    log_figure(kind, file, step)  a figure <kind>-<moment>-<step>.png
    finish(exit_code)             0, 1 where the run failed, 128 + the number of the signal that stopped it

A tracker that needs random numbers has its own generator (`random.Random()`): threads share the global ones of torch,
numpy and Python, and what it took from them would be missing in training, at a moment that nobody knows.
"""

import contextlib
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import UserError
from ..folder.facts import Facts
from ..folder.reading import MAX_FACTS, read_bytes

MAX_WAITING = 10_000  # rows and figures that wait in memory for a slow tracker
FINISH_TIMEOUT, STOP_TIMEOUT = 60.0, 1.5  # seconds that all trackers together may take in the end, after a signal

unfinished: list[str] = []  # trackers of this process that failed or hang


class Tracking:
    """Hands the rows and figures of a run to its `trackers`, by name. They start with the first of these."""

    def __init__(self, trackers: dict[str, Any]) -> None:
        self.trackers, self.num_rows = trackers, 0
        self.followers: list[Follower] = []

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Say where the run is: after rows were cut, and before the next one is added."""
        self.followers = [Follower(name, tracker, folder, config) for name, tracker in self.trackers.items()]
        if self.trackers:
            self.num_rows = len(Facts(folder / "facts").rows())

    def log(self, row: dict[str, Any]) -> None:
        self.num_rows += 1
        self._put("row", row)

    def log_figure(self, file: Path) -> None:
        self._put("figure", file)

    def _put(self, what: str, item: Any) -> None:
        for follower in self.followers:
            follower.put(self.num_rows, what, item)

    def finish(self, exit_code: int) -> None:
        """Let the trackers finish, for a while."""
        timeout = STOP_TIMEOUT if exit_code > 128 else FINISH_TIMEOUT
        deadline = time.monotonic() + timeout
        self.followers = [follower for follower in self.followers if follower.thread.ident is not None]
        self._put("finish", exit_code)
        for follower in self.followers:
            follower.thread.join(max(0.0, deadline - time.monotonic()))
            if follower.thread.is_alive():
                follower.give_up(f"not everything was delivered in {timeout:g} s")


class Follower:
    """Tells one tracker about a run, in order: what the run's files hold first, then what comes."""

    def __init__(self, name: str, tracker: Any, folder: Path, config: dict[str, Any]) -> None:
        self.name, self.tracker, self.folder, self.config = name, tracker, folder, config
        self.waiting: queue.Queue[tuple[int, str, Any]] = queue.Queue(MAX_WAITING)
        self.thread = threading.Thread(target=self.deliver, name=f"tracker {name}", daemon=True)
        self.is_over = False
        self.num_rows, self.step = 0, 0  # rows told, and the step they reach
        self.figures: set[tuple[int, str, Path]] = set()  # (step, kind, file)
        self.told: set[tuple[int, str, Path]] = set()

    def put(self, num_rows: int, what: str, item: Any) -> None:
        """Pass on a row, a figure or the end, at which the run has `num_rows`. Never waits.

        In a full queue the oldest makes room: what is missing then is read from the files.
        """
        if self.thread.ident is None:
            self.thread.start()
        while not self.is_over:
            try:
                return self.waiting.put_nowait((num_rows, what, item))
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self.waiting.get_nowait()

    def deliver(self, exit_code: int | None = None) -> bool:
        """Tell the tracker what the files hold and, without an `exit_code`, what comes. False: the tracker failed."""
        try:
            self.tracker.start(self.folder, self.config)
            if exit_code is None:
                exit_code = self._tell_what_comes()
            else:
                self._tell_files()
            self._tell_figures(self.step + 1)  # later ones are of steps that were cut and come again
            self.tracker.finish(exit_code)
        except BaseException as error:  # whatever a tracker does, sys.exit() too
            self.give_up(f"stopped ({type(error).__name__}: {str(error).partition(chr(10))[0]})")
        return not self.is_over

    def _tell_what_comes(self) -> int:
        while True:
            num_rows, what, item = self.waiting.get()
            if what == "row" and num_rows == self.num_rows + 1:
                self._tell_row(item)
            elif num_rows > self.num_rows:  # rows from before the start, or there was no room for them
                self._tell_files()
            if what == "figure":
                self.step = max(self.step, self._add_figure(item))
            if what == "finish":
                return int(item)

    def _tell_files(self) -> None:
        for file in self.folder.glob("figures/*-*-*.png"):
            self._add_figure(file)
        for row in Facts(self.folder / "facts").rows()[self.num_rows :]:
            self._tell_row(row)

    def _tell_row(self, row: dict[str, Any]) -> None:
        self._tell_figures(row["step"])
        self.tracker.log(row)
        self.num_rows, self.step = self.num_rows + 1, max(self.step, row["step"])  # a test row may be of an older step

    def _add_figure(self, file: Path) -> int:
        """Remember a figure until the rows of its step are told. Returns its step; 0: it is something else."""
        kind, _, step = file.stem.rsplit("-", 2)
        if not step.isdecimal():
            return 0
        self.figures.add((int(step), kind, file))
        return int(step)

    def _tell_figures(self, before: int) -> None:
        for step, kind, file in sorted(figure for figure in self.figures - self.told if figure[0] < before):
            if not is_whole(file):
                logger.warning(f"tracker {self.name}: {file} is damaged, and left out")
                self.figures.remove((step, kind, file))
                continue
            self.tracker.log_figure(kind, file, step)
            self.told.add((step, kind, file))

    def give_up(self, why: str) -> None:
        """Leave it at that, with one warning."""
        if not self.is_over:
            self.is_over = True
            unfinished.append(self.name)
            rest = f"facts/ is complete, python scripts/sync.py {self.folder.name} delivers the rest"
            logger.warning(f"tracker {self.name}: {why}; {rest}")


def is_whole(file: Path) -> bool:
    """Whether a PNG file has its end; a kill may have cut it short."""
    try:
        return read_bytes(file, MAX_FACTS).endswith(b"IEND\xaeB`\x82")
    except UserError:
        return False


def leave_unfinished() -> None:
    """For the very end: where a tracker failed or hangs, end the process without what libraries do at its exit.

    W&B would wait there for a silent server, or complain that its own process is gone.
    """
    if not unfinished:
        return
    error, code = sys.exc_info()[1], 0
    if isinstance(error, SystemExit):
        code = int(error.code or 0)
    elif error is not None:
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
