"""What the owner of a fork may do by hand: delete any example or analysis script; the quick tests stay green."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_rename import copy_repository

# each group of deletions leaves something to train; between them every example and script is deleted once
DELETIONS = {
    "defaults": ["data/mnist*", "model/convnet*"],
    "others": ["data/cifar10*", "data/digits*", "model/mlp*", "model/module*"],
    "scripts": ["scripts/find_hardest*", "scripts/runs*", "scripts/explore*", "experiment/*"],
}


@pytest.mark.full
@pytest.mark.parametrize("which", ["defaults", "others", "scripts"])
def test_deleted_by_hand(tmp_path: Path, which: str) -> None:
    fork = copy_repository(tmp_path / "fork")
    removed = []
    for pattern in DELETIONS[which]:
        for folder in ("configs", "src/scaffolding", "."):
            removed += list((fork / folder).glob(pattern))
    assert removed
    for file in removed:
        file.unlink()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(fork / "src")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not full", "-n", "2", "-p", "no:cacheprovider"]
    command += ["--ignore=tests/template"]
    done = subprocess.run(command, check=False, cwd=fork, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
