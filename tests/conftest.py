"""What the tests share: running the real entry point."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pairs import has_one_loss, trainable

from scaffolding.config import PROJECT_ROOT
from scaffolding.experiment import PROJECT

TRAIN = PROJECT_ROOT / "src" / PROJECT.package / "train.py"
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side
os.environ["WANDB_API_KEY"] = ""  # nothing of a test leaves this machine

Train = Callable[..., "subprocess.CompletedProcess[str]"]


def command(*overrides: str) -> list[str]:
    """The real entry point, with warnings as errors where they are ours."""
    return [sys.executable, str(TRAIN), *overrides]


@functools.cache
def zygote() -> "subprocess.Popen[str]":
    """The process that runs train.py without importing everything each time, one for each test worker."""
    start = [sys.executable, str(Path(__file__).with_name("zygote.py")), str(TRAIN)]
    return subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def pytest_sessionfinish() -> None:
    """End the process of `zygote`, if there is one."""
    if zygote.cache_info().currsize:
        with zygote() as process:
            process.kill()


def run_train(
    *overrides: str, code: int | None = 0, cwd: Path | None = None, env: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run train.py to its end and check its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder, name)) for name in ("stdout", "stderr")}
        job = {"argv": [str(TRAIN), *overrides], "cwd": str(cwd or Path.cwd()), "env": env or {}, **files}
        process = zygote()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        returncode = int(process.stdout.readline())
        stdout, stderr = (Path(file).read_text() for file in files.values())
        stderr = stderr.partition("nanobind: leaked")[0]  # what the zygote froze is not collected at the exit
    assert code is None or returncode == code, f"exit code {returncode}\n{stdout}\n{stderr}"
    return subprocess.CompletedProcess(command(*overrides), returncode, stdout, stderr)


@pytest.fixture
def output_root(tmp_path: Path) -> Path:
    """Where the runs of this test go."""
    return tmp_path / "runs"


@pytest.fixture
def train(output_root: Path) -> Train:
    """Run train.py with its output in this test's own folder: `train("mode=dev", code=0, cwd=None, env=None)`."""

    def run(*overrides: str, **options: object) -> "subprocess.CompletedProcess[str]":
        own = [] if any(word.startswith("paths.output") for word in overrides) else [f"paths.output_root={output_root}"]
        return run_train(*overrides, *own, **options)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def dev_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished dev run of the smallest pair that one loss trains."""
    data, model = trainable()[0]
    if not has_one_loss(data, model):
        pytest.skip("every model here is trained by several losses")
    root = tmp_path_factory.mktemp("dev")
    words = (f"data={data}", f"model={model}", "mode=dev", "tracker=none")
    run_train(*words, f"paths.output_root={root}", "run.name=dev_run")
    return root / "dev" / "dev_run"
