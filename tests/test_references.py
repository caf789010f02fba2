"""${...} in every part of a config: on the command line, in a file, and in a run that goes on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BASE, TESTS, Train

from scaffolding.core.config.grammar import as_word
from scaffolding.experiment import Experiment

SCHEDULE = {
    "_target_": "torch.optim.lr_scheduler.StepLR",
    "step_size": "${data.num_features}",
    "gamma": "${data.gamma}",
}
GROUP = {"max_ndim": 1, "lr": "${optimizer.lr}", "weight_decay": "${data.gamma}"}
# What most of them refer to stands in another part of the config: a part that is read without its root is noticed.
VALUES: dict[str, Any] = {
    "data.gamma": 0.5,
    "data.dataset.num_items": "${run.seed}",
    "data.val_from_train": "${data.gamma}",
    "data.split_seed": "${run.seed}",
    "data.val_arguments": {"num_items": "${..dataset.num_items}"},
    "data.transforms": [{"size": "${data.num_features}"}],
    "model.num_features": "${data.num_features}",
    "loss._target_": "tiny.${run.tags.0}",
    "metrics.odd": {"_target_": "tiny.OddMetric", "value": "${run.tags.1}"},
    "optimizer.lr": "${data.gamma}",
    "optimizer.weight_decay": "${.lr}",
    "optimizer.groups": [GROUP],
    "scheduler.schedule": SCHEDULE,
    "scheduler.interval": "${run.tags.2}",
    "plots.dot": {"_target_": "tiny.${run.tags.3}"},
    "rollout": {"_target_": "tiny.Rollout", "name": "${run.tags.1}"},
    "tracker.recorder": {"_target_": "recorders.Recorder", "file": "${paths.output_root}/${run.name}.txt"},
    "imports": ["${run.tags.4}"],
    "run.seed": 150,
    "run.tags": ["TinyLoss", "undefined", "step", "Dot", "json"],
    "run.rollout_every": "${run.budget}",
    "loader.batch_size": "${data.num_features}",
    "loader.limit_train": "${data.dataset.num_items}",
    "paths.data": "${paths.output_root}/data",
}


def write_experiment(configs: Path) -> None:
    """A folder of configs with the values in a file of experiments."""
    content: dict[str, Any] = {}
    for key, value in VALUES.items():
        *parts, last = key.split(".")
        node = content
        for part in parts:
            node = node.setdefault(part, {})
        node[last] = value
    shutil.copytree(TESTS / "configs", configs)
    (configs / "experiment").mkdir(exist_ok=True)
    (configs / "experiment" / "referring.yaml").write_text(f"# @package _global_\n{yaml.safe_dump(content)}")


@pytest.mark.parametrize("place", ["words", "file"])
def test_references_are_resolved_wherever_they_stand(
    train: Train, output_root: Path, tmp_path: Path, place: str
) -> None:
    configs = ("--config-dir", str(tmp_path / "configs"))
    write_experiment(tmp_path / "configs")
    words = ["experiment=referring", *BASE[2:7]]
    if place == "words":
        words = [*BASE[2:], *(f"++{key}={as_word(value)}" for key, value in VALUES.items())]
    train(*configs, *words, "run.budget=2", "run.name=one")
    trust = "trust=json,recorders"
    train(*configs, "resume=one", "run.budget=3", trust)
    train(*configs, "fork=one", "run.budget=4", "run.name=two", trust)
    for name, budget in (("one", 2), ("two", 4)):
        exp = Experiment.from_path(output_root / name, trust=["json", "recorders", "tiny"])
        first, second = exp.optimizers[""].param_groups
        assert [first["lr"], first["weight_decay"]] == [second["lr"], second["weight_decay"]] == [0.5, 0.5]
        assert exp.settings.rollout_every == str(budget)
        assert len(exp.datasets["train"]) == len(exp.datasets["val"]) == 75
        assert (exp.train_loader.batch_size, exp.rollout.name) == (8, "undefined")
        assert exp.schedulers[""].scheduler.step_size == 8
        assert (output_root / f"{name}.txt").exists()
    split = exp.cfg.data
    assert (split.split_seed, split.val_arguments, split.transforms) == (150, {"num_items": 150}, [{"size": 8}])
    assert "${" not in (output_root / "one" / "config.yaml").read_text().replace("${paths.", "")
