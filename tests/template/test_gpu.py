"""The program that checks the promises on a GPU runs everywhere; without one its rows say that they are open."""

import os
import subprocess
import sys

import pytest
import torch

from scaffolding.config import PROJECT_ROOT

FOLDER = PROJECT_ROOT / "scripts" / "template"


@pytest.mark.full
def test_the_program_for_gpus_runs_to_its_end() -> None:
    """About half a minute without a GPU. A missed speed is printed, and no error here."""
    words = [sys.executable, str(FOLDER / "gpu.py"), "--quick"]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=590, env=os.environ | {"WANDB_MODE": "disabled"}
    )
    rows = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert "Traceback" not in done.stderr and len(rows) > 15, done.stdout + done.stderr
    if not torch.cuda.is_available():
        assert done.returncode == 0, done.stdout + done.stderr
        assert sum("open: no GPU here" in row for row in rows) > 10
        assert sum("| identical | identical | ok |" in row for row in rows) == 1
