"""Analysis scripts and the notebook, on a real run. One that has been deleted is not asked for."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_train, tree

from scaffolding.config import PROJECT_ROOT

SCRIPTS = PROJECT_ROOT / "scripts"
HARDEST, NOTEBOOK = SCRIPTS / "find_hardest.py", SCRIPTS / "explore.ipynb"


def run(*words: object, code: int = 0, cwd: Path = PROJECT_ROOT) -> str:
    """Run a script with warnings as errors; its output."""
    command = [sys.executable, "-W", "error", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 else done.stderr


def run_without_torch(script: Path, *words: object) -> str:
    """Run a script that must not import torch; its output."""
    code = (
        f"import runpy, sys; sys.argv = {[script.name, *map(str, words)]!r}\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    return run("-c", code)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda script: script.name)
def test_help_costs_no_torch(script: Path) -> None:
    assert "usage: " in run_without_torch(script, "--help")


def test_the_list_of_scripts_is_complete() -> None:
    """One that has been deleted may still stand in it."""
    listed = re.findall(r"python scripts/(\w+\.py)", (SCRIPTS / "README.md").read_text())
    assert {script.name for script in SCRIPTS.glob("*.py")} <= set(listed)


@pytest.mark.skipif(not HARDEST.exists(), reason="find_hardest.py has been deleted")
def test_find_hardest(dev_run: Path, tmp_path: Path) -> None:
    import torch

    from scaffolding.experiment import Experiment

    copy = tmp_path / "copy"  # runs may be moved
    shutil.copytree(dev_run, copy)
    exp = Experiment.from_path(copy)
    if not exp.cfg.loss._target_.endswith(".ClassificationLoss"):
        pytest.skip("not a classifier")
    dataset = exp.datasets["val"]
    losses = []
    with torch.no_grad():
        for image, label in (dataset[index] for index in range(len(dataset))):
            losses.append(float(torch.nn.functional.cross_entropy(exp.model(image[None]), torch.tensor([label]))))
    lines = run_train(str(copy), "--num", "5", cwd=tmp_path, file=HARDEST).stdout.splitlines()
    found = {int(line.split()[0]): float(line.split()[-1]) for line in lines[1:6]}
    assert list(found.values()) == pytest.approx(sorted(losses, reverse=True)[:5], rel=1e-3)
    assert list(found.values()) == pytest.approx([losses[index] for index in found], rel=1e-3)
    file = copy / "figures" / f"hardest-val-{exp.state.step:06d}.png"
    assert lines[6:] == [str(file)]
    assert file.stat().st_size > 2000
    assert "no_such" in run_train(str(copy), "--checkpoint", "no_such", file=HARDEST, code=2).stderr


@pytest.mark.skipif(not NOTEBOOK.exists(), reason="explore.ipynb has been deleted")
def test_notebook(dev_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    content = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    before = tree(dev_run)
    monkeypatch.setenv("RUN", str(dev_run))
    nbclient.NotebookClient(content, timeout=120, resources={"metadata": {"path": str(SCRIPTS)}}).execute()
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert any(dev_run.name in data.get("text/plain", "") for data in shown)
    assert any("image/png" in data for data in shown)
    assert tree(dev_run) == before  # reading a run writes nothing
