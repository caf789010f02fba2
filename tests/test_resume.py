"""The same run, whatever happens: killed anywhere, stopped, failing, resumed."""

import itertools
import json
import re
import signal
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
import zygote
from conftest import BASE, ENV, TRAIN, Train, assert_same_run, latest, run_train, tree, wait_until

from scaffolding.core.folder.facts import Facts
from scaffolding.core.resume.rehearsal import first_difference
from scaffolding.core.state import checkpoint

STOP = {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}


def kill_and_resume(train: Train, name: str, kill_at: list[str], *overrides: str) -> None:
    """Start a run that is killed, resume it so often that it ends; each resume may be killed again."""
    verbs = [(*BASE, *overrides, f"run.name={name}"), *[(f"resume={name}",)] * (len(kill_at) - 1)]
    for at, verb in zip(kill_at, verbs, strict=True):
        train(*verb, env={"KILL_AT": at}, code=-signal.SIGKILL)
    train(f"resume={name}")


def test_killed_and_resumed_is_identical(train: Train, output_root: Path) -> None:
    overrides = ("scheduler=cosine", "run.ema_decay=0.9", "run.clip_grad_norm=1.0")
    train(*BASE, *overrides, "run.name=whole")
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
    train(*BASE, *overrides, "run.name=whole")
    for index, kill_at in enumerate((["1"], ["8", "2after"], ["13after", "3", "5"], ["24after"])):
        kill_and_resume(train, f"killed{index}", kill_at, *overrides)
        assert_same_run(output_root / "whole", output_root / f"killed{index}")


# --- struck at every point of a step and its looks

LOOKING = (
    *BASE, "run.budget=8", "run.eval_every=2", "run.rollout_every=4", "run.plot_every=4", "run.save_every=3",
    "scheduler=plateau", "run.patience=9", "run.num_checkpoints=2", "rollout={_target_:tiny.Rollout}",
    "+metrics.labels._target_=tiny.FinalLabels", "+plots.figure._target_=tiny.Figure",
)  # fmt: skip


