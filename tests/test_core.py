"""The machinery, piece by piece: files that survive anything, runs that are found."""

import csv
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
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scaffolding.core.folder.cut import cut_after
from scaffolding.core.folder.find import find_run, list_runs
from scaffolding.core.folder.run_folder import Facts, claim, read_output_root, read_status, write_status
from scaffolding.intervals import Intervals, in_steps, is_interval, parse
from torch import nn

from scaffolding.core.errors import StorageError, UserError, nearest
from scaffolding.core.folder import files, lock, provenance
from scaffolding.core.state import checkpoint, keys
from scaffolding.core.state.checkpoint import RunState
from scaffolding.core.state.finite import first_nonfinite

CPU = torch.device("cpu")

# --- words and intervals ---


def test_nearest() -> None:
    keys = ["run", "run.budget", "run.seed", "loader.batch_size", "optimizer.lr"]
    assert nearest("run.bugdet", keys) == ["run.budget"]
    assert nearest("batch_sise", keys) == ["loader.batch_size"]  # by its last part
    assert nearest("sgd", []) == []
    assert nearest("run.sed", keys, 2)[0] == "run.seed" and len(nearest("x", keys, 9)) == len(keys)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("500", (500, "step")), ("500steps", (500, "step")), ("1step", (1, "step")), ("5epochs", (5, "epoch")),
     ("0.5epoch", (0.5, "epoch")), ("10min", (10, "min")), ("1.5min", (1.5, "min")), (" 3 epochs ", (3, "epoch")),
     (500, (500, "step"))],
)  # fmt: skip
def test_parse(text: Any, meaning: tuple[float, str]) -> None:
    assert parse(text) == meaning


@pytest.mark.parametrize(
    "text", ["", "0", "0epochs", "-1", "1.5", "1.5steps", "5 hours", "epoch", "nan", "1e3", "5mins"]
)
def test_parse_refuses(text: str) -> None:
    assert not is_interval(text)
    with pytest.raises(ValueError, match="step"):
        parse(text)


def test_in_steps() -> None:
    assert [in_steps(text, 40) for text in ("7", "7steps", "2epochs", "0.5epoch", "0.01epoch", "0.26epoch")] == [
        7, 7, 80, 20, 1, 11,
    ]  # fmt: skip
    assert is_interval("5epochs", minutes=False) and is_interval("5min") and not is_interval("5min", minutes=False)


