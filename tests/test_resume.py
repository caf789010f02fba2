"""The same run, whatever happens: killed anywhere, stopped, resumed, forked."""

import itertools
import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import Train, command

from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.state import checkpoint
from scaffolding.rehearsal import first_difference, logged_values

TESTS = Path(__file__).parent
ENV = {"PYTHONPATH": str(TESTS)}
BASE = (
    "--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "optimizer=fatal", "plots=none", "tracker=none",
    "mode=prod", "run.budget=24", "run.log_every=1", "run.eval_every=5", "run.save_every=4", "loader.batch_size=16",
)  # fmt: skip


def assert_same_run(left: Path, right: Path) -> None:
    """Weights, optimizer, averages, counters, generators and every logged value are equal bit for bit."""
    for name in ("latest", "best"):
        contents = [checkpoint.load(run / "checkpoints" / f"{name}.pt") for run in (left, right)]
        assert first_difference(*contents) is None
    tables = [Facts(run / "facts") for run in (left, right)]
    assert logged_values(tables[0]) == logged_values(tables[1])
    assert len(logged_values(tables[0])) > 24
    steps = [row["step"] for row in tables[1].rows() if row["split"] == "train"]
    assert steps == sorted(set(steps)), "a step is logged twice"


def kill_and_resume(train: Train, name: str, kill_at: list[str], *overrides: str) -> None:
    """Start a run that is killed, resume it so often that it ends; each resume may be killed again."""
    verbs = [(*BASE, *overrides, f"run.name={name}"), *[(f"resume={name}",)] * (len(kill_at) - 1)]
    for at, verb in zip(kill_at, verbs, strict=True):
        train(*verb, env=ENV | {"KILL_AT": at}, code=-signal.SIGKILL)
    train(f"resume={name}", env=ENV)


def test_killed_and_resumed_is_identical(train: Train, output_root: Path) -> None:
    overrides = ("scheduler=cosine", "run.ema_decay=0.9", "run.clip_grad_norm=1.0")
    train(*BASE, *overrides, "run.name=whole", env=ENV)
    kill_and_resume(train, "killed", ["11", "6after"], *overrides)
    assert_same_run(output_root / "whole", output_root / "killed")


@pytest.mark.full
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_several_steps(
    train: Train, output_root: Path, num_workers: int, precision: str, accumulate: int
) -> None:
    overrides = (
        f"run.precision={precision}", f"run.accumulate={accumulate}", f"loader.num_workers={num_workers}",
        "scheduler=one_cycle", "scheduler.schedule.cycle_momentum=false", "run.ema_decay=0.9",
    )  # fmt: skip
    train(*BASE, *overrides, "run.name=whole", env=ENV)
    for index, kill_at in enumerate((["1"], ["8", "2after"], ["13after", "3", "5"], ["24after"])):
        kill_and_resume(train, f"killed{index}", kill_at, *overrides)
        assert_same_run(output_root / "whole", output_root / f"killed{index}")


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_finishes_the_step_saves_and_exits(train: Train, output_root: Path, name: str, code: int) -> None:
    train(*BASE, "run.name=whole", env=ENV)
    done = train(*BASE, "run.name=stopped", env=ENV | {"KILL_AT": "7", "KILL_WITH": name}, code=code)
    run = output_root / "stopped"
    assert "Traceback" not in done.stderr
    assert checkpoint.load(run / "checkpoints" / "latest.pt")["state"]["step"] == 7
    status = json.loads((run / "status.json").read_text())
    expected = "interrupted" if name == "SIGINT" else "preempted"
    assert (status["status"], status["reason"], status["step"]) == (expected, name, 7)
    assert "resume=stopped" in done.stdout
    train("resume=stopped", env=ENV)
    assert_same_run(output_root / "whole", run)


