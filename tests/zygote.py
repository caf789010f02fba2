"""Starts programs quickly: a server that has imported everything once forks for each of them.

What runs is the real file, as `python FILE WORDS` runs it; only the imports are there already.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import plain

TRAIN = next(Path(__file__).parents[1].glob("src/*/train.py"))
TIMEOUT = 600  # seconds after which anything started here is ended
LATE = ("matplotlib.backends.backend_agg", "matplotlib.figure", "wandb")  # what a run imports where it is used
_turn = threading.Lock()  # one question to the server at a time


class Started:
    """A program at work. It leads a process group: `pid` is the number of both."""

    def __init__(self, pid: int, stdout: Path, stderr: Path) -> None:
        self.pid, self.stdout, self.stderr = pid, stdout, stderr
        self.code: int | None = None  # once it has ended; negative: the signal that ended it

    def wait(self, seconds: float = TIMEOUT) -> int | None:
        """The exit code; None: it is still at work after so many seconds."""
        end = time.monotonic() + seconds
        while self.code is None:
            self.code = _ask({"poll": self.pid})
            if self.code is None:
                if time.monotonic() > end:
                    return None
                time.sleep(0.003)
        return self.code

    def send(self, number: int, to_group: bool = True) -> bool:
        """Send a signal to it, or also to the processes that it started; False: it is gone."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if to_group else os.kill)(self.pid, number)
            return True
        return False


class Spawned(Started):
    """A program at work where nothing can be forked: it imports everything itself."""

    def __init__(self, argv: list[str], stdout: Path, stderr: Path, cwd: Path | None, env: dict[str, str]) -> None:
        with open(stdout, "ab") as out, open(stderr, "ab") as err:
            command = [sys.executable, plain.__file__, *argv]
            self.process = subprocess.Popen(
                command, cwd=cwd, env=os.environ | env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        super().__init__(self.process.pid, stdout, stderr)

    def wait(self, seconds: float = TIMEOUT) -> int | None:
        """The exit code; None: it is still at work after so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.code = self.process.wait(seconds)
        return self.code

    def send(self, number: int, to_group: bool = True) -> bool:
        """Send a signal to it alone; False: it is gone."""
        is_there = self.process.poll() is None
        self.process.send_signal(number)
        return is_there


def start(
    argv: list[str], stdout: Path, stderr: Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> Started:
    """Start `python *argv` with its output appended to two files, which may be the same one.

    `env` is added to this process's environment. Any number may be at work at a time; may be called from any thread.
    """
    for file in (stdout, stderr):
        file.touch()
    if not hasattr(os, "fork"):
        return Spawned([*map(str, argv)], stdout, stderr, cwd, env or {})
    files = {"stdout": str(stdout), "stderr": str(stderr)}
    job = {"argv": [*map(str, argv)], "cwd": str(cwd or Path.cwd()), "env": env or {}, **files}
    return Started(_ask(job), stdout, stderr)


def _ask(job: dict[str, Any]) -> Any:
    with _turn:
        process = _server()
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())


@functools.cache
def _server() -> Any:
    """The server of this process, which ends with it."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, __file__], **pipes)
    atexit.register(process.kill)
    return process


# --- in the server


def serve() -> None:
    """Answer each line of JSON: a program to be started with its pid, {"poll": pid} with its exit code or null."""
    del sys.path[0]  # tests/: a program finds there only what PYTHONPATH says
    _import_all()
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            pid, status = os.waitpid(job["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            os.setpgid(answer, answer)  # both do it, so that it is done when either goes on
            if answer == 0:
                _become(job)
        print(json.dumps(answer), flush=True)


def _import_all() -> None:
    import torch
    from hydra.core.plugins import Plugins

    train = runpy.run_path(str(TRAIN), run_name="imported")
    if plain.FOLDER in os.environ:  # in tests
        plain.use(train["PROJECT"])
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports half of torch
    Plugins.instance()  # imports hydra's own
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, all of this process's memory in every child


def _become(job: dict[str, Any]) -> None:
    """In the child: be `python *argv`."""
    for number, name in enumerate((os.devnull, job["stdout"], job["stderr"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    sys.path[:0] = filter(None, job["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.argv = job["argv"]
    if not sys.argv[0].endswith(TRAIN.name):  # train.py itself takes its folder off the path
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
    for number in (signal.SIGINT, signal.SIGHUP):  # until the program has its own handlers; `nohup pytest` ignores one
        signal.signal(number, signal.SIG_DFL)
    signal.alarm(TIMEOUT)
    code: Any = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as error:
        code = error.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    # as Python ends, but for taking all modules apart, which takes longer than most runs
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    serve()