@pytest.fixture(scope="module")
def looking_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run that went through, and its points (tiny.py), in order."""
    root = tmp_path_factory.mktemp("looking")
    run_train(*LOOKING, f"paths.output_root={root}", "run.name=whole", env={"TRACE": str(root / "trace")})
    return root / "whole", (root / "trace").read_text().splitlines()


@pytest.mark.parametrize(
    "point", ["os.replace latest.pt", "metric", "os.replace best.pt", "rollout", "figure", "next update"]
)
def test_a_kill_between_save_look_best_and_next_step_changes_nothing(
    train: Train, output_root: Path, looking_run: tuple[Path, list[str]], point: str
) -> None:
    """Fails where `best`, patience or a schedule is saved before its file is there, or where a look is not repeated."""
    whole, points = looking_run
    updates = [index for index, name in enumerate(points) if name == "update"]
    number = updates[4] + 1
    if point != "next update":
        number = points.index(point, updates[3], updates[4]) + 1
    train(*LOOKING, "run.name=killed", env={"STRIKE": str(number)}, code=-signal.SIGKILL)
    train("resume=killed")
    assert_same_run(whole, output_root / "killed")


@pytest.mark.full
def test_a_kill_at_every_point_changes_nothing(
    train: Train, output_root: Path, looking_run: tuple[Path, list[str]]
) -> None:
    whole, points = looking_run
    assert len(points) > 100
    begun = points.index("update")  # before, there may be no run yet
    for number in range(begun, len(points) + 1):
        train(*LOOKING, f"run.name=at{number}", env={"STRIKE": str(number)}, code=-signal.SIGKILL)
        if json.loads((output_root / f"at{number}" / "status.json").read_text())["status"] != "finished":
            train(f"resume=at{number}")
        assert_same_run(whole, output_root / f"at{number}")


@pytest.mark.parametrize(("point", "step"), [("metric", 2), ("rollout", 4), ("figure", 8)])
def test_a_bug_in_a_look_loses_nothing(
    train: Train, output_root: Path, looking_run: tuple[Path, list[str]], point: str, step: int
) -> None:
    """Fails where the state is saved after the look. A figure that fails is told at the end only."""
    done = train(*LOOKING, "run.name=fixed", env={"FAIL": f"{point} 1"}, code=1)
    assert "planted" in done.stderr
    assert latest(output_root / "fixed")["state"]["step"] == step
    train("resume=fixed")
    assert_same_run(looking_run[0], output_root / "fixed")


def test_a_full_disk_between_latest_and_best(
    train: Train, output_root: Path, looking_run: tuple[Path, list[str]]
) -> None:
    """Fails where a checkpoint says best at a step whose best.pt could not be made."""
    full = {"FAIL": "os.replace best.pt 4"}  # at the last step
    done = train(*LOOKING, "run.name=full", env=full)
    assert "could not write" in done.stderr and "a later best is kept" in done.stderr
    status = json.loads((output_root / "full" / "status.json").read_text())
    best = checkpoint.load(output_root / "full" / "checkpoints" / "best.pt")
    assert best["state"]["step"] == status["best_step"] == 6
    train(*LOOKING, "run.name=killed", env={"FAIL": "os.replace best.pt 2", "STRIKE": "update 5"}, code=-signal.SIGKILL)
    train("resume=killed")
    assert_same_run(looking_run[0], output_root / "killed")


# --- signals


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signal_finishes_the_step_saves_and_exits(
    train: Train, whole_run: Path, output_root: Path, name: str, code: int
) -> None:
    done = train(*BASE, "run.name=stopped", env={"KILL_AT": "7", "KILL_WITH": name}, code=code)
    run = output_root / "stopped"
    assert "Traceback" not in done.stderr
    assert latest(run)["state"]["step"] == 7
    status = json.loads((run / "status.json").read_text())
    expected = "interrupted" if name == "SIGINT" else "preempted"
    assert (status["status"], status["reason"], status["step"]) == (expected, name, 7)
    assert "resume=stopped" in done.stdout
    train("resume=stopped")
    assert_same_run(whole_run, run)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGUSR1", 138, marks=pytest.mark.full)])
def test_signal_during_an_evaluation(
    train: Train, output_root: Path, looking_run: tuple[Path, list[str]], name: str, code: int
) -> None:
    done = train(*LOOKING, "run.name=cut", env={"STRIKE": "metric 3", "KILL_WITH": name}, code=code)  # two batches each
    run = output_root / "cut"
    assert "Traceback" not in done.stderr and latest(run)["state"]["step"] == 4
    assert [row["step"] for row in Facts(run / "facts").rows() if row["split"] == "val"] == [2]
    assert json.loads((run / "status.json").read_text())["status"] == ("interrupted" if code == 130 else "preempted")
    train("resume=cut")
    assert_same_run(looking_run[0], run)


def test_second_signal_leaves_at_once(output_root: Path, tmp_path: Path) -> None:
    words = (*BASE, "run.budget=1000000", "run.save_every=null", "run.name=slow", f"paths.output_root={output_root}")
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    wait_until(lambda: "step 20/" in run.stderr.read_text())
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        run.send(number)  # both are pending when it goes on: no step lies between them
    assert run.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


@pytest.mark.full
def test_stopped_after_any_step_is_identical(train: Train, output_root: Path) -> None:
    """The end of an epoch, an evaluation, a checkpoint, the first and the last step among them."""
    words = (*BASE, "scheduler=plateau", "run.patience=4", "run.ema_decay=0.9", "run.budget=40")
    train(*words, "run.name=whole")
    for step in range(1, 41):
        train(*words, f"run.name=at{step}", env={"KILL_AT": str(step), "KILL_WITH": "SIGUSR1"}, code=138)
        train(f"resume=at{step}")
        assert_same_run(output_root / "whole", output_root / f"at{step}")


# --- workers and watchers


@pytest.mark.full
def test_the_number_of_workers_changes_nothing(train: Train, whole_run: Path, output_root: Path) -> None:
    """From the start, or at a resume."""
    for workers in (1, 2):
        train(*BASE, f"loader.num_workers={workers}", f"run.name=workers{workers}")
        assert_same_run(whole_run, output_root / f"workers{workers}")
    train(*BASE, "run.name=killed", env={"KILL_AT": "9"}, code=-signal.SIGKILL)
    assert "loader.num_workers=2 takes effect" in train("resume=killed", "loader.num_workers=2").stderr
    assert_same_run(whole_run, output_root / "killed")


@pytest.mark.full
def test_random_items_through_spawned_workers_in_dev_mode(train: Train, output_root: Path) -> None:
    done = train(*BASE[:4], "mode=dev", "run.name=dev")
    config = yaml.safe_load((output_root / "dev" / "dev" / "config.yaml").read_text())
    assert (config["loader"]["num_workers"], config["loader"]["start_method"]) == (2, "spawn")
    assert "tensors identical" in done.stdout


@pytest.mark.full
def test_who_watches_changes_nothing(train: Train, output_root: Path) -> None:
    """Validation, figures, tracker, log and checkpoints, on or off: one set of weights."""
    watchers = ("run.eval_every=3", "plots=standard", "tracker=wandb_offline", "run.log_every=1", "run.save_every=2")
    blind = ("run.eval_every=null", "plots=none", "tracker=none", "run.log_every=null", "run.save_every=null")
    found = []
    words = [word for word in BASE if word.partition("=")[0] not in {other.partition("=")[0] for other in blind}]
    for number, chosen in enumerate(itertools.product(*zip(watchers, blind, strict=True))):
        if "tracker=wandb_offline" in chosen and number % 3:
            continue  # it takes seconds to end
        train(*words, *chosen, f"run.name=run{number}", "run.monitor=null")
        content = latest(output_root / f"run{number}")
        found.append({part: content[part] for part in ("model", "optimizers")})
    assert len(found) > 16
    assert all(first_difference(found[0], content) is None for content in found)


# --- what may be changed, and what is left to do


def test_finished_run_says_so_and_changes_nothing(train: Train, whole_run: Path) -> None:
    before = tree(whole_run)
    done = train("resume=whole", f"paths.output_root={whole_run.parent}")
    assert "is finished at step 24" in done.stderr
    assert tree(whole_run) == before


def test_longer_budget_carries_a_finished_run_on(train: Train, output_root: Path) -> None:
    train(*BASE, "run.budget=30", "run.name=long")
    train(*BASE, "run.name=short")
    assert "run.budget=30 takes effect" in train("resume=short", "run.budget=30").stderr
    rows = [Facts(output_root / name / "facts").rows() for name in ("long", "short")]
    losses = [{row["step"]: row["loss"] for row in table if row["split"] == "train"} for table in rows]
    assert losses[0] == losses[1] and len(losses[0]) == 30
    assert "fewer than the 30" in train("resume=short", "run.budget=20", code=2).stderr


def test_override_that_makes_another_run_is_refused_by_name(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=stopped", env=STOP, code=143)
    before = tree(output_root)
    words = ("loader.batch_size=8", "run.seed=7", "model.num_classes=5", "data=noisy", "optimizer=sgd", "run.nosuch=1")
    for override in words:
        done = train("resume=stopped", override, code=2)
        assert override.partition("=")[0] in done.stderr and "Traceback" not in done.stderr
        assert tree(output_root) == before


def test_a_change_at_a_resume_is_not_lost_by_a_kill(train: Train, output_root: Path) -> None:
    """Fails where config.yaml says a learning rate that the weights were not trained with."""
    train(*BASE, "run.name=straight", env=STOP, code=143)
    train("resume=straight", "optimizer.lr=0.5")
    train(*BASE, "run.name=killed", env=STOP, code=143)
    train("resume=killed", "optimizer.lr=0.5", env={"KILL_AT": "1"}, code=-signal.SIGKILL)
    train("resume=killed")
    assert latest(output_root / "killed")["optimizers"][""]["param_groups"][0]["lr"] == 0.5
    assert_same_run(output_root / "straight", output_root / "killed")
    train(*BASE, "scheduler=cosine", "run.name=scheduled", env=STOP, code=143)
    assert "a schedule sets it" in train("resume=scheduled", "optimizer.lr=0.5", code=2).stderr
    assert "run.schedule_budget=24" in train("resume=scheduled", "run.budget=48", code=2).stderr


# --- damage


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        position = content.find(archive.read(largest))  # not the space between two records: it means nothing
    content[position + largest.file_size // 2] ^= 1
    file.unlink()  # best.pt and latest.pt may be the same file
    file.write_bytes(content)


def test_damaged_checkpoint_is_named_and_the_one_before_taken(train: Train, whole_run: Path, output_root: Path) -> None:
    train(*BASE, "run.name=damaged", env={"KILL_AT": "11", "KILL_WITH": "SIGTERM"}, code=143)
    folder = output_root / "damaged" / "checkpoints"
    flip_a_bit(folder / "latest.pt")
    done = train("resume=damaged")
    assert f"{folder / 'latest.pt'}" in done.stderr and "damaged" in done.stderr
    assert re.search(r"carrying on from (best|step_10)\.pt, step 10", done.stderr)  # one file, where it was the best
    assert (folder / "latest.pt.damaged").exists()
    assert_same_run(whole_run, output_root / "damaged")


def test_no_whole_checkpoint_is_an_error_that_changes_nothing(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=damaged", env=STOP, code=143)
    for file in (output_root / "damaged" / "checkpoints").glob("*.pt"):
        flip_a_bit(file)
    before = tree(output_root)
    done = train("resume=damaged", code=2)
    assert "damaged" in done.stderr and "no other checkpoint there is whole" in done.stderr
    assert tree(output_root) == before


def test_a_machine_that_may_round_otherwise_is_said(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env=STOP, code=143)
    content = latest(output_root / "run")
    file = output_root / "run" / "checkpoints" / "latest.pt"
    checkpoint.save(file, dict(content) | {"numerics": content["numerics"] | {"torch": "1.0"}})
    assert f"torch is {torch.__version__}, was 1.0: from here on the last bits may differ" in train("resume=run").stderr


def test_rows_cut_at_a_resume_are_kept_aside(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env={"KILL_AT": "7"}, code=-9)
    facts = Facts(output_root / "run" / "facts")
    lost = [row for row in facts.rows() if row["step"] > 5 or (row["step"], row["split"]) == (5, "val")]
    with open(facts.scalars_file, "a") as file:
        file.write("7,0,11")  # torn
    with open(facts.events_file, "a") as file:
        file.write('{"event": "on_sa')
    train("resume=run")
    cut = [json.loads(line) for line in facts.cut_file.read_text().splitlines()]
    assert [line for line in cut if "torn" not in line] == [{"cut_at": 5, **row} for row in lost]
    assert {line["torn"] for line in cut if "torn" in line} == {"7,0,11", '{"event": "on_sa'}
    assert [row["step"] for row in facts.rows() if row["split"] == "train"] == list(range(1, 25))
    events = [json.loads(line)["event"] for line in facts.events_file.read_text().splitlines()]
    assert events.count("on_start") == events.count("on_resume") == 1
