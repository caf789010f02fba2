"""Several processes that train one run: the same run as on one process, and what happens when one of them fails."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import together
import torch
import zygote
from conftest import BASE, ENV, TESTS, TINY, assert_same_run, latest, run_train
from torch.distributed.elastic.utils.distributed import get_free_port
from zygote import TRAIN

from scaffolding.core.batches.loader import deal
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import Facts, is_timing
from scaffolding.core.folder.folder import read_status
from scaffolding.core.means import Means, of_all
from scaffolding.core.processes.devices import check_gpus
from scaffolding.core.processes.several import Processes
from scaffolding.experiment import PROJECT
from scaffolding.metrics import TorchMetric

Together = Callable[..., list[str]]
PLAIN = ("model._target_=tiny.PlainNet", "run.ema_decay=0.9", "run.clip_grad_norm=0.5", "run.precision=float32")


@pytest.fixture
def run_together(tmp_path: Path, output_root: Path) -> Together:
    """Run train.py as several processes: `run_together(2, "run.name=two", codes=[0, 0])` gives what each printed."""

    def run(num: int, *words: str, codes: list[int] | None = None, env: dict[str, str] | None = None) -> list[str]:
        log = tmp_path / f"output_{len(list(tmp_path.iterdir()))}"
        argv = [str(TRAIN), *words, f"paths.output_root={output_root}"]
        with together.ended(together.start(argv, num, log, ENV | (env or {}))) as processes:
            found = together.wait(processes)
        said = [log.with_name(f"{log.name}.{rank}").read_text() for rank in range(num)]
        assert found == (codes or [0] * num), "\n".join(said)
        return said

    return run


def rows_of(run: Path, split: str) -> list[dict[str, Any]]:
    rows = Facts(run / "facts").rows()
    return [{key: value for key, value in row.items() if not is_timing(key)} for row in rows if row["split"] == split]


def assert_same_weights(left: Path, right: Path, has_norms: bool = True) -> None:
    """The same state and rows, bit for bit, on different numbers of processes; norms of gradients, if asked."""
    ours, theirs = (latest(run) for run in (left, right))
    for content in (ours, theirs):
        del content["config"], content["numerics"]
    assert first_difference(ours, theirs) is None
    for split in ("train", "val", "test"):
        rows, others = (rows_of(run, split) for run in (left, right))
        for row in () if has_norms else (*rows, *others):
            row.pop("grad_norm", None)
        assert rows == others != []


# --- one process or several: the same run


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_equal_one(engine: str, run_together: Together, output_root: Path) -> None:
    """Dropout, averaged weights, clipping, evaluation, and a last step of an epoch that one process has alone."""
    words = (*BASE, *PLAIN, "run.accumulate=2", "data.val_from_train=0.3")  # 105 items: 6 batches and one of 9
    if engine == "fsdp":  # it adds norms of parts up, which differs in the last digit
        words = (*words, "run.clip_grad_norm=null")
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    run_together(2, *words, "run.name=two", f"run.parallel={engine}")
    assert_same_weights(output_root / "one", output_root / "two", has_norms=engine != "fsdp")
    assert not list((output_root / "two").glob("rank_*"))


def test_three_processes_with_uneven_steps(run_together: Together, output_root: Path) -> None:
    """Fails where an item is read twice or not at all, or counts more than another: steps of 4, 4 and 1 batches."""
    words = (*BASE, *PLAIN, "run.accumulate=4", "data.dataset._target_=tiny.Ids", "loss._target_=tiny.IdLoss")
    words = (*words, "data.dataset.num_items=160", "loader.batch_size=15", "loader.num_workers=1")
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    run_together(3, *words, "run.name=three")
    ours, theirs = (rows_of(output_root / name, "train") for name in ("one", "three"))
    assert len(ours) == len(theirs) == 24
    for row, other in zip(ours, theirs, strict=True):
        assert (row["step"], row["samples"]) == (other["step"], other["samples"])
        for key in ("ids", "other_ids"):
            assert row[key] == pytest.approx(other[key], abs=1e-12)
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_evaluations_are_equal_bit_for_bit(run_together: Together, output_root: Path) -> None:
    """With weights that never change; 3 batches for 2 processes, 5 for 3."""
    words = (*TINY, "run.budget=3", "optimizer.lr=0.0", "run.accumulate=3", "model._target_=tiny.PlainNet")
    words = (*words, "loader.batch_size=7", "data.dataset.num_items=100")
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    for num in (2, 3):
        run_together(num, *words, f"run.name=with_{num}")
        for split in ("val", "test"):
            assert rows_of(output_root / "one", split) == rows_of(output_root / f"with_{num}", split) != []


@pytest.mark.full
@pytest.mark.parametrize("num_launchers", [1, 2])  # 2: as on two machines, which do not count their restarts alike
def test_torchrun_restarts_a_run(output_root: Path, tmp_path: Path, num_launchers: int) -> None:
    """Fails where processes look for those of the attempt before."""
    words = (*BASE, "run.accumulate=2", f"paths.output_root={output_root}")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--max-restarts", "1", "--nproc-per-node"]
    launcher += [str(2 // num_launchers), "--nnodes", str(num_launchers)]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{get_free_port()}", "--rdzv-id", "1"]
    env = os.environ | ENV | {"KILL_AT": "14", "KILL_RANK": "1", "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(TESTS / "plain.py"), str(TRAIN), *words, "job=run"]
    with open(tmp_path / "said", "a") as said:
        started = [subprocess.Popen(command, env=env, stdout=said, stderr=said) for _ in range(num_launchers)]
        codes = [process.wait() for process in started]
    assert codes == [0] * num_launchers, (tmp_path / "said").read_text()
    assert read_status(output_root / "run")["status"] == "finished"
    run_train(*words, "run.name=whole")
    assert rows_of(output_root / "whole", "train") == rows_of(output_root / "run", "train") != []


def test_a_loss_that_says_what_counts(run_together: Together, output_root: Path) -> None:
    """Fails where each process divides by what it counts alone."""
    words = (*BASE, *PLAIN, "run.accumulate=2", "loss._target_=tiny.WeightedLoss", "loader.batch_size=4")
    words = (*words, "data.dataset.num_items=145")  # 29 batches: one is read twice in the last step of an epoch
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    run_together(2, *words, "run.name=two")
    assert_same_weights(output_root / "one", output_root / "two")


def test_parameters_that_are_not_used_do_not_hold_up_the_others(run_together: Together, output_root: Path) -> None:
    words = (*BASE, "run.accumulate=2", "model._target_=tiny.HalfUsedNet", "run.precision=float32")
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    said = run_together(2, *words, "run.name=two")
    assert_same_weights(output_root / "one", output_root / "two")
    assert "unused gets no gradient" in said[0]


def test_a_branch_that_is_left_out_now_and_then(run_together: Together, output_root: Path) -> None:
    """Where a trial shows it, a run is as on one process; where it does not, the reason is said."""
    words = (*BASE, "run.accumulate=2", "run.precision=float32")
    seen = (*words, "model._target_=tiny.SometimesNet")
    run_train(*seen, f"paths.output_root={output_root}", "run.name=one")
    assert "branch.weight gets no gradient" in run_together(2, *seen, "run.name=two")[0]
    assert_same_weights(output_root / "one", output_root / "two")
    run_together(2, *words, "model._target_=tiny.RarelyNotNet", "run.name=unseen", codes=[1, 1])
    reason = read_status(output_root / "unseen")["reason"]
    assert "is not used in this step" in reason or reason.endswith("find_unused_parameters=True in parallel.py")


def test_an_optimizer_that_cannot_update_parts_at_once(run_together: Together, output_root: Path) -> None:
    """Fails where `fused: true` of the config ends a sharded run at its first step."""
    words = (*BASE, *PLAIN, "run.accumulate=2", "run.budget=4", "run.clip_grad_norm=null")
    words = (*words, "optimizer._target_=torch.optim.SGD", "++optimizer.fused=true")
    run_train(*words, f"paths.output_root={output_root}", "run.name=one")
    run_together(2, *words, "run.name=two", "run.parallel=fsdp")
    for name, weight in latest(output_root / "one")["model"].items():
        assert weight.equal(latest(output_root / "two")["model"][name])
    more = ("resume=one", "trust=tiny", "run.budget=6", f"paths.output_root={output_root}")
    run_together(2, *more, "run.parallel=fsdp")


def test_buffers_are_shared_however_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where the memory of a view is sent as it lies."""

    def broadcast(buffer: torch.Tensor, source: int) -> None:
        assert buffer.is_contiguous()
        buffer.fill_(7)

    monkeypatch.setattr("torch.distributed.broadcast", broadcast)
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("table", torch.zeros(4, 6).T[:, ::2])
    Processes.share_buffers(None, module)  # type: ignore[arg-type]
    assert all((buffer == 7).all() for buffer in module.buffers())


