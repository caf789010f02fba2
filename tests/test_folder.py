"""Run folders: claimed once, found by name, with one writer and a status."""

import errno
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import coolname
import pytest
from conftest import BASE, ENV, TESTS, Train, generators

from scaffolding.core.errors import UserError
from scaffolding.core.find import find_run, list_runs, open_run, read_output_root, shortest_name
from scaffolding.core.folder import folder
from scaffolding.core.folder.folder import claim, read_status
from scaffolding.core.state.files import find_checkpoint
from scaffolding.experiment import PROJECT, Experiment


def test_twenty_simultaneous_starts_get_twenty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them in the same second, with few names to choose from."""
    monkeypatch.setattr(folder, "datetime", Mock(now=lambda: datetime(2026, 1, 1)))
    monkeypatch.setattr(coolname, "generate", lambda words: ["same", random.choice("abcdefghijklmnopqrstuvwxyz")])
    start = threading.Barrier(20)

    def begin(name: str | None) -> Path | str:
        start.wait()
        try:
            return claim(tmp_path / "runs", name)
        except UserError as error:
            return str(error).partition("\n")[0]

    with ThreadPoolExecutor(20) as pool:
        claimed = set(pool.map(begin, [None] * 20))
        named = list(pool.map(begin, ["mine"] * 20))
    assert len(claimed) == 20 and claimed == set((tmp_path / "runs").iterdir()) - {tmp_path / "runs" / "mine"}
    assert named.count(tmp_path / "runs" / "mine") == 1
    assert named.count(f"run.name=mine: {tmp_path / 'runs' / 'mine'} exists") == 19


def test_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "coolname"]:
        monkeypatch.delitem(sys.modules, module)  # as in the first run of a process
    state = generators()
    path = claim(tmp_path / "a" / "b", None, "_job3")
    assert path.parent == tmp_path / "a" / "b" and path.name.endswith("_job3")
    assert generators() == state  # a name must not change what the run draws
    reserved = ("dev", "latest", "jobs", "exp_2026-01-01_09-00-00", "exp_lr")
    for bad in ("", "a/b", "dev/x", "..", ".hidden", "a b", "x" * 201, "a\n", "-x", *reserved):
        with pytest.raises(UserError, match=r"run\.name"):
            claim(tmp_path, bad)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"paths\.output"):
        claim(tmp_path / "file", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]


RUNS = ["2026-01-01_09-00-00_calm_otter", "2026-01-02_09-00-00_calm_heron", "dev/2026-01-03_09-00-00_shy_mole",
        "exp_2026-01-02/2026-01-02_10-00-00_odd_ibis_job0"]  # fmt: skip


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder of runs, as old as the order in which they stand in RUNS."""
    root = tmp_path / "runs"
    for age, name in enumerate(RUNS):
        (root / name / "checkpoints").mkdir(parents=True)
        for file in ("overrides.yaml", "config.yaml"):
            (root / name / file).write_text("{}")
            os.utime(root / name / file, (age, age))
    inner = root / RUNS[0] / "wandb"  # what lies in a run is not a run
    inner.mkdir()
    (inner / "config.yaml").write_text("{}")
    (root / "2026-01-09_09-00-00_no_run").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (RUNS[0], 0), ("2026-01-01", 0), ("2026-01-02_09", 1), ("2026-01-02_09-00-00_calm_heron/", 1),
        (RUNS[2], 2), ("dev/2026-01-03", 2), ("2026-01-03_09-00-00_shy_mole", 2), ("latest", 3), (RUNS[3], 3),
        (f"./{RUNS[0]}", 0), (f"{{root}}/{RUNS[0]}/", 0), (f"{{root}}/{RUNS[0]}/checkpoints/..", 0),
        (f"runs/{RUNS[2]}", 2),  # as a shell completes it in the project's folder
    ],
)  # fmt: skip
def test_find_run(runs: Path, monkeypatch: pytest.MonkeyPatch, name: str, found: int) -> None:
    monkeypatch.chdir(runs)
    assert find_run(name.format(root=runs), runs) == runs / RUNS[found]


