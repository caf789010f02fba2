"""The tables of configs/README.md: every setting, option and file that they name is there."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from scaffolding.config import Config
from scaffolding.core.config.compose import compose_unchecked
from scaffolding.core.config.explain import groups
from scaffolding.experiment import PROJECT

TEXT = (PROJECT.root / "configs/README.md").read_text()
TABLES = {
    name: TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0] for name in ("Coming from", "Troubleshooting")
}
SOURCES = "\n".join(path.read_text() for path in [*PROJECT.sources.rglob("*.py"), *PROJECT.root.glob("scripts/*.py")])
VERBS = ("resume", "fork", "job")
VALUES = ("RUN", "NAME")
ELSEWHERE = ("torchrun --nproc-per-node 2", "PYTHONFAULTHANDLER=1", "kill -ABRT PID", "WANDB_MODE=offline", ".env",
             "KEY=VALUE", "~KEY", "print", ".item()", "fork=RUN KEY=VALUE", "RUN")  # fmt: skip


def rows(table: str) -> list[list[str]]:
    lines = [line for line in TABLES[table].splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def named(table: str, first: int) -> list[str]:
    """What stands in backquotes from a column on."""
    return [word for row in rows(table) for cell in row[first:] for word in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture(scope="module")
def config() -> Any:
    """All keys that the tables may name."""
    return compose_unchecked(PROJECT, ["model=module", "scheduler=cosine"])


def is_there(word: str, config: Any) -> bool:
    key, equals, value = word.rstrip(":").partition("=")
    options = groups(PROJECT.root / "configs")
    if word in ELSEWHERE or word.startswith(("pdm ", "python ")):  # test_readme.py runs these
        return True
    if key in VERBS:
        return value in VALUES
    if equals and key in options:
        return value in options[key]
    if key in Config.__dataclass_fields__:
        return True
    if "." in key and OmegaConf.select(config, key, default="missing") != "missing":
        if not equals:
            return True
        compose_unchecked(PROJECT, ["model=module", "scheduler=cosine", word])
        return True
    if key.startswith("seconds/") or key in ("backward", "step", "rollout", "plot", "save"):
        return f'"{key.removeprefix("seconds/")}"' in SOURCES
    if "*" in word:
        return f'"{word.partition("-")[0].partition("/")[2]}' in SOURCES or bool(
            list(PROJECT.sources.rglob(f"{word.partition('/')[2].partition('-')[0]}.py"))
        )
    if word.startswith("facts/") or word.startswith("figures/"):
        return word.rstrip("/").rpartition("/")[2] in SOURCES
    return word in SOURCES or re.sub(r" \d+%$", " {", word) in SOURCES or Path(PROJECT.root, word).exists()


@pytest.mark.parametrize(("table", "first"), [("Coming from", 1), ("Troubleshooting", 1)])
def test_what_a_table_names_is_there(config: Any, table: str, first: int) -> None:
    words = named(table, first)
    assert len(words) > 30
    assert [word for word in words if not is_there(word, config)] == []


@pytest.mark.parametrize("table", TABLES)
def test_the_tables_are_short_and_whole(table: str) -> None:
    columns = {"Coming from": 2, "Troubleshooting": 3}[table]
    assert 10 < len(rows(table)) <= 30
    assert all(len(row) == columns and all(row) for row in rows(table))


def test_what_is_not_there_is_found(config: Any) -> None:
    wrong = ["run.budgt", "tracker=wandbb", "mode=fast", "loader.limit_trian=0.1", "schedulr=cosine", "resume=LAST",
             "seconds/loading", "facts/scalar.csv", "scripts/nothing.py"]  # fmt: skip
    assert [word for word in wrong if is_there(word, config)] == []
