"""What a program writes: to streams that cannot end a run, above a progress bar, and all of it into a run's log.txt."""

import contextlib
import io
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loguru import logger

from .folder.reading import open_here
from .secrets import without_keys

LOG_LINE = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}"
LOG: Any = {"format": LOG_LINE, "level": "INFO", "diagnose": False}  # the values of variables may be secrets
WARNINGS = "py.warnings"  # the logger of `logging.captureWarnings`


class Transcript:
    """Takes all that is logged or printed to the log.txt of the run at work.

    What is said before there is a run waits for it.
    """

    def __init__(self) -> None:
        self.waiting: deque[str] = deque(maxlen=1000)
        self.writers: list[Callable[[str], object]] = [self.waiting.append]
        self.hears_logger = False

    def write(self, text: str) -> None:
        """Write some lines, without the keys in them."""
        self.writers[-1](without_keys(text))

    def listen(self) -> int:
        """Take what loguru logs; returns the number of the handler."""
        self.hears_logger = True
        return logger.add(self.write, **(LOG | {"level": "DEBUG", "backtrace": True}))

    @contextlib.contextmanager
    def to(self, write: Callable[[str], object]) -> Iterator[None]:
        """While active, everything goes to `write`; what has been waiting comes first."""
        if len(self.writers) == 1:
            for text in self.waiting:
                write(text)
            self.waiting.clear()
        self.writers.append(write)
        try:
            yield
        finally:
            self.writers.pop()

    @contextlib.contextmanager
    def to_file(self, path: Path) -> Iterator[None]:
        """While active, everything is added to a file. An error of the disk is ignored."""
        before = self.hears_logger
        with open(path, "ab", buffering=0, opener=open_here) as file, contextlib.ExitStack() as stack:

            def write(text: str) -> None:
                with contextlib.suppress(OSError):  # what matters is said by others
                    file.write(text.encode(errors="backslashreplace"))

            stack.enter_context(self.to(write))
            if not self.hears_logger:  # in a program that was not started by `launch`
                stack.callback(logger.remove, self.listen())
            try:
                yield
            finally:
                self.hears_logger = before


transcript = Transcript()
speaking = threading.RLock()  # held during `silence()`; other threads take it before they log, so they wait
handlers: list[int] = []  # loguru's number of the one that shows messages on the console, if there is one
above_bar: list[Callable[[str], None]] = []  # shows lines above a progress bar, while there is one
if sys.platform != "win32":  # nothing forks there
    os.register_at_fork(after_in_child=above_bar.clear)  # workers have no bar; the lock of their copy may be taken


class Stream:
    """A standard stream that cannot end a run: what nobody reads any more is dropped.

    The reader of a pipe may be gone (`| head`), a terminal closed, a disk full.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self._try(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Bring to the reader what was written."""
        self._try(self.stream.flush)

    def _try(self, call: Callable[..., object], *arguments: str) -> None:
        if self.stream.closed:  # by a library
            return
        try:
            call(*arguments)
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())  # so that what is still to be written fails no more, at the exit either
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Lines:
    """Puts pieces of text together to lines; of what overwrites itself, as a progress bar does, the last counts."""

    def __init__(self) -> None:
        self.rest = ""  # a line without its end

    def add(self, text: str) -> str:
        """The lines that are complete now."""
        whole, newline, rest = (self.rest + text).rpartition("\n")
        self.rest = rest[max(0, rest.rfind("\r")) :]
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in whole.split("\n")]
        return "\n".join(lines) + newline


class Output(Stream):
    """A standard stream of which log.txt gets a copy; on a terminal, its lines appear above the progress bar."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.copied, self.shown = Lines(), Lines()

    def write(self, text: str) -> int:
        """Write text, and copy it."""
        lines = self.copied.add(text)
        if lines:
            transcript.write(lines)
        return self.show(text)

    def show(self, text: str) -> int:
        """Write text, without a copy."""
        if above_bar and self.stream.isatty():
            lines = self.shown.add(text)
            if lines:
                above_bar[-1](lines)
        else:
            super().write(self.shown.rest + text)
            self.shown.rest = ""
        return len(text)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """While active, nothing reaches the console or log.txt. A rehearsal is silent; it still reacts to signals."""
    nothing = io.StringIO()
    with (
        speaking,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
        transcript.to(lambda text: None),
    ):
        yield


def say(text: str) -> None:
    """Write a line of the log to standard error, wherever that leads now; log.txt has the line already."""
    stream = sys.stderr
    getattr(stream, "show", stream.write)(without_keys(text))


def show_from(level: str, package: str) -> None:
    """Show messages of this level ("debug", "info", ...) and above on the console; log.txt gets all of them."""
    while handlers:
        logger.remove(handlers.pop())
    handlers.append(logger.add(say, **(LOG | {"level": level.upper()})))
    logging.getLogger(package).setLevel(logging.DEBUG if level == "debug" else logging.INFO)


class LogHandler(logging.Handler):
    """Passes on to loguru what comes from Python's `logging`."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with its level."""
        level: Any = record.levelno
        with contextlib.suppress(ValueError):  # a level that loguru does not know by name
            level = logger.level(record.levelname).name
        text = record.getMessage().rstrip()
        if record.name != WARNINGS:
            text = f"{record.name}: {text}"
        logger.opt(exception=record.exc_info).log(level, text)


def install(package: str) -> None:
    """Make the standard streams of this program robust, and bring what it logs, prints and warns of to both places.

    Python's `logging` is passed on to loguru where nobody has configured it. A library that configures it keeps what it
    configured; what that writes to standard error reaches log.txt, too.
    """
    outputs: dict[Any, Output] = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(OSError):  # it asks where it stands, which not every stream can tell
                stream.reconfigure(errors="backslashreplace")  # a letter that a terminal does not know ends no run
        outputs[stream] = Output(stream)
        setattr(sys, name, outputs[stream])
    for other in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(other, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and handler.stream in outputs:
                handler.setStream(outputs[handler.stream])
    logger.remove()
    show_from("info", package)
    transcript.listen()
    logging.lastResort = LogHandler()
    logging.captureWarnings(True)
    logging.getLogger(WARNINGS).addHandler(LogHandler())
    logging.getLogger(WARNINGS).propagate = False  # once is enough
