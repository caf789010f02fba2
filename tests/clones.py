"""A copy of the project in a git repository with one commit, for tests that edit its code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import plain
from conftest import ENV, TESTS

from scaffolding.config import PROJECT_ROOT

IGNORED = "__pycache__/\n_output/\n_data/\n.env\nconfigs/local.yaml\n"


def make_clone(place: Path) -> Path:
    """Copy what a run needs, and commit it."""
    ignored = shutil.ignore_patterns("__pycache__", "_output", "_data", "local.yaml")
    for name in ("src", "configs", "scripts"):
        shutil.copytree(PROJECT_ROOT / name, place / name, ignore=ignored)
    base = place / "configs/base.yaml"
    base.write_text(plain.plain(base.read_text(), place / "configs"))
    (place / ".gitignore").write_text(IGNORED)
    git(place, "init", "-q")
    commit(place)
    return place


def git(place: Path, *words: str) -> str:
    """What git says."""
    return subprocess.run(["git", *words], cwd=place, check=True, capture_output=True, text=True).stdout


def commit(place: Path) -> None:
    """Commit all that there is."""
    git(place, "add", "-A")
    git(place, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")


def train_file(clone: Path) -> Path:
    """The entry point of a clone."""
    return next(clone.glob("src/*/train.py"))


def environment(clone: Path) -> dict[str, str]:
    """The environment in which a clone runs its own code, and finds what the tests build."""
    return os.environ | ENV | {"PYTHONPATH": os.pathsep.join([str(clone / "src"), str(TESTS)])}


def call(
    clone: Path, file: Path, *words: str, code: int = 0, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a file of a clone, with its code, without a terminal."""
    done = subprocess.run(
        [sys.executable, str(file), *words],
        cwd=clone,
        env=environment(clone) | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done
