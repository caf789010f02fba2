"""Where a number came from: commit, uncommitted work, packages, machine, command line."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..config.compose import hide_secrets as hide_secrets
from ..config.compose import masked as masked

ARGV = [masked(word) for word in sys.argv]  # as it was typed: what Hydra is given comes later


def _git(root: Path, *arguments: str, index: str | None = None) -> str | None:
    environment = os.environ | ({"GIT_INDEX_FILE": index} if index else {})
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, timeout=30, env=environment, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def uncommitted_changes(root: Path) -> str:
    """A patch of all that differs from the commit, new files too: applied to its checkout it gives this tree."""
    with tempfile.TemporaryDirectory() as folder:  # an index of our own: the user's stays as it is
        index = str(Path(folder, "index"))
        _git(root, "read-tree", "HEAD", index=index)
        _git(root, "add", "--all", ".", index=index)
        return _git(root, "diff", "--cached", "--binary", "HEAD", index=index) or ""


def code_hash(sources: Path) -> str:
    """A hash of all python files below a folder."""
    found = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        found.update(repr((file.relative_to(sources).as_posix(), file.read_bytes())).encode())
    return found.hexdigest()[:16]


def numerics(device: torch.device) -> dict[str, Any]:
    """What may change the last bits of a result."""
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def describe(root: Path, sources: Path, device: torch.device) -> dict[str, Any]:
    """What provenance.json holds; `sources` is the folder of the package."""
    status = _git(root, "status", "--porcelain")
    return {
        "commit": (_git(root, "rev-parse", "HEAD") or "").strip() or None,
        "dirty": bool(status) if status is not None else None,
        "code": code_hash(sources),
        "argv": ARGV,
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "numerics": numerics(device),
        "packages": dict(sorted((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())),
    }
