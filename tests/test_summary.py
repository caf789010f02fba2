"""Training rows as means, where the time goes, and what a run says of itself in the end."""

import gc
import json
import math
import shutil
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import BASE, Train, assert_same_run
from loguru import logger
from test_loop import build, step_of
from torch import nn

from scaffolding.core.clock import PHASES, Clock, is_waiting_for_data, training_seconds
from scaffolding.core.folder import summary
from scaffolding.core.folder.facts import SECONDS, Facts
from scaffolding.core.folder.summary import read_summary
from scaffolding.core.means import Means
from scaffolding.core.meter import Meter
from scaffolding.core.optimizers import clip_gradients
from scaffolding.core.processes.one import OneProcess
from scaffolding.core.session.run import Run
from scaffolding.train import train_step


def metrics_of(loss: float, **values: Any) -> Any:
    means = Means()
    means.add("", torch.tensor(loss), values, 1.0)
    return means.values()


# --- means of a row


def test_a_row_has_means_over_the_steps_since_the_last_one() -> None:
    meter = Meter(OneProcess())
    for loss, num_items in ((1.0, 16), (2.0, 16), (6.0, 4)):
        meter.add(metrics_of(loss, accuracy=loss / 10), num_items)
    last = metrics_of(8.0)
    meter.add(last, 4)
    last["lr"], last["mine"] = 0.1, 7.0
    row = meter.average(last)
    assert row == {"loss": (16 + 32 + 24 + 32) / 40, "accuracy": pytest.approx(7.2 / 36), "lr": 0.1, "mine": 7.0}
    assert meter.last == {"loss": 8.0}, "what run.target_loss looks at"
    alone = metrics_of(0.1)
    meter.add(alone, 7)
    assert meter.average(alone) == {"loss": float(torch.tensor(0.1))}, "a mean of one step is exactly its value"


def test_a_value_that_the_owner_changed_stays() -> None:
    meter = Meter(OneProcess())
    metrics = metrics_of(3.0)
    meter.add(metrics, 1)
    metrics["loss"] = 5.0
    assert meter.average(metrics) == {"loss": 5.0}


@pytest.mark.parametrize("num_before", range(5))
def test_when_steps_are_read_does_not_change_the_row(num_before: int) -> None:
    """Fails where a checkpoint between two rows changes the second one, or does not hold what it needs."""
    losses = torch.rand(5, generator=torch.Generator().manual_seed(0)).tolist()
    meter = Meter(OneProcess())
    for index, loss in enumerate(losses):
        if index == num_before:
            state = json.loads(json.dumps(meter.state_dict()))
            meter = Meter(OneProcess())
            meter.load_state_dict(state)
        meter.add(metrics_of(loss), 3 + index)
    exact = [float(torch.tensor(loss)) for loss in losses]
    total = 0.0
    for index, loss in enumerate(exact):
        total += loss * (3 + index)
    assert meter.average({}) == {"loss": total / 25}


def test_a_meter_keeps_no_activations_alive() -> None:
    meter, big = Meter(OneProcess()), torch.ones(1000)
    meter.add(metrics_of(1.0, first=big[0]), 1)
    gone = weakref.ref(big.untyped_storage())
    del big
    gc.collect()
    assert gone() is None
    assert meter.average({}) == {"loss": 1.0, "first": 1.0}


def test_without_rows_nothing_is_kept(output_root: Path) -> None:
    exp = build("run.log_every=null")
    exp.meter.add(metrics_of(1.0), 1)
    assert exp.meter.steps == [] and exp.meter.tensors == []


def test_a_long_interval_is_put_together() -> None:
    meter = Meter(OneProcess())
    for index in range(2500):
        meter.add(metrics_of(float(index)), 1)
        assert len(meter.tensors) < 1002
    assert meter.average({}) == {"loss": 2499 / 2}


def test_rows_between_a_kill_and_a_resume_are_those_of_a_run_that_went_through(train: Train, output_root: Path) -> None:
    """Fails where the steps before the checkpoint are missing in the mean of the first row after a resume."""
    words = (*BASE, "run.log_every=7", "run.save_every=4", "run.eval_every=1")
    train(*words, "run.name=whole")
    train(*words, "run.name=killed", code=-9, env={"KILL_AT": "13"})
    train("resume=killed")
    assert_same_run(output_root / "whole", output_root / "killed")
    rows = {row["step"]: row for row in Facts(output_root / "whole" / "facts").rows() if row["split"] == "train"}
    assert list(rows) == [7, 14, 21, 24]
    results = [read_summary(output_root / name)["results"] for name in ("whole", "killed")]
    assert results[0] == results[1]
    train(*words, "run.name=each", "run.log_every=1")
    each = [row for row in Facts(output_root / "each" / "facts").rows() if row["split"] == "train"]
    items = [row["samples"] - before for row, before in zip(each, [0, *(row["samples"] for row in each)], strict=False)]
    total = sum(row["loss"] * count for row, count in zip(each[7:14], items[7:14], strict=True))
    assert rows[14]["loss"] == pytest.approx(total / sum(items[7:14]), rel=1e-12)
    assert rows[14]["lr"] == each[13]["lr"] and rows[14]["grad_norm"] == each[13]["grad_norm"]


