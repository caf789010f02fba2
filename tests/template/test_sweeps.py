"""The sweeps that scripts/README.md shows: their words compose."""

import shlex

import pytest
from test_rename import ROOT

from scaffolding.core.config.compose import compose_config
from scaffolding.core.config.grammar import readable
from scaffolding.core.sweep.words import grid
from scaffolding.experiment import PROJECT

COMMANDS = [line for line in (ROOT / "scripts/README.md").read_text().splitlines() if "scripts/sweep.py" in line]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_the_page_shows_composes(command: str) -> None:
    words = [word for word in shlex.split(command) if "=" in word]
    words = [word for word in readable(words, PROJECT.schema, is_sweep=True) if "interval" not in word]
    for point in grid(words):
        assert compose_config(PROJECT, point).run.budget


def test_all_kinds_of_sweeps_are_shown() -> None:
    shown = " ".join(COMMANDS)
    assert all(word in shown for word in ("--jobs", "--with", "--trials"))
