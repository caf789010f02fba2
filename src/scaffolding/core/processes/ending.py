"""How one of several processes ends, and learns that another one has failed."""

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ..errors import Ended
from ..folder.folder import read_status
from ..session.failure import cause_of
from ..signals import Stopped

LAST_WORDS = 2.0  # seconds to wait for what another process says before it ends
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Broken pipe")


@contextlib.contextmanager
def follow(processes: Any, run: Any) -> Iterator[None]:
    """The session of a process that writes nothing, unless it fails: then rank_<N>.txt says why."""
    try:
        with run.stop:
            yield
            processes.wait()  # what fails in the others, fails the run
    except (Stopped, Ended):
        raise
    except BaseException as error:
        if is_lost(error):  # another one has failed; its own words count
            print(f"error: process {processes.rank}: {who_failed(processes, run.path, error)}", file=sys.stderr)
            raise Ended(1) from None
        with contextlib.suppress(OSError):
            text = "".join(traceback.format_exception(error))
            cause = describe(cause_of(error, run))
            (run.path / f"rank_{processes.rank}.txt").write_text(f"{text}{cause}\n")
        raise
    finally:
        run.close_loaders()


def who_failed(processes: Any, run: Path, error: BaseException) -> str:
    """What another process wrote down before it ended, or which one of this machine is gone without a word."""
    end = time.monotonic() + LAST_WORDS
    while time.monotonic() < end:
        for file in sorted(run.glob("rank_*.txt")):
            lines = file.read_text().strip().splitlines()
            if lines:
                return f"{file.stem}: {lines[-1]}"
        status = read_status(run)
        if processes.rank > 0 and status["status"] == "failed":
            return f"rank_0: {status.get('reason')}"
        for rank, (host, pid) in enumerate(processes.peers):
            if host == socket.gethostname() and not is_alive(pid):
                return f"rank_{rank}: process {pid} on {host} is gone without a word: killed, or out of memory"
        time.sleep(0.1)
    return f"another process is gone, or does not answer: {describe(error)}"


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process does not answer any more."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in LOST)


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there, and is not a zombie, as far as the system says that."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it ended in this moment, or the system has no /proc
        return not Path("/proc/self/stat").exists()


def describe(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]
