"""resume, fork and rerun: every setting of the config takes effect, has none here, or is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Train
from pairs import trainable
from test_resume import BASE, ENV, TESTS, assert_same_run, tree

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.state import checkpoint
from scaffolding.core.state.checkpoint import leaves
from scaffolding.experiment import PROJECT

STOP = ENV | {"KILL_AT": "7", "KILL_WITH": "SIGTERM"}
# a value that is allowed and another than the default, where the type alone does not tell
OTHER = {
    "run.name": "other", "run.budget": "30", "run.schedule_budget": "30", "run.precision": "bfloat16",
    "run.device": "cpu", "run.monitor": "val/accuracy", "run.monitor_mode": "max", "run.clip_grad_norm": "1.5",
    "run.ema_decay": "0.5", "run.log_every": "2", "run.eval_every": "3", "run.plot_every": "5", "run.save_every": "3",
    "run.rollout_every": "5", "run.patience": "50", "run.target_loss": "0.0001", "loader.start_method": "fork",
    "loader.limit_train": "0.5", "loader.limit_eval": "0.5", "loader.timeout": "99", "loader.num_workers": "1",
    "run.compile": "true",
}  # fmt: skip


def other(key: str, value: Any) -> str | None:
    """An override of a setting of the run; None: it may have no other value."""
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
    from conftest import run_train

    root = tmp_path_factory.mktemp("stopped")
    run_train(*BASE, "scheduler=none", f"paths.output_root={root}", "run.name=stopped", env=STOP, code=143)
    return root / "stopped"


def settings(run: Path) -> dict[str, Any]:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["run"]["tags"] = "a list"
    return {key: [] if key == "run.tags" else value for key, value in leaves(config)}


def resumed(train: Train, stopped_run: Path, output_root: Path, verb: str, *words: str) -> Any:
    shutil.rmtree(output_root, ignore_errors=True)
    output_root.mkdir(parents=True)
    shutil.copytree(stopped_run, output_root / "stopped")
    before = tree(output_root)
    done = train(f"{verb}=stopped", *words, env=ENV, code=None)
    assert done.returncode in (0, 1, 2) and "Traceback" not in done.stderr, done.stderr
    if done.returncode == 2:
        assert tree(output_root) == before, "refused, yet something was written"
    return done


@pytest.mark.full
@pytest.mark.parametrize("verb", ["resume", "rerun"])
def test_every_setting_is_applied_or_refused_by_name(
    train: Train, stopped_run: Path, output_root: Path, verb: str
) -> None:
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


def test_what_has_no_effect_here_is_said(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env=STOP, code=143)
    done = train("resume=run", "run.plot_every=2", "loader.timeout=5", "run.tags=[late]", "run.budget=8", env=ENV)
    for line in ("run.plot_every=2 has no effect here", "loader.timeout=5.0 has no effect here", "takes effect"):
        assert line in done.stderr
    config = yaml.safe_load((output_root / "run" / "config.yaml").read_text())
    assert config["run"]["tags"] == ["late"] and config["run"]["budget"] == "8"


def test_a_longer_budget_asks_which_total_the_schedule_goes_by(train: Train, output_root: Path) -> None:
    words = (*BASE, "scheduler=cosine")
    train(*words, "run.name=long", "run.budget=30", "run.schedule_budget=24", env=ENV)
    train(*words, "run.name=short", env=ENV)
    shutil.copytree(output_root / "short", output_root / "stretched")
    done = train("resume=short", "run.budget=30", env=ENV, code=2)
    assert "run.schedule_budget=24 (as until now) or run.schedule_budget=30 (stretched)" in done.stderr
    train("resume=short", "run.budget=30", "run.schedule_budget=24", env=ENV)
    rates = []
    for name in ("long", "short", "stretched"):
        if name == "stretched":
            train("resume=stretched", "run.budget=30", "run.schedule_budget=30", env=ENV)
        content = checkpoint.load(output_root / name / "checkpoints" / "latest.pt")
        rates.append(content["optimizers"][""]["param_groups"][0]["lr"])
    weights = [checkpoint.load(output_root / name / "checkpoints" / "latest.pt")["model"] for name in ("long", "short")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert rates[0] == rates[1]
    one_cycle = (*BASE, "scheduler=one_cycle", "scheduler.schedule.cycle_momentum=false", "run.name=cycle")
    train(*one_cycle, env=STOP, code=143)
    done = train("resume=cycle", "run.budget=30", "run.schedule_budget=30", env=ENV, code=2)
    assert "keeps its 24 steps" in done.stderr


def test_rerun_finds_the_rows_identical_or_names_the_first_that_is_not(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=original", env=ENV)
    done = train("rerun=original", "run.name=again", env=ENV)
    assert "rerun:    30 rows identical to original" in done.stdout
    parent = json.loads((output_root / "again" / "provenance.json").read_text())["parent"]
    assert parent == {"verb": "rerun", "run": str(output_root / "original")}
    assert_same_run(output_root / "original", output_root / "again")
    file = output_root / "original" / "facts" / "scalars.csv"
    lines = file.read_text().splitlines()
    column = lines[0].split(",").index("loss")
    cells = lines[9].split(",")
    lines[9] = ",".join([*cells[:column], "0.5", *cells[column + 1 :]])
    file.write_text("\n".join(lines) + "\n")
    done = train("rerun=original", env=ENV, code=1)
    assert f"first difference at step {cells[0]}, {cells[3]}/loss: 0.5 in original, {cells[column]} now" in done.stderr
    for word in ("optimizer.lr=0.5", "run.log_every=2", "run.seed=3"):
        assert f"{word}: refused" in train("rerun=original", word, env=ENV, code=2).stderr
    record = output_root / "original" / "provenance.json"
    record.write_text(record.read_text().replace('"code": "', '"code": "0'))
    done = train("rerun=original", env=ENV, code=2)
    assert "has changed since" in done.stderr
    assert "git worktree add" in done.stderr or "check out the code of then" in done.stderr  # without a repository


def test_fork_with_the_whole_state_carries_on_in_a_new_folder(train: Train, output_root: Path) -> None:
    config_dir = ("--config-dir", str(TESTS / "configs"))
    train(*BASE, "run.name=whole", "run.budget=24", env=ENV)
    train(*BASE, "run.name=parent", env=ENV | {"KILL_AT": "13", "KILL_WITH": "SIGTERM"}, code=143)
    before = tree(output_root / "parent")
    train(*config_dir, "fork=parent", "fork_state=true", "run.name=child", env=ENV)
    assert tree(output_root / "parent") == before
    contents = [checkpoint.load(output_root / name / "checkpoints" / "latest.pt") for name in ("whole", "child")]
    assert all(torch.equal(contents[0]["model"][name], value) for name, value in contents[1]["model"].items())
    assert contents[0]["state"] == contents[1]["state"]
    rows = Facts(output_root / "child" / "facts").rows()
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(14, 25))
    parent = json.loads((output_root / "child" / "provenance.json").read_text())["parent"]
    assert (parent["step"], parent["kept"], parent["checkpoint"]) == (13, "state", "latest.pt")
    done = train(*config_dir, "fork=parent", "fork_state=true", "optimizer.lr=0.5", "run.name=hot", env=ENV)
    assert "optimizer.lr=0.5 takes effect" in done.stderr
    done = train(*config_dir, "fork=parent", "fork_state=true", "loader.batch_size=8", env=ENV, code=2)
    assert "loader.batch_size=8: refused" in done.stderr


def test_objects_with_a_state_are_saved_and_restored(train: Train, output_root: Path) -> None:
    words = (*BASE, "loss._target_=tiny.CountingLoss")
    train(*words, "run.name=whole", env=ENV)
    train(*words, "run.name=stopped", env=STOP, code=143)
    assert checkpoint.load(output_root / "stopped" / "checkpoints" / "latest.pt")["objects"] == {"losses": {"calls": 7}}
    train("resume=stopped", env=ENV)
    assert_same_run(output_root / "whole", output_root / "stopped")
    done = train(*BASE, "loss._target_=tiny.UnloadableLoss", "run.name=unloadable", env=ENV, code=1)
    assert "objects.losses.calls is a numpy.int64" in done.stderr and not (output_root / "unloadable").exists()


def test_a_machine_that_may_round_otherwise_is_said(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env=STOP, code=143)
    file = output_root / "run" / "checkpoints" / "latest.pt"
    content = checkpoint.load(file)
    checkpoint.save(file, dict(content) | {"numerics": content["numerics"] | {"torch": "1.0"}})
    done = train("resume=run", env=ENV)
    assert f"torch is {torch.__version__}, was 1.0: from here on the last bits may differ" in done.stderr


def test_rows_cut_at_a_resume_are_kept_aside(train: Train, output_root: Path) -> None:
    train(*BASE, "run.name=run", env=ENV | {"KILL_AT": "7"}, code=-9)
    facts = Facts(output_root / "run" / "facts")
    lost = [row for row in facts.rows() if row["step"] > 5]
    with open(facts.scalars_file, "a") as file:
        file.write("7,0,11")  # torn
    with open(facts.events_file, "a") as file:
        file.write('{"event": "on_sa')
    train("resume=run", env=ENV)
    cut = [json.loads(line) for line in facts.cut_file.read_text().splitlines()]
    assert [line for line in cut if "torn" not in line] == [{"cut_at": 5, **row} for row in lost]
    assert {line["torn"] for line in cut if "torn" in line} == {"7,0,11", '{"event": "on_sa'}
    steps = [row["step"] for row in facts.rows() if row["split"] == "train"]
    assert steps == list(range(1, 25))
    events = [json.loads(line)["event"] for line in facts.events_file.read_text().splitlines()]
    assert events.count("on_start") == events.count("on_resume") == 1


def test_every_rule_names_settings_that_there_are() -> None:
    import re

    from scaffolding.core.config.compose import compose_config, dotted_keys, portable
    from scaffolding.verbs import RULES

    data, model = trainable()[0]
    keys = list(dotted_keys(portable(compose_config(PROJECT, [f"data={data}", f"model={model}"]), PROJECT)))
    assert PROJECT.root == PROJECT_ROOT
    for pattern, *reasons in RULES:
        assert len(reasons) == 3 and any(re.fullmatch(pattern, key) for key in keys), pattern