@pytest.mark.parametrize("num_batches", [1, 2, 5, 6])
@pytest.mark.parametrize("num", [1, 2, 3])
def test_batches_are_dealt(num: int, num_batches: int) -> None:
    """Each counts once, all processes compute as many, and positions ascend, as workers read ahead."""
    dealt = [deal(range(10, 10 + num_batches), rank, num) for rank in range(num)]
    assert len({len(own) for own in dealt}) == 1
    counted = [position for own in dealt for position, counts in own if counts]
    assert sorted(counted) == list(range(10, 10 + num_batches))
    assert all([position for position, _ in own] == sorted(position for position, _ in own) for own in dealt)


def test_means_over_processes_are_those_of_one() -> None:
    """Values of some batches only, weights of the loss, more than are kept apart, a float, and half precision."""
    generator = torch.Generator().manual_seed(0)
    batches = []
    for number in range(2011):
        loss = torch.randn((), generator=generator)
        values: dict[str, Any] = {"half": loss.bfloat16(), "float": float(loss)}
        if number % 3 == 0:
            values |= {"rare": loss.square()}
        batches.append((loss, values, 5))
    whole = Means()
    for batch in batches:
        whole.add("", *batch)
    expected = whole.values()
    sent: list[Any] = []

    def gather(value: Any) -> list[Any]:
        sent.append(value)
        return sent

    for num in (2, 3):
        sent.clear()
        for rank in range(num):
            own = Means()
            for batch in batches[rank::num]:
                own.add("", *batch)
            metrics = own.values()
            metrics["mine"], metrics["lr"] = rank, 0.1
            metrics["float"] = 1.0 + rank  # in its place
            found = of_all(metrics, gather, torch.device("cpu"))  # of the last process, which has all there is
        for name in expected.keys() - {"float"}:
            assert float(found[name]) == float(expected[name]), name
        assert found["float"] == 1 + (num - 1) / 2
        assert found["mine"] == (num - 1) / 2 and found["lr"] == 0.1


