"""resume, fork and rerun: every setting of the config takes effect, has none here, or is refused by name."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BASE, TESTS, TRAIN, Train, assert_same_run, latest, run_train, tree

from scaffolding.config import PROJECT_ROOT, Config
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.usage import change_of
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import read_status
from scaffolding.core.state import checkpoint
from scaffolding.core.state.files import CheckpointFiles
from scaffolding.core.tree import leaves
from scaffolding.experiment import Experiment

STOP = {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}
CONFIGS = ("--config-dir", str(TESTS / "configs"))
# a value that is allowed and another than the default, where the type alone does not tell
OTHER = {
    "run.name": "other", "run.budget": "30", "run.schedule_budget": "30", "run.precision": "bfloat16",
    "run.device": "cpu", "run.monitor": "val/accuracy", "run.monitor_mode": "max", "run.clip_grad_norm": "1.5",
    "run.ema_decay": "0.5", "run.log_every": "2", "run.eval_every": "3", "run.plot_every": "5", "run.save_every": "3",
    "run.rollout_every": "5", "run.patience": "50", "run.target_loss": "0.0001", "loader.start_method": "fork",
    "loader.limit_train": "0.5", "loader.limit_eval": "0.5", "loader.timeout": "99", "loader.num_workers": "1",
    "run.compile": "true", "run.matmul": "high", "run.memory_format": "channels_last", "loader.on_device": "false",
}  # fmt: skip


def other(key: str, value: Any) -> str | None:
    """An override of a setting of the run; None: it may have no other value."""
    if key == "run.loop":  # there may be only one
        return None
    if key in OTHER:
        return f"{key}={OTHER[key]}"
    if isinstance(value, bool):
        return f"{key}={not value}".lower()
    if isinstance(value, int | float):
        return f"{key}={value + 1 if isinstance(value, int) else value / 2}"
    if key.startswith("paths."):
        return f"{key}={value}_too" if key == "paths.data" else None  # the other two say where the run is
    return f"{key}=[other]" if isinstance(value, list) else f"{key}=other" if "_target_" not in key else None


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped at step 7."""
    root = tmp_path_factory.mktemp("stopped")
    run_train(*BASE, f"paths.output_root={root}", "run.name=stopped", env=STOP, code=143)
    return root / "stopped"


def settings(run: Path) -> dict[str, Any]:
    config = yaml.safe_load((run / "config.yaml").read_text())
    return dict(leaves(config)) | {"run.tags": []}


def parent_of(run: Path) -> Any:
    return json.loads((run / "provenance.json").read_text())["parent"]


def resumed(train: Train, stopped_run: Path, output_root: Path, verb: str, *words: str) -> Any:
    shutil.rmtree(output_root, ignore_errors=True)
    output_root.mkdir(parents=True)
    shutil.copytree(stopped_run, output_root / "stopped")
    before = tree(output_root)
    done = train(f"{verb}=stopped", *words, code=None)
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done.stderr
    if done.returncode == 2:
        assert tree(output_root) == before, "refused, yet something was written"
    return done


@pytest.mark.full
@pytest.mark.parametrize("verb", ["resume", "rerun"])
def test_every_setting_is_applied_or_refused_by_name(
    train: Train, stopped_run: Path, output_root: Path, verb: str
) -> None:
    """Fails where a changed setting has another effect than the word in config.py says, or none."""
    said = {}
    for key, value in settings(stopped_run).items():
        if (word := other(key, value)) is None or key.split(".")[0] in ("plots", "tracker"):
            continue
        short = ["run.budget=8"] if verb == "resume" and key != "run.budget" else []
        done = resumed(train, stopped_run, output_root, verb, word, *short)
        lines = [line for line in done.stderr.splitlines() if key in line]
        refused = bool(lines) and lines[0].startswith("error: ") and done.returncode == 2
        applied = any("takes effect" in line or "has no effect here" in line for line in lines)
        is_same = key == "run.name" and verb == "rerun" and (output_root / "other").exists()  # it needs no word
        assert refused or applied or is_same, f"{verb}: {word} is silently ignored\n{done.stderr}"
        said[key] = "refused" if refused else "applied"
    assert len(said) > 35 and set(said.values()) == {"refused", "applied"}
    for key in ("run.seed", "loader.batch_size", "data.num_classes", "model.num_features", "run.ema_decay"):
        assert said[key] == "refused"
    assert said["run.description"] == said["run.save_every"] == "applied"


