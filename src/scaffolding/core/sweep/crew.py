"""Points at work on this machine: a process for each, and what is said of how it ended."""

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..config.grammar import key_of
from ..signals import handle
from ..system import NEW_SESSION, ask_to_stop
from .points import Sweep, best


def several_devices() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, if there are several."""
    listed = [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    devices = [device for device in listed if device]
    return devices if len(devices) > 1 else []


class Crew:
    """The processes at work, one per point. A signal that asks this program to stop is passed on to them: they save."""

    def __init__(self, sweep: Sweep, num_jobs: int) -> None:
        self.sweep = sweep
        self.devices = several_devices() if num_jobs > 1 else []
        self.places: dict[int, int] = {}  # of a point among those at work; it chooses a GPU
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.begins: dict[int, int] = {}  # where in jobN.txt the output of this start begins
        self.asked: int | None = None  # the signal that asked to stop

    def environment(self, job: int) -> dict[str, str]:
        """The environment of a point: with its own GPU, where there are several and its words name none."""
        chosen = [word for word in self.sweep.command(job) if key_of(word) == "run.device"]
        if not self.devices or any(letter.isdigit() for letter in "".join(chosen)):
            return dict(os.environ)
        return os.environ | {"CUDA_VISIBLE_DEVICES": self.devices[self.places[job] % len(self.devices)]}

    def start(self, job: int) -> None:
        self.places[job] = min(set(range(len(self.processes) + 1)) - set(self.places.values()))
        file = self.sweep.folder / f"job{job}.txt"
        with open(file, "ab") as output:
            self.begins[job] = output.tell()
            # in a separate session: a Ctrl-C reaches it through `stop` alone, once
            options: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **NEW_SESSION}
            self.processes[job] = subprocess.Popen(self.sweep.command(job), env=self.environment(job), **options)
        print(f"job{job} begins: {self.sweep.describe(job)}", flush=True)
        if self.asked is not None:  # while it was being started
            ask_to_stop(self.processes[job], self.asked)

    def stop(self, number: int) -> None:
        self.asked = number
        for process in list(self.processes.values()):
            ask_to_stop(process, number)

    def end(self) -> None:
        """Stop those that are still at work, and wait until they have saved."""
        if self.processes:
            self.stop(signal.SIGTERM)
        while self.processes:
            self.ended()
            time.sleep(0.02)

    def ended(self) -> list[tuple[int, int]]:
        """(job, exit code) of those that have ended since the last call."""
        codes = {job: process.poll() for job, process in self.processes.items()}
        done = [(job, code) for job, code in codes.items() if code is not None]
        for job, _ in done:
            del self.processes[job], self.places[job]
        return done

    def was_stopped(self, code: int) -> bool:
        """Whether a point ended because it was asked to, perhaps before it could answer."""
        return code > 128 or (self.asked is not None and code == -self.asked)

    def cause(self, job: int, code: int) -> str:
        """Why a point did not finish."""
        status = self.sweep.status(job)
        if self.was_stopped(code) and "reason" not in status:
            return "before it began"
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        if code > 128:
            return f"{status['status']}: {status['reason']}"
        said = (self.sweep.folder / f"job{job}.txt").read_bytes()[self.begins[job] :].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        begins = [number for number, line in enumerate(lines) if line.startswith("error: ")]
        return "\n    ".join(lines[begins[-1] :][:3] if begins else lines[-1:])  # what is wrong, and what to do


def do_points(
    sweep: Sweep,
    todo: Iterator[int],
    total: int,
    num_jobs: int,
    stops: bool,
    tell: Callable[[int], None] = lambda job: None,
) -> int:
    """Do points, `num_jobs` at a time, and say of each how it ended. Returns the exit code.

    Whatever is raised here stops the processes at work first.

    Args:
        sweep: that they belong to.
        todo: their numbers; the next one is asked for when there is room for it.
        total: how many there are, done ones included.
        num_jobs: processes at a time.
        stops: end at the first failure.
        tell: is called with the number of each that finished.
    """
    crew, has_failed, is_over = Crew(sweep, num_jobs), False, False
    handle(lambda number, frame: crew.stop(number))
    try:
        while crew.processes or not is_over:
            while len(crew.processes) < num_jobs and not is_over:
                job = None if crew.asked else next(todo, None)
                is_over = job is None
                if job is not None:
                    crew.start(job)
            for job, code in crew.ended():
                if code == 0:
                    tell(job)
                tell_of(crew, job, code, total)
                if code and not crew.asked:
                    has_failed = True
                    if stops:
                        crew.stop(signal.SIGTERM)
            time.sleep(0.02)
    finally:
        crew.end()
    if crew.asked and not (has_failed and stops):
        return 128 + crew.asked
    return int(has_failed)


def tell_of(crew: Crew, job: int, code: int, total: int) -> None:
    """Say how a point ended."""
    sweep, status = crew.sweep, crew.sweep.status(job)
    if code == 0:
        num_done = sum(map(sweep.is_finished, range(len(sweep.points))))
        value = f"  best {best(status)}" if best(status) else ""
        print(f"job{job} {status['status']} ({num_done} of {total}): {sweep.describe(job)}{value}", flush=True)
        return
    ended = "stopped" if crew.was_stopped(code) else f"failed (exit code {code})"
    print(f"job{job} {ended}: {sweep.describe(job)}\n    {crew.cause(job, code)}")
    print(f"    all it said: {sweep.folder}/job{job}.txt", flush=True)


def tell_of_alone(sweep: Sweep, alone: list[int]) -> None:
    """Say which points are left alone; of one on another machine, where a kill is not seen, also what carries it on."""
    for job in alone:
        status = sweep.status(job)
        host = status.get("host")
        print(f"job{job} is running on {host} (process {status.get('pid')}): it is left alone")
        if host != socket.gethostname():
            print(f"    if it was killed there: {shlex.join(['python', *sweep.command(job)[1:]])}")
