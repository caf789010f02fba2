"""Trackers follow a run's files and cannot stop it: each row once, whatever fails, through kills and resumes."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Train
from loguru import logger
from pairs import options

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder import lock
from scaffolding.core.folder.cut import cut_after
from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.session import tracking
from scaffolding.core.session.tracking import Tracking
from scaffolding.core.state import checkpoint
from scaffolding.rehearsal import first_difference

TESTS = Path(__file__).parent
SYNC = PROJECT_ROOT / "scripts" / "sync.py"
ENV = {"PYTHONPATH": str(TESTS)}
BASE = (
    "--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "optimizer=fatal", "plots=none", "mode=prod",
    "run.budget=24", "run.log_every=1", "run.eval_every=5", "run.save_every=4", "loader.batch_size=16",
)  # fmt: skip
with_wandb = pytest.mark.skipif("wandb" not in options("tracker"), reason="W&B has been deleted")
with_sync = pytest.mark.skipif(not SYNC.exists(), reason="sync.py has been deleted")


class Recorder:
    """Remembers its calls; one of its methods may do something else first. `first` is what it has already."""

    def __init__(self, first: int = 0, **behaviour: Any) -> None:
        self.calls: list[Any] = []
        self.first, self.behaviour = first, behaviour

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.behaviour.get(name, lambda: None)()
            self.calls.append((name, *arguments))
            return self.first

        return call

    def ordinals(self, method: str = "log") -> list[int]:
        return [call[-1] for call in self.calls if call[0] == method]


def follow(tracker: Any, folder: Path, count: int = 50, first: int = 1, exit_code: int = 0) -> float:
    """Track rows and figures of the steps from `first`; the seconds that training was held up, its end left out."""
    (folder / "facts").mkdir(exist_ok=True)
    facts, guard = Facts(folder / "facts"), Tracking(tracker)
    start = time.monotonic()
    guard.start(folder, {"run": {"seed": 3}})
    for step in range(first, first + count):
        for split in ("train", "val"):
            row = {"step": step, "split": split, "loss": step / 3}
            facts.add_row(row)
            guard.log(row)
        if step % 20 == 0:
            guard.log_figure(folder / "figures" / f"curves-val-{step:06d}.png")
    seconds = time.monotonic() - start
    guard.finish(exit_code)
    return seconds


ALL = [100 * step + place for step in range(1, 51) for place in (0, 1)]


def test_rows_arrive_in_order_and_figures_behind_those_of_their_step(tmp_path: Path) -> None:
    recorder = Recorder()
    follow(recorder, tmp_path)
    assert recorder.calls[0] == ("start", tmp_path, {"run": {"seed": 3}}) and recorder.calls[-1] == ("finish", 0)
    assert recorder.ordinals() == ALL
    assert recorder.calls[2] == ("log", {"step": 1, "split": "val", "loss": 1 / 3}, 101)
    figure = ("log_figure", "curves", tmp_path / "figures/curves-val-000020.png", 20, 2099)
    assert recorder.calls.index(figure) == 41
    both = [call[-1] for call in recorder.calls[1:-1]]
    assert both == sorted(set(both)) and len(both) == 102
    follow(None, tmp_path)  # no tracker at all


def test_what_came_before_is_delivered_first_and_nothing_twice(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    for step in (1, 20, 60, 90):
        (tmp_path / "figures" / f"curves-val-{step:06d}.png").touch()
    for name in ("notes-of-mine.png", "notes-of-2x.png", "notes.png"):
        (tmp_path / "figures" / name).touch()
    follow(Recorder(), tmp_path)  # killed after step 50, say, with a checkpoint of step 30
    cut_after(Facts(tmp_path / "facts"), 30)
    fresh, online = Recorder(), Recorder(first=4001)
    follow(fresh, tmp_path, count=20, first=31)
    assert fresh.ordinals() == ALL
    assert fresh.ordinals("log_figure") == [199, 2099, 4099]  # that of step 60 is of steps that come again
    cut_after(Facts(tmp_path / "facts"), 30)
    follow(online, tmp_path, count=20, first=31)
    assert online.ordinals() == [ordinal for ordinal in ALL if ordinal >= 4001]
    assert online.ordinals("log_figure") == [4099]


def fail() -> None:
    raise ConnectionError("no route\nto the server")


def leave() -> None:
    sys.exit(3)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]))
    yield messages
    logger.remove(handler)


@pytest.mark.parametrize("behaviour", [fail, leave, lambda: time.sleep(30)], ids=["raises", "exits", "hangs"])
@pytest.mark.parametrize("method", ["start", "log", "log_figure", "finish"])
def test_a_bad_tracker_neither_stops_nor_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str], method: str, behaviour: Any
) -> None:
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT", 0.2)
    start = time.monotonic()
    recorder = Recorder(**{method: behaviour, "abandon": fail})
    assert follow(recorder, tmp_path) < 10
    assert time.monotonic() - start < 20  # it would be 30
    assert len(log) == 1 and log[0].startswith("tracker: ") and "facts/ is complete" in log[0] and "\n" not in log[0]


@pytest.mark.full
def test_a_slow_tracker_gets_all_there_is_time_for(tmp_path: Path) -> None:
    recorder = Recorder(log=lambda: time.sleep(0.03))
    assert follow(recorder, tmp_path) < 1.5  # it would be 3
    assert recorder.ordinals() == ALL


def test_what_found_no_place_in_memory_comes_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 5)
    recorder = Recorder(start=lambda: time.sleep(1))
    follow(recorder, tmp_path)
    assert recorder.ordinals() == ALL and recorder.calls[-1] == ("finish", 0)


def test_a_stuck_tracker_cannot_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 20)
    guard = Tracking(Recorder(log=lambda: time.sleep(30)))
    guard.start(tmp_path, {})
    for step in range(1000):
        guard.log({"step": step})
    assert guard.waiting.qsize() <= 20
    start = time.monotonic()
    guard.finish(128 + signal.SIGTERM)  # who asks a run to stop does not wait a minute
    assert time.monotonic() - start < 10


STUCK = """
import sys, time
from pathlib import Path
from scaffolding.core.session import tracking

