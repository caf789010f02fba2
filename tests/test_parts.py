"""Parts of a model that are chosen by name, such as configs/model/encoder/: found by listing the folders."""

import itertools
import re
from typing import Any

import pytest
import yaml
from conftest import Train
from pairs import trainable

from scaffolding.core.config.compose import groups
from scaffolding.core.errors import UserError
from scaffolding.experiment import PROJECT, Experiment

PARTS = {name: options for name, options in groups(PROJECT.configs).items() if name.startswith("model/")}


def models() -> dict[str, list[str]]:
    """The models of configs/ that have parts to choose, with these."""
    found: dict[str, list[str]] = {}
    for file in sorted((PROJECT.configs / "model").glob("*.yaml")):
        parts = [part for part in PARTS if re.search(rf"(?m)^ *- /?{part}@", file.read_text())]
        if parts:
            found[file.stem] = parts
    return found


def combinations() -> list[tuple[str, str, tuple[str, ...]]]:
    """(data, model, a word for each part) of all that can be chosen, with the smallest data that fit the model."""
    found = []
    for model, parts in models().items():
        for data in [data for data, other in trainable() if other == model][:1]:
            chosen = itertools.product(*([f"{part}={option}" for option in PARTS[part]] for part in parts))
            found += [(data, model, words) for words in chosen]
    return found


@pytest.mark.full
@pytest.mark.parametrize(("data", "model", "parts"), combinations())
def test_every_combination_trains_and_resumes(train: Train, data: str, model: str, parts: tuple[str, ...]) -> None:
    words = (f"data={data}", f"model={model}", *parts, "mode=dev", "tracker=none", "plots=none")
    assert "tensors identical" in train(*words, "run.name=run").stdout


def test_a_fork_chooses_another_part(train: Train, output_root: Any) -> None:
    for data, model, parts in combinations()[-1:]:
        short = ("tracker=none", "plots=none", "run.rehearse_resume=false")
        train(f"data={data}", f"model={model}", *parts, "mode=dev", *short, "run.name=one")
        other = combinations()[0][2][0]
        train("fork=dev/one", other, "fork_weights=partial", "run.name=two")
        choices = yaml.safe_load((output_root / "dev/two/overrides.yaml").read_text())
        assert other in choices and parts[0] not in choices and parts[-1] in choices


def test_a_part_that_the_model_has_not(train: Train) -> None:
    for model, parts in models().items():
        without = next(other for _, other in trainable() if other not in models())
        for part in parts:
            with pytest.raises(UserError) as caught:
                Experiment.from_config(f"model={without}", f"{part}={PARTS[part][0]}")
            said = str(caught.value)
            assert f"{part}={PARTS[part][0]}: the chosen model has no such part" in said and f"model={model}" in said
            with pytest.raises(UserError, match=f"{part}=nothing: no such option"):
                Experiment.from_config(f"model={model}", f"{part}=nothing")