def test_intervals_are_due(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    settings = {"log_every": "3", "eval_every": "1epoch", "plot_every": None, "save_every": "2min", "seed": 5}
    due = Intervals(settings, steps_per_epoch=4, num_steps=10).due
    assert [step for step in range(1, 11) if due("log_every", step)] == [3, 6, 9, 10]  # and after the last step
    assert [step for step in range(1, 11) if due("eval_every", step)] == [4, 8, 10]
    assert not any(due(name, step) for name in ("plot_every", "rollout_every") for step in range(1, 11))
    assert not due("save_every", 1)
    now += 119
    assert not due("save_every", 2)
    now += 2
    assert due("save_every", 3) and not due("save_every", 4)
    now += 121
    assert due("save_every", 5)
    assert due("save_every", 10)


# --- random numbers ---


def generators() -> list[Any]:
    """The states of the process's own generators, to compare exactly."""
    states = keys.capture()
    numpy = [value.tolist() if isinstance(value, torch.Tensor) else value for value in states["numpy"]]
    return [states["python"], numpy, states["torch"].tolist()]


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_keys_are_the_same_on_every_machine() -> None:
    """A changed key would silently change the order, the splits and the weights of every run made before."""
    assert keys.key(42, "train", 3) == GOLDEN
    assert len({keys.key(1, 23), keys.key(12, 3), keys.key("1", "23"), keys.key(1, "23"), keys.key(123)}) == 5
    assert all(0 <= keys.key(seed) < 2**63 for seed in range(100))


def test_a_keyed_block_is_neutral_and_repeatable() -> None:
    keys.seed_all(7)
    expected = draw() + draw()
    keys.seed_all(7)
    first = draw()
    with keys.keyed(3, "evaluate"):
        inside = draw()
    with pytest.raises(ZeroDivisionError), keys.keyed(3, "evaluate"):
        assert draw() == inside
        raise ZeroDivisionError
    assert first + draw() == expected
    with keys.keyed(3, "plot"):
        assert draw() != inside


@pytest.mark.parametrize("with_python", [True, False])
def test_set_aside_gives_the_generators_back(with_python: bool) -> None:
    keys.seed_all(7)
    draw()
    before = generators()
    with keys.set_aside(with_python):
        (keys.seed_host if with_python else keys.seed_arrays)(99)
        np.random.randn(3), torch.rand(3)
    assert generators() == before


def test_generators_survive_a_file(tmp_path: Path) -> None:
    keys.seed_all(11)
    draw(), random.gauss(0, 1), np.random.randn()  # both keep a number for the next call
    torch.save(keys.capture(), tmp_path / "states.pt")
    expected = [random.gauss(0, 1), np.random.randn(), *draw()]
    keys.seed_all(12)
    keys.restore(torch.load(tmp_path / "states.pt", weights_only=True))
    assert [random.gauss(0, 1), np.random.randn(), *draw()] == expected


GOLDEN = 4004993037752336081

# --- checkpoints ---


def content(value: float = 1.0) -> dict[str, Any]:
    weights = {"layer.weight": torch.full((16, 8), value), "layer.bias": torch.arange(8)}
    return {"format": checkpoint.FORMAT, "model": weights, "state": vars(RunState(step=int(value)))}


def step_of(path: Path) -> int:
    return int(checkpoint.load(path)["state"]["step"])


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def test_a_checkpoint_holds_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoint.save(path, content() | {"model": model.state_dict(), "generators": keys.capture()})
    loaded = torch.load(path, weights_only=True)
    assert list(loaded["model"]) == [name for name, _ in nn.Sequential(*model).state_dict().items()]
    assert not leftovers(tmp_path)
    fresh = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoint.load_strictly(fresh, checkpoint.load(path)["model"])
    assert torch.equal(fresh[0].weight, model[0].weight)
    with pytest.raises(UserError, match=r"1\.running_mean"):
        checkpoint.load_strictly(nn.Sequential(nn.Linear(2, 3)), loaded["model"])


def failing(function: Any, number: int, after: int = 0) -> Any:
    """A stand-in for a call that fails with a system error from the given time on."""
    calls = iter(range(1_000_000))

    def call(*arguments: Any) -> Any:
        if next(calls) >= after:
            raise OSError(number, os.strerror(number))
        return function(*arguments)

    return call


class FullDisk:
    """A file on a disk that takes some bytes more."""

    def __init__(self, path: Path, mode: str, space: int) -> None:
        self.file, self.space = open(path, mode), space  # noqa: SIM115

    def write(self, data: bytes) -> int:
        self.space -= len(data)
        if self.space < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "FullDisk":
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()


@pytest.mark.parametrize(
    "what", ["write 0", "write 100", "write 1500", "fsync 0", "fsync 1", "fsync 2", "replace 0", "replace 1"]
)
def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = tmp_path / "latest.pt"
    checkpoint.save(path, content(1))
    checkpoint.save(path, content(2))
    call, _, count = what.partition(" ")
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(files, "open", lambda *words: FullDisk(*words, space=int(count)), raising=False)
        else:
            patch.setattr(os, call, failing(getattr(os, call), errno.ENOSPC, int(count)))
        with pytest.raises(StorageError, match=r"latest\.pt: No space left.* MB needed, .* MB free.*untouched"):
            checkpoint.save(path, content(3))
    assert step_of(path) == 2
    assert not leftovers(tmp_path)
    checkpoint.save(path, content(4))
    assert step_of(path) == 4


KILLED = """
import os, sys, torch
from pathlib import Path
from scaffolding.core.state import checkpoint

path, left = Path(sys.argv[1]), 1000

def dying(function):
    def call(*arguments):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments)
    return call

def save(step, calls=1000):
    global left
    if os.fork() == 0:  # as a run and its resumes: each save by a process of its own
        left = calls
        checkpoint.save(path, {"format": checkpoint.FORMAT, "step": step})
        os._exit(0)
    return os.waitstatus_to_exitcode(os.wait()[1])

os.fsync, os.replace = dying(os.fsync), dying(os.replace)
for between in (True, False):
    for calls in range(8):
        if between or calls == 0:
            save(100)
        code = save(calls, calls)
        print(calls, code, checkpoint.load(path)["step"], flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_save_may_be_killed_between_any_two_of_its_steps(tmp_path: Path) -> None:
    """At each of its system calls in turn; with a good save between two kills, then kill upon kill."""
    words = [sys.executable, "-c", KILLED, str(tmp_path / "latest.pt")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    outcomes = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(outcomes) == 16
    for index, (calls, code, step) in enumerate(outcomes):
        before = 100 if index <= 8 else outcomes[index - 1][2]
        assert step in (before, calls) if code == 9 else (code, step) == (0, calls)
    assert [code for _, code, _ in outcomes].count(9) >= 8


def test_link_is_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest, best, copy = (tmp_path / f"{name}.pt" for name in ("latest", "best", "copy"))
    for value in (1, 2):
        checkpoint.save(latest, content(value))
        checkpoint.link(latest, best)
        assert step_of(best) == value
    checkpoint.save(latest, content(3))
    assert (step_of(latest), step_of(best)) == (3, 2)
    monkeypatch.setattr(os, "link", failing(os.link, errno.EPERM))  # a file system without links
    checkpoint.link(latest, copy)
    assert step_of(copy) == 3 and not leftovers(tmp_path)


def test_best_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    latest, best = (tmp_path / "checkpoints" / f"{name}.pt" for name in ("latest", "best"))
    checkpoint.save(latest, content())
    assert checkpoint.best_of(tmp_path) == latest
    checkpoint.link(latest, best)
    assert checkpoint.best_of(tmp_path) == best


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    checkpoint.save(path, content())
    checkpoint.save(tmp_path / "best.pt", content())
    whole = path.read_bytes()
    generator = random.Random(0)
    damaged = [whole[: len(whole) * part // 16] for part in range(16)] + [whole + b"\0"]
    for _ in range(200):
        position, bit = generator.randrange(len(whole)), generator.randrange(8)
        damaged.append(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises(UserError, match=r"(?s)latest\.pt .*is damaged.*best"):
            checkpoint.load(path)
    path.write_bytes(whole)
    assert step_of(path) == 1


class Opens:
    """Pickled code that must not run."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return open, (str(self.file), "w")


def test_other_files_are_refused(tmp_path: Path) -> None:
    path, trap = tmp_path / "latest.pt", tmp_path / "trap"
    with pytest.raises(UserError, match=r"(?s)there is no checkpoint .*none"):
        checkpoint.load(path)
    torch.save(content() | {"extra": Opens(trap)}, path)
    with pytest.raises(UserError, match="only tensors and plain values"):
        checkpoint.load(path)
    assert not trap.exists()
    for other in ({"model": {}}, [1, 2], content() | {"format": 999}):
        torch.save(other, path)
        with pytest.raises(UserError, match="not a checkpoint"):
            checkpoint.load(path)
    path.write_bytes(b"words")
    with pytest.raises(UserError):
        checkpoint.load(path)
    torch.save(content(), path)  # a checkpoint that came without its checksum file
    assert step_of(path) == 1


def test_first_nonfinite() -> None:
    state = {"a": torch.ones(3), "count": torch.tensor(5), "empty": torch.ones(0), "big": torch.full((2, 2), 1e38)}
    assert first_nonfinite(state) is None  # a norm that overflows is no infinite value
    assert first_nonfinite({}) is None
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert first_nonfinite(state | {"b": torch.tensor([0, bad]), "c": torch.tensor(bad)}) == "b"


def test_state_counts_and_judges() -> None:
    state = RunState()
    for _ in range(3):
        state.advance(num_batches=2, num_items=16, batches_per_epoch=4)
    assert (state.step, state.samples, state.epoch, state.batch) == (3, 48, 1, 2)
    verdicts = [state.judge(value, "min") for value in (3.0, float("nan"), 2.0, 2.0, 5.0)]
    assert verdicts == [True, False, True, False, False]
    assert (state.best, state.evaluations_since_best) == (2.0, 2)
    assert [RunState().judge(float("nan"), "max"), RunState(best=1.0).judge(2.0, "max")] == [False, True]


# --- run folders ---

CLAIM = """
import random, sys, time
from datetime import datetime
from pathlib import Path
import coolname
from scaffolding.core.folder import run_folder
from scaffolding.core.errors import UserError

class Frozen:  # all of them in the same second, with few names to choose from
    now = staticmethod(lambda: datetime(2026, 1, 1))

run_folder.datetime = Frozen
coolname.generate = lambda words: ["same", random.choice("abcdefghijklmnopqrstuvwxyz")]
output = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(run_folder.claim(output, None))
try:
    run_folder.claim(output, "mine")
    print("got it")
except UserError as error:
    print(str(error).splitlines()[0])
"""


def test_twenty_simultaneous_starts_get_twenty_folders(tmp_path: Path) -> None:
    output = tmp_path / "runs"
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", CLAIM, str(output)], **options) for _ in range(20)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=100)[0].splitlines() for process in processes]
    folders = {answer[0] for answer in answers}
    assert len(folders) == 20 and all(Path(folder).is_dir() for folder in folders)
    assert sorted(answer[1] for answer in answers)[:2] == ["got it", f"run.name=mine: {output / 'mine'} exists"]


def test_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "coolname"]:
        monkeypatch.delitem(sys.modules, module)  # as in the first run of a process
    state = generators()
    path = claim(tmp_path / "a" / "b", None, "_job3")
    assert path.parent == tmp_path / "a" / "b" and path.name.endswith("_job3")
    assert generators() == state  # a name must not change what the run draws
    for bad in ("", "a/b", "..", ".hidden", "a b", "x" * 201, "a\n", "-x"):
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
    inner = root / RUNS[0] / "wandb"  # what lies in a run is no run
    inner.mkdir()
    (inner / "config.yaml").write_text("{}")
    (root / "2026-01-09_09-00-00_no_run").mkdir()
    return root


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (RUNS[0], 0), ("2026-01-01", 0), ("2026-01-02_09", 1), ("2026-01-02_09-00-00_calm_heron/", 1),
        (RUNS[2], 2), ("dev/2026-01-03", 2), ("2026-01-03_09-00-00_shy_mole", 2), ("latest", 3), (RUNS[3], 3),
    ],
)  # fmt: skip
def test_find_run(runs: Path, name: str, found: int) -> None:
    assert find_run(name, runs) == runs / RUNS[found]


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/../{name}", "{}/checkpoints/.."])
def test_find_run_by_path(runs: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    path = runs / RUNS[0]
    assert find_run(form.format(path, name=path.name), runs) == path
    monkeypatch.chdir(runs.parent)
    relative = Path("runs", RUNS[0])
    assert find_run(form.format(relative, name=path.name), runs) == path
    monkeypatch.chdir("/")
    assert find_run(f"runs/{RUNS[2]}", runs) == runs / RUNS[2]  # as a shell completes it in the project's folder


@pytest.mark.parametrize("name", ["2026", "2026-01-0", "exp"])
def test_an_ambiguous_name_is_refused(runs: Path, name: str) -> None:
    shutil.copytree(runs / RUNS[3], runs / RUNS[3].replace("job0", "job1"))
    with pytest.raises(UserError, match=r"is the beginning of \d runs: .*(calm_heron|_job1)"):
        find_run(name, runs)


@pytest.mark.parametrize(
    "name",
    ["nosuch", "2026-01-09_09-00-00_no_run", "..", "../runs", ".", "", " ", "/", "/etc", "/etc/passwd", "~", "dev/..",
     "a\nb", RUNS[0] + "\n", "a\0b", "x" * 300, "x/" * 300, "é", "*", "latest/"],
)  # fmt: skip
def test_what_is_no_run_is_refused(runs: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        find_run(name, runs)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_run_outside_of_the_output_root_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "elsewhere" / "run"
    shutil.copytree(runs / RUNS[0], outside)
    monkeypatch.chdir(tmp_path)
    for name in (str(outside), "elsewhere/run", f"{runs}/../elsewhere/run", "../elsewhere/run"):
        with pytest.raises(UserError):
            find_run(name, runs)


def test_latest_without_a_real_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="latest: there is no run"):
        find_run("latest", tmp_path / "nowhere")
    (tmp_path / "dev" / "a").mkdir(parents=True)
    (tmp_path / "dev" / "a" / "config.yaml").write_text("{}")
    assert [path.name for path in list_runs(tmp_path)] == ["a"]
    with pytest.raises(UserError, match="dev runs do not count"):
        find_run("latest", tmp_path)


def test_where_the_runs_are(tmp_path: Path) -> None:
    assert read_output_root(tmp_path) == tmp_path / "_output"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text("paths: {output_root: here}\n")
    assert read_output_root(tmp_path) == tmp_path / "here"
    (tmp_path / "configs" / "local.yaml").write_text("loader: {num_workers: 3}\n")
    assert read_output_root(tmp_path) == tmp_path / "here"
    (tmp_path / "configs" / "local.yaml").write_text("paths: {output_root: /there}\n")
    assert read_output_root(tmp_path) == Path("/there")
    (tmp_path / "configs" / "local.yaml").write_text("# nothing yet\n")
    assert read_output_root(tmp_path) == tmp_path / "here"
    (tmp_path / "configs" / "local.yaml").write_text("paths:\n  # data: /scratch\n")
    assert read_output_root(tmp_path) == tmp_path / "here"


# --- facts and status ---


def row(step: int, split: str = "train", **values: float) -> dict[str, Any]:
    return {"step": step, "epoch": 0, "samples": 8 * step, "split": split, **values, "time": 1700000000.125 + step}


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> Facts:
    facts = Facts(folder)
    for one in rows:
        facts.add_row(one)
    return facts


def test_a_new_metric_adds_a_column(tmp_path: Path) -> None:
    rows = [row(1, loss=1 / 3), row(2, loss=0.1 + 0.2, grad_norm=1e-30), row(2, "val", loss=float("inf"), f1=0.5)]
    facts = write_rows(tmp_path, rows)
    assert facts.rows() == rows  # every number as it was, to the last bit
    with open(facts.scalars_file, newline="") as file:
        table = list(csv.reader(file))
    assert table[0][:4] == ["step", "epoch", "samples", "split"] and set(table[0][4:]) == {
        "loss",
        "time",
        "grad_norm",
        "f1",
    }
    assert {len(line) for line in table} == {len(table[0])}


def test_cut_after_drops_what_comes_again(tmp_path: Path) -> None:
    kept = [row(1, loss=1 / 3), row(2, loss=float("nan")), row(2, "val", loss=1e-7)]
    facts = write_rows(tmp_path, kept)
    before = facts.scalars_file.read_bytes()
    assert cut_after(facts, 2) == 0 and facts.scalars_file.read_bytes() == before
    for one in (row(3, loss=2.0), row(3, "val", loss=2.0), row(2, "test", loss=2.0)):
        facts.add_row(one)
    assert cut_after(facts, 2) == 3
    assert facts.scalars_file.read_bytes() == before
    assert cut_after(facts, 0) == 3 and facts.rows() == []
    assert cut_after(Facts(tmp_path / "nowhere"), 5) == 0


@pytest.mark.parametrize("step", [2, 3])
def test_a_torn_last_line_is_dropped(tmp_path: Path, step: int) -> None:
    """Also where it belongs to a step that is kept: a row that is whole must not be written behind it."""
    rows = [row(number, loss=number / 3, items_per_second=100.5) for number in (1, 2, 3)]
    facts = write_rows(tmp_path, rows)
    whole = facts.scalars_file.read_bytes()
    start = len(whole) - len(whole.splitlines(keepends=True)[-1])
    for end in range(start + 1, len(whole)):
        facts.scalars_file.write_bytes(whole[:end])
        cut_after(facts, step)
        facts.add_row(row(4, loss=1.0))
        steps = [one["step"] for one in facts.rows()]
        complete = (
            end == len(whole) - 1 and step == 3
        )  # only the end of the line is missing: kept or not, both are fine
        assert steps == [1, 2, 4] or (complete and steps == [1, 2, 3, 4]), whole[start:end]
        assert facts.rows()[-1] == row(4, loss=1.0)


def test_events_are_lines_of_json(tmp_path: Path) -> None:
    facts = Facts(tmp_path)
    facts.event("on_start", step=0)
    facts.event("on_save", step=3, best=True)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["step"]) for event in events] == [("on_start", 0), ("on_save", 3)]