@pytest.mark.parametrize(
    "word", ["run.seed=7", "data=noisy", "optimizer=sgd", "mode=prod", "experiment=x", "run.nosuch=1"]
)
def test_what_makes_another_run_is_refused_by_name(
    train: Train, stopped_run: Path, output_root: Path, word: str
) -> None:
    done = resumed(train, stopped_run, output_root, "resume", word)
    assert done.returncode == 2 and word.partition("=")[0] in done.stderr
    assert "mode.KEY" not in done.stderr


def test_every_setting_has_a_word_for_its_change() -> None:
    words = {"run.tags": "free", "run.patience": "course", "loader.batch_size": "identity", "optimizer.lr": "course",
             "plots.curves.x": "free", "model.size": "identity", "scheduler.schedule.gamma": "identity",
             "paths.scratch": "machine"}  # fmt: skip
    assert {key: change_of(Config, key) for key in words} == words
    for part in dataclasses.fields(Config):
        if dataclasses.is_dataclass(part.type):
            for field in dataclasses.fields(part.type):
                assert field.metadata["change"] in words.values(), field.name


def test_what_has_no_effect_here_is_said(train: Train, stopped_run: Path, output_root: Path) -> None:
    words = ("run.plot_every=2", "loader.timeout=5", "run.tags=[late]", "run.budget=8")
    done = resumed(train, stopped_run, output_root, "resume", *words)
    for line in ("run.plot_every=2 has no effect here", "loader.timeout=5.0 has no effect here", "takes effect"):
        assert line in done.stderr
    config = yaml.safe_load((output_root / "stopped" / "config.yaml").read_text())
    assert config["run"]["tags"] == ["late"] and config["run"]["budget"] == "8"


def test_the_best_is_another_one_once_another_value_decides(train: Train, stopped_run: Path, output_root: Path) -> None:
    """Fails where an accuracy is compared with the lowest loss so far."""
    resumed(
        train, stopped_run, output_root, "resume", "run.monitor=val/accuracy", "run.monitor_mode=max", "run.budget=8"
    )
    status, rows = read_status(output_root / "stopped"), Facts(output_root / "stopped" / "facts").rows()
    (accuracy,) = [row["accuracy"] for row in rows if (row["step"], row["split"]) == (8, "val")]
    assert (status["best_step"], status["best"]) == (8, accuracy)


def test_a_longer_budget_asks_which_total_the_schedule_is_made_for(train: Train, output_root: Path) -> None:
    words = (*BASE, "scheduler=cosine")
    train(*words, "run.name=long", "run.budget=30", "run.schedule_budget=24")
    train(*words, "run.name=short")
    shutil.copytree(output_root / "short", output_root / "stretched")
    done = train("resume=short", "run.budget=30", code=2)
    assert "run.schedule_budget=24 (as before) or run.schedule_budget=30 (stretched)" in done.stderr
    train("resume=short", "run.budget=30", "run.schedule_budget=24")
    train("resume=stretched", "run.budget=30", "run.schedule_budget=30")
    long, short, stretched = (latest(output_root / name) for name in ("long", "short", "stretched"))
    assert first_difference(long["model"], short["model"]) is None
    assert first_difference(long["model"], stretched["model"]) is not None


