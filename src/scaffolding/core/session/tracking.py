"""Trackers: each follows the files of a run from a process of its own, and can neither hold up nor alter training.

A tracker is an object with four methods. Whenever it starts, at a resume and in scripts/sync.py too, it is told the
whole run from the first row on; the figures of a step come after its rows. What it raises ends it, and nothing else.

    start(folder, config)         begin, or carry on
    log(row)                      a row of facts/scalars.csv
    log_figure(kind, file, step)  a figure <kind>-<moment>-<step>.png
    finish(exit_code)             0, 1 where the run failed, 128 + the number of the signal that stopped it

It is constructed twice: once before the run, to see that its arguments are right, and once where it is at work. So a
constructor keeps its arguments, and `start` does the rest. A `where` that it may have is what scripts/sync.py prints.
"""

import contextlib
import json
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from loguru import logger

from ..output import speaking
from . import follow

FINISH_TIMEOUT, STOP_TIMEOUT = 60.0, 1.5  # seconds that all trackers together may take in the end, after a signal
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from {} import main; main()"


class Tracking:
    """The processes of the trackers of a run, by name."""

    def __init__(self, specs: dict[str, Any], folder: Path, config: dict[str, Any]) -> None:
        """Start them: after rows were cut, and before the next one is added."""
        self.processes = []
        for name, spec in specs.items():
            try:
                self.processes.append(TrackerProcess(name, follow.Task(spec, str(folder), config)))
            except OSError as error:
                warn(name, folder, f"its process cannot be started ({error.strerror})")

    def finish(self, end: follow.End) -> None:
        """Let the trackers finish, for a while."""
        timeout = FINISH_TIMEOUT
        if end.exit_code > 128:
            timeout = STOP_TIMEOUT
        for process in self.processes:
            process.send(end)
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.wait(max(0.0, deadline - time.monotonic()))


class TrackerProcess:
    """A process in which one tracker follows a run. `delivered` says what it got in the end; None: it failed."""

    def __init__(self, name: str, task: follow.Task) -> None:
        self.name, self.folder = name, Path(task.folder)
        self.delivered: dict[str, Any] | None = None
        self.is_over = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM.format(follow.__name__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is for the run
        )
        self.send(sys.path)
        self.send(task)
        self.thread = threading.Thread(target=self._listen, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def send(self, content: Any) -> None:
        """Tell the process something, if it is still there."""
        stdin: Any = self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(content).encode() + b"\n")
            stdin.flush()

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end of the process; after so many seconds, end it and warn."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.give_up("not everything was delivered in time")
            self.process.kill()
        stdin: Any = self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            stdin.close()
        self.thread.join(1.0)  # the last reports; a child of the tracker may keep the pipe open

    def _listen(self) -> None:
        """Pass on what the process reports, and what the tracker prints."""
        stdout: Any = self.process.stdout
        with stdout:
            for line in stdout:
                text = line.decode(errors="backslashreplace").rstrip()
                if text.startswith(follow.MARK):
                    self._hear(json.loads(text.removeprefix(follow.MARK)))
                elif text:
                    self.log("INFO", text)
        if self.process.wait() != 0:
            self.give_up(f"its process ended with exit code {self.process.returncode}")

    def _hear(self, report: dict[str, Any]) -> None:
        if "level" in report:
            self.log(report["level"], report["message"])
        elif "problem" in report:
            self.give_up(report["problem"])
        else:
            self.delivered = report

    def log(self, level: str, text: str) -> None:
        """Log something that the tracker says."""
        with speaking:
            logger.log(level, f"tracker {self.name}: {text}")

    def give_up(self, why: str) -> None:
        """Leave it at that, with one warning."""
        if not self.is_over:
            self.is_over = True
            warn(self.name, self.folder, why)


def warn(name: str, folder: Path, why: str) -> None:
    """Say why a tracker did not get everything, and how it gets the rest."""
    rest = f"facts/ is complete, python scripts/sync.py {shlex.quote(str(folder))} delivers the rest"
    with speaking:
        logger.warning(f"tracker {name}: {why}; {rest}")