class Stuck:
    def start(self, *arguments):
        time.sleep(60)

tracking.FINISH_TIMEOUT = 0.1
guard = tracking.Tracking(Stuck())
guard.start(Path("."), {})
guard.log({"step": 1})
guard.finish(0)
sys.exit(7)
"""


def test_a_stuck_tracker_does_not_keep_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30)
    assert done.returncode == 7, done.stderr


# --- W&B itself ---


def history(run: Path) -> list[dict[str, Any]]:
    """The records of rows in the newest W&B folder of a run, each as W&B keeps it."""
    from scaffolding.tracker.wandb import read_records

    folder = sorted((run / "wandb").glob("offline-run-*"))[-1]
    found = []
    for record in read_records(folder):
        if record.HasField("history"):
            items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            found.append({"ordinal": record.history.step.num, **items})
    return found


def exit_records(run: Path) -> list[tuple[str, int]]:
    """How the newest W&B folder of a run says that it ended."""
    from scaffolding.tracker.wandb import read_records

    records = list(read_records(sorted((run / "wandb").glob("offline-run-*"))[-1]))
    kinds = [(record.WhichOneof("record_type"), record.exit.exit_code) for record in records]
    return [(kind, code) for kind, code in kinds if kind in ("exit", "preempting")]


def assert_complete(run: Path) -> None:
    """Every row of scalars.csv is in the newest W&B folder exactly once, in order."""
    records = history(run)
    ordinals = [record["ordinal"] for record in records]
    assert ordinals == sorted(set(ordinals))
    found = [record for record in records if not any(key.startswith("figures") for key in record)]
    with open(run / "facts" / "scalars.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found) > 15
    for row, record in zip(rows, found, strict=True):
        assert (int(row["step"]), float(row["loss"])) == (record["step"], record[f"{row['split']}/loss"])


@with_wandb
@pytest.mark.full
def test_killed_three_times_the_newest_folder_is_complete(train: Train, output_root: Path) -> None:
    again = ("resume=run", "trust=tiny")
    train(*BASE, "tracker=wandb", "run.name=run", env=ENV | {"KILL_AT": "7"}, code=-signal.SIGKILL)
    train(*again, env=ENV | {"KILL_AT": "5after"}, code=-signal.SIGKILL)
    train(*again, env=ENV | {"KILL_AT": "9"}, code=-signal.SIGKILL)
    done = train(*again, env=ENV)
    assert_complete(output_root / "run")
    assert exit_records(output_root / "run") == [("exit", 0)]
    newest = sorted((output_root / "run" / "wandb").glob("offline-run-*"))[-1]
    assert done.stderr.count("upload later with") == done.stderr.count(f"wandb sync {newest}") == 1


@with_wandb
@pytest.mark.full
def test_figures_come_behind_the_rows_of_their_step(train: Train, output_root: Path) -> None:
    train(*BASE, "plots=standard", "tracker=wandb", "run.plot_every=6", "run.name=run", env=ENV)
    assert_complete(output_root / "run")
    shown = {record["step"] for record in history(output_root / "run") if "figures/curves" in record}
    assert shown == {6, 12, 18, 24}
    assert [record["ordinal"] for record in history(output_root / "run") if "figures/first_batch" in record] == [199]


@pytest.mark.full
@with_wandb
@pytest.mark.parametrize(
    ("name", "code", "records"),
    [("SIGTERM", 143, [("preempting", 0), ("exit", 143)]), ("SIGINT", 130, [("exit", 130)])],
)
def test_state_after_a_signal(
    train: Train, output_root: Path, name: str, code: int, records: list[tuple[str, int]]
) -> None:
    words = (*BASE, "data.dataset._target_=tiny.SlowPoints", "tracker=wandb", "run.name=run")
    train(*words, env=ENV | {"KILL_AT": "20", "KILL_WITH": name}, code=code)
    assert exit_records(output_root / "run") == records


@with_wandb
def test_state_after_a_failure(train: Train, output_root: Path) -> None:
    train(*BASE, "run.monitor=val/nosuch", "tracker=wandb", "run.name=run", env=ENV, code=None)
    assert exit_records(output_root / "run") == [("exit", 1)]


def warnings_of(stderr: str) -> list[str]:
    """The warnings on a console, without the one that tiny.py is no part of the project."""
    return [line for line in stderr.splitlines() if " WARNING " in line and "TRUSTED" not in line]


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a tracker."""
    from conftest import run_train

    root = tmp_path_factory.mktemp("untracked")
    run_train(*BASE, "tracker=none", "run.name=run", f"paths.output_root={root}", env=ENV)
    return root / "run"


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