def test_a_schedule_that_keeps_its_total_refuses_another(train: Train) -> None:
    words = ("+optimizer.betas=[0.9,0.99]", "scheduler=one_cycle", "scheduler.schedule.cycle_momentum=false")
    train(*BASE, *words, "run.name=cycle", env=STOP, code=143)
    assert "a schedule sets it" in train("resume=cycle", "optimizer.betas=[0.8,0.9]", code=2).stderr
    done = train("resume=cycle", "run.budget=30", "run.schedule_budget=30", code=2)
    assert "OneCycleLR of cycle keeps total_steps=24, which would now be 30" in done.stderr
    own = ("+scheduler.schedule={_target_:tiny.annealed}", "+scheduler.interval=step")
    train(*BASE, *own, "run.name=cosine", env=STOP, code=143)
    done = train("resume=cosine", "trust=tiny", "run.budget=30", "run.schedule_budget=30", code=2)
    assert "SequentialLR of cosine keeps _schedulers.1.T_max=22, which would now be 28" in done.stderr


def test_a_schedule_that_is_longer_than_its_run_goes_on(train: Train) -> None:
    """Fails where a resume takes the length that the owner gave it for another one than that of the run."""
    own = "{_target_:torch.optim.lr_scheduler.OneCycleLR,max_lr:0.1,total_steps:100,cycle_momentum:false}"
    train(*BASE, f"+scheduler.schedule={own}", "+scheduler.interval=step", "run.name=run", env=STOP, code=143)
    train("resume=run")


PLACES = {  # what the command line says of where runs go
    "absolute": ("paths.output_root={tmp}/runs",),
    "odd": ("paths.output_root={tmp}/it's (a), José = 1",),
    "home": ("paths.output_root=~/runs",),
    "environment": ("paths.output_root=${{oc.env:SCRATCH}}/runs",),
    "outside": ("paths.output={tmp}/elsewhere", "paths.output_root={tmp}/runs"),
    "a sweep": ("--multirun", "run.seed=1,2", "paths.output_root={tmp}/it's, a"),
}


@pytest.mark.parametrize("place", PLACES)
def test_the_resume_line_works_as_it_was_printed(train: Train, tmp_path: Path, place: str) -> None:
    """Fails where it looks for the run somewhere else, or a shell reads another path."""
    env = {"HOME": str(tmp_path / "home"), "SCRATCH": str(tmp_path / "scratch & co")}
    words = [word.format(tmp=tmp_path) for word in PLACES[place]]
    done = train(*words, *BASE, "run.budget=2", "run.name=run", cwd=tmp_path, env=env)
    lines = [line for line in done.stdout.splitlines() if line.startswith("resume: ")]
    for line in lines:
        _, python, program, *rest = shlex.split(line)
        assert python == "python" and program == str(TRAIN)
        assert "is finished at step 2" in train(*rest, cwd=tmp_path, env=env).stderr
    assert len(lines) == 1 + (place == "a sweep")
    if place == "home":
        assert (tmp_path / "home" / "runs" / "run" / "config.yaml").exists()


# --- rerun


def test_rerun_finds_the_rows_identical_or_names_the_first_that_is_not(
    train: Train, whole_run: Path, output_root: Path
) -> None:
    original = output_root / "whole"
    shutil.copytree(whole_run, original)
    done = train("rerun=whole", "run.name=again")
    assert "rerun:    30 rows identical to whole" in done.stdout
    parent = parent_of(output_root / "again")
    assert (parent["verb"], parent["run"]) == ("rerun", str(original))
    assert_same_run(original, output_root / "again")
    row, scalars = Facts(original / "facts").rows()[8], original / "facts" / "scalars.csv"
    scalars.write_text(scalars.read_text().replace(str(row["loss"]), "0.5"))
    difference = f"step {row['step']}, {row['split']}/loss: 0.5 in whole, {row['loss']} now"
    assert f"first difference at {difference}" in train("rerun=whole", code=1).stderr
    for word in ("optimizer.lr=0.5", "run.log_every=2", "run.seed=3"):
        assert f"{word}: refused" in train("rerun=whole", word, code=2).stderr
    record = original / "provenance.json"
    record.write_text(record.read_text().replace('"code": "', '"code": "0'))
    done = train("rerun=whole", code=2)
    assert "has changed since" in done.stderr
    assert "git worktree add" in done.stderr or "get it back from" in done.stderr  # without a repository