# --- how it ends


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.full), 1])
def test_a_killed_process_ends_all_and_the_run_goes_on(rank: int, run_together: Together, output_root: Path) -> None:
    words = (*BASE, "run.accumulate=2")
    run_together(2, *words, "run.name=whole")
    codes = [1, 1]
    codes[rank] = -signal.SIGKILL
    said = run_together(2, *words, "run.name=run", codes=codes, env={"KILL_AT": "14", "KILL_RANK": str(rank)})
    run = output_root / "run"
    assert f"rank_{rank}: process" in said[1 - rank] and "is gone without a word" in said[1 - rank]
    status = read_status(run)
    assert status["status"] == ("died" if rank == 0 else "failed")
    assert rank == 0 or "rank_1: process" in status["reason"]
    run_together(2, "resume=run", "trust=tiny")
    assert_same_run(output_root / "whole", run)


@pytest.mark.parametrize(
    ("num", "words"),
    [
        (3, ("model._target_=tiny.PlainNet",)),
        (2, ("run.parallel=fsdp", "model._target_=tiny.NestedNet", "loss._target_=tiny.LearningLoss")),
    ],
    ids=["three", "sharded, with a loss that learns"],
)
def test_a_resumed_run_adds_up_as_the_other_did(
    num: int, words: tuple[str, ...], run_together: Together, output_root: Path
) -> None:
    """Fails where gradients lie in another order after a resume, or where a loss is not restored or shared."""
    words = (*BASE, "run.accumulate=3", *words)
    run_together(num, *words, "run.name=whole")
    struck = {"KILL_AT": "14", "KILL_RANK": str(num - 1)}
    run_together(num, *words, "run.name=run", codes=[1] * (num - 1) + [-9], env=struck)
    run_together(num, "resume=run", "trust=tiny")
    assert_same_run(output_root / "whole", output_root / "run")


