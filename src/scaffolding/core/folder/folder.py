"""Run folders: claiming a new one, finding one, one writer at a time, its status, and files that a crash leaves whole.

Does not import torch.
"""

import contextlib
import errno
import os
import random
import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from loguru import logger

from .. import system
from ..errors import StorageError, UserError
from .reading import open_here, read_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,+-]{0,199}")
CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS)
TIME = "%Y-%m-%d_%H-%M-%S"
RESERVED = re.compile(r"dev|latest|jobs|exp_.*")  # dev runs, resume=latest, code of submitted jobs, sweeps
LOCK = ".lock"  # in the folder of a run, a job or a sweep
DELETED = "was deleted meanwhile\nrun the command again"
LOCK_WAIT = 1.0  # seconds: whoever only looks (read_status) has the lock for an instant
# Record locks: a forked worker does not inherit them, as it would a flock, and so cannot keep a dead run locked. They
# end when the process closes the file anywhere, so a file that is held is never opened a second time.
_held: dict[Path, IO[str]] = {}
_claiming = threading.Lock()
written: list[Path] = []  # run folders that this process made or changed


# --- claiming


def claim(output: Path, name: str | None, suffix: str = "") -> Path:
    """Make and lock a new run folder, <date>_<time>_<adjective>_<animal>, that no other process has or gets.

    A folder that was left half made, by a kill before it had a config, is taken over.

    Raises:
        UserError: `name` is taken or not fit for a folder; the folder cannot be made.
    """
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"run.name={name!r} is not a folder name\nallowed: letters, digits and . _ - = , +, up to 200")
    if RESERVED.fullmatch(f"{name}{suffix}") and (name, output.name) != ("dev", "dev"):  # dev/dev hides nothing
        raise UserError(
            f"run.name={name}: this name is reserved (resume=latest, dev runs, jobs, sweeps)\nchoose another name"
        )
    state = random.getstate()
    import coolname  # draws from the global generator when it is imported

    random.setstate(state)
    coolname.replace_random(random.Random())  # a name must not change what the run draws
    while True:
        new_name = f"{datetime.now():{TIME}}_{'_'.join(coolname.generate(2))}"
        path = output / f"{name or new_name}{suffix}"
        try:
            output.mkdir(parents=True, exist_ok=True)
            with _claiming:
                if _make(path):
                    written.append(path)
                    _sync_folder(output)
                    _sync_folder(output.parent)
                    return path
            if name is not None:
                raise UserError(
                    f"run.name={name}: {path} exists\nchoose another name, or carry a run on with resume=NAME"
                )
        except FileExistsError:
            raise UserError(f"paths.output={output} is a file\nchoose another folder") from None
        except OSError as error:
            raise UserError(f"paths.output={output}: no run folder can be made there: {error.strerror}") from error


def _make(path: Path) -> bool:
    """Make and lock a folder, or take over what a kill left of one; False: it exists."""
    try:
        path.mkdir()
        acquire(path)
        return True
    except FileExistsError:
        if path.resolve() / LOCK in _held or not _is_half_made(path):
            return False
    acquire(path)  # or another process is just making it
    if not _is_half_made(path):
        release(path)
        return False
    shutil.rmtree(path / "checkpoints", ignore_errors=True)
    return True


def _is_half_made(path: Path) -> bool:
    """Whether a folder holds nothing but what a new run gets before its config.yaml."""
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.name.endswith(".tmp")}
    known = {LOCK, "provenance.json", "overrides.yaml"}
    if "overrides.yaml" in files:  # then come links to the checkpoints that it starts from
        known |= {"checkpoints", *(f"checkpoints/{name}.pt" for name in ("parent", "parent_best", "latest", "best"))}
    return path.is_dir() and files <= known


# --- one writer at a time: a lock that the system frees when the process ends, however it ends