# --- gradient norms


def test_norms_of_gradients_are_measured_where_a_row_is_due() -> None:
    exp = build("run.log_every=3", "run.budget=9")
    found = []
    for _ in range(6):
        batch = next(iter(exp.train_loader))
        metrics = train_step(exp, step_of(batch))
        exp.state.step += 1
        gradients = torch.cat(
            [parameter.grad.flatten() for parameter in exp.model.parameters() if parameter.grad is not None]
        )
        if "grad_norm" in metrics:
            assert float(metrics["grad_norm"]) == pytest.approx(float(gradients.norm()), rel=1e-6)
        found.append("grad_norm" in metrics)
    assert found == [False, False, True] * 2


def test_measuring_changes_no_gradient_and_takes_sparse_ones() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    table(torch.tensor([1, 1, 2])).square().sum().backward()
    dense = nn.Linear(2, 2)
    dense(torch.ones(1, 2)).sum().backward()
    parameters = [*table.parameters(), *dense.parameters(), nn.Parameter(torch.ones(1))]
    whole = [parameter.grad.to_dense() for parameter in parameters if parameter.grad is not None]
    expected = torch.cat([grad.flatten() for grad in whole]).norm()
    assert float(clip_gradients(parameters, None)) == pytest.approx(float(expected))
    again = [parameter.grad.to_dense() for parameter in parameters if parameter.grad is not None]
    assert all(torch.equal(one, other) for one, other in zip(whole, again, strict=True))


# --- where the time goes


def test_a_clock_gives_each_phase_its_time() -> None:
    clock = Clock()
    begin = time.perf_counter()
    clock.start(is_new_epoch=True)
    for phase, seconds in (("forward", 0.02), ("mine", 0.01), ("forward", 0.02)):
        clock.enter(phase)
        time.sleep(seconds)
    clock.end_epoch()
    found = clock.read()
    assert 0.04 <= found["forward"] < 0.2 and 0.01 <= found["mine"] < 0.1
    assert sum(found.values()) <= time.perf_counter() - begin
    assert (clock.read_epoch() or 0) >= 0.05 and clock.read_epoch() is None
    assert clock.read()["forward"] < 0.01, "it is counted twice"


@pytest.mark.full
def test_a_dataset_that_is_slow_is_waited_for(train: Train, output_root: Path) -> None:
    slow = ("data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how='is slow'", "loader.num_workers=0")
    train(*BASE, *slow, "run.name=slow", "run.eval_every=null")
    seconds = read_summary(output_root / "slow")["seconds"]
    assert is_waiting_for_data(seconds) and seconds["data"] > 0.5 * training_seconds(seconds)
    train(*BASE, "loss._target_=tiny.SlowAtFirstLoss", "run.name=other", "run.eval_every=null")
    seconds = read_summary(output_root / "other")["seconds"]
    assert not is_waiting_for_data(seconds) and seconds["forward"] > seconds["data"]


