"""Processes in groups of their own, started fast: a launcher has imported everything and forks for each call."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

LIMIT = 120  # seconds after which any process started here ends
CORES = os.cpu_count() or 1


def serve() -> None:
    """A launcher's loop: read [module, function, arguments, log], answer with the child's pid, then its exit code."""
    import damaged  # noqa: F401  (here: it imports this module; and with it the whole program)
    import torch

    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports half of torch
    for line in sys.stdin:
        module, function, arguments, log = json.loads(line)
        child = os.fork()
        os.setpgid(child, 0 if child == 0 else child)  # both do it, so that it is done when either goes on
        if child == 0:
            for number in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            signal.alarm(LIMIT)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the program has set its own handlers
            getattr(sys.modules[module], function)(*arguments)
            break
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Launcher:
    """Starts one process at a time, in a process group of its own."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        start = [sys.executable, "-c", "import processes; processes.serve()"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
        self.process = subprocess.Popen(start, env=os.environ | {"PYTHONPATH": path}, **pipes)  # type: ignore[call-overload]

    def start(self, log: Path, function: Callable[..., None], *arguments: Any) -> int:
        """Call a function in a new process, which prints to `log`; returns its pid, which is its group, too."""
        job = [function.__module__, function.__name__, arguments, str(log)]
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        return int(self.process.stdout.readline())

    def wait(self, seconds: float = LIMIT + 10) -> int | None:
        """The exit code, negative for a signal; None: it still runs."""
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return int(self.process.stdout.readline()) if ready else None


def send(pid: int, number: int, to_group: bool = True) -> bool:
    """Send a signal to a process or its whole group; False: it is gone."""
    with contextlib.suppress(ProcessLookupError):
        (os.killpg if to_group else os.kill)(pid, number)
        return True
    return False


_own = threading.local()
_pool = ThreadPoolExecutor(CORES)


def launcher() -> Launcher:
    """The launcher of this thread."""
    if not hasattr(_own, "launcher"):
        _own.launcher = Launcher()
    found: Launcher = _own.launcher
    return found


def parallel(function: Callable[..., Any], *tasks: Iterable[Any]) -> list[Any]:
    """map(function, *tasks) on all cores."""
    return list(_pool.map(function, *tasks))


def group(pid: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, _, pgrp = stat.read_text().rpartition(") ")[2].split()[:3]
            found += [int(stat.parent.name)] if int(pgrp) == pid and state != "Z" else []
    return found