KEY = {"WANDB_API_KEY": 4 * "0123456789"}
ODD = [word for name in ("object", "undefined", "infinite", "tensor", "tensors", "nothing") for word in (
    f"+metrics.{name}._target_=tiny.OddMetric", f"+metrics.{name}.value={name}",
)]  # fmt: skip


# W&B takes seconds over each of these
FAULTS = ("no key", "closed port", "mute server", "no folder", "service killed")


@with_wandb
@pytest.mark.parametrize("fault", ["odd values", *(pytest.param(fault, marks=pytest.mark.full) for fault in FAULTS)])
def test_a_fault_of_the_tracker_changes_nothing(
    train: Train, output_root: Path, untracked: Path, mute: str, fault: str
) -> None:
    run = output_root / "run"
    env = {
        "closed port": KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"},
        "mute server": KEY | {"WANDB_BASE_URL": mute},
        "no folder": {"PLANT": f"{run}/wandb={__file__}"},
        "service killed": {"KILL_AT": "12", "KILL_CHILD": "wandb-core"},
    }.get(fault, {})
    more = ODD if fault == "odd values" else []
    done = train(*BASE, "tracker=wandb", "tracker.init_timeout=1", *more, "run.name=run", env=ENV | env)
    contents = [checkpoint.load(path / "checkpoints" / "latest.pt") for path in (untracked, run)]
    assert first_difference(*contents) is None
    rows, expected = (Facts(path / "facts").rows() for path in (run, untracked))
    assert [(row["step"], row["split"], row["loss"]) for row in rows] == [
        (row["step"], row["split"], row["loss"]) for row in expected
    ]
    warnings = warnings_of(done.stderr)
    lost = fault in ("no folder", "service killed")
    assert len(warnings) == {"no key": 0, "odd values": 3}.get(fault, 1), done.stderr
    assert all("scripts/sync.py run" in line for line in warnings if lost)
    assert done.stderr.count("upload later with: wandb sync") == (fault != "no folder")
    assert all(line[:2] == "20" for line in done.stderr.splitlines()), "W&B talks on the console"
    if not lost:
        assert_complete(run)