def test_a_rerun_of_a_run_that_was_changed_on_its_way_says_so(train: Train) -> None:
    train(*BASE, "run.name=run", env=STOP, code=143)
    train("resume=run", "optimizer.lr=0.5", "run.save_every=5")
    done = train("rerun=run", "run.name=again", code=1)
    assert "run was resumed at step 7 with optimizer.lr=0.5, which a rerun begins with" in done.stderr


# --- fork


def test_lineage(train: Train, output_root: Path) -> None:
    """Fails where a fork starts from other weights than the best, where a fork killed before its first save, or a rerun
    of a fork, starts from fresh weights, or where a fork of a rerun has the settings of base.yaml."""
    train(*BASE, "run.monitor_mode=max", "run.name=parent")  # the loss falls: the first evaluation is the best
    best, last = (checkpoint.load(output_root / "parent" / "checkpoints" / f"{name}.pt") for name in ("best", "latest"))
    assert best["state"]["step"] < last["state"]["step"]
    train(*CONFIGS, "fork=parent", "run.name=straight")
    train(*CONFIGS, "fork=parent", "run.name=killed", env={"KILL_AT": "2"}, code=-9)
    assert [file.name for file in (output_root / "killed" / "checkpoints").iterdir()] == ["parent.pt"]
    train("resume=killed")
    assert_same_run(output_root / "straight", output_root / "killed")
    # before there is a run, and when there is just one
    train(*CONFIGS, "fork=parent", "run.name=half", env={"STRIKE": "os.replace config.yaml 1"}, code=-9)
    train(*CONFIGS, "fork=parent", "run.name=half", env={"STRIKE": "os.replace status.json 1"}, code=-9)
    train("resume=half")
    assert_same_run(output_root / "straight", output_root / "half")
    assert "30 rows identical to straight" in train("rerun=straight", "run.name=again").stdout
    train(*CONFIGS, "fork=again", "run.name=last", "run.budget=1", "optimizer.lr=0.0")
    again, last = output_root / "again", output_root / "last"
    parent = parent_of(last)
    assert (parent["verb"], parent["run"], parent["kept"]) == ("fork", str(again), "weights")
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (again, last)]
    assert configs[0]["data"] == configs[1]["data"] and configs[0]["model"] == configs[1]["model"]
    before, weights = checkpoint.load(again / "checkpoints" / "best.pt")["model"], latest(last)["model"]
    parameters = [name for name in weights if "running" not in name and "num_batches" not in name]
    assert parameters and all(torch.equal(weights[name], before[name]) for name in parameters)


def test_a_fork_without_the_checkpoint_that_it_started_from_does_not_start_from_nothing(
    train: Train, whole_run: Path, output_root: Path
) -> None:
    shutil.copytree(whole_run, output_root / "parent")
    train(*CONFIGS, "fork=parent", "run.name=fork", env={"KILL_AT": "1"}, code=-9)
    (output_root / "fork" / "checkpoints" / "parent.pt").unlink()
    done = train("resume=fork", code=2)
    assert "parent.pt is gone, from which fork started" in done.stderr and "fork=" in done.stderr