def test_status(tmp_path: Path) -> None:
    assert read_status(tmp_path)["status"] == "unknown"
    lock.acquire(tmp_path)
    write_status(tmp_path, "running", step=3, reason=None)
    assert (read_status(tmp_path)["status"], read_status(tmp_path)["step"]) == ("running", 3)
    content = json.loads((tmp_path / "status.json").read_text())
    lock.release(tmp_path)
    assert read_status(tmp_path)["status"] == "died"
    (tmp_path / "status.json").write_text(json.dumps(content | {"host": socket.gethostname() + "2"}))
    assert read_status(tmp_path)["status"] == "running"  # another machine's processes cannot be seen from here
    (tmp_path / "status.json").write_text(json.dumps(content | {"status": "finished"}))
    assert read_status(tmp_path)["status"] == "finished"


# --- signals ---

STOPPABLE = """
import time
from scaffolding.core.session.signals import StopFlag
with StopFlag() as stop:
    print("ready", flush=True)
    while stop.received is None:
        time.sleep(0.01)
    print(stop.received.name, flush=True)
    time.sleep(30)
"""


@pytest.mark.parametrize(("first", "second"), [("SIGINT", "SIGINT"), ("SIGTERM", "SIGTERM"), ("SIGUSR1", "SIGTERM")])
def test_the_first_signal_asks_and_the_second_ends(first: str, second: str) -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPABLE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(getattr(signal, first))
        assert process.stdout.readline() == f"{first}\n"
        assert process.poll() is None
        process.send_signal(getattr(signal, second))
        assert process.wait(timeout=20) == 128 + getattr(signal, second)