def test_second_signal_leaves_at_once(output_root: Path) -> None:
    slow = (*BASE, "run.budget=1000000", "run.save_every=null", "run.name=slow", f"paths.output_root={output_root}")
    start = subprocess.Popen(
        command(*slow), env={**os.environ, **ENV}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    with start as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step 20/" in line:
                break
        process.send_signal(signal.SIGSTOP)  # both signals are pending when it goes on: no step lies between them
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.stderr.read()
        assert process.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.full
def test_same_command_same_weights_at_any_worker_count(train: Train, output_root: Path) -> None:
    for workers in (0, 1, 2):
        train(*BASE, f"loader.num_workers={workers}", f"run.name=workers{workers}", env=ENV)
    assert_same_run(output_root / "workers0", output_root / "workers1")
    assert_same_run(output_root / "workers0", output_root / "workers2")


@pytest.mark.full
def test_worker_count_may_change_at_resume(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=whole", env=ENV)
    train(*BASE, "run.name=killed", env=ENV | {"KILL_AT": "9"}, code=-signal.SIGKILL)
    done = train("resume=killed", "loader.num_workers=2", env=ENV)
    assert "loader.num_workers=2 takes effect" in done.stderr
    assert_same_run(output_root / "whole", output_root / "killed")


@pytest.mark.full
def test_random_items_through_spawned_workers_in_dev_mode(train: Train, output_root: Path) -> None:
    done = train(
        "--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "mode=dev", "run.name=dev", env=ENV
    )
    config = yaml.safe_load((output_root / "dev" / "dev" / "config.yaml").read_text())
    assert (config["loader"]["num_workers"], config["loader"]["start_method"]) == (2, "spawn")
    assert "tensors identical" in done.stdout


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder with its time of change and content."""
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def test_finished_run_says_so_and_changes_nothing(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=finished", env=ENV)
    before = tree(output_root)
    done = train("resume=finished", env=ENV)
    assert "is finished at step 24" in done.stderr
    assert tree(output_root) == before


def test_longer_budget_carries_a_finished_run_on(train: Train, output_root: Path) -> None:
    train(*BASE, "run.budget=30", "run.name=long", env=ENV)
    train(*BASE, "run.name=short", env=ENV)
    done = train("resume=short", "run.budget=30", env=ENV)
    assert "run.budget=30 takes effect" in done.stderr
    rows = [Facts(output_root / name / "facts").rows() for name in ("long", "short")]
    losses = [{row["step"]: row["loss"] for row in table if row["split"] == "train"} for table in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 30
    refused = train("resume=short", "run.budget=20", env=ENV, code=2)
    assert "fewer than the 30" in refused.stderr


def test_override_that_makes_another_run_is_refused_by_name(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=stopped", env=ENV | {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    before = tree(output_root)
    words = ("loader.batch_size=8", "run.seed=7", "model.num_classes=5", "data=noisy", "optimizer=sgd", "run.nosuch=1")
    for override in words:
        done = train("resume=stopped", override, env=ENV, code=2)
        assert override.partition("=")[0] in done.stderr and "Traceback" not in done.stderr
        assert tree(output_root) == before


@pytest.mark.full
def test_learning_rate_may_change_where_no_schedule_sets_it(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=plain", env=ENV | {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    train("resume=plain", "optimizer.lr=0.5", env=ENV)
    content = checkpoint.load(output_root / "plain" / "checkpoints" / "latest.pt")
    assert content["optimizers"][""]["param_groups"][0]["lr"] == 0.5
    train(*BASE, "scheduler=cosine", "run.name=scheduled", env=ENV | {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    assert "a schedule sets it" in train("resume=scheduled", "optimizer.lr=0.5", env=ENV, code=2).stderr
    assert "run.schedule_budget=24" in train("resume=scheduled", "run.budget=48", env=ENV, code=2).stderr


def test_fork_starts_from_the_weights_and_records_its_parent(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=parent", env=ENV)
    train(
        "--config-dir",
        str(TESTS / "configs"),
        "fork=parent",
        "run.budget=1",
        "optimizer.lr=0.0",
        "run.name=child",
        env=ENV,
    )
    child = output_root / "child"
    parent = json.loads((child / "provenance.json").read_text())["parent"]
    assert (parent["verb"], parent["run"], parent["kept"]) == ("fork", str(output_root / "parent"), "weights")
    parent_weights = checkpoint.load(output_root / "parent" / "checkpoints" / "best.pt")["model"]
    weights = checkpoint.load(child / "checkpoints" / "latest.pt")["model"]
    parameters = [name for name in weights if "running" not in name and "num_batches" not in name]
    assert parameters and all(bool((weights[name] == parent_weights[name]).all()) for name in parameters)
    assert yaml.safe_load((child / "config.yaml").read_text())["data"]["dataset"]["_target_"] == "tiny.NoisyPoints"


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()  # best.pt and latest.pt may be the same file
    file.write_bytes(content)


def test_damaged_checkpoint_is_named_and_the_one_before_taken(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=whole", env=ENV)
    train(*BASE, "run.name=damaged", env=ENV | {"KILL_AT": "11", "KILL_WITH": "SIGTERM"}, code=143)
    folder = output_root / "damaged" / "checkpoints"
    flip_a_bit(folder / "latest.pt")
    done = train("resume=damaged", env=ENV)
    assert f"{folder / 'latest.pt'}" in done.stderr and "damaged" in done.stderr
    assert re.search(r"carrying on from (best|step_10)\.pt, step 10", done.stderr)  # one file, where it was the best
    assert (folder / "latest.pt.damaged").exists()
    assert_same_run(output_root / "whole", output_root / "damaged")


def test_no_whole_checkpoint_is_an_error_that_changes_nothing(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=damaged", env=ENV | {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    for file in (output_root / "damaged" / "checkpoints").glob("*.pt"):
        flip_a_bit(file)
    before = tree(output_root)
    done = train("resume=damaged", env=ENV, code=2)
    assert "damaged" in done.stderr and "no other checkpoint there is whole" in done.stderr
    changed = dict(tree(output_root).items() - before.items())
    assert [Path(file).name for file in changed] == [".lock"]  # it notes who had the run last


def test_loss_that_is_not_a_number_ends_the_run_and_is_never_saved(train: Train, output_root: Path) -> None:
    done = train(
        *BASE, "data.dataset._target_=tiny.PoisonedPoints", "run.log_every=null", "run.name=nan", env=ENV, code=1
    )
    assert "not finite" in done.stderr and "last good checkpoint" in done.stderr and "Traceback" not in done.stderr
    run = output_root / "nan"
    assert json.loads((run / "status.json").read_text())["status"] == "failed"
    for file in (run / "checkpoints").glob("*.pt"):
        weights = checkpoint.load(file)["model"]
        assert all(bool(value.isfinite().all()) for value in weights.values())


@pytest.mark.full
def test_twenty_simultaneous_starts_get_twenty_folders(output_root: Path) -> None:
    words = [word for word in BASE if not word.startswith("run.budget")]
    start = command(*words, "run.budget=1", f"paths.output_root={output_root}")
    processes = [subprocess.Popen(start, env={**os.environ, **ENV}) for _ in range(20)]
    assert [process.wait(600) for process in processes] == [0] * 20
    assert len(list(output_root.glob("*/status.json"))) == 20


@pytest.mark.full
def test_stopped_after_any_step_is_identical(train: Train, output_root: Path) -> None:
    """The end of an epoch, an evaluation, a checkpoint, the first and the last step among them."""
    words = (*BASE, "scheduler=plateau", "run.patience=4", "run.ema_decay=0.9", "run.budget=40")
    train(*words, "run.name=whole", env=ENV)
    for step in range(1, 41):
        train(*words, f"run.name=at{step}", env=ENV | {"KILL_AT": str(step), "KILL_WITH": "SIGUSR1"}, code=138)
        train(f"resume=at{step}", env=ENV)
        assert_same_run(output_root / "whole", output_root / f"at{step}")


@pytest.mark.full
def test_who_watches_changes_nothing(train: Train, output_root: Path) -> None:
    """Validation, figures, tracker, log and checkpoints, on or off: one set of weights."""
    words = [word for word in BASE if not word.startswith(("run.log", "run.eval", "run.save", "plots", "tracker"))]
    watchers = ("run.eval_every=3", "plots=standard", "tracker=wandb_offline", "run.log_every=1", "run.save_every=2")
    blind = ("run.eval_every=null", "plots=none", "tracker=none", "run.log_every=null", "run.save_every=null")
    found = []
    for number, chosen in enumerate(itertools.product(*zip(watchers, blind, strict=True))):
        if "tracker=wandb_offline" in chosen and number % 3:
            continue  # it takes seconds to end
        train(*words, *chosen, f"run.name=run{number}", "run.monitor=null", env=ENV)
        content = checkpoint.load(output_root / f"run{number}" / "checkpoints" / "latest.pt")
        found.append({part: content[part] for part in ("model", "optimizers", "generators")})
    assert len(found) > 16
    assert all(first_difference(found[0], content) is None for content in found)
