"""Where a number came from: commit, uncommitted work, packages, machine, command line."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from ..config.compose import masked
from .folder import storage_error, write_text

ARGV = [masked(word) for word in sys.argv]  # as it was typed: what Hydra is given comes later


def _git(root: Path, *arguments: str, index: str | None = None) -> str | None:
    environment = dict(os.environ)
    if index is not None:
        environment["GIT_INDEX_FILE"] = index
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
    name = f"{device.type} {platform.machine()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "torch": str(torch.__version__),
        "device": name,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def describe(root: Path, sources: Path, device: torch.device) -> dict[str, Any]:
    """What provenance.json holds; `sources` is the folder of the package."""
    status = _git(root, "status", "--porcelain")
    installed = [package.metadata for package in importlib.metadata.distributions()]
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
        "packages": dict(sorted((found["Name"], found["Version"]) for found in installed if "Name" in found)),
    }


def record(run: Path, project: Any, device: torch.device, step: int) -> None:
    """Write provenance.json and changes.patch of a run (after the first step: packages take a while to list).

    Those of a resumed run are added under "resumed" and as changes_<step>.patch; a rehearsal has none.
    """
    file = run / "provenance.json"
    before = json.loads(file.read_text())
    if "parent" not in before:
        return
    now, patch = describe(project.root, project.sources, device), "changes.patch"
    if "commit" in before:
        del now["packages"]
        now = {"resumed": [*before.get("resumed", ()), {"step": step, **now}]}
        patch = f"changes_{step}.patch"
    try:
        write_text(file, json.dumps(before | now, indent=2) + "\n")
        write_text(run / patch, uncommitted_changes(project.root))
    except OSError as error:
        logger.warning(f"{storage_error(file, error)}; training goes on")
