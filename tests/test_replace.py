"""replace=[OLD,NEW]: what it changes before the config is checked, what it leaves, and what a run repeats of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BASE, TESTS, Train

from scaffolding.core.config.compose import compose_config
from scaffolding.core.edits.replace import is_moved
from scaffolding.core.errors import UserError
from scaffolding.experiment import PROJECT

STOP = {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}
FACTS = """
folder: /server/points # no argument: only a fact of the data
files: [/server/a, /server/b, rest]
label: noisy
"""


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Words that choose data which name files of a server; the first two say where its configs lie."""
    folder = tmp_path / "configs"
    shutil.copytree(TESTS / "configs", folder)
    (folder / "data/filed.yaml").write_text((folder / "data/noisy.yaml").read_text() + FACTS)
    return ("--config-dir", str(folder), *BASE[2:], "data=filed")


def composed(*words: str) -> Any:
    return compose_config(PROJECT, [f"hydra.searchpath=[file://{words[1]}]", *words[2:]])


def config(run: Path) -> Any:
    return yaml.safe_load((run / "config.yaml").read_text())


def test_values_change_and_keys_and_targets_do_not(words: tuple[str, ...]) -> None:
    cfg = composed(*words, "run.name=noisy_run", "replace=[[/server,/home/me],[noisy,quiet]]")
    assert cfg.data.folder == "/home/me/points" and list(cfg.data.files) == ["/home/me/a", "/home/me/b", "rest"]
    assert cfg.data.label == "quiet" and cfg.run.name == "noisy_run"
    chained = composed(*words, "replace=[[noisy,num_classes],[num_classes,still]]")
    assert (
        chained.data.label == "still" and chained.data.num_classes == chained.model.num_classes
    )  # not what is in ${...}
    before = composed(*words)
    assert cfg.data.dataset == before.data.dataset and cfg.model == before.model


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("replace=[/sever,/home]", "no value of the config has '/sever'"),
        ("replace=[NoisyPoints,StillPoints]", "no value of the config has 'NoisyPoints'"),  # a target is not a text
        ("replace=[[/server,/home],[/server,/x]]", "no value of the config has '/server'"),  # it is gone by then
        ("replace=[/server]", "not a pair of texts"),
        ("replace=[1,2]", "not a pair of texts"),
        ("replace=['',2]", "not a pair of texts"),
        ("replace=/server", "not a pair of texts"),
    ],
)
def test_what_replaces_nothing_is_refused(words: tuple[str, ...], word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        composed(*words, word)
    assert said in str(caught.value)


def test_a_yaml_file_cannot_replace(words: tuple[str, ...], train: Train, tmp_path: Path) -> None:
    (tmp_path / "configs/experiment/replacing.yaml").write_text("# @package _global_\nreplace: [/server, /home]\n")
    assert "replace: a YAML file sets it" in train(*words, "experiment=replacing", code=2).stderr


def test_a_run_repeats_it(words: tuple[str, ...], train: Train, output_root: Path) -> None:
    """What a resume replaces, a fork and a rerun have, too; only paths may become others."""
    train(*words, "run.name=one", env=STOP, code=143)
    refused = train("resume=one", "data.folder=/home/me/points", code=2).stderr
    assert "it is part of what this run is" in refused
    refused = train("resume=one", "replace=[noisy,quiet]", code=2).stderr
    assert "data.label=quiet: refused" in refused
    done = train("resume=one", "replace=[/server,/home/me]").stderr
    assert "/home/me replaces /server in data.folder, data.files.0, data.files.1" in done
    assert "data.folder=/home/me/points takes effect" in done
    assert config(output_root / "one")["data"]["folder"] == "/home/me/points"
    assert config(output_root / "one")["data"]["files"] == ["/home/me/a", "/home/me/b", "rest"]
    assert "replace" not in config(output_root / "one")
    assert "replace=[/server,/home/me]" in yaml.safe_load((output_root / "one/overrides.yaml").read_text())
    places = words[:2]
    train(*places, "fork=one", "replace=[/home,/elsewhere]", "run.name=two")
    assert config(output_root / "two")["data"]["folder"] == "/elsewhere/me/points"
    train("rerun=two", "run.name=three")
    assert config(output_root / "three")["data"]["folder"] == "/elsewhere/me/points"


def test_job_starts_and_carries_on(words: tuple[str, ...], train: Train, output_root: Path) -> None:
    train(*words, "job=one", "replace=[/server,/home/me]", env=STOP, code=143)
    train(*words, "job=one", "replace=[/server,/home/me]")
    assert config(output_root / "one")["data"]["folder"] == "/home/me/points"


def test_a_strangers_word_chooses_no_target(words: tuple[str, ...], train: Train, output_root: Path) -> None:
    train(*words, "run.name=one", "data.label=noisy")
    file = output_root / "one/overrides.yaml"
    file.write_text(yaml.safe_dump([*yaml.safe_load(file.read_text()), "replace=[noisy,'${oc.env:HOME}']"]))
    places = words[:2]
    assert "allowed: plain values" in train(*places, "fork=one", code=2).stderr


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("/server/a", "/home/a", True),
        ("/server/a", "/home/b", False),
        ("/server/a", "/server/a", False),
        (["/server/a", 1], ["/home/a", 1], True),
        (["/server/a", 1], ["/home/a", 2], False),
        ("server", "home", False),
        (1, 2, False),
    ],
)
def test_only_paths_move(before: Any, after: Any, answer: bool) -> None:
    assert is_moved(before, after, [("server", "home")]) is answer
