"""Files that appear whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..errors import StorageError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file aside, flush it to the disk, rename it over `path`, flush the folder: a crash leaves old or new."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(path.parent)
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


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut (elsewhere than on POSIX a folder cannot be opened)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def storage_error(path: Path, error: BaseException, size: int | None = None) -> StorageError:
    """The error for a file that could not be written: path, cause, bytes needed and free."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # torch hides a full disk in a RuntimeError
        cause = cause.__cause__ or cause.__context__
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause or error).partition("\n")[0]
    try:
        space = f"{shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    except OSError:
        space = "free space unknown"
    needed = f"{size / 1e6:.1f} MB needed, " if size is not None else ""
    return StorageError(f"could not write {path}: {why} ({needed}{space}); what was there before is untouched")
