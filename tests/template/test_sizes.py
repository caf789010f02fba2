"""The sizes that keep the template readable, and core/ free of its name."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scaffolding import config

FOLDER = Path(config.__file__).parent
CORE = sorted((FOLDER / "core").rglob("*.py"))


def num_lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


@pytest.mark.parametrize(
    ("file", "limit"), [("train.py", 200), ("evaluate.py", 80), ("experiment.py", 220), ("config.py", 120)]
)
def test_the_owner_s_files_are_short(file: str, limit: int) -> None:
    assert num_lines(FOLDER / file) <= limit


def test_what_a_training_run_imports_of_core_is_small() -> None:
    code = (
        f"import sys, {FOLDER.name}.train; print(*(vars(m).get('__file__') for m in sys.modules.values()), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    imported = [path for path in CORE if str(path) in done.stdout.splitlines()]
    assert {path.name for path in CORE if path not in imported} == {
        "cut.py", "explain.py", "faults.py", "find.py", "following.py", "plugins.py", "trust.py",
    }  # fmt: skip
    assert 100 < num_lines(*imported) <= 2000


def test_no_function_of_train_is_long() -> None:
    for node in ast.walk(ast.parse((FOLDER / "train.py").read_text())):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, node.name


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.name)
def test_core_never_says_the_name(path: Path) -> None:
    """Not in a comment either: the name of a project that copies core/ is another."""
    assert not re.search(rf"\b{FOLDER.name}\b", path.read_text())