def test_handlers_are_given_back() -> None:
    from scaffolding.core.session.signals import StopFlag

    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    thread = threading.Thread(target=lambda: StopFlag().__enter__())  # python allows handlers in the main thread only
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before


# --- provenance ---


@pytest.mark.parametrize(
    "override", ["tracker.api_key=abc", "tracker.apikey=abc", "+x.password=abc", "x.secret=abc", "x.key=abc",
                 "x.token=abc", "++hf_token=abc", "x.Credentials=abc"],
)  # fmt: skip
def test_secrets_are_masked(override: str) -> None:
    key = override.partition("=")[0]
    assert provenance.masked(override) == f"{key}=***"
    assert provenance.hide_secrets({"a": {key.lstrip("+"): "abc"}, "b": [1]}) == {
        "a": {key.lstrip("+"): "***"},
        "b": [1],
    }


@pytest.mark.parametrize(
    "override", ["optimizer.lr=3", "run.name=monkey", "data.num_tokens=1000", "data.tokenizer=bpe", "model.keys=q",
                 "loss.max_tokens=3", "mode=dev", "--multirun", "run.monitor=val/key"],
)  # fmt: skip
def test_what_is_no_secret_stays(override: str) -> None:
    """A fork repeats the overrides, and a resumed run reads its own config: a hidden value would break both."""
    key, _, value = override.partition("=")
    assert provenance.masked(override) == override
    assert provenance.hide_secrets({key: value}) == {key: value}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ann@example.org")
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    for name, text in (
        ("changed.py", "old\n"),
        ("removed.py", "gone\n"),
        ("staged.py", "old\n"),
        (".gitignore", "*.log\n"),
    ):
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout


