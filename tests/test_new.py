"""scripts/new.py: what it writes passes the tests and the checkers as it stands, and it overwrites nothing."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scaffolding.config import PROJECT_ROOT

NEW = PROJECT_ROOT / "scripts" / "new.py"
STUBS = (("data", "birdcall_two"), ("model", "gru_two"), ("loss", "focal_two"), ("plot", "spectrum_two"))
pytestmark = pytest.mark.skipif(not NEW.exists(), reason="new.py has been deleted")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of this project, without runs and data."""
    for name in ("src", "configs", "scripts", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info", "local.yaml")
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=unwanted)
    shutil.copy(PROJECT_ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def call(root: Path, *command: str | Path, code: int | None = 0) -> "subprocess.CompletedProcess[str]":
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=root, env=environment, capture_output=True, text=True)
    assert code is None or done.returncode == code, done.stdout[-5000:] + done.stderr[-3000:]
    return done


def write_stubs(root: Path) -> list[str]:
    """Write all that fit this project's default data and model; the names of their YAML files."""
    written = []
    for kind, name in STUBS:
        before = files(root)
        done = call(root, root / "scripts" / "new.py", kind, name, code=None)
        if done.returncode == 2 and ("no stub of a" in done.stderr or "that is there" in done.stderr):
            assert files(root) == before
            continue
        assert done.returncode == 0, done.stderr
        after = files(root)
        new = sorted(set(after) - set(before))
        assert all(line in done.stdout for line in new) and 1 <= len(new) <= 2
        assert [path for path in before if after[path] != before[path]] == (
            [path for path in before if path.endswith("/losses.py")] if kind == "loss" else []
        )
        assert all(after[path].startswith(content) for path, content in before.items())  # added at the end only
        written += [Path(path).stem for path in new if path.endswith(".yaml")]
    return written


def test_stubs_are_written_formatted_and_never_overwrite(project: Path) -> None:
    assert len(write_stubs(project)) >= 1
    call(project, "-m", "ruff", "check", "src")
    call(project, "-m", "ruff", "format", "--check", "src")
    before = files(project)
    for kind, name in STUBS:
        assert "Nothing was written" in call(project, project / "scripts" / "new.py", kind, name, code=2).stderr
    assert files(project) == before


def test_names_that_are_refused(project: Path) -> None:
    before = files(project)
    for name in ("3d", "Bird", "bird-call", "a/b", "../x", "class", "null", "x__y"):
        assert "not a name" in call(project, project / "scripts" / "new.py", "model", name, code=2).stderr
    for kind, name in (("plot", "figure"), ("plot", "tensor")):  # the stub's class would hide what it imports
        assert "would hide" in call(project, project / "scripts" / "new.py", kind, name, code=2).stderr
    assert files(project) == before


@pytest.mark.full
def test_stubs_pass_the_inherited_tests(project: Path) -> None:
    names = write_stubs(project)
    call(project, "-m", "mypy")
    chosen = " or ".join([*names, "partner", "fits"])
    battery = ("tests/test_batteries.py", "tests/test_plots.py", "tests/test_ownership.py")
    words = ("-o", "addopts=-n 2 -v", "-m", "not full", "-p", "no:cacheprovider", "-k", chosen)  # with names
    done = call(project, "-m", "pytest", *words, *battery)
    for name in names:
        assert name in done.stdout
