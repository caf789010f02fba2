"""The sizes that keep the template readable, and the program that counts them."""

import re
import sys
from pathlib import Path

import pytest

from scaffolding.config import PROJECT_ROOT

sys.path.append(str(PROJECT_ROOT / "scripts" / "template"))

import house

FOLDER = PROJECT_ROOT / "src" / "scaffolding"
CORE = sorted((FOLDER / "core").rglob("*.py"))
WINGS = sorted({path.parent for path in CORE} - {FOLDER / "core"})


def test_train_is_short() -> None:
    assert house.num_lines(FOLDER / "train.py") <= 200
    assert {name: lines for name, lines in house.functions_of(FOLDER / "train.py").items() if lines > 40} == {}


def test_functions_are_short() -> None:
    """Of sources and scripts; of tests only those are longer that list many cases."""
    files = [path for folder in ("src", "scripts") for path in sorted((PROJECT_ROOT / folder).rglob("*.py"))]
    found = [each for path in files for each in house.functions_of(path).items()]
    assert {name: lines for name, lines in found if lines > house.LONG} == {}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_a_file_of_core_has_one_purpose_and_no_name(path: Path) -> None:
    """About 250 lines; the project's name is not even in a comment, as a project that copies core/ has another."""
    assert house.num_lines(path) <= 300
    assert not re.search(rf"\b{FOLDER.name}\b", path.read_text())


@pytest.mark.parametrize("wing", WINGS, ids=lambda path: path.name)
def test_a_wing_of_core_has_one_purpose(wing: Path) -> None:
    """About 700 lines, and not many more."""
    assert house.num_lines(*wing.glob("*.py")) <= 1000


def test_functions_are_measured(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text("def f():\n    async def g():\n        return 1\n\n    return g\n")
    assert house.functions_of(path) == {"file.py:1 f": 5, "file.py:2 g": 2}


@pytest.mark.full
def test_runs_are_followed() -> None:
    """Fails where the tracer of house.py misses files or functions."""
    numbers = [int(number.replace(",", "")) for number in house.runs(PROJECT_ROOT).values()]
    new, resumed = numbers[:3], numbers[3:]
    assert all(10 < a <= b for a, b in zip(new, resumed, strict=True))