@with_wandb
@with_sync
@pytest.mark.full
def test_sync_delivers_later_and_once(train: Train, output_root: Path) -> None:
    words = ("tracker=wandb", "plots=standard", "run.plot_every=6", "run.name=run")
    train(*BASE, *words, env=ENV | {"KILL_AT": "17"}, code=-signal.SIGKILL)
    run = output_root / "run"
    command = [sys.executable, str(SYNC), str(run)]
    done = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    assert_complete(run)
    rows = len(Facts(run / "facts").rows())
    newest = str(sorted((run / "wandb").glob("offline-run-*"))[-1])
    assert done[0].stdout == f"run: {rows} rows and 3 figures delivered to {newest}\n"
    assert done[1].stdout == f"run: nothing to deliver, {newest} is complete\n"
    assert exit_records(run) == [("preempting", 0), ("exit", 143)]

    status = json.loads((run / "status.json").read_text()) | {"status": "running", "pid": os.getpid()}
    (run / "status.json").write_text(json.dumps(status))
    lock.acquire(run)
    refused = subprocess.run(command, capture_output=True, text=True)
    lock.release(run)
    assert refused.returncode == 2 and f"process {os.getpid()}" in refused.stderr


@with_wandb
@with_sync
@pytest.mark.parametrize(
    "more",
    [{"_target_": "os.system"}, pytest.param({"project": {"_target_": "os.system"}}, marks=pytest.mark.full)],
)
def test_sync_builds_only_trackers_of_the_checkout(untracked: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    run = tmp_path / "run"
    shutil.copytree(untracked, run, ignore=shutil.ignore_patterns("wandb"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["tracker"] = yaml.safe_load((PROJECT_ROOT / "configs/tracker/wandb.yaml").read_text()) | more
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    refused = subprocess.run([sys.executable, str(SYNC), str(run)], capture_output=True, text=True)
    assert refused.returncode == 2 and "'os.system' is not in the list of trusted targets" in refused.stderr
    assert not (run / "wandb").exists()


@with_wandb
@with_sync
@pytest.mark.full
def test_sync_of_a_run_that_had_no_tracker(untracked: Path) -> None:
    command = [sys.executable, str(SYNC), str(untracked)]
    assert subprocess.run(command, capture_output=True).returncode == 2
    subprocess.run([*command, "--tracker", "wandb"], check=True)
    assert_complete(untracked)
    assert yaml.safe_load((untracked / "config.yaml").read_text())["tracker"] == {}


@with_wandb
@pytest.mark.full
def test_a_signal_ends_a_run_whose_tracker_is_stuck(train: Train, output_root: Path, mute: str) -> None:
    env = ENV | KEY | {"WANDB_BASE_URL": mute, "KILL_AT": "20", "KILL_WITH": "SIGTERM"}
    start = time.monotonic()
    done = train(*BASE, "tracker=wandb", "tracker.init_timeout=600", "run.name=run", env=env, code=143)
    assert time.monotonic() - start < 60  # it would be 600
    warnings = warnings_of(done.stderr)
    assert len(warnings) == 1 and "scripts/sync.py run" in warnings[0]
    assert "resume=run" in done.stdout
