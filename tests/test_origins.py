"""Where settings come from: which place is named for each layer, and what plain annotations accept."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Union

import pytest
import yaml
from conftest import BASE, TESTS, Train
from test_config import project, write
from torch import Tensor, nn

from scaffolding.core.config.compose import Project, compose_config
from scaffolding.core.config.grammar import search_path
from scaffolding.core.faults import FaultsError
from scaffolding.core.preflight.arguments import fits
from scaffolding.core.preflight.origins import find_origins, place_of, set_by
from scaffolding.experiment import Experiment

__all__ = ["project"]
LAYERS = ("base.yaml", "experiment/mine.yaml", "local.yaml", "mode/loud.yaml")


def test_every_layer_is_named_and_the_last_one_counts(project: Project) -> None:
    """In base.yaml's order; a group's file and the command line too."""
    text = "# @package _global_\nrun:\n  accumulate: {}\n"
    for value, place in enumerate(LAYERS[1:], 2):
        write(project, place, text.format(value))
    write(project, "optimizer/other.yaml", "_target_: tiny.FatalAdamW\nlr: 1e-2\nbetas: [0.9, 0.5]\n")
    words = ["experiment=mine", "mode=loud", "optimizer=other", "run.accumulate=9", "optimizer.betas=[0.8,0.7]"]
    found = find_origins(project, words)
    told = set_by(found)
    line = (project.configs / "base.yaml").read_text().splitlines().index("  accumulate: 1") + 1
    assert told["run.accumulate"] == [
        [f"configs/base.yaml:{line}", 1], ["configs/experiment/mine.yaml:3", 2], ["configs/local.yaml:3", 3],
        ["configs/mode/loud.yaml:3", 4], ["command line", 9],
    ]  # fmt: skip
    assert told["optimizer.betas"] == [["configs/optimizer/other.yaml:3", [0.9, 0.5]], ["command line", [0.8, 0.7]]]
    assert "optimizer.lr" not in told and "run.seed" not in told  # by a group, by base.yaml
    assert place_of("optimizer.lr", found) == "configs/optimizer/other.yaml:2:5"
    assert place_of("optimizer.betas.1", found) == "command line"
    assert compose_config(project, words).run.accumulate == 9


def test_a_folder_of_the_user_is_named(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own/optimizer").mkdir(parents=True)
    (tmp_path / "own/optimizer/mine.yaml").write_text("_target_: tiny.FatalAdamW\nlr: slow\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaultsError) as caught:
        compose_config(project, [*search_path(["own"]), "optimizer=mine", "run.seed=one"])
    places = {fault.key: fault.place for fault in caught.value.faults}
    assert places == {"run.seed": "command line", "optimizer.lr": "own/optimizer/mine.yaml:2:5"}


def test_what_is_removed_or_replaced_has_no_place_any_more(project: Project) -> None:
    write(project, "experiment/mine.yaml", "# @package _global_\noptimizer:\n  extra: {a: 1, b: [1, 2]}\n")
    found = find_origins(project, ["experiment=mine", "optimizer.extra=null", "~optimizer.lr"])
    assert place_of("optimizer.extra", found) == "command line"
    assert not [key for key in found if key.startswith("optimizer.extra.")] and "optimizer.lr" not in found


def test_a_run_says_what_set_its_settings(train: Train, output_root: Path) -> None:
    """Secrets hidden; of a resume, what it changes; of a fork, which words are the parent's."""

    def told(name: str) -> Any:
        return json.loads((output_root / name / "provenance.json").read_text())

    words = ("+data.api_key=very-secret-1", "run.budget=6")
    train(*BASE, *words, "run.name=one", cwd=TESTS.parent)
    first = told("one")["set_by"]
    assert first["run.budget"][1:] == [["command line", 24], ["command line", 6]]
    assert first["run.budget"][0][0].startswith("configs/base.yaml:")
    assert first["data.api_key"] == [["command line", "***"]] and "very-secret" not in json.dumps(told("one"))
    train("resume=one", "run.budget=8", "data.api_key=very-secret-1")
    [again] = told("one")["resumed"]
    assert again["set_by"]["run.budget"] == [["command line", 8]] and told("one")["set_by"] == first
    train("fork=one", "run.name=two", "run.budget=3", *BASE[:2], "+data.api_key=very-secret-1")
    forked = told("two")["set_by"]
    assert forked["run.budget"][-1] == ["command line", 3]
    assert forked["run.log_every"][-1] == ["one/overrides.yaml", 1]