@pytest.mark.parametrize("name", ["2026", "2026-01-0", "exp", "same"])
def test_an_ambiguous_name_is_refused(runs: Path, name: str) -> None:
    shutil.copytree(runs / RUNS[3], runs / RUNS[3].replace("job0", "job1"))
    for sweep in ("exp_1", "exp_2"):  # two sweeps with a run of the same name
        shutil.copytree(runs / RUNS[0], runs / sweep / "same")
    with pytest.raises(UserError, match=r"stands for \d runs: .*(calm_heron|exp_1/same, .*exp_2/same)"):
        find_run(name, runs)
    assert shortest_name(runs / "exp_2" / "same", runs) == "exp_2/same"
    assert shortest_name(runs / RUNS[2], runs) == RUNS[2].partition("/")[2]
    shutil.copytree(runs / RUNS[0], runs / "same")
    assert find_run("same", runs) == runs / "same" and shortest_name(runs / "same", runs) == "same"
    with pytest.raises(UserError):
        shortest_name(runs, runs)


def test_a_resume_with_a_changed_setting_does_not_make_a_run_the_latest(runs: Path) -> None:
    for age, name in enumerate(RUNS):
        (runs / name / "provenance.json").write_text(json.dumps({"created": 1e9 + age, "parent": None}, indent=age))
    for file in ("config.yaml", "overrides.yaml", "provenance.json"):
        os.utime(runs / RUNS[0] / file, (2e9, 2e9))
    assert find_run("latest", runs) == runs / RUNS[3]


