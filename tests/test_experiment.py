"""Experiments in scripts and notebooks: from a config, from a run's folder."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TESTS, TINY, Train, generators, tree
from pairs import trainable
from test_loop import SEARCH, build
from tiny import NoisyPoints

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import UserError
from scaffolding.core.state import checkpoint
from scaffolding.core.trust.config import read_config
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment


def test_from_path_twice_from_any_directory_writes_nothing(
    dev_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(dev_run)
    monkeypatch.chdir(tmp_path)
    one, two = Experiment.from_path(dev_run), Experiment.from_path(str(dev_run), checkpoint="latest")
    assert not one.model.training and one.device.type == "cpu"
    inputs = next(iter(one.val_loader))[0]
    assert torch.equal(one.model(inputs), one.model(inputs))
    assert two.state.step == 10
    assert one.optimizers[""].state_dict()["state"], "optimizers come with their state"
    assert all(loader.workers is None or loader.workers.num_workers == 0 for loader in one.loaders.values())
    assert one.plots and one.history() and dev_run.name in repr(one)
    with pytest.raises(UserError, match=r"no config\.yaml"):
        Experiment.from_path(tmp_path)
    with pytest.raises(UserError, match="no such run in"):  # it may be the name of a run
        Experiment.from_path("no_such_run_anywhere")
    assert list(tmp_path.iterdir()) == [] and tree(dev_run) == before


def test_best_weights_give_the_logged_values(dev_run: Path) -> None:
    exp = Experiment.from_path(dev_run, checkpoint="best", device="auto")  # as it was trained
    rows = [row for row in exp.history() if row["split"] == "val" and row["step"] == exp.state.step]
    assert evaluate(exp, "val")["loss"] == rows[0]["loss"]


class Measured(NoisyPoints):
    """Points with statistics that a run keeps."""

    def __init__(self, split: str, num_items: int) -> None:
        super().__init__(split, num_items)
        self.mean = float(split == "train")

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]


class Drawn:
    """A metric, a figure and a rollout that draws when it is built, and keeps a count."""

    moment = "val"

    def __init__(self) -> None:
        self.drawn = (float(torch.rand(())), float(np.random.rand()), random.random())
        self.count = 0

    def __call__(self, *arguments: Any) -> Any:
        return "nothing to be seen" if len(arguments) == 1 else {"value": 1.0}

    def update(self, model: Any, batch: Any) -> None:
        pass

    def compute(self) -> float:
        return self.drawn[0]

    def reset(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


PARTS = ("metrics.own", "plots.own", "rollout")
DRAWN = [f"+{key}._target_=test_experiment.Drawn" for key in PARTS]


def parts_of(exp: Experiment) -> list[Any]:
    return [exp.metrics["own"], exp.plots["own"], exp.rollout]


def test_what_is_built_draws_by_seed_and_part() -> None:
    """Fails where a metric with a random projection is another one after a resume."""
    before = generators()
    one, two, other = (parts_of(build(*DRAWN, f"run.seed={seed}")) for seed in (1, 1, 2))
    assert [part.drawn for part in one] == [part.drawn for part in two]
    assert len({part.drawn for part in (*one, *other)}) == 6 and generators() == before


def test_a_loaded_run_has_what_its_parts_saved(train: Train, output_root: Path) -> None:
    """Fails where statistics or a vocabulary are computed again, on data that have changed since."""
    train(*TINY, *DRAWN, "data.dataset._target_=test_experiment.Measured", "run.budget=2", "run.name=run")
    file = output_root / "run" / "checkpoints" / "best.pt"
    content = torch.load(file, weights_only=True)
    content["objects"] |= {f"datasets.{name}": {"mean": 7.0} for name in ("train", "val")}
    content["objects"] |= {name: {"count": 7} for name in PARTS}
    checkpoint.save(file, content)
    exp = Experiment.from_path(output_root / "run", trust=("test_experiment",))
    assert exp.datasets["train"].dataset.mean == 7 and exp.datasets["test"].dataset.mean == 0
    assert [part.count for part in parts_of(exp)] == [7, 7, 7]


def test_a_loaded_stream_stands_where_it_stood() -> None:
    words = ("+data.stream._target_=tiny.Draws", "+data.num_items=20", "data.dataset=null", "data.val_from_train=null")
    exp = Experiment(compose_config(PROJECT, [SEARCH, "data=noisy", "model=tiny", "plots=none", *words]))
    exp.saved["objects"] = {"loaders.train": {"count": 5}}
    assert exp.train_loader.stream.count == 5


def test_moved_and_read_only_folder(dev_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "renamed run"
    shutil.copytree(dev_run, moved, symlinks=True)
    for path in [*moved.rglob("*"), moved]:
        if not path.is_symlink():
            path.chmod(0o555 if path.is_dir() else 0o444)
    original, exp = Experiment.from_path(dev_run), Experiment.from_path(moved)
    assert first_difference(original.model.state_dict(), exp.model.state_dict()) is None


def test_run_made_under_a_former_name_loads(dev_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(dev_run, run, symlinks=True)
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(f"_target_: {PROJECT.package}.", "_target_: olden_days."))
    with pytest.raises(UserError, match="olden_days"):
        Experiment.from_path(run)
    script = f"""
import {PROJECT.package}.config as config
config.FORMER_NAMES = ("olden_days",)
from {PROJECT.package}.experiment import Experiment
print(Experiment.from_path({str(run)!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ))
    assert done.stdout.startswith("Experiment("), done.stderr


def test_from_config_writes_nothing_and_leaves_the_generators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, (data, model) = generators(), trainable()[0]
    one = Experiment.from_config(f"data={data}", f"model={model}", "mode=dev")
    two = Experiment.from_config(f"data={data}", f"model={model}", "mode=dev")
    _ = one.datasets, one.optimizers
    assert generators() == before
    assert first_difference(one.model.state_dict(), two.model.state_dict()) is None
    assert "not run" in repr(one) and list(tmp_path.iterdir()) == []


def test_imports_that_nothing_needs_are_left_out(train: Train, output_root: Path, tmp_path: Path) -> None:
    """Fails where a run with imports cannot be looked at without trust, or where it imports them without trust."""
    (tmp_path / "side_effect.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    words = [f"imports=[{tmp_path}/,side_effect]", "data.dataset._target_=tiny.StillPoints", "run.budget=2"]
    train(*TINY, *words, "run.name=run")
    (tmp_path / "ran").unlink()
    code = f"""
import sys; sys.path[:0] = {[str(TESTS), str(TESTS.parent / "src")]}
from {PROJECT.package}.experiment import Experiment
print(Experiment.from_path({str(output_root / "run")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("Experiment(") and not (tmp_path / "ran").exists(), done.stderr
    assert f"imports are left out, as they are not trusted: '{tmp_path}/', 'side_effect'" in done.stderr
    with pytest.raises(UserError, match="is not in the list of trusted targets"):
        read_config(output_root / "run", PROJECT, ())  # as resume= does
