"""Runs that version 1 of the template wrote: they load, can be forked, and go on, if not exactly."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Train, latest

from scaffolding.core.folder.facts import Facts
from scaffolding.core.state.checkpoint import FORMAT
from scaffolding.core.trust.config import open_config
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment

RUNS = Path(__file__).parent / "format1"


@pytest.fixture(params=["mlp", "gan"])
def old(request: pytest.FixtureRequest, output_root: Path) -> Path:
    """A copy of an old run, finished at step 12: one loss, or two with a wider config."""
    return Path(shutil.copytree(RUNS / request.param, output_root / request.param, symlinks=True))


def test_it_loads(old: Path) -> None:
    exp = Experiment.from_path(old)
    assert exp.state.step == 12 and exp.state.position == 12
    rows = [row for row in exp.history() if row["split"] == "val" and row["step"] == 12]
    name = "loss" if old.name == "mlp" else "discriminator/real"
    found = evaluate(exp, "val")[name]
    assert found == pytest.approx(rows[0][name], rel=1e-6 if old.name == "mlp" else 0.1)  # noise is keyed otherwise


def test_it_can_be_forked(train: Train, old: Path, output_root: Path) -> None:
    train(f"fork={old.name}", "run.budget=2", "run.name=child")
    child = latest(output_root / "child")
    assert child["format"] == FORMAT and child["state"]["step"] == 2
    weights = torch.load(old / "checkpoints" / "best.pt", weights_only=True)["ema"]["model"]
    assert child["model"].keys() == weights.keys()


def test_a_limit_of_one_item_is_still_one(old: Path) -> None:
    config = yaml.safe_load((old / "config.yaml").read_text())
    config["loader"] |= {"limit_train": 1.0, "limit_eval": 0.5}
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    limits = open_config(old, PROJECT, None)["loader"]
    assert limits["limit_train"] == 1 and isinstance(limits["limit_train"], int) and limits["limit_eval"] == 0.5


def test_it_goes_on_and_says_why_not_exactly(train: Train, old: Path) -> None:
    done = train(f"resume={old.name}", "run.budget=18")
    lines = [line for line in done.stderr.splitlines() if "older version" in line]
    assert len(lines) == 1 and "not with the numbers that it would have drawn" in lines[0]
    content = latest(old)
    assert content["format"] == FORMAT and (content["state"]["step"], content["state"]["position"]) == (18, 18)
    steps = [(row["step"], row["split"]) for row in Facts(old / "facts").rows()]
    assert steps == [(6, "val"), (12, "train"), (12, "val"), (18, "train"), (18, "val"), (18, "test")]
