"""Asking git without the user's settings and without a trace: it works on copies of the index and a temporary folder of
objects, so that nothing in the repository changes.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from ..system import NEW_SESSION

TIMEOUT = 30.0  # seconds for all that git is asked
# of the environment only what says where to search and whom to trust; not, for example, the index of a hook
KEPT = ("GIT_CONFIG", "GIT_CEILING_DIRECTORIES", "GIT_DISCOVERY_ACROSS_FILESYSTEM", "GIT_EXEC_PATH")
ENVIRONMENT = {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_NO_LAZY_FETCH": "1", "LC_ALL": "C"}
SETTINGS = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.splitIndex": "false",
    "core.untrackedCache": "false",
    "core.quotePath": "true",
    "core.safecrlf": "false",  # it would refuse files
    "core.checkStat": "minimal",  # a copy of a checkout has other inodes
    "core.trustctime": "false",
    "diff.suppressBlankEmpty": "false",
}


class GitError(Exception):
    """Git does not say what is uncommitted; the text says why. `commit`: the last one, if git has said that."""

    commit: str | None = None


class Git:
    """Runs git commands in a repository, with an index and a folder of objects in `scratch`."""

    def __init__(self, root: Path, scratch: Path) -> None:
        self.end = time.monotonic() + TIMEOUT
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
        self.environment |= {name: text for name, text in os.environ.items() if name.startswith(KEPT)} | ENVIRONMENT
        self.top = root
        # the code of this folder runs anyway, whoever owns it
        pairs = SETTINGS | {"safe.directory": str(root.resolve())}
        self.options = [word for name, text in pairs.items() for word in ("-c", f"{name}={text}")]
        top, objects, index = self.lines("rev-parse", "--show-toplevel", "--git-path", "objects", "--git-path", "index")
        found = root / index
        self.environment["GIT_ALTERNATE_OBJECT_DIRECTORIES"] = _quoted(str(root / objects))
        self.environment["GIT_OBJECT_DIRECTORY"] = str(scratch / "objects")
        (scratch / "objects").mkdir()
        self.top = Path(top)
        try:
            self.commit: str | None = self.lines("rev-parse", "--verify", "--quiet", "HEAD^{commit}")[0]
        except GitError:
            self.commit = None
        self.tree = self.commit or self.lines("hash-object", "-w", "-t", "tree", "--stdin")[0]
        self.environment["GIT_INDEX_FILE"] = str(scratch / "index")
        if found.exists():
            shutil.copy2(found, scratch / "index")  # with its time, by which git judges its entries
        else:
            self("read-tree", self.tree)

    def __call__(self, *words: str, given: bytes = b"") -> bytes:
        command = ["git", "--literal-pathspecs", *self.options, *words]
        left = self.end - time.monotonic()
        try:
            if left <= 0:
                raise subprocess.TimeoutExpired(command, TIMEOUT)
            done = subprocess.run(  # in a new session: a Ctrl-C is meant for the run
                command, cwd=self.top, input=given, capture_output=True, timeout=left, env=self.environment,
                **NEW_SESSION,
            )  # fmt: skip
        except FileNotFoundError:
            raise GitError("git is not installed") from None
        except subprocess.TimeoutExpired:
            raise GitError(f"git took longer than {TIMEOUT:g} s") from None
        except OSError as error:
            raise GitError(f"git cannot be started: {error.strerror}") from error
        if done.returncode:
            first = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise GitError(f"git {words[0]}: {first or f'exit code {done.returncode}'}")
        output: bytes = done.stdout
        return output

    def lines(self, *words: str, given: bytes = b"") -> list[str]:
        return os.fsdecode(self(*words, given=given)).splitlines()

    def names(self, *words: str, given: Iterable[str] = ()) -> list[str]:
        """What a command with `-z` lists; `given` are names for its standard input."""
        found = self(*words, given=b"".join(os.fsencode(name) + b"\0" for name in given))
        return [os.fsdecode(part) for part in found.split(b"\0")[:-1]]


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'  # it may hold a colon, which separates folders
