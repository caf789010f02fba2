"""scripts/runs.py: the tables, on real runs and on folders that are damaged or somebody else's."""

import csv
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BASE, run_train, tree
from test_scripts import SCRIPTS, run, run_without_torch

from scaffolding.core.errors import UserError
from scaffolding.core.find import find_run
from scaffolding.core.folder.summary import read_summary
from scaffolding.experiment import Experiment

RUNS = SCRIPTS / "runs.py"
pytestmark = [
    pytest.mark.skipif(not RUNS.exists(), reason="runs.py has been deleted"),
    pytest.mark.xdist_group("runs"),  # they share the real runs
]


def make_run(folder: Path, status: str = "finished", pid: int = 1, host: str = "elsewhere", **settings: Any) -> None:
    """A run folder as far as the table looks at it, like the one of an older version: it has no summary.json."""
    (folder / "facts").mkdir(parents=True)
    data = {"dataset": {"_target_": "somewhere.data.birds.Birds"}}
    model = {"_target_": "somewhere.model.net.Net", **settings}
    of_run = {"monitor": "auto", "monitor_mode": "min", "description": "with augmentation", "tags": ["pilot"]}
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": of_run, "data": data, "model": model}))
    content = {"status": status, "pid": pid, "host": host, "step": 0, "num_steps": 100}
    (folder / "status.json").write_text(json.dumps(content))
    rows = "".join(f"{step},train,{9 / step},\n{step},val,{8 / step},\n" for step in range(1, 11))
    (folder / "facts" / "scalars.csv").write_text(f"step,split,loss,accuracy\n{rows}11,val,0.0")  # torn: killed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five real runs: two rates with two seeds each, and one that failed."""
    root = tmp_path_factory.mktemp("runs")
    words = (*BASE, "run.budget=8", f"paths.output_root={root}")
    for lr in ("0.01", "0.02"):
        for seed in (1, 2):
            run_train(*words, f"run.name=lr{lr}_{seed}", f"optimizer.lr={lr}", f"run.seed={seed}")
    run_train(*words, "run.name=broken", "run.seed=3", env={"FAIL": "update 2"}, code=1)
    return root


def table(root: Path, *words: str) -> list[list[str]]:
    """The rows of a table as cells, its head first."""
    return list(csv.reader(io.StringIO(run_without_torch(RUNS, "--output", root, "--format", "csv", *words))))


def test_columns_of_real_runs(root: Path) -> None:
    head, *rows = table(root)
    assert head[:5] == ["run", "age", "status", "run.seed", "optimizer.lr"] and head[5] == "val/loss"
    assert [row[0] for row in rows] == ["lr0.01_1", "lr0.01_2", "lr0.02_1", "lr0.02_2", "broken"]
    for row in rows[:4]:
        results = read_summary(root / row[0])["results"]
        assert row[3:5] == [row[0][-1], row[0][2:6]]
        assert all(float(row[place]) == results[head[place]] for place in range(5, len(head) - 1))
        assert row[-1] == "8/8" and "test/loss" in head and "test/accuracy" in head
    text = run(RUNS, "--output", root, "-n", "2")
    assert "broken: ZeroDivisionError: planted" in text and text.splitlines()[-1] == "3 more: -n 5"


