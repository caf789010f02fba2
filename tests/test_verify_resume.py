"""verify_resume.py says that a sound setup is identical, and names where a planted fault shows."""

import pytest
from conftest import TINY, run_train

from scaffolding.config import PROJECT_ROOT

SCRIPT = PROJECT_ROOT / "scripts" / "verify_resume.py"
pytestmark = [pytest.mark.full, pytest.mark.skipif(not SCRIPT.exists(), reason="verify_resume.py has been deleted")]


@pytest.mark.parametrize("more", [[], ["run.ema_decay=0.9", "scheduler=cosine", "run.accumulate=2"]])
def test_a_sound_setup_is_identical(more: list[str]) -> None:
    said = run_train(*TINY[:4], *more, file=SCRIPT).stdout
    assert said.startswith("identical: killed and resumed at") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("loss._target_=tiny.HiddenLoss", ["differs from the run that went through", "something keeps state"]),
        ("data.dataset._target_=tiny.SetOrder", ["its items have other values now", "sort what"]),
    ],
)
def test_a_planted_fault_is_named(fault: str, words: list[str]) -> None:
    """State that is in no checkpoint; an order that is another in every process."""
    done = run_train(*TINY[:4], fault, file=SCRIPT, code=1)
    assert all(each in done.stdout + done.stderr for each in words)
