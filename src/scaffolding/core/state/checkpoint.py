"""Checkpoints: whole or absent, checksummed, plain values only.

A crash at any moment leaves either the old file or the new one (files.py). The checksum file beside it is replaced
first and lists the new hash and those that may be there, so it matches whichever file a crash leaves.
"""

import hashlib
import os
import re
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from loguru import logger
from torch import Tensor, nn

from ..errors import DamagedError, RunError, UserError
from ..folder.files import replacing, storage_error, sync_folder, write_text

FORMAT = 1
PLAIN = {type(None), bool, int, float, complex, str, bytes, list, tuple, dict, OrderedDict, set}
PLAIN |= {torch.Size, torch.dtype, torch.device}


@dataclass
class RunState:
    """Counters that resume needs, beside what modules and optimizers hold themselves."""

    step: int = 0  # optimizer updates attempted
    applied: int = 0  # of these, applied (a float16 update with infinite gradients is skipped)
    skipped_in_row: int = 0
    epoch: int = 0
    batch: int = 0  # micro-batches used of the running epoch
    samples: int = 0  # training items used
    best: float | None = None  # best monitored value
    best_step: int | None = None
    evaluations_since_best: int = 0
    stopped: bool = False  # before the budget: out of patience, or the target loss reached
    completed: bool = True  # what follows the last step is done; else a signal cut its evaluation short

    def advance(self, num_batches: int, num_items: int, batches_per_epoch: int) -> None:
        """Count one optimizer step."""
        self.step, self.completed = self.step + 1, False
        self.samples += num_items
        self.batch += num_batches
        if self.batch == batches_per_epoch:
            self.epoch, self.batch = self.epoch + 1, 0

    def judge(self, value: float, mode: str) -> bool:
        """Count one evaluation; True where `value` is the best so far (NaN never is)."""
        better = self.best is None or (value < self.best if mode == "min" else value > self.best)
        if better and value == value:
            self.best, self.best_step, self.evaluations_since_best = value, self.step, 0
            return True
        self.evaluations_since_best += 1
        return False


_hashes: dict[Path, str] = {}  # of the files this process has put in place


class _HashingFile:
    """A binary file opened for writing that hashes what goes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _hash_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_hash(path: Path, digest: str) -> None:
    file = _hash_file(path)
    listed = file.read_text(errors="replace").split() if file.exists() else []
    before = [_hashes[path]] if path in _hashes else listed
    write_text(file, "\n".join([digest, *before]) + "\n")


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint `path` by `content` (tensors and plain values).

    Raises:
        StorageError: the disk is full or the folder cannot be written; the checkpoint before is untouched.
    """
    try:
        with replacing(path) as file:
            hashing = _HashingFile(file)
            torch.save(content, hashing)  # type: ignore[arg-type]
            digest = hashing.hash.hexdigest()
            _write_hash(path, digest)
        _hashes[path] = digest
    except (OSError, RuntimeError) as error:
        size = sum(value.nbytes for _, value in leaves(content) if isinstance(value, Tensor))
        raise storage_error(path, error, size) from error


def link(path: Path, other: Path) -> None:
    """Make `other` the same checkpoint as `path` without writing it again (a copy where links are not possible).

    Raises:
        StorageError: as `save`.
    """
    aside = other.with_name(f".{other.name}.tmp")
    try:
        digest = _hashes.get(path) or _hash_of(path)  # not the first one listed: a kill may have come before its file
        _write_hash(other, digest)
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)
        os.replace(aside, other)
        aside.unlink(missing_ok=True)  # renaming one name of a file to another of the same file does nothing
        _hashes[other] = digest
        sync_folder(other.parent)
    except OSError as error:
        raise storage_error(other, error) from error


def remove(path: Path) -> None:
    """Delete a checkpoint, then its checksum."""
    path.unlink()
    _hash_file(path).unlink(missing_ok=True)
    _hashes.pop(path, None)


def step_files(folder: Path) -> list[Path]:
    """The step_<N>.pt of a folder of checkpoints, oldest first."""
    return sorted(folder.glob("step_*.pt"), key=lambda file: int(file.stem.removeprefix("step_")))


