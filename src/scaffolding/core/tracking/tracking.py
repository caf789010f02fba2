"""Trackers: each follows the files of a run in a separate process, and can neither hold up nor alter training.

A tracker is an object with four methods. Each time it starts (in a new run, a resume or scripts/sync.py), it receives
the whole run from the first row. Figures of a step follow its rows. An exception in a tracker ends that tracker and
nothing else.

    start(folder, config)         begin, or carry on
    log(row)                      a row of facts/scalars.csv
    log_figure(kind, file, step)  a figure <kind>-<moment>-<step>.png
    finish(exit_code)             0, 1 where the run failed, 128 + the number of the signal that stopped it

The class is constructed twice: before the run, to check its arguments, and again in the tracker's process. The
constructor should only keep its arguments; `start` does the work. If it has an attribute `where`, sync.py prints it.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from .. import system
from ..output import speaking
from ..signals import StopFlag
from . import follow

FINISH_TIMEOUT, STOP_TIMEOUT = 60.0, 1.5  # seconds that all trackers together get to finish: in the end, after a signal
PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.stdin.readline()); from {} import main; main()"


class Tracking:
    """The processes of the trackers of a run, by name."""

    def __init__(self, specs: dict[str, Any], folder: Path, config: dict[str, Any], trust: Iterable[str] = ()) -> None:
        """Start them, one for each block in `specs`; `trust` is what scripts/sync.py must be told to trust."""
        self.processes = []
        for name, spec in specs.items():
            try:
                self.processes.append(TrackerProcess(name, spec, folder, config, trust))
            except OSError as error:
                warn(name, folder, trust, f"its process cannot be started ({error.strerror})")

    def finish(self, end: follow.End, stop: StopFlag) -> None:
        """Let the trackers finish, for a while; for a shorter while from the moment of a signal."""
        for process in self.processes:
            process.tell(end)
        deadline = time.monotonic() + FINISH_TIMEOUT
        while time.monotonic() < deadline and any(process.is_at_work() for process in self.processes):
            if stop.received is not None:
                deadline = min(deadline, time.monotonic() + STOP_TIMEOUT)
                stop = StopFlag()  # once is enough
            time.sleep(0.02)
        for process in self.processes:
            process.close()


class TrackerProcess:
    """A process in which one tracker follows a run. `delivered` holds its final report; None if it failed."""

    def __init__(
        self, name: str, spec: dict[str, Any], folder: Path, config: dict[str, Any], trust: Iterable[str] = ()
    ) -> None:
        self.name, self.folder, self.trust = name, folder, trust
        self.delivered: dict[str, Any] | None = None
        self.has_warned = False
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM.format(follow.__name__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **system.NEW_SESSION,  # a Ctrl-C is for the run
        )
        self.stdin: Any = self.process.stdin
        at_work.add(self)
        self._write([entry for entry in sys.path if isinstance(entry, str)])  # Python ignores other entries
        self._send({"spec": spec, "folder": str(folder), "config": config})
        self.thread = threading.Thread(target=self._listen, name=f"tracker {name}", daemon=True)
        self.thread.start()

    def tell(self, end: follow.End) -> None:
        """Tell the process how the run ended."""
        self._send(end._asdict())

    def _send(self, content: dict[str, Any]) -> None:
        self._write(yaml.safe_dump(content, sort_keys=False))  # it keeps keys that are numbers, which JSON does not

    def _write(self, content: Any) -> None:
        """Write a line, if the process is still there."""
        with contextlib.suppress(OSError):  # on Windows, a broken pipe has another name
            self.stdin.write(json.dumps(content).encode() + b"\n")
            self.stdin.flush()

    def is_at_work(self) -> bool:
        """Whether the process is still there and has more to deliver."""
        return self.process.poll() is None and self.delivered is None

    def close(self) -> None:
        """End the process, and warn if it had not delivered everything."""
        if self.delivered is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5.0)  # what libraries do at the exit
        if self.process.poll() is None:
            self.give_up("not everything was delivered in time")
            system.kill_session(self.process)
            self.process.wait()
        with contextlib.suppress(OSError):
            self.stdin.close()
        self.thread.join(1.0)  # the last reports; a child of the tracker may keep the pipe open

    def _listen(self) -> None:
        """Pass on what the process reports, and what the tracker prints."""
        stdout: Any = self.process.stdout
        with stdout:
            for line in stdout:
                text = line.decode(errors="backslashreplace").rstrip()
                if text.startswith(follow.MARK):
                    self._hear(text.removeprefix(follow.MARK))
                elif text:
                    self.log("INFO", text)
        if self.process.wait() != 0:
            self.give_up(f"its process ended with exit code {self.process.returncode}")

    def _hear(self, text: str) -> None:
        try:
            report = json.loads(text)
        except ValueError:  # another thread of the tracker's process wrote in between
            self.log("INFO", text.strip())
            return
        if report["kind"] == "log":
            self.log(report["level"], report["message"])
        elif report["kind"] == "problem":
            self.give_up(report["message"])
        else:
            self.delivered = report

    def log(self, level: str, text: str) -> None:
        """Log something that the tracker says."""
        try:
            logger.level(level)
        except ValueError:  # one that only the tracker's process knows
            level = "INFO"
        with speaking:
            logger.log(level, f"tracker {self.name}: {text}")

    def give_up(self, why: str) -> None:
        """Warn once that the tracker gets nothing more, unless it has got everything."""
        if not self.has_warned and self.delivered is None:
            self.has_warned = True
            warn(self.name, self.folder, self.trust, why)


at_work: "weakref.WeakSet[TrackerProcess]" = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a forked process: it must not keep the pipes open by which trackers notice that the run is gone."""
    for process in at_work:
        process.stdin.close()


if sys.platform != "win32":  # nothing forks there
    os.register_at_fork(after_in_child=_leave_to_parent)


def warn(name: str, folder: Path, trust: Iterable[str], why: str) -> None:
    """Warn that a tracker missed something, and name the command that delivers it."""
    command = f"python scripts/sync.py {shlex.quote(str(folder))}"
    command += "".join(f" --trust {shlex.quote(each)}" for each in trust)
    with speaking:
        logger.warning(f"tracker {name}: {why}; facts/ is complete, {command} delivers the rest")