def test_the_patch_gives_the_tree_back(repository: Path, tmp_path: Path) -> None:
    assert provenance.uncommitted_changes(repository) == ""
    assert provenance.describe(repository, repository, CPU)["dirty"] is False
    (repository / "changed.py").write_text("new\n")
    (repository / "removed.py").unlink()
    (repository / "staged.py").write_text("staged\n")
    git(repository, "add", "staged.py")
    (repository / "staged.py").write_text("and changed again\n")
    (repository / "sub" / "untracked.py").write_text("new file\n")
    (repository / "sub" / "bytes.bin").write_bytes(bytes(range(256)))
    (repository / "ignored.log").write_text("not this\n")
    index, status = (repository / ".git" / "index").read_bytes(), git(repository, "status", "--porcelain")

    patch = provenance.uncommitted_changes(repository)
    described = provenance.describe(repository, repository, CPU)
    assert (repository / ".git" / "index").read_bytes() == index
    assert git(repository, "status", "--porcelain") == status
    assert described["dirty"] is True and described["commit"] == git(repository, "rev-parse", "HEAD").strip()

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(clone))
    (tmp_path / "changes.patch").write_text(patch)
    git(clone, "apply", str(tmp_path / "changes.patch"))
    trees = [
        {
            path.relative_to(root): path.read_bytes()
            for path in root.rglob("*")
            if path.is_file() and ".git" not in path.parts
        }
        for root in (repository, clone)
    ]
    trees[0].pop(Path("ignored.log"))
    assert trees[0] == trees[1]


def test_provenance_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path in (os.environ["PATH"], str(tmp_path)):  # not a repository; no git at all
        monkeypatch.setenv("PATH", path)
        described = provenance.describe(tmp_path, tmp_path, CPU)
        assert (described["commit"], described["dirty"]) == (None, None)
        assert provenance.uncommitted_changes(tmp_path) == ""
    assert {"torch", "numpy"} <= set(described["packages"])
    yaml.safe_dump(json.loads(json.dumps(described)))  # plain values only
