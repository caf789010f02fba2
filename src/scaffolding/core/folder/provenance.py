"""Where a number came from: commit, uncommitted work, packages, machine, command line."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

# not every token or key is a secret: pad_token and sort_key are settings, which a resumed run must find again
KINDS = "api|access|auth|bearer|hf|hub|private|refresh|secret|session|wandb"
NAMES = rf"(\w*(secret|password|passwd|credentials?)|(\w+_)?({KINDS})[_-]?(key|token)|token|key)"
SECRET = re.compile(rf"(^|[./+~]){NAMES}$", re.IGNORECASE)
INNER = re.compile(rf"""([{{\[,\s.]{NAMES}\s*:\s*)('[^']*'|"[^"]*"|[^,}}\]]+)""", re.IGNORECASE)


def masked(override: str) -> str:
    """An override `key=value`, its value, or those in it, hidden where a key's name says that it is a secret."""
    key, equals, value = override.partition("=")
    if equals and SECRET.search(key):
        return f"{key}=***"
    return key + equals + (INNER.sub(r"\1***", value) if value.startswith(("{", "[")) else value)


ARGV = [masked(word) for word in sys.argv]  # as it was typed: what Hydra is given comes later


def hide_secrets(node: Any, key: str = "") -> Any:
    """A plain config with the values of secret-looking keys replaced by ***."""
    if isinstance(node, dict):
        return {name: hide_secrets(value, str(name)) for name, value in node.items()}
    if isinstance(node, list):
        return [hide_secrets(value, key) for value in node]
    return "***" if isinstance(node, str) and node and SECRET.search(key) else node


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
