"""The code imports, trains, saves, resumes and stops on Windows, as far as Linux can look like it (tests/windows)."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, ENV, TESTS, TINY, command, latest, wait_until

from scaffolding.core.folder.folder import read_status
from scaffolding.experiment import PROJECT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it disguises Linux")
BREAK = signal.SIGUSR2  # as tests/windows has it
DISGUISED: Any = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS / "windows"), ENV["PYTHONPATH"]])}
IMPORTS = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from {0}.core import system
assert system.IS_WINDOWS and system.peak_memory() == 123_000_000
print("all", len(sys.argv) - 1)
"""


def run(*words: str, code: int = 0, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(words, env=DISGUISED | (env or {}), capture_output=True, text=True, timeout=300)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def test_every_module_is_imported() -> None:
    files = [path.relative_to(PROJECT.sources.parent).with_suffix("") for path in PROJECT.sources.rglob("*.py")]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files]
    said = run(sys.executable, "-c", IMPORTS.format(PROJECT.package), *names).stdout
    assert said == f"all {len(names)}\n" and len(names) > 60


@pytest.mark.full
def test_a_dev_run_passes_its_rehearsal(output_root: Path) -> None:
    words = ("model=tiny", "tracker=none", "mode=dev", "run.name=run", f"paths.output_root={output_root}")
    said = run(*command(*TINY[:4], *words)).stdout
    assert "tensors identical" in said and "123 MB of memory" in said
    folder = output_root / "dev/run"
    assert read_status(folder)["status"] == "finished"
    model = folder / "model.pt"
    assert not model.is_symlink() and model.read_bytes() == (folder / "checkpoints/best.pt").read_bytes()


@pytest.mark.full
def test_what_windows_cannot_do_is_refused(output_root: Path) -> None:
    words = [*TINY, f"paths.output_root={output_root}"]
    forked = run(*command(*words, "loader.num_workers=1", "loader.start_method=fork"), code=2).stderr
    assert "loader.start_method=fork: not on this system\nallowed: spawn" in forked
    several = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    refused = run(*command(*words, "run.accumulate=2"), code=2, env=several).stderr
    assert "several processes train together on Linux and macOS only" in refused
    assert not output_root.exists()


@pytest.mark.full
def test_ctrl_break_stops_a_run_that_nobody_else_may_have_meanwhile(output_root: Path, tmp_path: Path) -> None:
    words = [*BASE, f"paths.output_root={output_root}"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            command(*words, "run.budget=1000000", "run.name=run"), env=DISGUISED, stdout=log, stderr=log
        )
    folder = output_root / "run"
    wait_until(lambda: (folder / "checkpoints/latest.pt").exists())
    assert "is in use by process" in run(*command(*words[-1:], "resume=run"), code=2).stderr
    process.send_signal(BREAK)
    assert process.wait(60) == 128 + BREAK, (tmp_path / "log").read_text()
    step = latest(folder)["state"]["step"]
    assert read_status(folder) | {"status": "preempted", "step": step} == read_status(folder)
    run(*command(*words[-1:], "resume=run", f"run.budget={step + 3}"))
    assert read_status(folder) | {"status": "finished", "step": step + 3} == read_status(folder)