def test_where_and_sort_of_real_runs(root: Path) -> None:
    losses = {name: read_summary(root / name)["best"] for name in ("lr0.01_1", "lr0.01_2", "lr0.02_1", "lr0.02_2")}
    expected = sorted(losses, key=lambda name: losses[name])
    assert [row[0] for row in table(root, "--sort", "val/loss", "--where", "status=finished")[1:]] == expected
    assert [row[0] for row in table(root, "--sort", "-val/loss", "--where", "status=finished")[1:]] == expected[::-1]
    assert [row[0] for row in table(root, "--sort", "best", "-n", "2")[1:]] == expected[:2]
    chosen = table(root, "--where", "optimizer.lr > 0.015 and run.seed=2", "--columns", "run.seed,test/loss")
    assert chosen == [["run", "age", "status", "run.seed", "test/loss", "step"], ["lr0.02_2", *chosen[1][1:]]]
    assert run(RUNS, "--output", root, "best").split() == [str(root / expected[0])]
    assert run(RUNS, "--output", root, "best", "--where", "run.seed=1", "--sort", "-val/loss").split() == [
        str(root / max((name for name in losses if name.endswith("1")), key=lambda name: losses[name]))
    ]
    assert "nearest: optimizer.lr" in run(RUNS, "--output", root, "--where", "optimzer.lr=1", code=2)
    assert "nearest: test/loss" in run(RUNS, "--output", root, "--columns", "tst/loss", code=2)
    assert "none of them has finished" in run(RUNS, "--output", root, "best", "--where", "name=broken", code=2)


def test_seeds_of_real_runs(root: Path) -> None:
    head, *rows = table(root, "seeds")
    assert head[:2] == ["optimizer.lr", "n"] and [row[1] for row in rows] == ["2", "2"]
    for row in rows:
        pair = [read_summary(root / f"lr{row[0]}_{seed}")["results"]["val/loss"] for seed in (1, 2)]
        assert row[2].startswith(f"{sum(pair) / 2:.4g} ± ")
    assert rows[0][-1] == "" and rows[1][-1].endswith("2 pairs (not enough seeds: 0.5 is the least it can be)")
    assert "none of 1 runs has finished" in run(RUNS, "--output", root, "seeds", "--where", "name=broken", code=2)


def test_differences_of_real_runs(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(root, copy, symlinks=True)
    record = json.loads((copy / "lr0.02_1" / "provenance.json").read_text())
    record["commit"], record["packages"] = "abc", record["packages"] | {"torch": "0.1", "gone": "1"}
    (copy / "lr0.02_1" / "provenance.json").write_text(json.dumps(record))
    (copy / "lr0.02_1" / "changes.patch").write_text("one\ntwo\n")
    rows = {row[0]: row[1:] for row in table(copy, "diff", "lr0.01_1", "lr0.02_1")}
    assert rows[""] == ["lr0.01_1", "lr0.02_1", "difference"] and rows["optimizer.lr"] == ["0.01", "0.02", "+0.01"]
    assert (
        rows["commit"][1] == "abc" and rows["packages: torch"][1] == "0.1" and rows["packages: gone"][:2] == ["", "1"]
    )
    assert rows["changes.patch"][1].startswith("2 lines ") and "test/loss" in rows
    assert not {"run.seed", "python"} & rows.keys()
    several = table(copy, "diff", "lr0.01_1", "lr0.01_2", "lr0.02_2")
    assert several[0] == ["", "lr0.01_1", "lr0.01_2", "lr0.02_2"]
    assert ["run.seed", "1", "2", "2"] in several and ["optimizer.lr", "0.01", "0.01", "0.02"] in several
    assert "diff: it compares runs" in run(RUNS, "--output", copy, "diff", "lr0.01_1", code=2)


def test_the_best_run_is_loaded(root: Path) -> None:
    for where in ("run.seed=1", None):
        exp = Experiment.best(where, output=root)
        assert str(exp.path) == run(RUNS, "--output", root, "best", "--where", where or "1").strip()
    assert exp.state.step > 0 and not exp.model.training
    with pytest.raises(UserError, match=r"no best run: 1 runs in .* fit name=broken\nnone of them has finished"):
        Experiment.best("name=broken", output=root)


def test_a_note_is_kept_and_shown(root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "runs"
    shutil.copytree(root, copy, symlinks=True)
    before = tree(copy)
    run(RUNS, "--output", copy, "note", "lr0.01_1", "lr too high, see the fork")
    run(RUNS, "--output", copy, "note", "0.01_1", "done")  # any part of a name that no other has
    run(RUNS, "note", copy / "lr0.01_1", "by its path, from anywhere")
    lines = (copy / "lr0.01_1" / "note.txt").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d  ", "", line) for line in lines] == [
        "lr too high, see the fork",
        "done",
        "by its path, from anywhere",
    ]
    head, *rows = table(copy)
    assert head[-1] == "note" and "see the fork" in rows[0][-1] and rows[1][-1] == ""
    assert [row[0] for row in table(copy, "--where", "note like '%fork%'")[1:]] == ["lr0.01_1"]
    after = tree(copy)
    del after[str(copy / "lr0.01_1" / "note.txt")]
    assert after == before  # and nothing else is written
    for words in (["nosuch", "x"], ["lr0.01_1", " "], ["lr0.01_1"], []):
        run(RUNS, "--output", copy, "note", *words, code=2)
    (copy / "broken" / "note.txt").symlink_to(tmp_path / "elsewhere")
    assert "cannot be written" in run(RUNS, "--output", copy, "note", "broken", "x", code=2)
    assert not (tmp_path / "elsewhere").exists()


def test_what_a_terminal_shows(root: Path) -> None:
    """80 columns: no line is wider, and what is left out is named."""
    words = ["script", "-qec", f"stty cols 80; {sys.executable} {RUNS} --output {root}", "/dev/null"]
    if shutil.which("script") is None:
        pytest.skip("there is no program `script` here")
    shown = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True).stdout
    assert "\x1b[32mfinished" in shown and "\x1b[31mfailed" in shown
    lines = re.sub(r"\x1b\[\d+m", "", shown).splitlines()
    assert all(len(line) <= 80 for line in lines[:6]) and lines[6].startswith("not shown")


