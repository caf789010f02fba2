"""The JSON schemas that scripts/schema.py writes: every YAML file here is valid, and what is wrong is found."""

import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from omegaconf import OmegaConf

from scaffolding.experiment import PROJECT

sys.path.append(str(PROJECT.root / "scripts"))

import schema

CONFIGS = PROJECT.root / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    return schema.schemas(CONFIGS)


def faults(schemas: dict[str, Any], group: str, content: Any) -> list[str]:
    """What an editor would mark, as the key and what is wrong with it."""
    validator = jsonschema.Draft7Validator(schemas[group])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(content)]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_every_file_is_valid(schemas: dict[str, Any], file: Path) -> None:
    group = "base" if file.parent == CONFIGS else file.parent.relative_to(CONFIGS).as_posix()
    assert faults(schemas, group, schema.read(file)) == []


WRONG = {
    "a typo in run": ("experiment", "run: {budgt: 5epochs}", "budgt"),
    "a typo in loader": ("base", "loader: {batchsize: 3}", "batchsize"),
    "a typo in paths": ("base", "paths: {dat: /tmp}", "dat"),
    "a typo at the top": ("mode", "runn: {seed: 1}", "runn"),
    "a text for a number": ("experiment", "run: {seed: many}", "many"),
    "a number out of range": ("experiment", "run: {accumulate: 0}", "0"),
    "a fraction for a whole number": ("experiment", "loader: {num_workers: 1.5}", "1.5"),
    "an interval in an unknown unit": ("experiment", "run: {eval_every: 3weeks}", "3weeks"),
    "none of the words": ("experiment", "run: {precision: float8}", "float8"),
    "none of the words, or true": ("experiment", "run: {compile: fast}", "fast"),
    "an unknown option": ("experiment", "defaults: [{override /scheduler: cosin}]", "cosin"),
    "an unknown group": ("experiment", "defaults: [{override /schedule: none}]", "override /schedule"),
    "an unknown part": ("data", "defaults: [/_shared/nothing]", "/_shared/nothing"),
    "an unknown argument": ("optimizer", "{_target_: torch.optim.AdamW, lr: 1.0, wieght_decay: 0}", "wieght_decay"),
    "an unknown argument of ours": (
        "scheduler", "schedule: {_target_: scaffolding.schedules.cosine, warmpu: 0.1}", "warmpu"
    ),
    "a text for an argument": (
        "scheduler", "schedule: {_target_: scaffolding.schedules.cosine, warmup: long}", "long"
    ),
    "a typo in a part of a block": ("base", "optimizer: {lrr: 3e-4}", "3"),
    "deep in a recipe": (
        "experiment", "plots: {curves: {_target_: scaffolding.plot.curves.Curves, colour: red}}", "colour"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_found(schemas: dict[str, Any], what: str) -> None:
    group, text, named = WRONG[what]
    content = OmegaConf.to_container(OmegaConf.create(text))
    found = faults(schemas, group, content)
    assert found and named in str(found), found


def test_what_is_right_is_not_marked(schemas: dict[str, Any]) -> None:
    right = {
        "base": "{run: {budget: 500, name: first, seed: '${data.split_seed}', compile: true, eval_every: 1.5epochs},"
        " paths: {data: '${oc.env:WORK}/data', scratch: null}, optimizer: {lr: 1e-4, groups: [{match: bias}]},"
        " loader: {limit_train: 0.1}, metrics: {auroc: {_target_: other.package.Metric, anything: 3}}}",
        "experiment": "{defaults: [{override /plots: [curves, first_batch]}, _self_], model: {depth: 3}}",
        "data": "{dataset: {_target_: mine.Birds, root: '${paths.data}'}, num_classes: 3, any_fact: [1, {a: b}]}",
        "mode": "{optimizer: {generator: {_target_: torch.optim.SGD, lr: 1}, discriminator: {lr: 2}}}",
        "optimizer": "{_target_: torch.optim.AdamW, lr: '???', groups: [{max_ndim: 1}]}",
    }
    for group, text in right.items():
        assert faults(schemas, group, OmegaConf.to_container(OmegaConf.create(text))) == []
