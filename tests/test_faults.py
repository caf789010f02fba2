"""What goes wrong in a run: numbers, workers, disks, a second writer."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train, command
from test_resume import BASE, ENV, assert_same_run, tree

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.errors import StorageError
from scaffolding.core.folder import files
from scaffolding.core.folder.run_folder import Facts, read_status
from scaffolding.core.state import checkpoint

REPLAY = PROJECT_ROOT / "scripts" / "replay.py"
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="workers are told of their parent's death on Linux")


def replay(run: Path, code: int, **env: str) -> str:
    if not REPLAY.exists():
        pytest.skip("replay.py has been deleted")
    path = os.pathsep.join([ENV["PYTHONPATH"], os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, REPLAY, run],
        env={**os.environ, **env, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def wait_until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once that is true; it has a minute for it."""
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError


# --- numbers ---


def test_gradient_that_is_not_finite_is_noticed_at_the_next_row(train: Train, output_root: Path) -> None:
    words = (*BASE, "loss._target_=tiny.ExplodingLoss", "run.save_every=2", "run.log_every=3", "run.name=run")
    done = train(*words, env=ENV | {"EXPLODE_AT": "11"}, code=1)
    run = output_root / "run"
    assert "is not finite" in done.stderr or "was not finite at or before step 12" in done.stderr
    assert "latest.pt" in done.stderr and "scripts/replay.py run" in done.stderr and "Traceback" not in done.stderr
    assert checkpoint.load(run / "checkpoints" / "latest.pt")["state"]["step"] == 10
    for file in (run / "checkpoints").glob("*.pt"):
        assert all(bool(value.isfinite().all()) for value in checkpoint.load(file)["model"].values())


@pytest.mark.full
def test_replay_stops_before_the_update(train: Train, output_root: Path) -> None:
    words = (*BASE, "loss._target_=tiny.ExplodingLoss", "run.save_every=2", "run.log_every=3", "run.name=run")
    train(*words, env=ENV | {"EXPLODE_AT": "11"}, code=1)
    run = output_root / "run"
    said = replay(run, 1, EXPLODE_AT="1")  # the first step that is replayed
    assert "step 11: the gradient of" in said and "the batch is finite: samples" in said
    found = torch.load(run / "replay_11.pt", weights_only=True)
    before = checkpoint.load(run / "checkpoints" / "latest.pt")
    assert all(torch.equal(found["model"][name], value) for name, value in before["model"].items())
    assert torch.equal(found["generators"]["torch"], before["generators"]["torch"])
    assert "all updates of steps 11 to 24 are finite" in replay(run, 0)


@pytest.mark.full
def test_replay_names_the_sample(train: Train, output_root: Path) -> None:
    train(*BASE, "data.dataset._target_=tiny.PoisonedPoints", "run.name=run", "run.log_every=1", env=ENV, code=1)
    before = tree(output_root)
    said = replay(output_root / "run", 1)
    assert "the loss is nan; not finite in the batch: sample" in said
    file = output_root / "run" / f"replay_{said.partition(': the loss')[0].rpartition(' ')[2]}.pt"
    assert set(tree(output_root)) - set(before) == {str(file)}
    found = torch.load(file, weights_only=True)
    points, _ = found["window"][0][0]
    wrong = found["samples"][0][int((~points.isfinite()).any(dim=1).nonzero())]
    assert f"sample {wrong} of the train split" in said


# --- workers ---


@ON_LINUX
@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_item_that_raises_is_named(train: Train, output_root: Path, num_workers: int) -> None:
    words = (*BASE, "data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=raises", "run.name=run")
    done = train(*words, f"loader.num_workers={num_workers}", env=ENV, code=1)
    last = done.stderr.strip().splitlines()[-2:]
    assert last[0].startswith("error: sample ") and "LookupError: no label for this point" in last[0]
    assert ("(worker " in last[0]) == (num_workers > 0)
    assert "tiny.py" in last[1] and 'raise LookupError("no label for this point")' in last[1]
    assert "Traceback" not in done.stderr and "Traceback" in (output_root / "run" / "log.txt").read_text()