@pytest.mark.parametrize("verb", ["resume", "fork"])
def test_all_faults_of_a_run_that_goes_on_are_told(train: Train, output_root: Path, verb: str) -> None:
    train(*BASE, "run.budget=2", "run.name=one")
    before = sorted(output_root.rglob("*"))
    words = ("run.seed=one", "run.bugdet=3", "optimizer.lr=fast", "loader.batch_size=0")
    said = train(f"{verb}=one", *BASE[:2], *words, code=2).stderr
    assert said.startswith("error: 4 faults in the config; nothing was created\n\n"), said
    assert said.count("command line") == 4 and all(word in said for word in words)
    file = output_root / "one" / ("config.yaml" if verb == "resume" else "overrides.yaml")
    config = yaml.safe_load(file.read_text())
    if verb == "resume":  # a fault of the run itself
        config["loader"]["drop_last"] = "perhaps"
        file.write_text(yaml.safe_dump(config))
        said = train("resume=one", *BASE[:2], code=2).stderr
        assert "loader.drop_last=perhaps: not true or false" in said and "one/config.yaml:" in said, said
    assert sorted(output_root.rglob("*")) == before


ACCEPTED: list[tuple[Any, list[Any], list[Any]]] = [  # an annotation, values that fit, values that do not
    (float, [1, 1.5, True], ["x", None, [1], {"a": 1}]),
    (int, [1, 2.0, float("inf"), True], [1.5, "1", None, [1]]),
    (bool, [True, 0, 1.0], ["false", None, [True]]),
    (str, ["x", 3, 1.5], [False, None, ["x"]]),
    (None, [None], [1, "x"]),
    (float | Tensor, [1, 0.1, [1.0]], ["x"]),
    (int | None, [3, None], ["x", 1.5]),
    (Union[int, str], [3, "x", 1.5], [[1], None]),  # noqa: UP007
    (Literal["a", "b"], ["a", "b"], ["c", None, 1]),
    (Literal["a"] | int, ["a", 3], ["b"]),
    (list[int], [[], [1, 2]], [1, "12", [1, "x"], None, {"a": 1}]),
    (list, [[1, "x"]], ["x", 3]),
    (tuple[float, float], [[1, 2], [1, 2, 3]], [1, [1, "x"], "x"]),
    (tuple[int, ...], [[1, 2, 3]], [["x"]]),
    (Sequence[str], [["a"], "ab"], [3, None]),
    (dict[str, int], [{"a": 1}, {}], ["x", 3, None]),
    (nn.Module | None, [None, {"_target_": "torch.nn.ReLU"}, "x", 3], []),
    (list[nn.Module], [[{"_target_": "torch.nn.ReLU"}]], ["x"]),
    (int, [{"_target_": "builtins.int"}], []),
    (Any, [1, "x", None, [1]], []),
    (Path | str, ["x", 3], []),
    (Path, ["x", None], []),
    (Callable[..., Any], ["x", None], []),
    ("a name that nobody knows", [1, "x", None], []),
]


@pytest.mark.parametrize(("kind", "good", "bad"), ACCEPTED, ids=lambda value: str(value)[:40])
def test_what_an_annotation_accepts(kind: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not fits(kind, value)] == []
    assert [value for value in bad if fits(kind, value)] == []


@pytest.mark.parametrize("word", ["{part}._target_=tiny.Dot", "+{part}._target_=tiny.Dot"])
@pytest.mark.parametrize("part", ["plots", "tracker", "metrics"])
def test_a_block_without_a_name_is_told_how_to_have_one(train: Train, part: str, word: str) -> None:
    said = train(*BASE, word.format(part=part), code=2).stderr
    assert f"{part}._target_=tiny.Dot: its blocks have names (command line)" in said
    assert f"+{part}.NAME._target_=tiny.Dot" in said and "_target_._target_" not in said


@pytest.mark.parametrize("word", ["optimizer.lr=fast", "loss=3", "run.seed=one", "model.widht=3"])
def test_a_notebook_is_told_what_the_command_line_is(train: Train, word: str) -> None:
    with pytest.raises(FaultsError) as caught:
        Experiment.from_config(f"hydra.searchpath=[file://{TESTS / 'configs'}]", *BASE[2:], word)
    said = train(*BASE, word, code=2).stderr
    assert said == f"error: {caught.value}\n" and "command line" in said
