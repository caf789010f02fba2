"""One writer per run: a lock on the run's folder that the system frees when the process ends, however it ends."""

import contextlib
import errno
import fcntl
import os
import socket
import time
from datetime import datetime
from pathlib import Path
from typing import IO

from loguru import logger

from ..errors import UserError

PATIENCE = 1.0  # seconds: whoever only looks (is_held) has the lock for an instant
# Record locks: a forked worker does not inherit them, as it would a flock, and so cannot keep a dead run locked. They
# end when the process closes the file anywhere, so a file that is held is never opened a second time.
_held: dict[Path, IO[str]] = {}


def acquire(run: Path) -> None:
    """Take the lock of a run until `release` or the end of this process.

    Raises:
        UserError: another process has it; it is named.
    """
    path = (run / ".lock").resolve()
    if path in _held:
        return
    file = open(path, "a+")  # noqa: SIM115  (held until `release`)
    begin = time.monotonic()
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                logger.warning(f"{path}: no locks here ({error.strerror}); do not carry a run on twice at a time")
                break
        if time.monotonic() - begin > PATIENCE:
            file.seek(0)
            raise UserError(f"{run.name} is in use by {file.read() or 'a process'}\nwait for it, or stop it")
        time.sleep(0.05)
    _held[path] = file


def announce(run: Path) -> None:
    """Write down who has the lock, for the message that another process gets."""
    file = _held[(run / ".lock").resolve()]
    with contextlib.suppress(OSError):  # a full disk: the lock itself holds all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        file.flush()


def release(run: Path) -> None:
    """Give the lock back."""
    if (file := _held.pop((run / ".lock").resolve(), None)) is not None:
        with contextlib.suppress(OSError):  # of a note that was not written; it is closed all the same
            file.close()


def is_held(run: Path) -> bool:
    """Whether any process of this machine, or of those that share the file system's locks, has the run's lock."""
    path = (run / ".lock").resolve()
    if path in _held:
        return True
    try:
        with open(path) as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False