def test_a_place_may_differ_between_machines(tmp_path: Path, output_root: Path) -> None:
    """Fails where a process decides by its own paths whether it waits for the others."""
    run_train(*BASE, "run.accumulate=2", f"paths.output_root={output_root}", "run.name=run", "run.budget=3")
    argv = [str(TRAIN), "resume=run", "trust=tiny", "run.budget=6", f"paths.output_root={output_root}"]
    with together.ended(together.start(argv, 2, tmp_path / "log", ENV, [f"paths.data={tmp_path}"])) as processes:
        assert together.wait(processes) == [0, 0]
    assert latest(output_root / "run")["state"]["step"] == 6


def test_metrics_of_torchmetrics_count_nothing_twice() -> None:
    """Each process sees the whole split: they must not add up what all have seen."""
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = TorchMetric(torchmetrics.MetricCollection([torchmetrics.SumMetric(), torchmetrics.MeanMetric()]))
    Processes.leave_alone(None, metric)  # type: ignore[arg-type]
    assert [part.sync_on_compute or part._to_sync for part in metric.metric.values()] == [False, False]


@pytest.mark.full
def test_a_run_goes_on_with_other_processes(run_together: Together, output_root: Path) -> None:
    """On two, killed; on one, stopped; sharded on three; whole on two again."""
    words = (*BASE, *PLAIN, "run.accumulate=3", "run.budget=40")
    run_train(*words, f"paths.output_root={output_root}", "run.name=whole")
    run_together(2, *words, "run.name=run", codes=[1, -9], env={"KILL_AT": "10", "KILL_RANK": "1"})
    again = ("resume=run", "trust=tiny")
    stopped = {"KILL_AT": "10", "KILL_WITH": "SIGTERM"}
    run_train(*again, f"paths.output_root={output_root}", code=143, env=stopped)
    run_together(3, *again, "run.parallel=fsdp", codes=[143] * 3, env=stopped | {"KILL_RANK": "2"})
    said = run_together(2, *again, "run.parallel=ddp")
    said_of_four = run_together(4, *again, codes=[2] * 4)[0]
    assert "start at most 3, or begin another run: fork=RUN run.accumulate=4" in said_of_four
    assert "processes is 2, was 3: from here on the last bits may differ" in said[0]
    ours, theirs = (rows_of(output_root / name, "train") for name in ("whole", "run"))
    assert [(row["step"], row["samples"]) for row in ours] == [(row["step"], row["samples"]) for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=2e-6)


@pytest.mark.parametrize("rank", ["1", pytest.param("all", marks=pytest.mark.full)])
def test_a_signal_to_any_process_stops_all_after_the_same_step(
    rank: str, run_together: Together, output_root: Path
) -> None:
    struck = {"KILL_AT": "14", "KILL_WITH": "SIGUSR1", "KILL_RANK": rank}
    code = 128 + signal.SIGUSR1
    said = run_together(2, *BASE, "run.accumulate=2", "run.name=run", codes=[code, code], env=struck)
    assert "SIGUSR1: stopped at step 14, saved at 14" in said[0]
    assert latest(output_root / "run")["state"]["step"] == 14
    assert json.loads((output_root / "run" / "status.json").read_text())["status"] == "preempted"


def test_an_error_of_one_process_is_the_reason(run_together: Together, output_root: Path) -> None:
    """Fails where the reason is only that the other one is gone."""
    words = (*BASE, "run.accumulate=2", "run.name=run", "data.dataset._target_=tiny.FaultyPoints")
    said = run_together(2, *words, "+data.dataset.how=raises", codes=[1, 1])
    odd = "RunError: sample"
    status = read_status(output_root / "run")
    assert status["status"] == "failed" and odd in f"RunError: {status['reason']}" and "no label" in status["reason"]
    assert "no label for this point" in said[0]


def test_a_figure_that_fails_in_another_process_fails_the_run(run_together: Together, output_root: Path) -> None:
    """Fails where the run reads as finished, and `job=` never does the rest."""
    words = (*BASE, "run.accumulate=2", "run.name=run", "+plots.bad._target_=tiny.FigureOfOthers")
    run_together(2, *words, codes=[1, 1])
    status = read_status(output_root / "run")
    assert status["status"] == "failed" and "figures failed: {'bad': 'ValueError: planted" in status["reason"]


