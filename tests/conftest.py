"""What the tests share: running the real entry point."""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side
os.environ["WANDB_API_KEY"] = ""  # nothing of a test leaves this machine
os.environ["NETRC"] = os.devnull

import numpy as np
import plain
import pytest
import torch
import zygote
from pairs import has_one_loss, trainable
from zygote import TRAIN

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder.facts import Facts
from scaffolding.core.state import checkpoint
from scaffolding.experiment import PROJECT

plain.use(PROJECT)  # before anything is composed
TESTS = Path(__file__).parent
INHERITED = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
ENV = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), *INHERITED])}  # tiny.py, and us
TINY = ("--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "plots=none", "tracker=none", "mode=prod")
BASE = (
    *TINY, "optimizer=fatal", "run.budget=24", "run.log_every=1", "run.eval_every=5", "run.save_every=4",
    "loader.batch_size=16",
)  # fmt: skip

# Files of tests, and what these need that Windows lacks; mark yours with @pytest.mark.posix.
POSIX = {
    "signals": "console faults job loop resume sweep tracking verbs",
    "links, pipes, devices or modes of files": "checkpoint config experiment folder loading provenance trust",
    "several processes or a queue": "devices jobs processes slurm submit",
    "a shell, or paths with slashes": "edits plots scripts secrets splits summary text",
}

Train = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On Windows, skip what cannot be tested there. What is left trains and resumes every dataset and model."""
    needs = {f"test_{name}": need for need, names in POSIX.items() for name in names.split()}
    for item in items if sys.platform == "win32" else ():
        need = needs.get(item.path.stem)
        if need is None and (item.path.parent.name == "template" or item.get_closest_marker("posix")):
            need = "POSIX"
        if need:
            item.add_marker(pytest.mark.skip(reason=f"needs {need}, which Windows lacks"))


def command(*overrides: str) -> list[str]:
    """The real entry point, in a process with separate imports, which reads nothing that the owner pinned."""
    return [sys.executable, plain.__file__, str(TRAIN), *overrides]


def run_train(
    *overrides: str,
    code: int | None = 0,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    file: Path = TRAIN,
) -> "subprocess.CompletedProcess[str]":
    """Run train.py, or another such file, to its end and check its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = (Path(folder, name) for name in ("stdout", "stderr"))
        returncode = zygote.start([str(file), *overrides], stdout, stderr, cwd, ENV | (env or {})).wait()
        out, err = stdout.read_text(), stderr.read_text()
    assert code is None or returncode == code, f"exit code {returncode}\n{out}\n{err}"
    assert returncode is not None, f"it hangs\n{out}\n{err}"
    return subprocess.CompletedProcess(command(*overrides), returncode, out, err)


def wait_until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once that is true; it has a minute for it."""
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
    return found


def has_ended(pid: int | str) -> bool:
    """Whether a process of Linux is gone, or waits for its parent to notice that it has ended."""
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # also where it ends while this is read
        return True


def generators() -> list[Any]:
    """The states of this process's own generators, to compare exactly."""
    numpy = np.random.get_state(legacy=False)
    return [
        random.getstate(),
        repr(numpy["state"]["key"].tolist()),
        numpy["state"]["pos"],
        torch.get_rng_state().tolist(),
    ]


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and content."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def latest(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    return checkpoint.load(run / "checkpoints" / "latest.pt")


def assert_same_run(left: Path, right: Path) -> None:
    """As many checkpoints; weights, optimizer, averages, counters and every logged value equal bit for bit."""
    files = [[file.name for file in (run / "checkpoints").glob("*.pt")] for run in (left, right)]
    assert len(files[0]) == len(files[1]), files
    for name in ("latest", "best"):
        ours, theirs = (checkpoint.load(run / "checkpoints" / f"{name}.pt") | {"config": {}} for run in (left, right))
        assert first_difference(ours, theirs) is None, name
    rows, others = (Facts(run / "facts").values() for run in (left, right))
    assert rows == others and len(rows) > 8
    keys = [(row["step"], row["split"]) for row in others]
    assert len(keys) == len(set(keys)), "a row is there twice"


@pytest.fixture
def output_root(tmp_path: Path) -> Path:
    """Where the runs of this test go."""
    return tmp_path / "runs"


@pytest.fixture
def train(output_root: Path) -> Train:
    """Run train.py with its output in this test's own folder: `train("mode=dev", code=0, cwd=None, env=None)`."""

    def run(*overrides: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        if not any(word.startswith("paths.output") for word in overrides):
            overrides = (*overrides, f"paths.output_root={output_root}")
        return run_train(*overrides, **options)

    return run


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BASE that went through."""
    root = tmp_path_factory.mktemp("whole")
    run_train(*BASE, f"paths.output_root={root}", "run.name=whole")
    return root / "whole"


@pytest.fixture(scope="session")
def dev_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished dev run of the smallest pair that one loss trains."""
    data, model = trainable()[0]
    if not has_one_loss(data, model):
        pytest.skip("every model here is trained by several losses")
    root = tmp_path_factory.mktemp("dev")
    words = (f"data={data}", f"model={model}", "mode=dev", "tracker=none", "run.rehearse_resume=false")
    run_train(*words, f"paths.output_root={root}", "run.name=dev_run")
    return root / "dev" / "dev_run"
