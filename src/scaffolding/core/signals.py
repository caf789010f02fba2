"""Signals: the first asks the run to stop at the end of the step, the second leaves at once."""

import os
import signal
import threading
from types import FrameType
from typing import Any

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])


class StopFlag:
    """While active, remembers the first stop signal in `received`; a second one ends the process with 128 + number."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = signal.Signals(number)

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():  # python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def ignore_in_worker(worker: int) -> None:
    """For loader workers: a Ctrl-C goes to the whole process group, but only the run itself decides when to stop."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