@ON_LINUX
@pytest.mark.parametrize(("how", "says"), [("dies", "exit code -9, reading sample"), ("hangs", "hangs since")])
def test_a_worker_that_dies_or_hangs_is_named(train: Train, output_root: Path, how: str, says: str) -> None:
    words = (*BASE, "data.dataset._target_=tiny.FaultyPoints", f"+data.dataset.how={how}", "run.name=run")
    done = train(*words, "loader.num_workers=2", "loader.timeout=3", "run.save_every=1", env=ENV, code=1)
    message = done.stderr[done.stderr.index("error: ") :]
    assert message.startswith("error: worker ") and says in message and "tiny.py" in message
    # a worker whose reader goes away in mid-handshake may say so: python's own words, from a thread of its own
    assert "sample" in message and ("Traceback" not in done.stderr or "resource_sharer" in done.stderr)
    assert read_status(output_root / "run")["status"] == "failed"
    if (output_root / "run" / "checkpoints" / "latest.pt").exists():
        checkpoint.load(output_root / "run" / "checkpoints" / "latest.pt")


@ON_LINUX
def test_a_killed_run_leaves_no_workers(output_root: Path) -> None:
    words = (*BASE, "data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=hangs", "loader.num_workers=2")
    start = command(*words, f"paths.output_root={output_root}", "run.name=run")
    with subprocess.Popen(start, env={**os.environ, **ENV}, stderr=subprocess.DEVNULL) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = wait_until(lambda: found if len(found := children.read_text().split()) >= 2 else None)
        time.sleep(1)  # one of them hangs by now
        process.kill()
    for worker in workers:
        status = Path(f"/proc/{worker}/status")
        assert wait_until(lambda status=status: not status.exists() or "State:\tZ" in status.read_text())


# --- the disk ---


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "folder"])
def test_any_error_while_saving_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    path = tmp_path / "latest.pt"
    checkpoint.save(path, {"format": 1, "model": {"weight": torch.ones(1000)}, "state": {"step": 1}})
    before = path.read_bytes()

    def fail(*arguments: Any, **more: Any) -> Any:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        if call == "open":
            patch.setattr(files, "open", fail, raising=False)
        elif call == "write":
            patch.setattr(checkpoint._HashingFile, "write", fail)
        elif call == "folder":
            patch.setattr(checkpoint, "_write_hash", fail)
        else:
            patch.setattr(os, call, fail)
        with pytest.raises(StorageError) as caught:
            checkpoint.save(path, {"format": 1, "model": {"weight": torch.zeros(1000)}, "state": {"step": 2}})
    assert str(path) in str(caught.value) and os.strerror(number) in str(caught.value)
    assert "0.0 MB needed" in str(caught.value) and "MB free" in str(caught.value)
    assert path.read_bytes() == before and checkpoint.load(path)["state"]["step"] == 1
    assert not list(tmp_path.glob(".*.tmp"))