def test_the_scratch_disk_is_that_of_each_call(train: Train, output_root: Path, tmp_path: Path) -> None:
    """Fails where a fork has that of its parent, or the other process of a rehearsal has none."""
    file = tmp_path / "places"

    def places(*words: str) -> list[tuple[str, str]]:
        """(process, disk) of each time the dataset was built."""
        file.write_text("")
        train(*words, env={"PLACES": str(file)})
        return [(process, disk) for process, _, disk in (line.partition(" ") for line in file.read_text().splitlines())]

    words = [word for word in BASE if word != "data=noisy"]
    found = places(
        *words,
        "data=placed",
        "run.name=parent",
        "paths.scratch=/disk of/1",
        "run.rehearse_resume=true",
        "run.eval_every=1epoch",
    )
    assert {disk for _, disk in found} == {"/disk of/1"} and len({process for process, _ in found}) > 1
    assert "/disk of/1" not in (output_root / "parent/config.yaml").read_text()
    assert {disk for _, disk in places(*CONFIGS, "fork=parent", "run.rehearse_resume=false")} == {"None"}
    again = places("fork=parent", *CONFIGS, "paths.scratch=/disk of/2", "run.rehearse_resume=false")
    assert {disk for _, disk in again} == {"/disk of/2"}


def test_a_fork_of_the_weights_that_fit(train: Train, output_root: Path) -> None:
    """With another number of classes: the log lists what fits and what does not; a rerun of the fork does the same."""
    train(*BASE, "run.budget=4", "run.name=parent")
    words = (*CONFIGS, "fork=parent", "data.num_classes=4", "run.budget=4")
    assert "names of weights do not fit the model" in train(*words, code=2).stderr
    done = train(*words, "fork_weights=partial", "run.name=child")
    (line,) = [line for line in done.stderr.splitlines() if "weights taken over" in line]
    assert "7 of 9 weights taken over: 0.0.weight, " in line
    assert line.endswith("of another shape: 1.weight (saved [3, 16], here [4, 16]), 1.bias (saved [3], here [4])")
    assert parent_of(output_root / "child")["kept"] == "partial"
    assert "rows identical to child" in train("rerun=child", "run.name=again").stdout
    assert "fork_weights=some: allowed: all, or partial" in train(*words, "fork_weights=some", code=2).stderr
    for word in ("fork_state=true", "fork_weights=partial"):
        assert f"{word}: only works with fork=RUN" in train(*BASE, word, code=2).stderr


def test_a_fork_is_not_validated_on_what_it_was_trained_on(train: Train, output_root: Path) -> None:
    """Fails where another split of the same data hides that the weights know the validation items."""
    train(*BASE, "run.budget=2", "run.name=parent")
    train(*CONFIGS, "fork=parent", "run.seed=7", "run.budget=2", "run.name=seed")
    configs = [Experiment.from_path(output_root / name, trust=("tiny",)) for name in ("parent", "seed")]
    assert len({str(exp.datasets["val"].fingerprint()) for exp in configs}) == 1
    for word in ("+data.split_seed=7", "data.val_from_train=0.4"):
        done = train(*CONFIGS, "fork=parent", word, "run.budget=2", code=2)
        assert "validation items\nkeep its split: ++data.split_seed=0 ++data.val_from_train=0.2" in done.stderr
    train(*CONFIGS, "fork=parent", "data.val_from_train=0.1", "run.budget=2", "run.name=fewer")  # a part of the same


def test_paths_output_says_where_a_new_run_goes(train: Train, output_root: Path, tmp_path: Path) -> None:
    train(*BASE, "run.budget=2", "run.name=parent")
    for verb in ("fork", "rerun"):
        places = (f"paths.output=~/{verb}", f"paths.output_root={output_root}")
        train(f"{verb}=parent", *BASE[:2], "run.name=child", *places, env={"HOME": str(tmp_path)})
        assert (tmp_path / verb / "child" / "config.yaml").is_file()


