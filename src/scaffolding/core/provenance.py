"""Where a number came from: commit, uncommitted work, packages, machine, command line."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

SECRET = re.compile(r"(token|secret|passw|credential|api_?key|(^|[._])key$)", re.IGNORECASE)
MAX_UNTRACKED = 1_000_000  # bytes of an untracked file that still goes into changes.patch


def masked(override: str) -> str:
    """An override `key=value`, its value hidden where the key's name says it is a secret."""
    key, equals, _ = override.partition("=")
    return f"{key}=***" if equals and SECRET.search(key) else override


def hide_secrets(node: Any, key: str = "") -> Any:
    """A plain config with the values of secret-looking keys replaced by ***."""
    if isinstance(node, dict):
        return {name: hide_secrets(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [hide_secrets(value, key) for value in node]
    return "***" if isinstance(node, str) and node and SECRET.search(key) else node


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def uncommitted_changes(root: Path) -> str:
    """A patch of everything that differs from the commit: `git apply` on a clean checkout of it gives this tree."""
    patch = _git(root, "diff", "HEAD", "--binary") or ""
    for name in (_git(root, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0"):
        file = root / name
        if name and file.is_file() and file.stat().st_size <= MAX_UNTRACKED:
            done = subprocess.run(  # exits with 1 where the files differ, which they do
                ["git", "diff", "--no-index", "--binary", "--", os.devnull, name],
                cwd=root,
                capture_output=True,
                check=False,
            )
            patch += done.stdout.decode(errors="replace")
    return patch


def describe(root: Path) -> dict[str, Any]:
    """What provenance.json holds. Imports of torch are the caller's: this reads what is loaded."""
    import torch

    status = _git(root, "status", "--porcelain")
    return {
        "commit": (_git(root, "rev-parse", "HEAD") or "").strip() or None,
        "dirty": bool(status) if status is not None else None,
        "argv": [masked(word) for word in sys.argv],
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "numerics": {
            "torch": torch.__version__,
            "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
        "packages": dict(sorted((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())),
    }
