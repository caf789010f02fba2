"""append: adds to lists of a config, whichever file or word gave them."""

from pathlib import Path

import pytest
import yaml
from conftest import BASE, TESTS, Train

from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import UserError
from scaffolding.experiment import PROJECT

PLACE = f"hydra.searchpath=[file://{TESTS / 'configs'}]"


def test_a_recipe_and_the_command_line_add(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    file = tmp_path / "experiment/adding.yaml"
    file.write_text("# @package _global_\nappend:\n  run: {tags: [recipe]}\n  imports: [json]\n")
    place = f"hydra.searchpath=[file://{TESTS / 'configs'},file://{tmp_path}]"
    words = [place, *BASE[2:], "experiment=adding", "run.tags=[first]", "+optimizer.groups=[{max_ndim: 1}]"]
    cfg = compose_config(PROJECT, [*words, "+append.optimizer.groups=[{match: head, lr: 0.1}]"])
    assert list(cfg.run.tags) == ["first", "recipe"]
    assert list(cfg.imports) == ["json"]
    assert cfg.optimizer.groups == [{"max_ndim": 1}, {"match": "head", "lr": 0.1}]
    assert cfg.append == {}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+append.run.tagz=[b]", "run.tagz is not a list of this config\nnearest: run.tags"),
        ("+append.run.seed=[b]", "run.seed is not a list of this config"),
        ("+append.run.tags=b", "append.run.tags=b: it is not a list"),
        ("append=3", "append=3: it is not a mapping"),
    ],
)
def test_a_wrong_use_is_refused(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose_config(PROJECT, [PLACE, *BASE[2:], word])
    assert said in str(caught.value)


def test_it_is_refused_on_the_command_line(train: Train) -> None:
    assert "nearest: run.tags" in train(*BASE, "+append.run.tagz=[b]", code=2).stderr
    assert "append=3: it is not a mapping" in train(*BASE, "append=3", code=2).stderr


def test_runs_keep_the_list_and_repeat_the_word(train: Train, output_root: Path) -> None:
    train(*BASE, "run.tags=[a]", "+append.run.tags=[b]", "run.name=one")
    train(*BASE[:2], "fork=one", "run.name=two")
    train("resume=two", "run.budget=26", "+append.run.tags=[c]")
    for name, tags in (("one", ["a", "b"]), ("two", ["a", "b", "c"])):
        config = yaml.safe_load((output_root / name / "config.yaml").read_text())
        assert config["run"]["tags"] == tags and "append" not in config


def test_all_words_that_add_to_a_list_count(train: Train, output_root: Path) -> None:
    """On one command line, over several resumes, and in forks; a fork that sets the list sets all of it."""
    train(*BASE, "run.tags=[a]", "+append.run.tags=[b]", "+append.run.tags=[c]", "run.name=one")
    train("resume=one", "run.budget=26", "+append.run.tags=[d]")
    train("resume=one", "run.budget=28", "+append.run.tags=[e]")
    train(*BASE[:2], "fork=one", "run.name=two")
    train(*BASE[:2], "fork=two", "run.name=three", "+append.run.tags=[f]")
    train(*BASE[:2], "fork=three", "run.name=four", "run.tags=[x]", "+append.run.tags=[y]")
    for name, tags in (("one", "abcde"), ("two", "abcde"), ("three", "abcdef"), ("four", "xy")):
        config = yaml.safe_load((output_root / name / "config.yaml").read_text())
        assert config["run"]["tags"] == list(tags), name