def test_wrong_words(root: Path) -> None:
    assert "list takes no words" in run(RUNS, "list", "x", "--output", root, code=2)
    assert "invalid choice: 'lits'" in run(RUNS, "lits", code=2)
    assert "-n 0: not a number of at least 1" in run(RUNS, "-n", "0", code=2)
    assert run(RUNS, "--output", root / "nowhere") == ""
    done = subprocess.run(
        [sys.executable, RUNS, "--output", root, "--where", "status=finshed"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines() == [f"no such run in {root}", "status is one of finished, failed"]


def test_table_of_a_dev_run(dev_run: Path) -> None:
    root = dev_run.parents[1]
    table = run_without_torch(RUNS, "--output", root, "--dev").splitlines()
    (cells,) = (line.split() for line in table if dev_run.name in line)
    rows = [line.split(",") for line in (dev_run / "facts" / "scalars.csv").read_text().splitlines()]
    values = [float(row[rows[0].index("loss")]) for row in rows if row[3] == "val"]
    assert {f"{min(values):.4g}", f"{rows[-1][0]}/{rows[-1][0]}", "finished"} <= set(cells)
    assert run(RUNS, "--output", root) == ""  # dev runs are left out


def test_where_sort_and_runs_that_died(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    make_run(tmp_path / "b_first", size=1)
    make_run(tmp_path / "a_second", "running", gone.pid, socket.gethostname(), size=2)
    long = "a_very_long_name_for_a_job_of_a_sweep_that_must_not_be_cut_off_anywhere_job0"
    make_run(tmp_path / "exp_1" / long, size=3)
    make_run(tmp_path / "dev" / "quick")
    for age, name in enumerate(("a_second", "b_first", f"exp_1/{long}")):
        os.utime(tmp_path / name / "config.yaml", (time.time() - 4000 * age,) * 2)

    def names(*words: str) -> list[str]:
        return [line.split()[0] for line in run(RUNS, "--output", tmp_path, *words).splitlines()[1:]]

    assert names() == [long, "b_first", "a_second"]
    assert names("--sort", "name") == ["a_second", "b_first", long]
    assert names("--sort", "age") == ["a_second", "b_first", long]
    assert "quick" in names("--dev")
    assert names("--where", "status=died") == ["a_second"]
    assert names("--where", "status=finished and model=net") == [long, "b_first"]
    assert names("--where", "model.size=2 and description like '%augmentation%' and has(tags, pilot)") == ["a_second"]
    assert names("--where", "data=fish") == []
    died = next(line for line in run(RUNS, "--output", tmp_path).splitlines() if line.startswith("a_second"))
    assert died.split()[2:7] == ["s", "died", "2", "0.8", "10/100"]
    for name, values in (("b_first", [0.7, 0.9]), (f"exp_1/{long}", [0.95])):  # of an accuracy, more is better
        config = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
        config["run"] |= {"monitor": "val/accuracy", "monitor_mode": "max"}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
        rows = "".join(f"{step},val,{value}\n" for step, value in enumerate(values))
        (tmp_path / name / "facts" / "scalars.csv").write_text(f"step,split,accuracy\n{rows}")
    assert names("--sort", "best", "--where", "status=finished") == [long, "b_first"]
    assert "no such column 'size'; nearest: model.size" in run(RUNS, "--output", tmp_path, "--sort", "size", code=2)


def bomb(file: Path) -> None:
    lines = [f"  m{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 24)]
    file.write_text(f"x:\n  m0: &m0 {{a: 1}}\n{''.join(lines)}")


def to_a_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


STRANGE = json.dumps({
    "monitor": [1], "best": "x", "started": 10**400, "ended": {"a": 1}, "num_steps": "\x1b[2J", "description": [1],
    "status": "finished", "results": {"val/loss": "x", "\x1b[2J": 10**400, "test/x": [1]}, "tags": [{"a": "\x07"}],
    "settings": {"run.seed": 10**400, "a": {"b": [1]}, "model._target_": [1]}, "monitor_mode": 3, "seconds": {"x": "y"},
})  # fmt: skip
ODD = {  # by file: what it is replaced by
    "config.yaml": ["", "[1]", "a: [", "run: 1\ndata: []\nmodel: x\n", bomb, os.mkfifo, os.mkdir, b"\xff" * 100],
    "summary.json": ["", "[1]", "{}", '{"results": 1}', os.mkfifo, STRANGE],
    "status.json": ["", "{", "[1]", '{"status": ["x"]}', '{"status": "[link=x]y\\u001b[2J"}', os.mkfifo, os.mkdir,
                    None],
    "facts/scalars.csv": ["", "step,split", "\0" * 200, b"\xff\n" * 9, "a,b\n1,2\n", "step,split,loss\nx,val,y\n",
                          to_a_device, os.mkfifo, None],
    "provenance.json": ["{", '{"created": 1.2.3}', os.mkfifo],
    ".lock": [os.mkdir, os.mkfifo],
}  # fmt: skip


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
    out = run(RUNS, "--output", tmp_path, "--sort", "best", "-n", "100")
    assert {"good", "last", *(f"odd_{i:02}" for i in range(count))} <= {line.split()[0] for line in out.splitlines()}
    assert not set(out) & {"\x1b", "\x07", "\u202e"} and "speaks\\x1b]0;owned\\x07[red]\\n" in out
    assert "odd_01: " in out and "[link=x]y" in out
    for words in (["seeds"], ["best"], ["diff", "good", "odd_01", "odd_20"], ["--format", "latex"]):
        assert not set(run(RUNS, "--output", tmp_path, *words)) & {"\x1b", "\x07", "\u202e"}
    assert find_run("latest", tmp_path).is_dir() and find_run("good", tmp_path) == tmp_path / "good"


def test_tags_and_description_are_shown(tmp_path: Path) -> None:
    make_run(tmp_path / "one")
    assert "pilot" in run(RUNS, "--output", tmp_path, "--where", "has(run.tags, pilot)").splitlines()[1]
    assert "with augmentation" in run(RUNS, "--output", tmp_path)
    assert run(RUNS, "--output", tmp_path, "--where", "has(tags, pil)") == ""
