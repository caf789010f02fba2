"""verify_resume.py says that a sound setup is identical, and names each planted fault and its mend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaffolding.config import PROJECT_ROOT

TESTS, SCRIPT = Path(__file__).parent, PROJECT_ROOT / "scripts" / "verify_resume.py"
BASE = ("--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not SCRIPT.exists(), reason="verify_resume.py has been deleted"),
]


def verify(*words: str) -> "subprocess.CompletedProcess[str]":
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(SCRIPT), *BASE, *words]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)


@pytest.mark.parametrize("more", [[], ["run.ema_decay=0.9", "scheduler=cosine", "run.accumulate=2"]])
def test_a_sound_setup_is_identical(more: list[str]) -> None:
    done = verify(*more)
    assert done.returncode == 0 and done.stdout.startswith("identical: killed after step "), done.stdout + done.stderr
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("word", "names", "mend"),
    [
        pytest.param("data.dataset._target_=planted.OwnGenerator", "the batch|planted.NOISE (Generator)",
                     "global generator"),
        pytest.param("data.dataset._target_=planted.SetOrder", "the batch|data.train.dataset.names (list)",
                     "sort"),
        pytest.param("data.dataset._target_=planted.Clock", "the batch|planted.Clock", "global generator"),
        pytest.param("loss._target_=planted.CountingLoss", "model.|loss.calls (int)", "register_buffer"),
        pytest.param("loss._target_=planted.AverageLoss", "model.|loss.average (TinyNet)", "run.ema_decay"),
        pytest.param("+metrics.mean._target_=planted.AverageAccuracy", "val/mean|metrics.mean.average (dict)",
                     "run.ema_decay"),
    ],
    ids=lambda value: value.rpartition(".")[2] if "_target_" in value else "",
)  # fmt: skip
def test_a_planted_fault_is_named_with_its_mend(word: str, names: str, mend: str) -> None:
    done = verify(word)
    assert done.returncode == 1, done.stdout + done.stderr
    first, cause, last = done.stdout.splitlines()
    expected = names.split("|")
    assert first.startswith("differs at step ") and expected[0] in first
    assert cause.startswith("cause: ") and expected[1] in cause
    assert last.startswith("mend: ") and mend in last
