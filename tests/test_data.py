"""Data that change after a run: what is restored from the run, what is named, what is refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE, Train
from tiny import StillPoints
from torch import Tensor

from scaffolding.core.provenance import data as fingerprinting
from scaffolding.experiment import Experiment

TRUST = ("test_data",)
MEASURED = (*BASE, "data.dataset._target_=test_data.Measured", "+data.dataset.statistics=numbers.txt")


class Measured(StillPoints):
    """Points that are shifted by the mean of a file, which is kept in checkpoints."""

    def __init__(self, split: str, num_items: int, statistics: str) -> None:
        super().__init__(split, num_items)
        self.mean = float(torch.tensor([float(line) for line in Path(statistics).read_text().split()]).mean())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        points, labels = super().__getitem__(index)
        return points - self.mean, labels

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean = state["mean"]


class Scaled(StillPoints):
    """Says by which numbers it normalises; they change no item here, so that the record alone can tell."""

    def __init__(self, split: str, num_items: int, std: float) -> None:
        super().__init__(split, num_items)
        self.normalisation = {"divisor": 255, "mean": [0.5], "std": torch.tensor([std])}


class Marked(StillPoints):
    """Says itself which data it has."""

    def fingerprint(self) -> str:
        return os.environ["MARK"]


def test_statistics_of_a_loaded_run_are_those_of_the_run(
    train: Train, output_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where they are computed again, from a file that has changed since, or where nothing says that it has."""
    from loguru import logger

    (tmp_path / "numbers.txt").write_text("1\n2\n")
    train(*MEASURED, "run.budget=4", "run.name=run", cwd=tmp_path)
    record = json.loads((output_root / "run/provenance.json").read_text())
    assert record["data"]["data.dataset.statistics"]["size"] == 4
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    handler = logger.add(said.append, format="{message}")
    try:
        _ = Experiment.from_path(output_root / "run", trust=TRUST).datasets
        assert said == []
        (tmp_path / "numbers.txt").write_text("7\n70\n")
        exp = Experiment.from_path(output_root / "run", trust=TRUST)
        assert exp.datasets["train"].dataset.mean == exp.datasets["val"].dataset.mean == 1.5
    finally:
        logger.remove(handler)
    changed = f"data: data.dataset.statistics ({tmp_path / 'numbers.txt'}) has changed: size 5, was 4, since run ran"
    assert [line.strip() for line in said] == [changed]


def test_a_resume_names_files_that_changed(train: Train, tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("1\n2\n")
    train(*MEASURED, "run.budget=4", "run.name=run", cwd=tmp_path)
    file.write_text("2\n1\n")  # the same mean: items are what they were
    done = train("resume=run", "run.budget=8", "trust=test_data", cwd=tmp_path)
    assert done.stderr.count(f"data: data.dataset.statistics ({file}) has changed, since run ran") == 1
    assert "has changed" not in train("resume=run", "run.budget=12", "trust=test_data", cwd=tmp_path).stderr
    file.write_text("2\n2\n")
    said = train("resume=run", "run.budget=16", "trust=test_data", cwd=tmp_path, code=2).stderr
    assert "has changed, since run ran" in said and "its items have other values now" in said


def test_a_run_keeps_the_numbers_of_the_normalisation(train: Train, output_root: Path) -> None:
    train(*BASE, "data.dataset._target_=test_data.Scaled", "+data.dataset.std=0.25", "run.budget=4", "run.name=run")
    record = json.loads((output_root / "run/provenance.json").read_text())
    stated = {"normalisation.divisor": 255, "normalisation.mean.0": 0.5, "normalisation.std": [0.25]}
    assert record["data"] == {f"{split}.{key}": value for split in ("train", "test") for key, value in stated.items()}
    now = fingerprinting.fingerprints({}, {"train": Scaled("train", 4, 0.5)}, output_root)
    changed = fingerprinting.differences(record["data"], now)
    assert changed == ["train.normalisation.std is [0.5], was [0.25]"]


def test_a_dataset_may_say_itself_which_data_it_has(train: Train, output_root: Path) -> None:
    words = (*BASE, "data.dataset._target_=test_data.Marked", "run.budget=4", "run.name=run")
    train(*words, env={"MARK": "first"})
    record = json.loads((output_root / "run/provenance.json").read_text())
    assert record["data"] == {"test.fingerprint()": "first", "train.fingerprint()": "first"}
    again = ("resume=run", "run.budget=8", "trust=test_data")
    done = train(*again, env={"MARK": "second"}, code=2)
    assert "fingerprint() is second, and was first when run ran" in done.stderr and "fork=run" in done.stderr
    train(*again, env={"MARK": "first"})


def test_large_and_many_files_cost_little(tmp_path: Path) -> None:
    """Blocks of a large file are read, and sizes of many: what is changed shows in one of them, or in the time."""

    class Listed:
        def __init__(self, files: list[Path]) -> None:
            self.files = files

    def differences(before: dict[str, Any], files: list[Path]) -> list[str]:
        now = fingerprinting.fingerprints({}, {"train": Listed(files)}, tmp_path)
        return fingerprinting.differences(before, now)

    large = tmp_path / "large.bin"
    large.write_bytes(bytes(3_000_000))
    before = fingerprinting.fingerprints({}, {"train": Listed([large])}, tmp_path)
    assert before["train.files.0"]["file"] == "large.bin" and differences(before, [large]) == []
    os.utime(large, (1, 1))
    assert "was written since; the parts of it that are compared have not changed" in differences(before, [large])[0]
    with open(large, "r+b") as file:
        file.seek(2_999_999)
        file.write(b"x")
    assert differences(before, [large]) == ["train.files.0 (large.bin) has changed"]

    many = [tmp_path / f"{index}.txt" for index in range(50)]
    for path in many:
        path.write_text("x")
    before = fingerprinting.fingerprints({}, {"train": Listed(many)}, tmp_path)
    assert list(before) == ["train.files"] and differences(before, many) == []
    assert differences(before, many[1:]) == ["train.files has changed: count 49, was 50"]
    many[25].write_text("xy")
    assert differences(before, many) == ["train.files has changed"]


def test_a_record_that_is_damaged_or_a_strangers_tells_nothing(tmp_path: Path) -> None:
    file = tmp_path / "provenance.json"
    for text in ("{", "[]", '{"resumed": 3, "data": [1]}', '{"resumed": [1, {"data": 2}]}', "{}"):
        file.write_text(text)
        assert fingerprinting.recorded(tmp_path) == {}
    file.write_text('{"data": {"a": "1"}, "resumed": [{"step": 1, "data": {"a": "2"}}]}')
    assert fingerprinting.recorded(tmp_path) == {"a": "2"}
    assert fingerprinting.differences({"a": {"size": 1}, "b": 1}, {"a": "x", "b": 1}) == ["a is x, was {'size': 1}"]
