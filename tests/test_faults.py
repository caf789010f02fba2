"""What goes wrong in a run: numbers, workers, disks, a second writer."""

import contextlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import zygote
from conftest import BASE, ENV, TRAIN, Train, assert_same_run, has_ended, latest, run_train, tree, wait_until
from tiny import StillPoints, fill

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.batches import workers
from scaffolding.core.batches.loader import Loader
from scaffolding.core.errors import RunError, StorageError
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import acquire, read_status, release
from scaffolding.core.session.record import Record
from scaffolding.core.signals import StopFlag
from scaffolding.core.state import checkpoint
from scaffolding.core.state.progress import RunState

REPLAY = PROJECT_ROOT / "scripts" / "replay.py"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are told of their parent's death on Linux")


def faulty(how: str) -> tuple[str, ...]:
    """A run of which one item is faulty (tiny.py)."""
    return (*BASE, "data.dataset._target_=tiny.FaultyPoints", f"+data.dataset.how={how}", "run.name=run")


def is_finite(run: Path) -> bool:
    """Whether all weights in a run's checkpoints are."""
    contents = [checkpoint.load(file)["model"] for file in (run / "checkpoints").glob("*.pt")]
    return all(bool(value.isfinite().all()) for weights in contents for value in weights.values())


# --- numbers


def replay(run: Path, code: int, **env: str) -> str:
    if not REPLAY.exists():
        pytest.skip("replay.py has been deleted")
    return run_train(str(run), code=code, env=env, file=REPLAY).stdout


def test_a_gradient_that_is_not_finite_is_noticed_at_the_next_row(train: Train, output_root: Path) -> None:
    words = ("loss._target_=tiny.ExplodingLoss", "run.save_every=5", "run.log_every=3", "run.eval_every=null")
    done, run = train(*BASE, *words, "run.name=run", env={"EXPLODE_AT": "11"}, code=1), output_root / "run"
    assert "was not finite at or before step 12" in done.stderr
    assert "latest.pt" in done.stderr and "Traceback" not in done.stderr
    assert f"scripts/replay.py {output_root / 'run'} stops" in done.stderr
    before = latest(run)
    assert before["state"]["step"] == 10 and is_finite(run)
    said = replay(run, 1, EXPLODE_AT="1")  # the first step that is replayed
    assert "step 11: the loss is 0." in said and "the gradient of" in said and "the batch is finite: samples" in said
    found = torch.load(run / "replay_11.pt", map_location="cpu", weights_only=True)  # it stops before the update
    assert all(torch.equal(found["model"][name], value) for name, value in before["model"].items())
    assert found["optimizers"][""]["state"][0]["step"] == before["optimizers"][""]["state"][0]["step"]
    assert found["key"] == [42, "", before["state"]["epoch"], before["state"]["position"]]
    assert "all updates of steps 11 to 24 are finite" in replay(run, 0)


def test_a_loss_that_is_not_a_number_ends_the_run_and_is_never_saved(train: Train, output_root: Path) -> None:
    words = (*faulty("is nan"), "run.log_every=null", "run.accumulate=2")
    done, run = train(*words, code=1), output_root / "run"
    assert "not finite" in done.stderr and "last good checkpoint" in done.stderr and "Traceback" not in done.stderr
    assert read_status(run)["status"] == "failed" and is_finite(run)
    before = tree(output_root)
    said = replay(run, 1)
    assert "the loss is nan, the gradient of" in said
    assert "is not finite; not finite in the batch: sample" in said
    file = run / f"replay_{said.partition(': the loss')[0].rpartition(' ')[2]}.pt"
    assert set(tree(output_root)) - set(before) == {str(file)}
    found = torch.load(file, map_location="cpu", weights_only=True)
    wrong = found["samples"][int((~found["batch"][0].isfinite()).any(dim=1).nonzero())]
    assert f"sample {wrong} of the train split" in said


@pytest.mark.parametrize(("mode", "is_told"), [("min", True), ("max", False)])
def test_the_lowest_accuracy_as_the_best_one_is_told(train: Train, mode: str, is_told: bool) -> None:
    done = train(*BASE, "run.budget=2", "run.monitor=val/accuracy", f"run.monitor_mode={mode}")
    assert ("if higher is better, set run.monitor_mode=max" in done.stderr) is is_told


# --- workers


@ON_LINUX
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_raises_is_named(train: Train, output_root: Path, num_workers: int) -> None:
    done = train(*faulty("raises"), f"loader.num_workers={num_workers}", code=1)
    last = done.stderr.strip().splitlines()[-2:]
    assert last[0].startswith("error: sample ") and "LookupError: no label for this point" in last[0]
    assert ("(worker " in last[0]) == (num_workers > 0)
    assert "tiny.py" in last[1] and 'raise LookupError("no label for this point")' in last[1]
    assert "Traceback" not in done.stderr and "Traceback" in (output_root / "run" / "log.txt").read_text()