def acquire(run: Path, note: bool = True) -> None:
    """Take the lock of a run until `release` or the end of this process, and note down who has it.

    Raises:
        UserError: another process has it, which is named; the folder cannot be written, or is deleted meanwhile.
    """
    path = run.resolve() / LOCK
    try:
        file = _held.get(path) or open(path, "a+", opener=open_here)  # noqa: SIM115 (closing it would free the lock)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise UserError(f"{path} is a link, a folder or a pipe\ndelete it") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(
                f"{run} cannot be written: {error.strerror}\nfork={run.name} starts a new run from its weights"
            ) from error
        if error.errno == errno.ENOENT:
            raise UserError(f"{run} {DELETED}") from error
        raise
    begin = time.monotonic()
    while path not in _held:
        try:
            system.lock(file)
            _held[path] = file
        except OSError as error:
            if error.errno not in system.IN_USE:
                logger.warning(f"{path}: no locks here ({error.strerror}); do not carry a run on twice at a time")
                _held[path] = file
            if time.monotonic() - begin > LOCK_WAIT:
                file.seek(0)
                raise UserError(
                    f"{run.name} is in use by {file.read() or 'a process'}\nwait for it, or stop it"
                ) from None
            time.sleep(0.05)
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # it locks nothing any more
        release(run)
        raise UserError(f"{run} {DELETED}")
    if note:
        with contextlib.suppress(OSError):  # a full disk: the lock itself holds all the same
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
            file.flush()


def release(run: Path) -> None:
    """Give the lock back."""
    file = _held.pop(run.resolve() / LOCK, None)
    if file is not None:
        with contextlib.suppress(OSError):  # of a note that was not written; it is closed all the same
            file.close()


# --- status


def read_status(path: Path) -> dict[str, Any]:
    """status.json; a run whose process ended on this machine without writing a status reads `died`."""
    file = path / "status.json"
    if not os.path.lexists(file):
        return {"status": "unknown"}
    try:
        content = read_json(file)
    except UserError as error:
        return {"status": "damaged", "reason": str(error)}
    for name, kind in (("status", str), ("step", int), ("num_steps", int)):
        if not isinstance(content.get(name, kind()), kind):
            return {"status": "damaged", "reason": f"{file}: {name} is {content[name]!r:.50}"}
    content.setdefault("status", "unknown")
    lock = path.resolve() / LOCK
    if content["status"] != "running" or content.get("host") != socket.gethostname() or lock in _held:
        return content
    try:
        with open(lock, opener=open_here) as held:
            system.lock(held, is_shared=True)
        content["status"] = "died"
    except FileNotFoundError:
        content["status"] = "died"
    except OSError as error:
        if error.errno not in system.IN_USE:
            content["status"] = "died"
    return content


# --- files that appear whole or not at all


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside, flush it to the disk, rename it over `path`, flush the folder: a crash leaves old or new."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        aside.unlink(missing_ok=True)
        with open(aside, "xb") as file:  # not through a link that lies there
            yield file
            file.flush()
            os.fsync(file.fileno())
        system.replace(aside, path)
        _sync_folder(path.parent)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # writing and flushing do not say which file it was
        with contextlib.suppress(OSError):  # the error that counts is the one being raised
            aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def link(path: Path, other: Path) -> None:
    """Make `other` the same file as `path`, whole or not at all; a copy where the file system has no links."""
    aside = other.with_name(f".{other.name}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        with open(path, "rb") as source, replacing(other) as copy:
            shutil.copyfileobj(source, copy)
        return
    system.replace(aside, other)
    aside.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
    _sync_folder(other.parent)


def _sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut, where the file system can flush folders (CIFS, FUSE cannot)."""
    if system.IS_WINDOWS:
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in CANNOT_FLUSH:
            raise
    finally:
        os.close(handle)


def storage_error(path: Path, error: BaseException, size: int | None = None) -> StorageError:
    """The error for a file that could not be written: path, cause, bytes needed and free."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # torch hides a full disk in a RuntimeError
        cause = cause.__cause__ or cause.__context__
    why = str(cause or error).partition("\n")[0]
    if isinstance(cause, OSError) and cause.strerror:
        why = cause.strerror
    try:
        space = f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    except OSError:
        space = "free space unknown"
    needed = ""
    if size is not None:
        needed = f"{size / 1e6:.1f} MB needed, "
    return StorageError(f"could not write {path}: {why} ({needed}{space}); what was there before is untouched")