def load_newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """latest.pt and its content, or, where it is missing or damaged, the newest whole checkpoint; names both.

    Raises:
        UserError: there is none, or the newest is not from here.
    """
    latest = folder / "latest.pt"
    others = sorted(folder.glob("*.pt"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    failed = ""
    for file in [latest, *(file for file in others if file != latest)]:
        try:
            content = load(file)
        except DamagedError as error:
            failed = failed or str(error).partition("\n")[0]
            continue
        if failed:
            logger.warning(f"{failed}; carrying on from {file.name}, step {content['state']['step']}")
        return file, content
    raise UserError(f"{failed}\nno other checkpoint there is whole")


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every value in nested dicts, lists and tuples."""
    if not isinstance(content, dict | list | tuple):
        yield name, content
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield from leaves(value, f"{name}.{key}" if name else str(key))


def check_plain(content: Any, name: str = "") -> None:
    """RunError with the name of the first value that could be saved but, with weights_only=True, not loaded again."""
    if type(content) not in PLAIN and not isinstance(content, Tensor):  # a numpy scalar is a float, too
        what = f"{type(content).__module__}.{type(content).__qualname__}"
        raise RunError(
            f"{name} is a {what}; a checkpoint holds tensors, numbers, strings, lists and dicts of them"
            "\nconvert it in state_dict (float(), torch.from_numpy(), str()), and back in load_state_dict"
        )
    if isinstance(content, dict):
        check_plain(list(content), f"keys of {name or 'the checkpoint'}")
    for key, value in content.items() if isinstance(content, dict) else enumerate(_items(content)):
        check_plain(value, f"{name}.{key}" if name else str(key))


def _items(content: Any) -> Any:
    return content if isinstance(content, list | tuple | set) else ()


def best_of(run: Path) -> Path:
    """The best checkpoint of a run, or its latest where none was the best yet."""
    best, latest = (run / "checkpoints" / f"{name}.pt" for name in ("best", "latest"))
    return best if best.exists() else latest


def read(path: Path, mmap: bool = False) -> Any:
    """What a file holds, unchecked: tensors and plain values only, and not more than the file is long."""
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:  # ours are not compressed
            raise zipfile.BadZipFile("it would unpack to more than its size")
    with warnings.catch_warnings(action="ignore"):  # on formats that are not ours: refused in words of our own
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


class Parts(dict[str, Any]):
    """What a checkpoint holds; UserError where it lacks a part."""

    def __missing__(self, part: str) -> Any:
        raise UserError(f"the checkpoint has no {part!r}; it has {', '.join(map(str, self)):.200}")


def load(path: Path) -> Parts:
    """The content of a checkpoint, on the CPU; UserError if it is missing, damaged (checksum) or no plain values."""
    if not path.is_file():
        raise DamagedError(f"there is no checkpoint {path}\ncheckpoints there: {_beside(path)}")
    size, hashes = path.stat().st_size, _hash_file(path)
    expected = hashes.read_text(errors="replace").split() if hashes.exists() else []
    found = _hash_of(path) if expected else ""
    if expected and found not in expected:
        raise DamagedError(
            f"{path} ({size} bytes) is damaged: its sha256 is {found[:12]}..., not {expected[0][:12]}..."
            f"\nother checkpoints there: {_beside(path)}"
        )
    try:
        content = read(path)
    except zipfile.BadZipFile as error:
        raise DamagedError(
            f"{path} ({size} bytes) is no checkpoint, or not a whole one: {error!s:.100}"
            f"\nother checkpoints there: {_beside(path)}"
        ) from error
    except Exception as error:
        foreign, text = re.search(r"GLOBAL ([\w.]+)", str(error)), str(error).partition("\n")[0][:200]
        if "eights" in text or not text:  # torch's own words recommend to run what is in the file
            text = foreign[1] if foreign else type(error).__name__
        raise UserError(
            f"{path}: refused, only tensors and plain values are loaded: {text}"
            "\nwhere it was written, convert numbers with float(), arrays with torch.as_tensor(), the rest with str()"
        ) from error
    try:
        version = int(content.get("format", 0))
        RunState(**content.get("state", {}))
    except (AttributeError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} is not a checkpoint of this template: {error!s:.200}") from error
    if version != FORMAT:
        raise UserError(f"{path} is not a checkpoint of format {FORMAT}, which this code reads, but of {version}")
    return Parts(content)


def _beside(path: Path) -> str:
    from ..folder.find import checkpoints_beside  # imported only where something is missing

    return checkpoints_beside(path)


def load_strictly(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that must fit exactly; UserError with the first names that do not and how many there are."""
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        from ..folder.find import misfits  # imported only here

        raise UserError(f"{misfits(model.state_dict(), weights) or error}") from error