@ON_LINUX
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("dies", "exit code -9, reading sample"), ("leaves", "exit code 0, reading sample"),
        ("interrupts", "exit code 0, reading sample"), ("hangs", "has been hanging for"),
    ],
)  # fmt: skip
def test_a_worker_that_dies_or_hangs_is_named(train: Train, output_root: Path, how: str, says: str) -> None:
    done = train(*faulty(how), "loader.num_workers=2", "loader.timeout=3", "run.save_every=1", code=1)
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: worker ") and says in message and "tiny.py" in message
    # a worker whose reader goes away in mid-handshake may say so: python says that itself, from another thread
    assert "sample" in message and ("Traceback" not in done.stderr or "resource_sharer" in done.stderr)
    assert read_status(output_root / "run")["status"] == "failed" and is_finite(output_root / "run")


@ON_LINUX
def test_time_in_which_a_run_is_stopped_does_not_count(output_root: Path, tmp_path: Path) -> None:
    """Fails where a Ctrl-Z that is longer than loader.timeout ends the run."""
    words = (*faulty("is slow"), "loader.num_workers=2", "loader.timeout=2", f"paths.output_root={output_root}")
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    wait_until(lambda: "step 2/" in run.stderr.read_text())
    run.send(signal.SIGSTOP)
    time.sleep(3)
    run.send(signal.SIGCONT)
    assert run.wait() == 0, run.stderr.read_text()


@ON_LINUX
@pytest.mark.full
def test_code_that_is_edited_during_a_run_is_not_that_of_its_evaluation(output_root: Path, tmp_path: Path) -> None:
    """Fails where spawned workers of another split start later, and import what was edited meanwhile."""
    code = tmp_path / "late.py"
    code.write_text("from tiny import FaultyPoints\n\nclass Late(FaultyPoints):\n    pass\n")
    words = (*BASE, "run.name=run", "data.dataset._target_=late.Late", "+data.dataset.how='is slow'", "run.budget=20")
    words += ("loader.num_workers=1", "loader.start_method=spawn", f"paths.output_root={output_root}")
    env = ENV | {"PYTHONPATH": os.pathsep.join([str(tmp_path), ENV["PYTHONPATH"]])}
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=env)
    wait_until(lambda: "step 2/" in run.stderr.read_text())
    code.write_text("1 / 0\n")
    assert run.wait() == 0, run.stderr.read_text()


@ON_LINUX
def test_workers_that_hang_as_they_are_forked_are_forked_again(
    train: Train, output_root: Path, whole_run: Path, tmp_path: Path
) -> None:
    """Python 3.11 hangs in the child where another thread, such as gloo's, holds a lock of it at that moment."""
    (tmp_path / "number").write_text("2")
    env = {"HANG_FORKS": str(tmp_path / "number")}
    train(*BASE, "loader.num_workers=2", "loader.start_method=fork", "loader.timeout=20", "run.name=run", env=env)
    assert (tmp_path / "number").read_text() == "0"
    assert_same_run(whole_run, output_root / "run")


@ON_LINUX
def test_workers_that_always_hang_as_they_are_forked_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers.Workers, "_are_alive", lambda self: False)
    loader = Loader(StillPoints("train", 8), "train", 4, shuffle=False, seed=0, device=torch.device("cpu"),
                    num_workers=1, start_method="fork")  # fmt: skip
    with pytest.raises(RunError, match="the workers of the train split hung 5 times as they were forked"):
        next(loader.batches(0))
    assert not multiprocessing.active_children()


# --- code that ends the process


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("exits", "split: SystemExit: 0"), ("leaves", "os._exit(0) in "),
        ("interrupts", "ended before its end: KeyboardInterrupt"),
    ],
)  # fmt: skip
def test_code_that_ends_the_process_makes_the_run_a_failed_one(
    train: Train, output_root: Path, how: str, says: str
) -> None:
    done = train(*faulty(how), code=1)
    assert says in done.stderr and "tiny.py" in done.stderr and "Traceback" not in done.stderr
    assert read_status(output_root / "run")["status"] == "failed"


def test_code_that_ends_the_process_before_there_is_a_run(train: Train, output_root: Path) -> None:
    done = train(*BASE, "+metrics={x:{_target_:sys.exit}}", code=1)
    assert "ended before its end: SystemExit" in done.stderr and not output_root.exists()


@ON_LINUX
def test_a_killed_run_leaves_no_workers(output_root: Path, tmp_path: Path) -> None:
    words = (*faulty("hangs"), "loader.num_workers=2", f"paths.output_root={output_root}")
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    workers = wait_until(lambda: found if len(found := children.read_text().split()) >= 2 else None)
    time.sleep(1)  # one of them hangs by now
    run.send(signal.SIGKILL, to_group=False)
    for worker in workers:
        assert wait_until(lambda worker=worker: has_ended(worker))


# --- the disk