@pytest.mark.parametrize(
    "name",
    ["nosuch", "2026-01-09_09-00-00_no_run", "..", "../runs", "", "/etc/passwd", "~", "dev/..", "a\nb", RUNS[0] + "\n",
     "a\0b", "x" * 300, "x/" * 300, "*", "latest/"],
)  # fmt: skip
def test_what_is_no_run_is_refused(runs: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        find_run(name, runs)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_run_outside_of_the_output_root(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "elsewhere" / "run"
    shutil.copytree(runs / RUNS[0], outside)
    monkeypatch.chdir(tmp_path)
    for name in (str(outside), "elsewhere/run", f"{runs}/../elsewhere/run"):
        with pytest.raises(UserError):
            find_run(name, runs)
    assert open_run(str(outside), runs) == outside
    assert open_run("latest", runs) == runs / RUNS[3]


def test_latest_without_a_real_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="latest: no run in"):
        find_run("latest", tmp_path / "nowhere")
    (tmp_path / "dev" / "a").mkdir(parents=True)
    (tmp_path / "dev" / "a" / "config.yaml").write_text("{}")
    assert [path.name for path in list_runs(tmp_path)] == ["a"]
    with pytest.raises(UserError, match="dev runs do not count"):
        find_run("latest", tmp_path)


def test_where_the_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_output_root(tmp_path) == tmp_path / "_output"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text("run: {name: null}\npaths: {data: there, output_root: here}\n")
    assert read_output_root(tmp_path) == tmp_path / "here"
    (tmp_path / ".env").write_text("FROM_FILE=/of/a/file\n")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("SCRATCH", "/scratch/it's me")
    for text, expected in {
        "loader: {num_workers: 3}": tmp_path / "here",
        "paths: {output_root: /there}": Path("/there"),
        "# nothing yet": tmp_path / "here",
        "paths:\n  # data: /scratch": tmp_path / "here",
        "paths: {output_root: ~/runs}": Path("/home/me/runs"),
        "paths: {output_root: ~nobody_of_that_name/runs}": tmp_path / "~nobody_of_that_name/runs",
        "paths: {output_root: '${oc.env:SCRATCH}/runs'}": Path("/scratch/it's me/runs"),
        "paths: {output_root: '${oc.env:FROM_FILE}'}": Path("/of/a/file"),
        "paths: {output_root: '${oc.env:NO_SUCH,/x}'}": Path("/x"),
        "paths: {output_root: '${paths.data}/runs'}": tmp_path / "there/runs",
        "paths: {output_root: 'of_${run.name}'}\nrun: {name: me}": tmp_path / "of_me",
    }.items():
        (tmp_path / "configs" / "local.yaml").write_text(text)
        assert read_output_root(tmp_path) == expected
        assert read_output_root(tmp_path, "~/given") == Path("/home/me/given")
    (tmp_path / "configs" / "local.yaml").write_text("paths: {output_root: 2024}")
    assert read_output_root(tmp_path) == tmp_path / "2024"
    for text, words in {
        "paths: {output_root: null}": r"paths\.output_root: it is null", "paths: 5": r"local\.yaml: paths: 5 is not",
        "paths: [1, 2": r"local\.yaml:1:13: ", "[paths]": r"local\.yaml: \['paths'\] is not a mapping",
    }.items():  # fmt: skip
        (tmp_path / "configs" / "local.yaml").write_text(text)
        with pytest.raises(UserError, match=words):
            read_output_root(tmp_path)
    (tmp_path / "configs" / "local.yaml").unlink()
    for text in ("${oc.env:NO_SUCH}", "${paths.nosuch}", "${"):
        with pytest.raises(UserError, match=r"paths\.output_root"):
            read_output_root(tmp_path, text)


def test_a_run_that_may_not_be_written_or_read_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colleague's, or an archive; as these tests may run as root, for whom all is allowed, the calls say it."""

    def forbidden(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:  # deleted while this waits: the lock that it then gets locks nothing
        patch.setattr(folder.system, "lock", lambda *arguments: shutil.rmtree(tmp_path / "run", ignore_errors=True))
        (tmp_path / "run").mkdir()
        for _ in range(2):  # the second time, it is not there
            with pytest.raises(UserError, match=r"run was deleted meanwhile\nrun the command again"):
                folder.acquire(tmp_path / "run")
    monkeypatch.setattr(folder, "open_here", forbidden)
    with pytest.raises(UserError, match=r"cannot be written: Permission denied\nfork="):
        folder.acquire(tmp_path)
    monkeypatch.setattr(Path, "is_file", forbidden)
    with pytest.raises(UserError, match=r"best\.pt cannot be read: Permission denied"):
        find_checkpoint(tmp_path, "best")


def test_status(tmp_path: Path) -> None:
    assert read_status(tmp_path)["status"] == "unknown"
    folder.acquire(tmp_path)
    content = {"status": "running", "step": 3, "pid": os.getpid(), "host": socket.gethostname()}
    (tmp_path / "status.json").write_text(json.dumps(content))
    assert (read_status(tmp_path)["status"], read_status(tmp_path)["step"]) == ("running", 3)
    folder.release(tmp_path)
    assert read_status(tmp_path)["status"] == "died"
    (tmp_path / "status.json").write_text(json.dumps(content | {"host": socket.gethostname() + "2"}))
    assert read_status(tmp_path)["status"] == "running"  # another machine's processes cannot be seen from here
    (tmp_path / "status.json").write_text(json.dumps(content | {"status": "finished"}))
    assert read_status(tmp_path)["status"] == "finished"


LOCK_TWICE = """
import sys
from {0}.core import system
assert system.IS_WINDOWS
with open(sys.argv[1], "a+") as first, open(sys.argv[1], "a+") as second:
    system.lock(first)
    try:
        system.lock(second)
    except OSError as error:
        assert error.errno in system.IN_USE
        print("in use")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it disguises Linux")
def test_a_lock_is_taken_on_windows(tmp_path: Path) -> None:
    """As far as Linux can look like it; test_windows.py does the same with a run."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS / "windows"), ENV["PYTHONPATH"]])}
    program = [sys.executable, "-c", LOCK_TWICE.format(PROJECT.package), str(tmp_path / ".lock")]
    done = subprocess.run(program, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "in use\n"), done.stderr


@pytest.mark.parametrize("missing", ["symlink", "link symlink"])
def test_model_is_the_best_checkpoint_where_there_are_no_links(train: Train, output_root: Path, missing: str) -> None:
    """Fails where a copy of the first best checkpoint stays while later ones are better; also after a kill."""
    env, run = {"NO_LINKS": missing}, output_root / "run"
    train(*BASE, "run.name=run", env=env | {"KILL_AT": "12"}, code=-signal.SIGKILL)
    (run / "model.pt").write_bytes(b"as a kill between the two files leaves it")
    train("resume=run", env=env)
    model, best = run / "model.pt", run / "checkpoints" / "best.pt"
    assert (run / "facts" / "events.jsonl").read_text().count('"on_best"') > 1
    assert not model.is_symlink() and model.samefile(best) == (missing == "symlink")
    assert model.read_bytes() == best.read_bytes()
    assert Experiment.from_path(run, trust=("tiny",)).state.step == read_status(run)["best_step"]