def mounted(folder: Path, size: str) -> bool:
    """Whether a small disk could be put there."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0


def test_training_goes_on_while_the_disk_is_full(train: Train, output_root: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, "2m"):
        pytest.skip("only root can mount a small disk")
    try:
        words = (*BASE, f"paths.output_root={disk}", "run.num_checkpoints=1", "optimizer._target_=tiny.HungryAdamW")
        train(*BASE, "run.name=whole", env=ENV)
        hungry = ENV | {"FILL": str(disk / "ballast"), "FILL_AT": "6", "FREE_AT": "15"}
        done = train(*words, "run.name=full", env=hungry)
        assert "No space left on device" in done.stderr and "training goes on" in done.stderr
        assert "latest.pt" in done.stderr and "MB free" in done.stderr and "Traceback" not in done.stderr
        assert checkpoint.load(disk / "full" / "checkpoints" / "latest.pt")["state"]["step"] == 24
        rows = [Facts(run / "facts").rows() for run in (output_root / "whole", disk / "full")]
        steps = [[(row["step"], row["split"], row["loss"]) for row in table] for table in rows]
        assert steps[0] == steps[1]
        done = train(*words, "run.name=stays_full", env=ENV | {"FILL": str(disk / "ballast"), "FILL_AT": "6"}, code=74)
        assert "could not write" in done.stderr and "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_at_the_start(train: Train, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    if not mounted(disk, "64k"):
        pytest.skip("only root can mount a small disk")
    try:
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        done = train(*BASE, f"paths.output_root={disk}", "run.name=run", env=ENV, code=None)
        assert done.returncode in (2, 74) and "No space left on device" in done.stderr
        assert str(disk) in done.stderr and "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(("count", "kept"), [(1, []), (3, [16, 20])])
def test_the_newest_checkpoints_are_kept_beside_the_best(
    train: Train, output_root: Path, count: int, kept: list[int]
) -> None:
    train(*BASE, "run.eval_every=24", f"run.num_checkpoints={count}", "run.name=run", env=ENV)
    folder = output_root / "run" / "checkpoints"
    names = ["best.pt", "latest.pt", *(f"step_{step}.pt" for step in kept)]
    assert sorted(file.name for file in folder.glob("*.pt")) == names
    assert sorted(file.name for file in folder.glob("*.sha256")) == [f"{name}.sha256" for name in names]
    assert (folder / "best.pt").samefile(folder / "latest.pt")
    assert [checkpoint.load(folder / f"step_{step}.pt")["state"]["step"] for step in kept] == kept


# --- one writer ---


def test_a_second_writer_is_refused_and_a_killed_one_frees_the_run(train: Train, output_root: Path) -> None:
    words = (*BASE, "run.budget=1000000", "run.name=run", f"paths.output_root={output_root}")
    with subprocess.Popen(command(*words), env={**os.environ, **ENV}, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if b"step 8/" in line:
                break
        process.send_signal(signal.SIGSTOP)
        before = tree(output_root)
        done = train("resume=run", env=ENV, code=2)
        assert f"in use by process {process.pid} on " in done.stderr and " since " in done.stderr
        assert read_status(output_root / "run")["status"] == "running"
        assert tree(output_root) == before
        process.kill()
    assert read_status(output_root / "run")["status"] == "died"
    train("resume=run", "run.budget=30", env=ENV)


def test_a_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from scaffolding.core import lock\n"
        "lock.acquire(Path(sys.argv[1]))\n"
        "if os.fork() == 0: time.sleep(60)\n"
        "else: print('ready', flush=True); time.sleep(60)"
    )
    from scaffolding.core.folder import lock

    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, start_new_session=True) as p:
        assert p.stdout is not None and p.stdout.readline() == b"ready\n"
        assert lock.is_held(tmp_path)
        os.kill(p.pid, signal.SIGKILL)
        p.wait()
        assert not lock.is_held(tmp_path)
        os.killpg(p.pid, signal.SIGKILL)


# --- signals ---


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGUSR1", 138, marks=pytest.mark.full)])
def test_signal_during_an_evaluation(train: Train, output_root: Path, name: str, code: int) -> None:
    words = (*BASE, "+metrics.seen._target_=tiny.SignallingMetric", "run.patience=3", "scheduler=plateau")
    train(*words, "run.name=whole", env=ENV)
    done = train(*words, "run.name=cut", env=ENV | {"EVALUATION_AT": "2", "SIGNAL": name}, code=code)
    assert "evaluation cut short" in done.stderr and "Traceback" not in done.stderr
    run = output_root / "cut"
    state = checkpoint.load(run / "checkpoints" / "latest.pt")["state"]
    assert (state["step"], state["completed"]) == (10, False)
    assert [row["step"] for row in Facts(run / "facts").rows() if row["split"] == "val"] == [5]
    assert json.loads((run / "status.json").read_text())["status"] == ("interrupted" if code == 130 else "preempted")
    train("resume=cut", env=ENV)
    assert_same_run(output_root / "whole", run)
