"""Every optimizer and schedule of torch resumes exactly, or is refused in words."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.state import checkpoint

sys.path.append(str(PROJECT_ROOT / "scripts" / "template"))
import optimizers

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
TYPES = ["bfloat16", *(pytest.param(dtype, marks=pytest.mark.full) for dtype in ("float32", "float64"))]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_resumes_exactly_or_is_refused(tmp_path: Path, name: str, dtype: str) -> None:
    found = optimizers.outcome(optimizers.optimizer_words(name, dtype), tmp_path)
    assert found == "exact" or (name == "LBFGS" and "wants a closure" in found), found


@pytest.mark.parametrize("name", optimizers.SCHEDULES)
def test_every_schedule_resumes_exactly(tmp_path: Path, name: str) -> None:
    assert optimizers.outcome(optimizers.schedule_words(name), tmp_path) == "exact"


def test_a_state_that_is_cast_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch alone casts NAdam's and ASGD's float32 state to the type of the weights."""

    def load(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        optimizer.load_state_dict(saved)

    monkeypatch.setattr(checkpoint, "load_optimizer", load)
    assert "differs" in optimizers.outcome(optimizers.optimizer_words("NAdam", "bfloat16"), tmp_path)
