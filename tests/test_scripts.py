"""Analysis scripts and the notebook, on a real run. One that has been deleted is not asked for."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import run_train, tree

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.find import find_run

SCRIPTS = PROJECT_ROOT / "scripts"
RUNS, HARDEST, NOTEBOOK = SCRIPTS / "runs.py", SCRIPTS / "find_hardest.py", SCRIPTS / "explore.ipynb"
with_runs = pytest.mark.skipif(not RUNS.exists(), reason="runs.py has been deleted")


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


def make_run(folder: Path, status: str = "finished", pid: int = 1, host: str = "elsewhere", **settings: float) -> None:
    """A run folder as far as the table looks at it, like the one of a real run."""
    (folder / "facts").mkdir(parents=True)
    data = {"dataset": {"_target_": "somewhere.data.birds.Birds"}}
    model = {"_target_": "somewhere.model.net.Net", **settings}
    of_run = {"monitor": "auto", "monitor_mode": "min", "description": "with augmentation", "tags": ["pilot"]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": of_run, "data": data, "model": model}))
    content = {"status": status, "pid": pid, "host": host, "step": 0, "num_steps": 100}
    (folder / "status.json").write_text(json.dumps(content))
    rows = "".join(f"{step},train,{9 / step},\n{step},val,{8 / step},\n" for step in range(1, 11))
    (folder / "facts" / "scalars.csv").write_text(f"step,split,loss,accuracy\n{rows}11,val,0.0")  # torn: killed


@with_runs
def test_table_of_a_real_run(dev_run: Path) -> None:
    root = dev_run.parents[1]
    table = run_without_torch(RUNS, "--output", root, "--all").splitlines()
    (cells,) = (line.split() for line in table if dev_run.name in line)
    rows = [line.split(",") for line in (dev_run / "facts" / "scalars.csv").read_text().splitlines()]
    values = [float(row[rows[0].index("loss")]) for row in rows if row[3] == "val"]
    assert {f"{min(values):.4g}", f"{rows[-1][0]}/{rows[-1][0]}", "finished"} <= set(cells)
    assert "no such run" in run(RUNS, "--output", root)  # dev runs are left out


@with_runs
def test_filter_sort_and_runs_that_died(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    make_run(tmp_path / "b_first", size=1)
    make_run(tmp_path / "a_second", "running", gone.pid, socket.gethostname(), size=2)
    long = "exp_1/a_very_long_name_for_a_job_of_a_sweep_that_must_not_be_cut_off_anywhere_job0"
    make_run(tmp_path / long, size=3)
    make_run(tmp_path / "dev" / "quick")
    for age, name in enumerate(("a_second", "b_first", long)):
        os.utime(tmp_path / name / "config.yaml", (time.time() - 4000 * age,) * 2)

    def names(*words: str) -> list[str]:
        return [line.split()[0] for line in run(RUNS, "--output", tmp_path, *words).splitlines()[1:]]

    assert names() == [long, "b_first", "a_second"]
    assert names("--sort", "name") == ["a_second", "b_first", long]
    assert names("--sort", "age") == ["a_second", "b_first", long]
    assert "dev/quick" in names("--all")
    assert names("--filter", "status=died") == ["a_second"]
    assert names("--filter", "status=finished model=net") == [long, "b_first"]
    assert names("--filter", "model.size=2 augmentation pilot") == ["a_second"]
    assert names("--filter", "data=fish") == []
    died = next(line for line in run(RUNS, "--output", tmp_path).splitlines() if line.startswith("a_second"))
    assert died.split()[2:8] == ["s", "died", "birds", "net", "0.8", "10/100"]
    for name, values in (("b_first", [0.7, 0.9]), (long, [0.95])):  # of an accuracy, more is better
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        config["run"] |= {"monitor": "val/accuracy", "monitor_mode": "max"}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        rows = "".join(f"{step},val,{value}\n" for step, value in enumerate(values))
        (tmp_path / name / "facts" / "scalars.csv").write_text(f"step,split,accuracy\n{rows}")
    assert names("--sort", "best", "--filter", "status=finished") == [long, "b_first"]
    assert "invalid choice" in run(RUNS, "--sort", "size", code=2)


def bomb(file: Path) -> None:
    lines = [f"  m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 24)]
    file.write_text(f"x:\n  m0: &m0 {{a: 1}}\n{''.join(lines)}")


def to_a_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


ODD = {  # by file: what it is replaced by
    "config.yaml": ["", "[1]", "a: [", "run: 1\ndata: []\nmodel: x\n", bomb, os.mkfifo, os.mkdir, b"\xff" * 100],
    "status.json": ["", "{", "[1]", '{"status": ["x"]}', '{"status": "[link=x]y\\u001b[2J"}', os.mkfifo, os.mkdir,
                    None],
    "facts/scalars.csv": ["", "step,split", "\0" * 200, b"\xff\n" * 9, "a,b\n1,2\n", "step,split,loss\nx,val,y\n",
                          to_a_device, os.mkfifo, None],
    "provenance.json": ["{", '{"created": 1.2.3}', os.mkfifo],
    ".lock": [os.mkdir, os.mkfifo],
}  # fmt: skip


@with_runs
def test_an_odd_folder_hides_no_other_run(tmp_path: Path) -> None:
    """All of them in one table: half copied, damaged, somebody else's."""
    make_run(tmp_path / "good")
    count = 0
    for name, contents in ODD.items():
        for content in contents:
            folder, count = tmp_path / f"odd_{count:02}", count + 1
            make_run(folder, status="running", host=socket.gethostname())
            (folder / name).unlink(missing_ok=True)
            if isinstance(content, str | bytes):
                (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
            elif content is not None:
                content(folder / name)
    make_run(tmp_path / "speaks\x1b]0;owned\x07[red]\n\u202e")
    make_run(tmp_path / "last")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").symlink_to(tmp_path / "nowhere")
    out = run(RUNS, "--output", tmp_path, "--filter", "", "--sort", "best")
    assert {"good", "last", *(f"odd_{i:02}" for i in range(count))} <= {line.split()[0] for line in out.splitlines()}
    assert not set(out) & {"\x1b", "\x07", "\u202e"} and "speaks\\x1b]0;owned\\x07[red]\\n" in out
    assert "odd_00: " in out and "[link=x]y" in out
    assert find_run("latest", tmp_path).is_dir() and find_run("good", tmp_path) == tmp_path / "good"


@with_runs
def test_tags_and_description_are_shown_and_filtered(tmp_path: Path) -> None:
    make_run(tmp_path / "one")
    for words in ("tags=pilot", "run.tags=PILOT", "pilot augmentation"):
        assert "pilot" in run(RUNS, "--output", tmp_path, "--filter", words).splitlines()[1]
    assert "with augmentation" in run(RUNS, "--output", tmp_path)
    assert "no such run" in run(RUNS, "--output", tmp_path, "--filter", "tags=pil")


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
