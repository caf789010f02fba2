"""A second loop, as configs/README.md shows it: in a copy of the project, with all that works for train.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import BASE, TESTS, assert_same_run
from test_streams import BLOCKS

from scaffolding.core.config.compose import compose_config
from scaffolding.core.config.loop import loop_of
from scaffolding.core.config.project import Project
from scaffolding.core.errors import UserError
from scaffolding.core.folder.folder import read_status
from scaffolding.experiment import PROJECT

ROOT = TESTS.parent
(FILE,) = (path for path in BLOCKS if Path(path).stem == "short")
STOP = {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the documented loop."""
    root = tmp_path_factory.mktemp("fork")
    for name in ("src", "configs", "scripts"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TESTS / "configs", root / "tests/configs")
    shutil.copy(TESTS / "tiny.py", root / "tests")
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / FILE).write_text(BLOCKS[FILE])
    return root


def start(fork: Path, *words: str, code: int = 0, env: dict[str, str] | None = None, file: str = "") -> str:
    program = fork / (file or f"src/{PROJECT.package}/train.py")
    places = [str(TESTS), str(fork / "src")]
    more = {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"} | (env or {})
    command = [sys.executable, str(program), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=fork, env=os.environ | more, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_dev_mode_rehearses_its_resume(fork: Path) -> None:
    said = start(fork, *BASE, "mode=dev", "optimizer=fatal", "run.loop=short", "run.name=run", "loader.num_workers=0")
    assert "tensors identical" in said
    assert "run.loop=short" in said.partition("next:")[2]
    assert yaml.safe_load((fork / "_output/dev/run/config.yaml").read_text())["run"]["loop"] == "short"


@pytest.mark.full
def test_killed_and_resumed_it_is_the_same_run(fork: Path) -> None:
    start(fork, *BASE, "run.loop=short", "run.name=whole")
    start(fork, *BASE, "run.loop=short", "run.name=killed", env=STOP, code=143)
    refused = start(fork, "resume=killed", "run.loop=train", code=2)
    assert "run.loop=train: refused" in refused
    start(fork, "resume=killed")
    assert_same_run(fork / "_output/killed", fork / "_output/whole")


@pytest.mark.full
def test_a_sweep_of_it(fork: Path) -> None:
    words = [word for word in BASE if not word.startswith("--config-dir") and word != str(TESTS / "configs")]
    start(fork, "two", *BASE[:2], *words, "run.loop=short", "run.seed=1,2", file="scripts/sweep.py")
    for job in range(2):
        run = fork / f"_output/exp_two/job{job}"
        assert read_status(run)["status"] == "finished"
        assert yaml.safe_load((run / "config.yaml").read_text())["run"]["loop"] == "short"


def test_what_is_not_a_loop_is_refused(fork: Path) -> None:
    said = start(fork, *BASE, "run.loop=shorts", code=2)
    assert "run.loop=shorts: no such loop" in said and "nearest: short" in said
    for name in ("losses", "core.launch", "os", "../train", "evaluate"):
        with pytest.raises(UserError, match="no such loop"):
            loop_of(name, print, PROJECT)
    assert loop_of("train", print, PROJECT) is print
    assert isinstance(PROJECT, Project) and compose_config(PROJECT, ["run.loop=short"]).run.loop == "short"
