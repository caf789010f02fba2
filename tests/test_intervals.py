"""Intervals and budgets in words, and the nearest word to a misspelt one."""

from typing import Any

import pytest

from scaffolding.core.errors import nearest
from scaffolding.core.intervals import Intervals, in_steps, parse


def test_nearest() -> None:
    keys = ["run", "run.budget", "run.seed", "loader.batch_size", "optimizer.lr"]
    assert nearest("run.bugdet", keys) == ["run.budget"]
    assert nearest("batch_sise", keys) == ["loader.batch_size"]  # by its last part
    assert nearest("sgd", []) == []
    assert nearest("run.sed", keys, 2)[0] == "run.seed" and len(nearest("x", keys, 9)) == len(keys)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("500", (500, "step")), ("500steps", (500, "step")), ("1step", (1, "step")), ("5epochs", (5, "epoch")),
     ("0.5epoch", (0.5, "epoch")), ("10min", (10, "min")), ("1.5min", (1.5, "min")), (" 3 epochs ", (3, "epoch")),
     (500, (500, "step"))],
)  # fmt: skip
def test_parse(text: Any, meaning: tuple[float, str]) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize("text", ["", "0", "0epochs", "-1", "1.5", "1.5steps", "5 hours", "epoch", "1e3", "5mins"])
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="step"):
        parse(text)


def test_a_budget_is_not_in_minutes() -> None:
    with pytest.raises(ValueError, match="in step, epoch"):
        parse("5min", units=("step", "epoch"))


def test_in_steps() -> None:
    assert [in_steps(text, 40) for text in ("7", "7steps", "2epochs", "0.5epoch", "0.01epoch", "0.26epoch")] == [
        7, 7, 80, 20, 1, 11,
    ]  # fmt: skip
    assert [in_steps(text, 100) for text in ("0.07epochs", "0.55epoch")] == [7, 55]


def test_intervals_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    settings = {"log_every": "3", "eval_every": "1epoch", "plot_every": None, "save_every": "2min", "seed": 5}
    due = Intervals(settings, steps_per_epoch=4, num_steps=10).due
    assert [step for step in range(1, 11) if due("log", step)] == [3, 6, 9, 10]  # and after the last step
    assert [step for step in range(1, 11) if due("eval", step)] == [4, 8, 10]
    assert not any(due(name, step) for name in ("plot", "rollout") for step in range(1, 11))
    assert not due("save", 1)
    now += 119
    assert not due("save", 2)
    now += 2
    assert due("save", 3) and not due("save", 4)
    now += 121
    assert due("save", 5)
    assert due("save", 10)
