"""Guards a tracker: it follows a run's files in a thread of its own, so it can neither stop nor stall training."""

import contextlib
import queue
import threading
from pathlib import Path
from typing import Any

from loguru import logger

MAX_WAITING = 10_000  # rows kept for a slow tracker; those after them it gets from facts/scalars.csv
FINISH_TIMEOUT, STOP_TIMEOUT = 60.0, 1.5  # seconds to wait for what is not yet delivered: at the end, after a signal


class Tracking:
    """Hands rows and figures to a tracker (following.py); None: to nobody.

    It starts with the first row, off the path to the first step; what it has not got by then is read from the files.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.waiting: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self.count = 0  # rows there are
        self.ended = threading.Lock()  # taken by the first who says that it is over

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Set what to follow: the run's folder, after rows were cut."""
        self.folder, self.config, file = folder, config, folder / "facts" / "scalars.csv"
        if self.tracker is not None and file.exists():
            self.count = max(0, file.read_bytes().count(b"\n") - 1)

    def log(self, row: dict[str, Any]) -> None:
        self.count += 1
        self._put("row", row)

    def log_figure(self, file: Path) -> None:
        self._put("figure", file)

    def finish(self, exit_code: int, timeout: float | None = None) -> None:
        """Deliver what there is, for `timeout` seconds; None: what was followed, for as long as the constants say."""
        if self.thread is not None or timeout is not None:
            self._put("finish", exit_code)
        if self.thread is not None:
            self.thread.join(timeout := timeout or (STOP_TIMEOUT if exit_code > 128 else FINISH_TIMEOUT))
        if self.thread is not None and self.thread.is_alive():
            self._end(f"not everything was delivered in {timeout:g} s")

    def _put(self, what: str, item: Any) -> None:
        if self.tracker is not None and (self.waiting.qsize() < MAX_WAITING or what == "finish"):
            self.waiting.put((what, self.count, item))
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
                self.thread.start()

    def _work(self) -> None:
        try:
            from .following import follow  # imported only here

            follow(self.tracker, self.folder, self.config, self.waiting)
        except BaseException as error:  # anything a tracker does wrong is a line in the log, never the end of a run
            self._end(f"stopped ({type(error).__name__}: {str(error).partition(chr(10))[0]})")

    def _end(self, why: str) -> None:
        if self.ended.acquire(blocking=False):
            logger.warning(f"tracker: {why}; facts/ is complete, python scripts/sync.py {self.folder.name} delivers it")
            with contextlib.suppress(Exception):  # at worst the process takes longer to end
                self.tracker.abandon()