def test_all_of_a_session_is_timed(whole_run: Path) -> None:
    found = read_summary(whole_run)
    assert set(PHASES) <= found["seconds"].keys()
    events = [json.loads(line) for line in (whole_run / "facts" / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "on_train_end" and events[-1]["results"] == found["results"]
    ended = [(event["epoch"], event["step"]) for event in events if event["event"] == "on_epoch_end"]
    rows = Facts(whole_run / "facts").rows()
    lasts = list({row["epoch"]: row["step"] for row in rows if row["split"] == "train"}.items())
    assert ended == lasts[: len(ended)] and len(ended) >= len(lasts) - 1 > 0  # the last may be cut short
    assert sum(found["seconds"].values()) == pytest.approx(found["ended"] - found["started"], rel=0.1, abs=0.3)


# --- what a run says in the end


def test_a_run_ends_with_its_result(train: Train, output_root: Path) -> None:
    said = train(*BASE, "run.name=run")
    rows = Facts(output_root / "run" / "facts").rows()
    tested = next(row for row in rows if row["split"] == "test")
    found = read_summary(output_root / "run")
    (line,) = [line for line in said.stdout.splitlines() if line.startswith("result:")]
    assert f"test loss {tested['loss']:.4g}" in line
    assert f"best weights: step {found['best_step']}, val loss {found['best']:.4g}" in line
    best = [line for line in said.stderr.splitlines() if line.endswith("* best")]
    values = [row["loss"] for row in rows if row["split"] == "val"]
    assert len(best) == sum(value < min(values[:index], default=math.inf) for index, value in enumerate(values))


def test_a_summary_has_what_the_files_have(whole_run: Path, tmp_path: Path) -> None:
    """Fails where a run without a summary reads otherwise than the same run with it."""
    with_it = read_summary(whole_run)
    rows = Facts(whole_run / "facts").rows()
    best = next(row for row in rows if (row["split"], row["step"]) == ("val", with_it["best_step"]))
    assert with_it["results"]["val/loss"] == best["loss"] == with_it["best"]
    assert with_it["status"] == "finished" and with_it["settings"]["run.budget"] == "24"
    copy = tmp_path / whole_run.name
    shutil.copytree(whole_run, copy)
    (copy / summary.FILE).unlink()
    without = read_summary(copy)
    for name in with_it.keys() - {"path", "ended", "seconds"}:
        assert without[name] == with_it[name], name
    (copy / summary.NOTE).write_text("too high\n")
    assert read_summary(copy)["note"] == "too high"


@pytest.mark.parametrize(("mode", "best_step"), [("min", 2), ("max", 3)])
def test_the_best_evaluation_counts_although_it_is_not_the_last(tmp_path: Path, mode: str, best_step: int) -> None:
    """Of a run whose summary is written, and of one that was killed before."""
    facts = Facts(tmp_path / "facts")
    facts.folder.mkdir()
    place = {"epoch": 0, "samples": 1, "time": 1.0}
    losses = {1: 0.5, 2: 0.25, 3: 1.0, 4: 0.75}
    for step, loss in losses.items():
        facts.add_row({"step": step, "split": "val", "loss": loss, **place})
    config = {"run": {"monitor": "val/loss", "monitor_mode": mode}}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    (tmp_path / "status.json").write_text(json.dumps({"status": "finished", "step": 4, "time": 1.0}))
    killed = read_summary(tmp_path)
    assert (killed["best"], killed["best_step"]) == (losses[best_step], best_step)
    assert killed["results"] == {"val/loss": losses[best_step]}
    content = {"best_step": best_step, "monitor": "val/loss", "monitor_mode": mode, "seconds": {}}
    assert summary.summarise(tmp_path, content, config)["results"] == {"val/loss": losses[best_step]}


def test_a_run_that_is_at_work_or_was_killed_has_no_summary(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run")
    assert (output_root / "run" / summary.FILE).exists()
    train("resume=run", "run.budget=40", code=-9, env={"KILL_AT": "7"})
    assert not (output_root / "run" / summary.FILE).exists(), "it would say what was true before"
    found = read_summary(output_root / "run")
    assert (found["status"], found["ended"]) == ("died", pytest.approx(time.time(), abs=600))
    assert found["step"] in (29, 30) and "test/loss" not in found["results"]


def test_a_run_that_failed_says_why_and_where(train: Train, output_root: Path) -> None:
    train(*BASE, "loss._target_=tiny.ExplodingLoss", "run.name=run", code=1, env={"EXPLODE_AT": "8"})
    found = read_summary(output_root / "run")
    assert found["status"] == "failed" and "not finite" in found["reason"]
    lines = (output_root / "run" / "facts" / "events.jsonl").read_text().splitlines()
    event = next(json.loads(line) for line in lines if '"on_exception"' in line)
    assert "Traceback" in event["traceback"] and "train.py" in event["traceback"]


@pytest.mark.parametrize("text", ["{", "[]", '{"status": 3}', '{"results": []}', '{"started": "now"}', "\udcff"])
def test_a_damaged_summary_is_told_and_ends_nothing(whole_run: Path, tmp_path: Path, text: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole_run, copy)
    (copy / summary.FILE).write_bytes(text.encode(errors="surrogateescape"))
    found = read_summary(copy)
    assert found["status"] == "damaged" and "summary.json" in found["reason"]


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    facts = Facts(tmp_path / "facts")
    facts.folder.mkdir()
    place = {"epoch": 0, "samples": 1, "time": 1.0}
    for step, value in ((1, math.inf), (2, math.nan)):
        facts.add_row({"step": step, "split": "val", "loss": value, **place, f"{SECONDS}data": 0.5})
    rows = summary.LastRows(facts.scalars_file, None, "val/loss", "min")
    assert rows.best is None and rows.seconds == {"data": 1.0}
    assert summary.plain(rows.results()) == {"val/loss": None}


def test_a_summary_that_cannot_be_written_costs_a_warning(tmp_path: Path) -> None:
    said: list[str] = []
    handler = logger.add(said.append, format="{level} {message}")
    Run._write_summary(SimpleNamespace(path=tmp_path / "gone"), {"status": "finished"})  # type: ignore[arg-type]
    logger.remove(handler)
    assert len(said) == 1 and "WARNING" in said[0] and "summary.json" in said[0]
