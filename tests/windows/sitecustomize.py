"""Makes Python on Linux look like Python on Windows to the code of this project, and to nothing else.

Python imports this file at its start where the folder is in PYTHONPATH, in workers and other child processes, too. What
our files import lacks the modules and names that Windows lacks, and has those of Windows, which do the same by other
means. For all code, links are refused, and so is replacing or deleting a file that this process has open.
"""

import builtins
import errno
import fcntl
import os
import signal
import subprocess
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OURS = (f"{ROOT / 'src'}{os.sep}", f"{ROOT / 'scripts'}{os.sep}")
MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "syslog", "curses", "readline"}
BREAK = signal.SIGUSR2  # does here what Ctrl-Break does on Windows
MISSING = {
    "os": "fork forkpty register_at_fork killpg getpgid setpgid setsid getuid geteuid getgid uname fchmod chown lchown"
    " mkfifo statvfs sched_getaffinity getloadavg sysconf wait waitstatus_to_exitcode sync nice"
    " O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_CLOEXEC O_SYNC WNOHANG",
    "signal": "SIGHUP SIGUSR1 SIGUSR2 SIGKILL SIGCHLD SIGALRM SIGQUIT SIGTSTP SIGCONT SIGSTOP SIGPIPE SIG_BLOCK"
    " SIG_SETMASK SIG_UNBLOCK pthread_sigmask pthread_kill alarm setitimer sigwait siginterrupt",
}


def locking(number: int, mode: int, num_bytes: int) -> None:
    fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def kill(pid: int, number: int) -> None:
    raise AssertionError(f"os.kill({pid}, {number}) would end that process on Windows")


class Popen(subprocess.Popen[Any]):
    def __init__(self, *words: Any, creationflags: int = 0, **options: Any) -> None:
        super().__init__(*words, **options, start_new_session=bool(creationflags))


def run(*words: Any, creationflags: int = 0, **options: Any) -> Any:
    return subprocess.run(*words, **options, start_new_session=bool(creationflags))


class Kernel:
    """kernel32.dll, as far as it is needed."""

    def __init__(self, name: str) -> None:
        self.GetCurrentProcess = lambda: -1

    def K32GetProcessMemoryInfo(self, process: Any, counters: Any, size: int) -> int:
        counters._obj.peak = 123_000_000
        return int(size == 72)


OTHERS: dict[str, dict[str, Any]] = {
    "os": {"name": "nt", "O_BINARY": 0, "kill": kill},
    "sys": {"platform": "win32"},
    "signal": {"SIGBREAK": BREAK, "CTRL_BREAK_EVENT": BREAK},
    "subprocess": {"Popen": Popen, "run": run, "CREATE_NEW_PROCESS_GROUP": 0x200},
    "multiprocessing": {"get_all_start_methods": lambda: ["spawn"]},
    "ctypes": {"WinDLL": Kernel, "WinError": OSError},
}


class Disguised(types.ModuleType):
    """A module as Windows has it."""

    def __init__(self, module: types.ModuleType, other: dict[str, Any], missing: set[str]) -> None:
        for name, value in {"_module": module, "_other": other, "_missing": missing}.items():
            object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> Any:
        module, other, missing = (object.__getattribute__(self, part) for part in ("_module", "_other", "_missing"))
        if name in missing:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r} on Windows", name=name)
        return other[name] if name in other else getattr(module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_module"), name, value)


disguised: dict[str, Disguised] = {}
real_import = builtins.__import__


def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if level or not str((globals or {}).get("__file__", "")).startswith(OURS):
        return real_import(name, globals, locals, fromlist, level)
    if name in MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    if name == "msvcrt":
        module = types.ModuleType("msvcrt")
        module.locking, module.LK_NBLCK = locking, 2  # type: ignore[attr-defined]
        return module
    module = real_import(name, globals, locals, fromlist, level)
    if module.__name__ in OTHERS:
        key = module.__name__
        missing = set(MISSING.get(key, "").split())
        return disguised.setdefault(key, Disguised(module, OTHERS[key], missing))
    return module


def is_open(path: Any) -> bool:
    """Whether this process has a file open."""
    for number in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(number)), os.lstat(path)):
                return True
        except OSError:
            continue
    return False


def refused_while_open(call: Any) -> Any:
    def checked(*paths: Any, **options: Any) -> Any:
        if not options and any(is_open(path) for path in paths):
            raise PermissionError(errno.EACCES, "Windows: the file is in use", *paths[:1])
        return call(*paths, **options)

    return checked


def symlink(*paths: Any, **options: Any) -> None:
    raise OSError(errno.EPERM, "Windows: a required privilege is not held")


def handle(number: int, handler: Any) -> Any:
    """`signal.signal`, but for what DataLoader does on other systems: raise an error when a worker dies."""
    return set_handler(number, handler) if number != signal.SIGCHLD else None


set_handler, signal.signal = signal.signal, handle
builtins.__import__ = import_
os.symlink = symlink
os.replace, os.rename, os.unlink, os.remove = map(refused_while_open, (os.replace, os.rename, os.unlink, os.remove))
