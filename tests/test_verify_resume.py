"""verify_resume.py says that a sound setup is identical, and names where a planted fault shows."""

import os
import subprocess
import sys

import pytest
from conftest import ENV, TINY

from scaffolding.config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "scripts" / "verify_resume.py"
pytestmark = [pytest.mark.full, pytest.mark.skipif(not SCRIPT.exists(), reason="verify_resume.py has been deleted")]


def verify(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(SCRIPT), *TINY[:4], *words]
    return subprocess.run(command, env={**os.environ, **ENV}, capture_output=True, text=True)


@pytest.mark.parametrize("more", [[], ["run.ema_decay=0.9", "scheduler=cosine", "run.accumulate=2"]])
def test_a_sound_setup_is_identical(more: list[str]) -> None:
    done = verify(*more)
    assert done.returncode == 0 and done.stdout.startswith("identical: killed and resumed at"), done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("fault", ["loss._target_=tiny.HiddenLoss", "data.dataset._target_=tiny.SetOrder"])
def test_a_planted_fault_is_named(fault: str) -> None:
    """State that is in no checkpoint; an order that is another in every process."""
    done = verify(fault)
    assert done.returncode == 1 and "differs from the run that went through" in done.stdout, done.stdout + done.stderr
    assert "something keeps state that is not in the checkpoint" in done.stdout and "sort what" in done.stdout
