"""Guards a tracker: it works in a thread of its own, so it can neither stop nor stall training."""

import queue
import threading
from pathlib import Path
from typing import Any

from loguru import logger

MAX_WAITING = 10_000  # rows kept for a slow tracker; more are dropped, counted, and still in facts/scalars.csv
FINISH_TIMEOUT = 60.0  # seconds to wait at the end of a run for what is not yet delivered


class Tracking:
    """Hands rows and figures to a tracker (an object with start, log, log_figure, finish); None: to nobody.

    The tracker starts with the first row, off the path to the first step.
    """

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self.waiting: queue.Queue[tuple[Any, ...]] = queue.Queue(MAX_WAITING)
        self.thread: threading.Thread | None = None
        self.dropped = 0

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        self.waiting.put(("start", folder, config))

    def log(self, row: dict[str, Any]) -> None:
        self._put("log", row)

    def log_figure(self, name: str, file: Path, step: int) -> None:
        self._put("log_figure", name, file, step)

    def finish(self, exit_code: int) -> None:
        """Deliver what waits, for a bounded time."""
        if self.thread is None:
            return
        self._put("finish", exit_code)
        self.thread.join(FINISH_TIMEOUT)
        if self.thread.is_alive() or self.dropped:
            logger.warning(f"tracker: not everything was delivered ({self.dropped} rows dropped); facts/ is complete")

    def _put(self, *item: Any) -> None:
        if self.tracker is None:
            return
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self.thread.start()
        try:
            self.waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        try:
            method = ""
            while method != "finish":
                method, *arguments = self.waiting.get()
                getattr(self.tracker, method)(*arguments)
        except BaseException as error:  # anything a tracker does wrong is a line in the log, never the end of a run
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            logger.warning(f"tracker: stopped ({reason}); training goes on, facts/ is complete")