def test_fork_with_the_whole_state_carries_on_in_a_new_folder(train: Train, whole_run: Path, output_root: Path) -> None:
    train(*BASE, "run.name=parent", env={"KILL_AT": "13", "KILL_WITH": "SIGTERM"}, code=143)
    before = tree(output_root / "parent")
    train(*CONFIGS, "fork=parent", "fork_state=true", "run.name=child")
    assert tree(output_root / "parent") == before
    child = output_root / "child"
    for name in ("latest", "best"):
        ends = [checkpoint.load(run / "checkpoints" / f"{name}.pt") for run in (whole_run, child)]
        assert all(first_difference(ends[0][part], ends[1][part]) is None for part in ("model", "state"))
    rows = Facts(child / "facts").rows()
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(14, 25))
    parent = parent_of(child)
    assert (parent["step"], parent["kept"], parent["checkpoint"]) == (13, "state", "latest.pt")
    train(
        *CONFIGS, "fork=parent", "fork_state=true", "run.name=half", env={"STRIKE": "os.replace status.json 1"}, code=-9
    )
    train("resume=half")
    assert_same_run(child, output_root / "half")
    done = train(*CONFIGS, "fork=parent", "fork_state=true", "optimizer.lr=0.5", "run.name=hot")
    assert "optimizer.lr=0.5 takes effect" in done.stderr
    done = train(*CONFIGS, "fork=parent", "fork_state=true", "loader.batch_size=8", code=2)
    assert "loader.batch_size=8: refused" in done.stderr


def test_a_fork_has_the_weights_of_the_best_that_it_takes_over(train: Train, output_root: Path) -> None:
    """Fails where it, its rerun, or its resume claims a best step without its checkpoint."""
    words = (*BASE, "run.monitor_mode=max")  # the loss falls: the first evaluation stays the best
    train(*words, "run.name=parent", env={"KILL_AT": "13", "KILL_WITH": "SIGTERM"}, code=143)
    train(*CONFIGS, "fork=parent", "fork_state=true", "run.name=child")
    train("rerun=child", "run.name=again")
    for name in ("child", "again"):
        files = CheckpointFiles(output_root / name)
        assert checkpoint.load(files.best)["state"]["step"] == latest(output_root / name)["state"]["best_step"] == 5
    (output_root / "parent" / "checkpoints" / "best.pt").unlink()
    done = train(*CONFIGS, "fork=parent", "fork_state=true", "run.name=other")
    assert "the best weights are gone" in done.stderr
    files = CheckpointFiles(output_root / "other")
    assert checkpoint.load(files.best)["state"]["step"] == latest(output_root / "other")["state"]["best_step"] == 15


def test_another_choice_of_a_group_drops_what_belonged_to_the_old_one(train: Train, output_root: Path) -> None:
    """Fails where a fork with another optimizer trains with the learning rate that the old one had."""
    train(*BASE, "optimizer=sgd", "optimizer.lr=0.1", "run.budget=2", "run.name=parent")
    done = train(*CONFIGS, "fork=parent", "optimizer=adamw", "run.name=child")
    rate = yaml.safe_load((output_root / "child" / "config.yaml").read_text())["optimizer"]["lr"]
    default = yaml.safe_load((PROJECT_ROOT / "configs" / "optimizer" / "adamw.yaml").read_text())["lr"]
    assert rate == default and "optimizer.lr=0.1" in done.stderr and "left out" in done.stderr


def test_a_rehearsed_fork_is_a_fork_in_prod_mode_too(train: Train, tmp_path: Path) -> None:
    """Fails where the last line starts from random weights; or where the folder has an apostrophe."""
    root = tmp_path / "o'brien"
    train(*BASE, f"paths.output_root={root}", "run.budget=2", "run.name=parent")
    words = (*CONFIGS, f"paths.output_root={root}", "fork=parent", "mode=dev", "run.budget=2epochs")
    lines = train(*words, "optimizer.lr=0.01", "loader.num_workers=0").stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("next: ")]
    assert any(word.startswith("fork=") and word.endswith("parent") for word in shlex.split(line))
    assert any("tensors identical" in line for line in lines)
