"""Checkpoints: whole or absent, checksummed, plain values only.

A crash at any moment leaves either the old file or the new one (files.py). The checksum file beside it is replaced
first and lists the new hash and the one before, so it matches whichever of the two files a crash leaves.
"""

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

from .errors import RunError, UserError
from .files import replacing, sync_folder, write_text

FORMAT = 1


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
    target_reached: bool = False

    def advance(self, num_batches: int, num_items: int, batches_per_epoch: int) -> None:
        """Count one optimizer step."""
        self.step += 1
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


class _HashingFile:
    """A binary file opened for writing that hashes what goes through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _hash_file(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint `path` by `content` (tensors and plain values).

    Raises:
        RunError: the disk is full or the folder cannot be written; the checkpoint before is untouched.
    """
    hashes = _hash_file(path)
    before = hashes.read_text().split()[:1] if hashes.exists() else []
    try:
        with replacing(path) as file:
            hashing = _HashingFile(file)
            torch.save(content, hashing)
            write_text(hashes, "\n".join([hashing.hash.hexdigest(), *before]) + "\n")
    except (OSError, RuntimeError) as error:  # torch hides a full disk in a RuntimeError
        free = shutil.disk_usage(path.parent).free
        raise RunError(
            f"could not write {path}: {error}\n{free / 1e9:.2f} GB are free there; the checkpoint before is untouched"
        ) from error


def link(path: Path, other: Path) -> None:
    """Make `other` the same checkpoint as `path` without writing it again (a copy where links are not possible)."""
    before = _hash_file(other).read_text().split()[:1] if other.exists() else []
    write_text(_hash_file(other), "\n".join([_hash_file(path).read_text().split()[0], *before]) + "\n")
    aside = other.with_name(f".{other.name}.tmp")
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:
        shutil.copyfile(path, aside)
    os.replace(aside, other)
    sync_folder(other.parent)


def load_strictly(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that must fit exactly.

    Raises:
        UserError: the first names that are missing, not expected or of another shape, and how many there are.
    """
    own = model.state_dict()
    problems = [f"{name} is missing" for name in own if name not in weights]
    problems += [f"{name} is not expected" for name in weights if name not in own]
    problems += [
        f"{name}: saved {tuple(weights[name].shape)}, here {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if problems:
        raise UserError(
            f"the checkpoint does not fit {type(model).__name__} in {len(problems)} entries: {'; '.join(problems[:5])}"
        )
    model.load_state_dict(weights)


def load(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        UserError: there is no such file; it is damaged (checksum); it holds more than tensors and plain values.
    """
    if not path.exists():
        found = sorted(file.stem for file in path.parent.glob("*.pt"))
        raise UserError(f"there is no checkpoint {path}\ncheckpoints there: {', '.join(found) or 'none'}")
    hashes = _hash_file(path)
    if hashes.exists():
        with open(path, "rb") as file:
            found_hash = hashlib.file_digest(file, "sha256").hexdigest()
        expected = hashes.read_text().split()
        if found_hash not in expected:
            raise UserError(
                f"{path} is damaged: its sha256 is {found_hash[:12]}..., {hashes.name} says {expected[0][:12]}...\n"
                f"{path.stat().st_size} bytes; other checkpoints there: "
                f"{', '.join(sorted(f.stem for f in path.parent.glob('*.pt') if f != path)) or 'none'}"
            )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path} ({path.stat().st_size} bytes) cannot be read: {str(error).splitlines()[0] if str(error) else error!r}"
            "\nonly tensors and plain values are loaded"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this template (format {FORMAT})")
    return content


def first_difference(left: Any, right: Any, name: str = "") -> str | None:
    """The dotted name of the first value in which two nested states differ, bit for bit; None where they are equal."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape and _bits(left) == _bits(right)
        return None if same else name
    if isinstance(left, dict) and isinstance(right, dict):
        if list(left) != list(right):
            return f"{name} (keys)"
        pairs = [(str(key), left[key], right[key]) for key in left]
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            return f"{name} (length)"
        pairs = [(str(index), *values) for index, values in enumerate(zip(left, right, strict=True))]
    else:
        return None if left == right or (left != left and right != right) else name
    for key, one, other in pairs:
        if found := first_difference(one, other, f"{name}.{key}" if name else key):
            return found
    return None


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def count_tensors(content: Any) -> int:
    """Number of tensors in a nested state."""
    if isinstance(content, Tensor):
        return 1
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(count_tensors(value) for value in values)


def first_nonfinite(state: dict[str, Tensor]) -> str | None:
    """The first entry of a state dict that holds an infinite or NaN value, or None."""
    floating = {name: value for name, value in state.items() if value.is_floating_point() and value.numel()}
    if not floating:
        return None
    norms = torch.stack([norm.cpu() for norm in torch._foreach_norm(list(floating.values()))])
    if bool(norms.isfinite().all()):
        return None
    # a norm may overflow where the values are finite: look again, value by value
    return next((name for name, value in floating.items() if not bool(value.isfinite().all())), None)
