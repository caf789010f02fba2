"""Signals: the first asks the run to stop at the end of the step, the second leaves at once."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = [signal.SIGINT, signal.SIGTERM] + ([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])


class Interrupted(Exception):
    """A stop signal came while something was under way that a resumed run does again (an evaluation)."""


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


def leave_at_once() -> None:
    """Until a run is under way there is nothing to save: end with 128 + number, without a traceback."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, frame: os._exit(128 + number))


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Worker processes started here never see stop signals: only the run itself decides when to stop."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def die_with_parent(worker: int) -> None:
    """For loader workers: a run that is killed leaves none behind, not even one that hangs (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
