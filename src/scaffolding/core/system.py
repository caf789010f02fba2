"""What Windows does differently from Linux and macOS: locks, links, sessions, signals to others, memory.

The branches for Windows stand here and nowhere else. Does not import torch.
"""

import contextlib
import errno
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from .errors import UserError

if sys.platform == "win32":
    import ctypes
    import msvcrt
else:
    import fcntl
    import resource

IS_WINDOWS = sys.platform == "win32"
# of `os.open`, where the system has them: follow no link, wait for no pipe, and leave line ends as they are
PLAIN_FILE = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
IN_USE = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)  # of a lock that another process has
LONGEST_TEMPORARY = 70  # letters of a temporary folder; with those of a socket in it, macOS takes 103, Linux 107
LOCKED_BYTE = 1 << 30  # on Windows, nobody else may read what is locked: a byte that no file has
REPLACE_WAIT = 2.0  # seconds that Windows may take to replace a file: not while another process reads it

# A process that a Ctrl-C in this terminal does not reach: `subprocess.Popen(..., **NEW_SESSION)`.
NEW_SESSION: dict[str, Any] = {"start_new_session": True}
if sys.platform == "win32":
    NEW_SESSION = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}


def lock(file: IO[Any], is_shared: bool = False) -> None:
    """Take the lock of an open file without waiting, until it is closed; OSError with a number of IN_USE: it is taken.

    A forked process does not inherit it. Windows has no shared locks, so there one counts as the other.
    """
    if sys.platform == "win32":
        number = file.fileno()
        position = os.lseek(number, 0, os.SEEK_CUR)
        os.lseek(number, LOCKED_BYTE, os.SEEK_SET)  # it locks from where the file stands
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(number, position, os.SEEK_SET)
    else:
        fcntl.lockf(file, (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def replace(path: Path, other: Path) -> None:
    """Rename `path` to `other`, whatever is there. Windows refuses that while another process has `other` open."""
    end = time.monotonic() + REPLACE_WAIT * IS_WINDOWS
    while True:
        try:
            os.replace(path, other)
            return
        except PermissionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def ask_to_stop(process: "subprocess.Popen[Any]", number: int) -> None:
    """Send a stop signal to a process that was started with NEW_SESSION. On Windows that is always Ctrl-Break."""
    if sys.platform == "win32":
        number = signal.CTRL_BREAK_EVENT
    process.send_signal(number)


def kill_session(process: "subprocess.Popen[Any]") -> None:
    """End a process that was started with NEW_SESSION and, but for Windows, all that it started."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def shorten_sockets() -> None:
    """Let multiprocessing make its sockets in a folder with a short name, where the temporary folder has a long one.

    The system limits the path of a socket. Beyond it, worker processes would fail while this one waits for them.
    Newer versions of Python do the same. Call this before processes are started: they inherit the folder.

    Raises:
        UserError: the temporary folder has a long name, and no other one can be written.
    """
    usual = tempfile.gettempdir()
    if IS_WINDOWS or len(os.fsencode(usual)) <= LONGEST_TEMPORARY:
        return
    for folder in ("/tmp", "/var/tmp"):
        tempfile.tempdir = folder
        try:
            multiprocessing.util.get_temp_dir()  # the first call makes it, and all later ones give the same
            return
        except OSError:
            continue
        finally:
            tempfile.tempdir = usual
    raise UserError(
        f"TMPDIR={usual}: too long a name for the sockets of worker processes, and /tmp cannot be written"
        f"\ngive a folder of at most {LONGEST_TEMPORARY} letters, or loader.num_workers=0"
    )


if sys.platform == "win32":

    class MemoryCounters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of the Windows API."""

        _fields_ = (
            *((name, ctypes.c_uint32) for name in ("size", "page_faults")),
            *((name, ctypes.c_size_t) for name in ("peak", "now", *(f"other_{number}" for number in range(6)))),
        )


def peak_memory() -> int:
    """The largest amount of memory, in bytes, that this process has had."""
    if sys.platform == "win32":
        counters = MemoryCounters()
        counters.size = ctypes.sizeof(counters)
        kernel: Any = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = ctypes.c_void_p
        of_process = (ctypes.c_void_p(kernel.GetCurrentProcess()), ctypes.byref(counters), counters.size)
        if not kernel.K32GetProcessMemoryInfo(*of_process):
            raise ctypes.WinError()
        return int(counters.peak)
    else:
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024
