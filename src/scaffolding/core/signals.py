"""The signals that ask a run to stop, and how it takes them."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import _exit
from types import FrameType
from typing import Any

from .errors import Ended

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP", "SIGBREAK")  # the last is Ctrl-Break, on Windows
STOP_SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
SAME_REQUEST = 0.5  # seconds in which the same signal does not count as a second one: Slurm and torchrun both send it


class Stopped(Ended):
    """A signal asked the run to stop; it did, with a checkpoint. The code is 128 + the signal's number."""


def handle(handler: Any) -> dict[int, Any]:
    """Give all stop signals a handler; returns those before. Where nohup has SIGHUP ignored, it stays ignored."""
    before: dict[int, Any] = {}
    for number in STOP_SIGNALS:
        if number.name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before


@dataclass
class StopFlag:
    """While active, remembers the first stop signal in `received`; a second one ends the process with 128 + number.

    The same signal within SAME_REQUEST seconds is not a second one. Where several processes train together, only a
    second Ctrl-C is one: a queue and a launcher may send the rest several times, and different ones.
    """

    received: signal.Signals | None = None
    agree: Callable[[int], int] | None = None  # gives all processes the largest of their numbers
    _since: float = 0.0
    _before: dict[int, Any] = field(default_factory=dict)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number), time.monotonic()
        elif self.agree is not None and (number != signal.SIGINT or self.received != number):
            return
        elif number != self.received or time.monotonic() - self._since > SAME_REQUEST:
            _exit(128 + number)

    def look(self) -> signal.Signals | None:
        """The stop signal that this process has received or, where all look at the same time, one of them."""
        if self.agree is not None:
            number = self.agree(self.received or 0)
            if number:
                self.received = signal.Signals(number)
            return signal.Signals(number) if number else None
        return self.received

    def __enter__(self) -> "StopFlag":
        if threading.current_thread() is threading.main_thread():  # python allows handlers nowhere else
            self._before = handle(self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """A stop signal ends the process even while it waits in a library, where python's handlers do not run."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = handle(signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Worker processes started here never see stop signals: only the run itself decides when to stop."""
    if sys.platform == "win32":  # it blocks none: workers call `ignore`
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignore all stop signals from now on: what a worker process does where none can be blocked."""
    handle(signal.SIG_IGN)


@contextlib.contextmanager
def deaths_ignored() -> Iterator[None]:
    """DataLoader raises an error wherever the main thread is when a worker dies; not so while they are made to."""
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)
