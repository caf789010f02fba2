"""A run of config version 4 and checkpoint format 3: it loads, goes on as it would have, is forked, is in tables."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Train, latest

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.facts import Facts
from scaffolding.evaluate import evaluate
from scaffolding.experiment import Experiment

RUN = Path(__file__).parent / "format3" / "mlp"
WORDS = (
    "data=digits", "model=mlp", "mode=prod", "run.log_every=6", "run.eval_every=6", "run.save_every=6",
    "run.ema_decay=0.9", "model.hidden_sizes=[16]", "loader.limit_train=300",
)  # fmt: skip


@pytest.fixture
def old(output_root: Path) -> Path:
    """A copy of the run, finished at step 12."""
    return Path(shutil.copytree(RUN, output_root / "mlp", symlinks=True))


def values(run: Path) -> dict[tuple[int, str], float]:
    """The loss of every row, by step and split."""
    return {(row["step"], row["split"]): row["loss"] for row in Facts(run / "facts").rows()}


def test_it_loads(old: Path) -> None:
    exp = Experiment.from_path(old)
    assert exp.state.step == 12 and exp.ema is not None
    assert evaluate(exp, "val")["loss"] == pytest.approx(values(old)[12, "val"], rel=1e-5)


def test_it_goes_on_as_it_would_have(train: Train, old: Path, output_root: Path) -> None:
    """Compared with a run that goes through today; another machine may compute other last bits."""
    done = train("resume=mlp", "run.budget=18")
    assert "older version" not in done.stderr and "no longer exist" not in done.stderr
    train(*WORDS, "tracker=none", "plots=none", "run.budget=18", "run.name=through")
    known, found = values(output_root / "through"), values(old)
    assert set(known) <= set(found) and {(18, "train"), (18, "val"), (18, "test")} <= set(known)
    assert [found[key] for key in known] == pytest.approx(list(known.values()), rel=1e-4)
    assert latest(old)["state"]["step"] == 18


def test_it_can_be_forked(train: Train, old: Path, output_root: Path) -> None:
    train("fork=mlp", "run.budget=2", "run.name=child")
    child = latest(output_root / "child")
    assert child["state"]["step"] == 2 and child["model"].keys() == latest(old)["model"].keys()


def test_it_is_in_the_table(old: Path, output_root: Path) -> None:
    script = PROJECT_ROOT / "scripts" / "runs.py"
    words = ["--columns", "optimizer.lr,test/accuracy", "--format", "csv", "--output", str(output_root)]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert found["optimizer.lr"] == "0.001" and math.isclose(float(found["test/accuracy"]), 0.1067, rel_tol=1e-2), found