def test_a_process_that_waits_for_the_others_can_be_stopped(tmp_path: Path) -> None:
    argv = [str(TRAIN), *BASE, "run.accumulate=2", f"paths.output_root={tmp_path / 'runs'}"]
    with together.ended(together.start(argv, 2, tmp_path / "log", ENV, last=["run.sed=1"])) as (first, last):
        assert last.wait(60) == 2
        first.send(signal.SIGTERM)
        assert first.wait(10) == -signal.SIGTERM


def test_a_backward_pass_outside_of_the_losses_is_found(run_together: Together, output_root: Path) -> None:
    """Each process would train by itself, and nothing would say so."""
    words = (*BASE, "run.accumulate=2", "run.name=run", "optimizer._target_=tiny.StrayAdamW")
    said = run_together(2, *words, codes=[1, 1])
    assert "the weights of process 1 differ from those of process 0" in said[0]


# --- wrong use


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run.accumulate=1",), "run.accumulate=2 makes steps of 2 * 16 items; loader.batch_size=8 run.accumulate=2"),
        (
            ("run.accumulate=2", "run.parallel=fsdp", "model._target_=tiny.ScalarNet"),
            "run.parallel=fsdp: scale is a scalar",
        ),
        (("run.accumulate=2", "run.parallel=fsdp", "model._target_=tiny.TiedNet"), "run.parallel=fsdp: "),
        (
            ("run.accumulate=2", "run.parallel=fsdp", "loss._target_=tiny.PenaltyLoss"),
            "run.parallel=fsdp: the loss fails",
        ),
        pytest.param(
            ("run.accumulate=2", "run.device=cuda:1"),
            "run.device=cuda:1: 2 processes cannot share a device",
            marks=pytest.mark.full,
        ),
        pytest.param(
            ("run.accumulate=2", "--multirun", "run.seed=1,2"),
            "--multirun: 2 processes train one run together",
            marks=pytest.mark.full,
        ),
    ],
    ids=["too few micro-batches", "scalar", "tied", "penalty", "one device", "multirun"],
)
def test_what_several_processes_cannot_do(
    words: tuple[str, ...], message: str, run_together: Together, output_root: Path
) -> None:
    said = run_together(2, *BASE, *words, codes=[2, 2])
    lines = [line for line in said[0].splitlines() if " WARNING " not in line]  # of data that augment validation items
    assert lines[0].startswith("error: ") and message in said[0] and len(lines) == 2
    assert not output_root.exists()


def test_processes_with_other_words_are_refused(tmp_path: Path, output_root: Path) -> None:
    """They would wait for each other for ever, or train two halves of different things."""
    argv = [str(TRAIN), *BASE, "run.accumulate=2", f"paths.output_root={output_root}"]
    with together.ended(together.start(argv, 2, tmp_path / "log", ENV, last=["run.seed=7"])) as processes:
        assert together.wait(processes) == [2, 2]
    assert "process 1 was started with other settings than process 0" in (tmp_path / "log.0").read_text()
    assert not output_root.exists()


def test_each_process_needs_a_gpu_to_itself() -> None:
    check_gpus(["a", "a", "b"], ["1", "2", "1"])
    with pytest.raises(UserError, match=r"3 processes on a share 2 GPUs\nstart 2 there, or give run.device=cpu"):
        check_gpus(["a", "a", "b", "a"], ["1", "2", "3", "1"])


def test_one_process_imports_nothing_for_several(tmp_path: Path, output_root: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import runpy, sys\nsys.argv[:] = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')\n"
        "print('IMPORTED', *sys.modules)\n"
    )
    words = [str(program), str(TRAIN), *TINY, "run.budget=2", f"paths.output_root={output_root}"]
    assert zygote.start(words, tmp_path / "log", tmp_path / "log", env=ENV).wait() == 0
    imported = (tmp_path / "log").read_text().partition("IMPORTED")[2].split()
    assert any(name.endswith(".core.processes.one") for name in imported)
    for name in imported:
        assert not name.endswith((".core.processes.several", f"{PROJECT.package}.parallel")), name
