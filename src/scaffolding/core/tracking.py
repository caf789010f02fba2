"""A tracker follows the files of a run, in a thread of its own: it can neither stop nor stall training."""

import contextlib
import heapq
import queue
import threading
from pathlib import Path
from typing import Any

from loguru import logger

from .run_folder import Facts

MAX_WAITING = 10_000  # rows kept for a slow tracker; those after them it gets from facts/scalars.csv
FINISH_TIMEOUT, STOP_TIMEOUT = 60.0, 1.5  # seconds to wait for what is not yet delivered: at the end, after a signal
ORDINALS = 100  # for each step


class Tracking:
    """Hands rows and figures to a tracker; None: to nobody. A tracker is an object with

        start(folder, config) -> first     begin or carry on; the first ordinal it has not got yet
        log(row, ordinal), log_figure(kind, file, step, ordinal)
        finish(exit_code), abandon()       the end; the end after a failure, or when time is up

    Ordinals rise and are made of a row's step and place in it: a row that comes again after a resume has the one it
    had, and is not delivered twice. The figures of a step come behind its rows. It starts with the first row, off the
    path to the first step; what it has not got by then, it gets from the run's files.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.waiting: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.count = 0  # rows there are
        self.ended = threading.Lock()  # taken by the first who says that it is over

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Set what to follow: the run's folder, after rows were cut."""
        self.folder, self.config, self.facts = folder, config, Facts(folder / "facts")
        if self.tracker is not None and self.facts.scalars_file.exists():
            self.count = max(0, self.facts.scalars_file.read_bytes().count(b"\n") - 1)
        files = (file for file in folder.glob("figures/*-*-*.png") if file.stem.rpartition("-")[2].isdecimal())
        self.figures = sorted(map(_figure, files))  # a heap: those to be delivered

    def log(self, row: dict[str, Any]) -> None:
        """Follow a row that facts/ has just got."""
        self.count += 1
        self._put("row", row)

    def log_figure(self, file: Path) -> None:
        """Follow a figure of the run's folder, <kind>-<moment>-<step>.png."""
        self._put("figure", _figure(file))

    def finish(self, exit_code: int, timeout: float | None = None) -> None:
        """Deliver what there is, for `timeout` seconds; None: what was followed, for as long as the constants say."""
        if self.thread is not None or timeout is not None:
            self._put("finish", exit_code)
        if self.thread is not None:
            self.thread.join(timeout := timeout or (STOP_TIMEOUT if exit_code > 128 else FINISH_TIMEOUT))
        if self.thread is not None and self.thread.is_alive():
            self._end(f"not everything was delivered in {timeout:g} s")

    def _put(self, method: str, item: Any) -> None:
        if self.tracker is not None and (self.waiting.qsize() < MAX_WAITING or method == "finish"):
            self.waiting.put((method, self.count, item))
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
                self.thread.start()

    def _work(self) -> None:
        try:
            self.first, self.ordinal = self.tracker.start(self.folder, self.config), -1
            delivered, reached, method = 0, 0, ""
            while method != "finish":
                method, count, item = self.waiting.get()
                rows = [item] if method == "row" else []
                if count > delivered + len(rows):  # from before the start, or too many waited
                    rows = self.facts.rows()[delivered:count]
                for row in rows:
                    self._deliver_figures(reached := row["step"])
                    self.ordinal = max(reached * ORDINALS, self.ordinal + 1)
                    if self.ordinal >= self.first:
                        self.tracker.log(row, self.ordinal)
                delivered = count
                if method == "figure":
                    heapq.heappush(self.figures, item)
                    reached = max(reached, item[0])
            self._deliver_figures(reached + 1)  # later ones are of steps that were cut and come again
            self.tracker.finish(item)
        except BaseException as error:  # anything a tracker does wrong is a line in the log, never the end of a run
            self._end(f"stopped ({type(error).__name__}: {str(error).partition(chr(10))[0]})")

    def _deliver_figures(self, step: int) -> None:
        """Those of the steps before `step`, all rows of which are delivered."""
        while self.figures and self.figures[0][0] < step:
            at, kind, file = heapq.heappop(self.figures)
            if (ordinal := max((at + 1) * ORDINALS - 1, self.ordinal)) >= self.first:
                self.tracker.log_figure(kind, file, at, ordinal)

    def _end(self, why: str) -> None:
        if self.ended.acquire(blocking=False):
            logger.warning(f"tracker: {why}; facts/ is complete, python scripts/sync.py {self.folder.name} delivers it")
            with contextlib.suppress(Exception):  # at worst the process takes longer to end
                self.tracker.abandon()


def _figure(file: Path) -> tuple[int, str, Path]:
    kind, _, step = file.stem.rsplit("-", 2)
    return int(step), kind, file