@contextlib.contextmanager
def mounted(path: Path, size: str) -> Iterator[Path]:
    """A small disk."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_training_goes_on_while_the_disk_is_full(train: Train, whole_run: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "2m") as disk:
        words = (*BASE, f"paths.output_root={disk}", "run.num_checkpoints=1", "optimizer._target_=tiny.HungryAdamW")
        full = {"FILL": str(disk / "ballast"), "FILL_AT": "6"}
        done = train(*words, "run.name=full", env=full | {"FREE_AT": "15"})
        assert "No space left on device" in done.stderr and "training goes on" in done.stderr
        assert "latest.pt" in done.stderr and "MB free" in done.stderr and "Traceback" not in done.stderr
        assert latest(disk / "full")["state"]["step"] == 24
        rows = [Facts(run / "facts").rows() for run in (whole_run, disk / "full")]
        steps = [[(row["step"], row["split"], row["loss"]) for row in table] for table in rows]
        assert steps[0][:-1] == steps[1][:-1]  # without the test: the best step may be one that was not saved
        done = train(*words, "run.name=stays_full", "run.save_every=1", env=full, code=74)
        assert "failed at step 15" in done.stderr  # the tenth save in a row
        assert "could not write" in done.stderr and "Traceback" not in done.stderr


def test_a_disk_that_is_full_at_the_start(train: Train, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "64k") as disk:
        fill(disk / "ballast")
        done = train(*BASE, f"paths.output_root={disk}", "run.name=run", code=None)
        assert done.returncode in (2, 74) and "No space left on device" in done.stderr
        assert str(disk) in done.stderr and "Traceback" not in done.stderr


def test_the_newest_checkpoints_are_kept_besides_the_best(train: Train, output_root: Path, whole_run: Path) -> None:
    train(*BASE, "run.eval_every=24", "run.num_checkpoints=3", "run.name=run")
    folders = [run / "checkpoints" for run in (whole_run, output_root / "run")]
    names = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    assert names == [["best.pt", "latest.pt", "step_20.pt"], ["best.pt", "latest.pt", "step_16.pt", "step_20.pt"]]
    assert (folders[1] / "best.pt").samefile(folders[1] / "latest.pt")
    assert [checkpoint.load(folders[1] / f"step_{step}.pt")["state"]["step"] for step in (16, 20)] == [16, 20]


def test_a_checkpoint_is_never_ahead_of_the_rows() -> None:
    """Fails where a disk that does not take the rows gets a checkpoint: a resumed run would lack them."""
    record: Any = Record.__new__(Record)
    record.state, record.checkpoints, record.num_failed_saves = RunState(step=3), Mock(), 0
    record.facts = Mock(**{"sync.side_effect": StorageError("full")})
    record.save({})
    assert record.num_failed_saves == 1 and not record.checkpoints.save.called


# --- one writer


def test_a_second_writer_is_refused_and_a_killed_one_frees_the_run(
    train: Train, output_root: Path, tmp_path: Path
) -> None:
    words = (*BASE, "run.budget=1000000", "run.name=run", f"paths.output_root={output_root}")
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    wait_until(lambda: "step 8/" in run.stderr.read_text())
    run.send(signal.SIGSTOP)
    before = tree(output_root)
    done = train("resume=run", "run.budget=30", code=2)  # short, where it is not refused
    assert f"in use by process {run.pid} on " in done.stderr and " since " in done.stderr
    assert read_status(output_root / "run")["status"] == "running"
    assert tree(output_root) == before
    run.send(signal.SIGKILL)
    run.wait()
    assert read_status(output_root / "run")["status"] == "died"
    train("resume=run", "run.budget=30")


HOLDS = """
import os, time
from pathlib import Path
from scaffolding.core.folder import folder
folder.acquire(Path())
if os.fork() == 0:
    time.sleep(9)  # as a worker that outlives the process that has the lock
"""


def test_a_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", HOLDS], env=os.environ | ENV, cwd=tmp_path, check=True)
    (tmp_path / "status.json").write_text(json.dumps({"status": "running", "host": socket.gethostname()}))
    assert read_status(tmp_path)["status"] == "died"
    acquire(tmp_path)
    release(tmp_path)


# --- signals


def test_the_same_signal_twice_at_once_is_one_wish() -> None:
    """Slurm and torchrun both send it."""
    with StopFlag() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert stop.received == signal.SIGTERM
    leaves = "; ".join(["import os, signal, time", "from scaffolding.core.signals import StopFlag", "flag = StopFlag()",
        "flag.__enter__()", "os.kill(os.getpid(), 15)", "SECOND", "print('alive')"])  # fmt: skip
    for second, code in (("os.kill(os.getpid(), 2)", 130), ("time.sleep(0.6); os.kill(os.getpid(), 15)", 143)):
        words = [sys.executable, "-c", leaves.replace("SECOND", second)]
        assert subprocess.run(words, check=False, env=os.environ | ENV).returncode == code


def test_a_run_that_is_told_to_ignore_hangups_ignores_them() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopFlag() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before
    thread = threading.Thread(target=lambda: StopFlag().__enter__())  # python allows handlers in the main thread only
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
