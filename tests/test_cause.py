"""An error of the owner's code: a run says where, what the config calls it, with which items, and how to go on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BASE, TESTS, Train, wait_until
from test_faults import replay

from scaffolding.core.folder.folder import read_status
from scaffolding.core.folder.summary import read_summary
from scaffolding.experiment import Experiment

QUIET = ("run.eval_every=5", "run.save_every=1", "loader.num_workers=0")


def last_words(done: Any) -> list[str]:
    """The error that a run ends with, line by line; there is no traceback on the console."""
    assert "Traceback" not in done.stderr, done.stderr
    text = done.stderr[done.stderr.index("\nerror: ") + 1 :]
    return str(text).rstrip().splitlines()


def test_a_loss_that_raises(train: Train, output_root: Path) -> None:
    """Fails where the line, the key, the step, the items, the checkpoint or the way on is not the right one."""
    done = train(*BASE, *QUIET, "loss._target_=tiny.BrokenLoss", "run.name=run", code=1)
    what, line, where, good, again, log = last_words(done)
    assert what == "error: LookupError: two of a kind"
    assert re.fullmatch(rf"at {TESTS / 'tiny.py'}:\d+ in __call__: raise LookupError\(.*\)", line)
    found = re.fullmatch(
        r"in loss \(tiny.BrokenLoss\), in the forward pass of step (\d+), with items ([\d, ]+) of the train split",
        where,
    )
    assert found, where
    run = output_root / "run"
    step, items = int(found[1]), [int(item) for item in found[2].split(", ")]
    assert f"last good checkpoint: {run / 'checkpoints' / 'latest.pt'}" in good and "resume command above" in good
    assert f"replay.py {run} --debug" in again and str(run / "log.txt") in log
    assert "Traceback" in (run / "log.txt").read_text()
    reason = read_status(run)["reason"]
    assert reason.splitlines()[0] == "LookupError: two of a kind" == read_summary(run)["reason"].splitlines()[0]
    lines = (run / "facts" / "events.jsonl").read_text().splitlines()
    event = next(json.loads(line) for line in lines if '"on_exception"' in line)
    assert "in __call__" in event["traceback"] and event["step"] == step - 1
    exp = Experiment.from_path(run, checkpoint="latest", trust=["tiny"])
    assert exp.state.step == step - 1, "saved before"
    batch = next(iter(exp.train_loader.indices(exp.state.epoch, exp.state.position))).tolist()
    assert items == batch and exp.datasets["train"][items[0]][1] == exp.datasets["train"][items[1]][1] == 2
    assert f"step {step}: LookupError: two of a kind" in replay(run, 1)
    before = torch.load(run / f"replay_{step}.pt", "cpu", weights_only=True)
    assert before["samples"] == items and before["step"] == step
    assert all(torch.equal(value, exp.model.state_dict()[name]) for name, value in before["model"].items())


CASES = {
    "a loss that is a function": (
        ("loss._target_=tiny.broken_function",), {}, r"in loss \(tiny.broken_loss\), in the forward pass of step"),
    "a layer": (
        ("model._target_=tiny.BrokenNet",), {"FAIL": "layer 30"},
        r"in model \(tiny.BrokenNet\), its 0.0 \(tiny.BrokenLayer\), in "),
    "a metric": (
        ("+metrics.labels._target_=tiny.FinalLabels",), {"FAIL": "metric 5"},
        r"in metrics.labels \(tiny.FinalLabels\), in an evaluation after step 10, with items [\d, ]+ of the val split"),
    "an optimizer": (
        (), {"FAIL": "update 6"},
        r"in optimizer \(tiny.FatalAdamW\), in step 6, with items [\d, ]+ of the train split"),
    "a rollout": (
        ("+rollout._target_=tiny.Rollout", "run.rollout_every=5"), {"FAIL": "rollout 2"},
        r"in rollout \(tiny.Rollout\), in the rollout after step"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_other_parts_that_raise(train: Train, output_root: Path, case: str) -> None:
    words, env, wanted = CASES[case]
    done = train(*BASE, *QUIET, *words, "run.name=run", code=1, env=env)
    lines = last_words(done)
    assert any(re.match(wanted, line) for line in lines), done.stderr
    assert ("replay.py" in done.stderr) == (
        "step" in lines[2] and "after" not in lines[2] and "reading" not in lines[2]
    )


LOST = {
    "code": (("loss._target_=tiny.BrokenLoss",), "LookupError: two of a kind"),
    "memory": (("loss._target_=test_devices.HungryLoss", "run.device=cpu"), "out of memory with batches of 16 items"),
    "numbers": (("optimizer.lr=1e30", "run.log_every=1"), "was not finite at or before step"),
}


@pytest.mark.parametrize("case", LOST)
def test_nothing_is_promised_where_nothing_is_kept(train: Train, output_root: Path, case: str) -> None:
    words, wanted = LOST[case]
    said = train(*BASE, *QUIET, *words, "run.provenance=ephemeral", code=1).stderr
    assert wanted in said and "run it again with run.provenance=allow" in said
    assert not re.search(r"replay\.py|latest\.pt|log\.txt|resume=|fork=", said), said  # a folder may be called "fork"


def test_an_error_before_the_first_checkpoint(train: Train, output_root: Path) -> None:
    done = train(*BASE, *QUIET, "run.name=run", code=1, env={"FAIL": "update 1"})
    assert "has not saved a checkpoint yet" in done.stderr and "restarts it" in done.stderr
    wait_until(lambda: read_status(output_root / "run")["status"] == "failed")
    train("resume=run")
