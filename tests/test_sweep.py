"""scripts/sweep.py: what is missing or has failed is done, everything else is left alone, and the table is right."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zygote
from conftest import BASE, ENV, tree, wait_until

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.errors import UserError, exit_code
from scaffolding.core.folder.folder import read_status, release
from scaffolding.core.sweep import crew
from scaffolding.core.sweep import open as opening
from scaffolding.core.sweep.points import Sweep, composed
from scaffolding.core.sweep.words import grid

SWEEP = PROJECT_ROOT / "scripts" / "sweep.py"
pytestmark = pytest.mark.skipif(not SWEEP.exists(), reason="sweep.py has been deleted")
WORDS = [*BASE, "run.budget=8"]
GRID = [*WORDS, "optimizer.lr=1e-2,2e-2,3e-2", "run.seed=1,2"]
CONFIGS, GRID[:2], WORDS[:2] = GRID[:2], [], []  # an option of sweep.py
JOB = re.compile(r"job=job(\d+)")


class Point:
    """The process of a point, quickly started; `environments` of jobs tell where they are to fail."""

    environments: dict[int, dict[str, str]] = {}  # noqa: RUF012
    started: list[int] = []  # noqa: RUF012

    def __init__(self, command: list[str], stdout: Any, **options: Any) -> None:
        (job,) = (int(found[1]) for word in command if (found := JOB.fullmatch(word)))
        self.started.append(job)
        file = Path(stdout.name)
        self.process = zygote.start(command[1:], file, file, env=ENV | self.environments.get(job, {}))

    def poll(self) -> int | None:
        return self.process.wait(0)

    def send_signal(self, number: int) -> None:
        self.process.send(number, to_group=False)


class Done:
    """The process of a point that has finished at once, `codes` of jobs tell which have failed instead."""

    codes: dict[int, int] = {}  # noqa: RUF012
    started: list["Done"] = []  # noqa: RUF012

    def __init__(self, command: list[str], env: dict[str, str], **options: Any) -> None:
        self.words = dict(word.split("=", 1) for word in command if "=" in word)
        self.job, self.device = int(self.words["job"][3:]), env.get("CUDA_VISIBLE_DEVICES")
        self.code: int | None = self.codes.get(self.job, 0)
        self.signals: list[int] = []
        self.started.append(self)
        Point.started.append(self.job)
        say(Path(self.words["paths.output"]) / self.words["job"], "failed" if self.code else "finished")

    def poll(self) -> int | None:
        return self.code

    def send_signal(self, number: int) -> None:
        self.signals.append(number)
        self.code = 128 + number


def say(run: Path, status: str, host: str = "elsewhere") -> None:
    """What the folder of a run says."""
    run.mkdir(exist_ok=True)
    (run / "config.yaml").write_text("{}")
    (run / "status.json").write_text(json.dumps({"status": status, "host": host, "pid": 7, "best": 0.5}))


def make(folder: Path, words: list[str]) -> None:
    """What a kill leaves of a sweep before its first point."""
    opening.make_sweep(Sweep(PROJECT_ROOT, folder, words))
    release(folder)


@pytest.fixture
def at_once(program: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, whose points have ended as soon as they are started."""
    monkeypatch.setattr(crew.subprocess, "Popen", Done)
    monkeypatch.setattr(Done, "codes", {})
    monkeypatch.setattr(Done, "started", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


@pytest.fixture
def queue(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job file; what the queue is told comes to stand next to it, in `told`."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {folder}/told\necho Submitted batch job 7\n')
    (folder / "sbatch").chmod(0o755)
    (folder / "told").touch()
    (folder / "points.sh").write_text("cat points.txt")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder / "points.sh"


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("sweep", SWEEP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with monkeypatch.context() as patch:
        patch.setattr(crew, "subprocess", SimpleNamespace(Popen=Point, DEVNULL=None))
        patch.setattr(Point, "environments", {})
        patch.setattr(Point, "started", [])
        patch.setattr(Sweep, "composed", lambda self, point: {"run": {"monitor": "auto", "monitor_mode": "min"}})
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        yield module
    for number, handler in before.items():
        signal.signal(number, handler)


def sweep(
    program: Any, monkeypatch: pytest.MonkeyPatch, root: Path, *words: str, code: int = 0, name: str = "lr"
) -> list[int]:
    """Call the script; the points that it started."""
    Point.started.clear()
    monkeypatch.setattr(sys, "argv", ["sweep.py", name, *words, f"paths.output_root={root}"])
    try:
        assert exit_code(program.main) == code
    finally:
        release(root / f"exp_{name}")
    return sorted(Point.started)


def finished(root: Path) -> dict[int, float]:
    """The best value of each point."""
    runs = {int(path.name[3:]): read_status(path) for path in root.glob("exp_lr/job*") if path.is_dir()}
    return {job: status["best"] for job, status in runs.items() if status["status"] == "finished"}


def test_only_what_is_missing_or_failed_is_done_again(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Point.environments = {1: {"KILL_AT": "7"}, 4: {"FAIL": "update 2"}}
    assert sweep(program, monkeypatch, tmp_path, "--jobs", "2", *CONFIGS, *GRID, code=1) == [*range(6)]
    said = capsys.readouterr().out
    assert "job1 failed (exit code -9): optimizer.lr=0.01 run.seed=2\n    ended by SIGKILL\n" in said
    assert "job4 failed (exit code 1): optimizer.lr=0.03 run.seed=1\n    error: ZeroDivisionError: planted\n" in said
    assert (
        "6 runs: 4 finished, 1 died, 1 failed; " in said
        and "\njob4 failed (optimizer.lr=0.03 run.seed=1): ZeroDivisionError: planted\n" in said
    )
    assert "(4 of 6)" in said and len(re.findall(r"job\d finished \(", said)) == 4
    before = finished(tmp_path)
    Point.environments = {}
    assert sweep(program, monkeypatch, tmp_path) == [1, 4]  # the name alone
    said, best = capsys.readouterr().out, finished(tmp_path)
    assert sorted(best) == [*range(6)] and before.items() <= best.items()
    assert "6 runs: 6 finished; optimizer.lr and run.seed vary" in said and "job1 begins: optimizer.lr=0.01" in said
    rows = [line.split()[:5] for line in said.splitlines()]
    for number in range(3):
        pair = [best[2 * number], best[2 * number + 1]]
        mean, spread = f"{statistics.mean(pair):.4g}", f"{statistics.stdev(pair):.2g}"
        assert [f"0.0{number + 1}", "2", mean, "±", spread] in rows
    job = min(best, key=lambda job: best[job])
    assert f"best:     job{job}, val/loss {best[job]:.4g}" in said
    assert said.count("(not enough seeds: 0.5 is the least it can be)") == 2
    lines = (tmp_path / "exp_lr/points.txt").read_text().splitlines()
    assert shlex.split(lines[3])[-2:] == ["optimizer.lr=0.02", "run.seed=2"]
    sweep(program, monkeypatch, tmp_path, *CONFIGS, *GRID, "--over", "optimizer.lr")  # all words: nothing is left
    said = capsys.readouterr().out
    assert Point.started == []
    shown = [line.split()[:2] for line in said.splitlines() if "±" in line]
    assert shown[0] == ["run.seed", "n"] and sorted(shown[1:]) == [["1", "3"], ["2", "3"]]
    code = f"""import runpy, sys
sys.argv = ["sweep.py", "lr", "paths.output_root={tmp_path}"]
try: runpy.run_path({str(SWEEP)!r}, run_name="__main__")
except SystemExit as end: assert end.code == 0
assert "torch" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0 of 6 points to do" in done.stdout and f"best:     job{job}, " in done.stdout


def test_it_stops_at_the_first_failure_if_asked_to(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Point.environments = {1: {"FAIL": "update 2"}}
    assert sweep(program, monkeypatch, tmp_path, "--stop", *CONFIGS, *GRID, code=1) == [0, 1]


def test_a_signal_is_passed_on_and_nothing_is_left_behind(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strike() -> None:
        runs = [tmp_path / f"exp_lr/job{job}" for job in (0, 1)]
        wait_until(lambda: all((run / "facts/scalars.csv").exists() for run in runs))
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=strike)
    thread.start()
    words = [*CONFIGS, *WORDS, "run.budget=1000000", "run.seed=1,2,3"]
    assert sweep(program, monkeypatch, tmp_path, "--jobs", "2", *words, code=128 + signal.SIGTERM) == [0, 1]
    thread.join()
    for job in (0, 1):
        assert read_status(tmp_path / f"exp_lr/job{job}")["status"] == "preempted"
        assert (tmp_path / f"exp_lr/job{job}/checkpoints/latest.pt").exists()
    assert capsys.readouterr().out.count("stopped: run.seed=") == 2


def test_a_point_that_is_stopped_before_it_begins_has_not_failed(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Struck(Done):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, **options)
            shutil.rmtree(tmp_path / f"exp_lr/job{self.job}")
            self.code = (143, -signal.SIGTERM)[self.job]
            if self.job == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(crew.subprocess, "Popen", Struck)
    words = ["--jobs", "2", "data=digits", "run.seed=1,2"]
    assert sweep(at_once, monkeypatch, tmp_path, *words, code=128 + signal.SIGTERM) == [0, 1]
    said = capsys.readouterr().out
    assert [f"job{job} stopped: run.seed={job + 1}\n    before it began\n" in said for job in (0, 1)] == [True] * 2


def test_ctrl_c_while_the_first_point_is_composed(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def composed(self: Sweep, point: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Sweep, "composed", composed)
    assert sweep(at_once, monkeypatch, tmp_path, "data=digits", "run.seed=1,2", code=130) == []
    assert capsys.readouterr().err == "\rstopped\n" and list(tmp_path.iterdir()) == []


def test_wrong_use_is_refused(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refusal(*words: str, name: str = "lr") -> str:
        assert sweep(program, monkeypatch, tmp_path, *words, code=2, name=name) == []
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) in (2, 3), lines
        return lines[0]

    assert "no: no such sweep in" in refusal(name="no")
    assert "cannot be the name of a sweep" in refusal(*GRID, name="a/b")
    for word in ("optimizer.lr=interval(1,2)", "model=glob(*)", "run.seed=range(5,1)", "run.seed=range(1,5,0)"):
        assert f"{word}: it lists no values" in refusal(word)
    assert "run.name=a: not in a sweep" in refusal("run.name=a")
    assert "hello: not KEY=VALUE" in refusal(*GRID, "hello")
    for name in ("", "data=noisy"):
        assert f"{name!r} cannot be the name of a sweep" in refusal(*GRID, name=name)
    assert ": a line break" in refusal("run.description=a\u2028b")
    assert list(tmp_path.iterdir()) == []
    assert "--over run.tags: it does not vary here" in refusal(*GRID, "--over", "run.tags")
    assert "no such file" in refusal(*GRID, "--with", "nowhere.sh")
    assert "--with: not for a search" in refusal(*GRID, "--trials", "2", "--with", "nowhere.sh")
    assert "--stop: not with --with" in refusal(*GRID, "--stop", "--with", "nowhere.sh")
    assert "--jobs: not with HTCondor" in refusal(*GRID, "--jobs", "2", "--with", "nowhere.sub")
    assert list(tmp_path.iterdir()) == []
    make(tmp_path / "exp_lr", GRID)
    (tmp_path / "exp_lr/job0").mkdir()
    (tmp_path / "exp_lr/job0/config.yaml").write_text("{}")
    assert "is a sweep of other words: data=noisy" in refusal(*GRID, "run.ema_decay=0.9")
    assert "no such file" in refusal("--with", "nowhere.sh")
    make(tmp_path / "exp_two", ["data=noisy", "loader.num_workers=0,1"])
    (tmp_path / "exp_two/points.txt").write_text("data=noisy loader.num_workers=0\ndata=noisy loader.num_workers=1\n")
    assert "loader.num_workers=0: it varies in two" in refusal("loader.num_workers=0", name="two")


def test_a_grid_is_that_of_hydra() -> None:
    points = grid(["--config-dir", "x", "model=a,b", "+k='c,d'", "run.seed=range(2)", "run.tags=[a,b]"])
    assert [point[2:4] for point in points[:3]] == [["model=a", "+k='c,d'"]] * 2 + [["model=b", "+k='c,d'"]]
    assert [point[4] for point in points] == ["run.seed=0", "run.seed=1"] * 2
    assert all(point[:2] == ["--config-dir", "x"] and point[5] == "run.tags=[a,b]" for point in points)


def test_a_search_goes_on_where_it_was(program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points that did not finish are done again, the study knows the best of each, and more trials can be added."""
    optuna = pytest.importorskip("optuna")
    words = [*CONFIGS, *WORDS, "optimizer.lr=tag(log, interval(1e-3, 1e-1))", "run.accumulate=1,2"]
    Point.environments = {1: {"KILL_AT": "3"}}
    assert sweep(program, monkeypatch, tmp_path, "--trials", "2", *words, code=1) == [0, 1]
    Point.environments = {}
    lines = (tmp_path / "exp_lr/points.txt").read_text().splitlines()
    assert sweep(program, monkeypatch, tmp_path) == [1]
    assert sweep(program, monkeypatch, tmp_path, "--trials", "3") == [2]
    assert (tmp_path / "exp_lr/points.txt").read_text().splitlines()[:2] == lines
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "exp_lr/optuna.log"))
    )
    study = optuna.load_study(study_name="exp_lr", storage=storage)
    assert {trial.number: trial.value for trial in study.trials} == finished(tmp_path)
    with open(tmp_path / "exp_lr/optuna.log", "a") as log:
        log.write('{"op_code":')  # a power cut
    assert sweep(program, monkeypatch, tmp_path, "--over", "optimizer.lrx", code=2) == []
    assert sweep(program, monkeypatch, tmp_path, "--over", "optimizer.lr") == []
    assert all(1e-3 <= trial.params["optimizer.lr"] <= 1e-1 for trial in study.trials)
    shutil.rmtree(tmp_path / "exp_lr/job0")  # to do it again
    monkeypatch.setattr(crew.subprocess, "Popen", Done)
    assert sweep(program, monkeypatch, tmp_path) == [0]


def test_a_search_that_is_refused_leaves_nothing_behind(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where the folder is made, or the words before are replaced, before the first point composes."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(Sweep, "composed", lambda self, point: composed(self.train, point))
    words = ["--trials", "2", *CONFIGS, *WORDS, "run.nosuch=1", "run.seed=1,2"]
    for more in (words, words[2:]):  # a search, a grid
        assert sweep(program, monkeypatch, tmp_path, *more, code=2) == []
        assert "run.nosuch=1: no such key" in capsys.readouterr().err
    assert sweep(program, monkeypatch, tmp_path, "--trials", "2", *CONFIGS, *WORDS, code=2) == []
    assert "error: --trials: no word has several values" in capsys.readouterr().err
    intervals = ["interval(2, 1)", "tag(log, interval(0, 1))", "interval(0.1, inf)", "tag(int, interval(0.5, 2))"]
    intervals += ["tag(lgo, interval(1, 2))"]
    for word in ("model=glob(*)", "run.seed=shuffle(1, 2)", *(f"optimizer.lr={interval}" for interval in intervals)):
        assert sweep(program, monkeypatch, tmp_path, "--trials", "2", *CONFIGS, *WORDS, word, code=2) == []
        assert f"error: {word}: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Sweep, "composed", lambda self, point: {"run": {"monitor": None}})
    make(tmp_path / "exp_lr", ["data=digits"])
    (tmp_path / "exp_lr/optuna.log").write_text("trials")
    assert sweep(program, monkeypatch, tmp_path, *words, code=2) == []
    assert "error: run.monitor=null: a search needs a value to go after" in capsys.readouterr().err
    assert (tmp_path / "exp_lr/words.txt").read_text() == "data=digits\n"
    assert (tmp_path / "exp_lr/optuna.log").read_text() == "trials"


def test_a_search_that_was_killed_before_its_study_goes_on(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where it then goes in Optuna's direction, which is down, and not in that of run.monitor_mode."""
    pytest.importorskip("optuna")
    monkeypatch.setattr(Sweep, "composed", lambda self, point: {"run": {"monitor": "auto", "monitor_mode": "max"}})
    words = ["data=digits", "run.seed=1,2"]
    make(tmp_path / "exp_lr", words)
    (tmp_path / "exp_lr/optuna.log").touch()
    assert sweep(at_once, monkeypatch, tmp_path, "--trials", "2", *words) == [0, 1]
    assert '"directions":[2]' in (tmp_path / "exp_lr/optuna.log").read_text()


def test_a_study_that_is_damaged_is_named(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    words = ["--trials", "2", "data=digits", "run.seed=1,2"]
    assert sweep(at_once, monkeypatch, tmp_path, *words) == [0, 1]
    log = tmp_path / "exp_lr/optuna.log"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join([lines[0], "damage\n", *lines[1:]]))
    capsys.readouterr()
    assert sweep(at_once, monkeypatch, tmp_path, code=2) == []
    assert f"error: {log} is damaged: " in capsys.readouterr().err


def test_two_calls_that_begin_a_sweep_do_not_mix(tmp_path: Path) -> None:
    """Fails where the second one changes the points that a queue has by then."""
    make(tmp_path / "exp_lr", ["run.seed=1"])
    (tmp_path / "exp_lr/submitted").write_text("job 7\n")
    with pytest.raises(UserError, match="another process made it meanwhile"):
        make(tmp_path / "exp_lr", ["run.seed=2"])
    assert (tmp_path / "exp_lr/words.txt").read_text() == "run.seed=1\n"


def test_a_grid_does_not_become_a_search(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where points that have runs get the words of other trials."""
    words = ["data=digits", "run.seed=1,2"]
    assert sweep(at_once, monkeypatch, tmp_path, *words) == [0, 1]
    before = (tmp_path / "exp_lr/points.txt").read_text()
    for given in ([], words):
        assert sweep(at_once, monkeypatch, tmp_path, "--trials", "3", *given, code=2) == []
        assert "--trials: lr is a grid" in capsys.readouterr().err
    assert (tmp_path / "exp_lr/points.txt").read_text() == before


def test_words_are_corrected_with_their_study(at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a study of other words stays, or a search that never began keeps its words from being a grid."""
    for first in ("run.seed=1,2,3", "run.seed=1,2"):
        words = ["data=digits", "run.seed=1,2"]
        make(tmp_path / "exp_lr", ["data=digits", first])
        if first != words[1]:
            (tmp_path / "exp_lr/optuna.log").write_text("trials of other words")
        assert sweep(at_once, monkeypatch, tmp_path, *words) == [0, 1]
        assert not (tmp_path / "exp_lr/optuna.log").exists()
        shutil.rmtree(tmp_path / "exp_lr")


def test_what_a_queue_has_is_not_done_twice(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], queue: Path
) -> None:
    def call(*words: str, code: int = 0) -> str:
        assert sweep(at_once, monkeypatch, tmp_path, *words, code=code) == []
        said = capsys.readouterr()
        return said.err if code else said.out

    def num_submitted() -> int:
        return len((queue.parent / "told").read_text().splitlines())

    folder, words = tmp_path / "exp_lr", ["--with", str(queue), "data=digits", "run.seed=1,2"]
    call(*words)
    points, note = (folder / "points.txt").read_text(), folder / "submitted"
    assert num_submitted() == 1 and "Submitted batch job 7: points 0,1" in note.read_text()
    for again in (words, [], words[:2]):
        said = call(*again)
        assert "a queue has them" in said and "batch job 7" in said and "--again" in said and "job1" in said
    assert "is a sweep of other words" in call(*words[:3], "run.seed=4,5,6", code=2)
    assert num_submitted() == 1 and (folder / "points.txt").read_text() == points
    call(*words, "--again")
    assert num_submitted() == 2 and note.exists()
    say(folder / "job0", "finished")
    assert sweep(at_once, monkeypatch, tmp_path, "--again") == [1]  # here
    assert not note.exists()
    note.write_text("all of it is done")
    capsys.readouterr()
    assert "0 of 2 points to do" in call(*words)
    assert num_submitted() == 2 and not note.exists()  # nothing to do: nothing is submitted


def test_a_look_changes_nothing(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data=digits", "run.seed=1,2"]
    assert sweep(at_once, monkeypatch, tmp_path, "--table", *words, code=2) == []
    assert list(tmp_path.iterdir()) == []
    Done.codes = {1: 1}
    assert sweep(at_once, monkeypatch, tmp_path, *words, code=1) == [0, 1]
    capsys.readouterr()
    monkeypatch.setattr(opening, "acquire", None)  # also while another process has the sweep
    before = tree(tmp_path)
    assert sweep(at_once, monkeypatch, tmp_path, "--table") == []
    assert tree(tmp_path) == before
    said = capsys.readouterr().out
    assert "2 runs: 1 finished, 1 failed; run.seed varies" in said and "\njob1 failed (run.seed=2)\n" in said


def test_a_point_on_another_machine_is_left_alone(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a point that was killed there is passed over as if it were done."""
    Done.codes = {0: 1, 1: 1}
    words = ["data=digits", "run.seed=1,2"]
    sweep(at_once, monkeypatch, tmp_path, *words, code=1)
    say(tmp_path / "exp_lr/job1", "running")
    Done.codes = {}
    assert sweep(at_once, monkeypatch, tmp_path, code=1) == [0]
    said = capsys.readouterr().out
    assert "job1 is running on elsewhere" in said and said.count("left alone") == 1
    line = rf"if it was killed there: python \S+train.py data=digits run.seed=2 paths.output_root={tmp_path} job=job1 "
    assert re.search(line, said)
    say(tmp_path / "exp_lr/job1", "running", socket.gethostname())
    assert sweep(at_once, monkeypatch, tmp_path) == [1]  # on this machine, a kill is seen


@pytest.mark.usefixtures("at_once")
def test_an_error_stops_the_other_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def tell(job: int) -> None:
        Done.started[0].code = 0
        raise ValueError("planted")

    class Slow(Done):
        def __init__(self, command: list[str], **options: Any) -> None:
            super().__init__(command, **options)
            self.code = 0 if self.job else None

    monkeypatch.setattr(crew.subprocess, "Popen", Slow)
    points = Sweep(PROJECT_ROOT, tmp_path, [], points=[[], []])
    with pytest.raises(ValueError, match="planted"):
        crew.do_points(points, iter([0, 1]), 2, 2, False, tell)
    assert [process.signals for process in Done.started] == [[signal.SIGTERM], []]


@pytest.mark.parametrize("option", ["--jobs", "--trials"])
def test_numbers_begin_at_one(
    at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    with pytest.raises(SystemExit) as end:
        sweep(at_once, monkeypatch, tmp_path, option, "0", "run.seed=1,2")
    assert end.value.code == 2 and f"{option}: 0: not a whole number of at least 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_words_of_the_place(at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first call hold, those of a later one win, and `trust` is never split."""
    place = ["paths.data=/some/where", "loader.num_workers=2", "run.device=cpu"]
    Done.codes = {0: 1, 1: 1}
    sweep(at_once, monkeypatch, tmp_path, "data=digits", "run.seed=1,2", *place, code=1)
    Done.codes = {}
    assert sweep(at_once, monkeypatch, tmp_path, "loader.num_workers=4", "trust=some.name,other/name") == [0, 1]
    words = Done.started[-1].words
    assert (words["paths.data"], words["run.device"], words["run.seed"]) == ("/some/where", "cpu", "2")
    assert (words["loader.num_workers"], words["trust"]) == ("4", "some.name,other/name")


def test_each_place_has_its_own_gpu(at_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where all points share the first of several GPUs."""

    def devices(*words: str, name: str) -> dict[int, str | None]:
        Done.started.clear()
        sweep(at_once, monkeypatch, tmp_path, *words, "data=digits", name=name)
        return {process.job: process.device for process in Done.started}

    words = ["run.seed=1,2,3"]
    assert devices("--jobs", "2", *words, name="unset") == dict.fromkeys(range(3))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert devices("--jobs", "3", *words, name="several") == {0: "4", 1: "6", 2: "4"}
    assert devices("--jobs", "2", *words, name="two") == {0: "4", 1: "6", 2: "4"}  # a place that is free again
    assert devices(*words, name="one") == dict.fromkeys(range(3), "4,6")
    assert devices("--jobs", "2", "run.device=cuda:0,cuda:1", name="chosen") == dict.fromkeys(range(2), "4,6")
