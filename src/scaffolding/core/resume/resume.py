"""Three ways on from a run: `resume=` carries it on, `fork=` starts another from it, `rerun=` repeats it to compare."""

import json
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from ..config.build import check_specs
from ..config.compose import Project, hide_secrets, own_words, portable
from ..config.trust import read_config
from ..errors import UserError
from ..folder import folder
from ..folder.provenance import code_hash, numerics
from ..state import checkpoint
from ..state.checkpoint import CheckpointFiles
from ..tree import changed_keys, leaves
from .rules import announce, refuse

ENDS = ("run.budget", "run.patience", "run.target_loss", "run.monitor", "run.monitor_mode")  # what can end a run


# --- what may be changed


def check(cfg: Any, verb: str, run: Path, given: dict[str, str], project: Project) -> None:
    """Note in the config which run it goes on from, and refuse what the command line may not change of it.

    A run to be resumed is locked from here on.

    Raises:
        UserError: the run is in use, a key may not be changed, or the code is not that of the run to be done again.
    """
    cfg[verb] = str(run)
    if verb == "rerun":
        cfg.run.name = given.get("run.name")
        cfg.paths.output = given.get("paths.output") or str(run.parent)  # next to it, wherever it was moved
    before = portable(read_config(run, project), project)
    if cfg.run.precision == "auto" and (verb != "fork" or cfg.fork_state):
        cfg.run.precision = before["run"]["precision"]  # a run keeps what `auto` meant
    after = portable(cfg, project)
    check_specs(after)
    for key, value in leaves(after):
        if value == "***":
            raise UserError(f"{key}: {run.name} did not keep it, its name says that it is a secret\ngive it again")
    changes = {key: pair for key, pair in changed_keys(before, after).items() if pair[0] != "***"}
    if changes:
        refuse(verb, run, changes, cfg, project)
    if verb == "rerun":
        _check_code(run, project)
    if verb == "resume":
        folder.acquire(run, note=False)  # the run may be finished, and then nothing of it changes


def _check_code(run: Path, project: Project) -> None:
    """UserError if the package is not what it was when the run began, with the way to get it back."""
    known = read_record(run)
    if "code" not in known:
        raise UserError(f"rerun={run.name}: it does not say which code it ran, because it ended before its first step")
    if known["code"] != code_hash(project.sources):
        way = "check out the code it ran"
        if known["commit"]:
            way = f"git worktree add ../again {known['commit']}"
        raise UserError(
            f"rerun={run.name}: refused, the code in {project.sources} has changed since"
            f"\nget it back with: {way}; git -C ../again apply {run / 'changes.patch'}"
        )


def read_record(run: Path) -> dict[str, Any]:
    """provenance.json of a run; empty where there is none."""
    file = run / "provenance.json"
    if not file.exists():
        return {}
    content: dict[str, Any] = json.loads(file.read_text())
    return content


# --- when everything is built: where the run begins


def resume(exp: Any, create: Any) -> Path:
    """Give an experiment the state of the newest checkpoint of the run that it carries on; returns the run's folder.

    Raises:
        UserError: the checkpoint and the experiment do not fit.
        SystemExit: with code 0 and nothing changed, if there is nothing left to do.
    """
    run = Path(exp.cfg.resume)
    newest = CheckpointFiles(run).newest()
    if newest is None:  # killed before its first save
        events = run / "facts" / "events.jsonl"
        if events.exists() and '"on_save"' in events.read_text():
            raise UserError(f"{run} has saved checkpoints, and none is there\nstart it again with rerun={run.name}")
        changes = changed_keys(_config_of(exp, run), exp.config)
        _start_like(exp, run)
    else:
        file, content = newest
        changes = changed_keys(content.get("config") or _config_of(exp, run), exp.config)
        step, status = content["state"]["step"], folder.read_status(run)
        if exp.num_steps < step:
            raise UserError(f"run.budget: {exp.num_steps} steps are fewer than the {step} that {run.name} has done")
        ended_early = status.get("step", 0) < status.get("num_steps", 0) and not set(ENDS) & set(changes)
        if status["status"] == "finished" and (exp.num_steps == step or ended_early):
            logger.info(f"{run} is finished at step {step}; a larger run.budget would carry it on")
            raise SystemExit(0)
        load_state(exp, content, run.name, changes)
        latest = CheckpointFiles(run).latest
        if file != latest:
            if latest.exists():  # damaged: kept aside
                latest.rename(latest.with_suffix(".pt.damaged"))
            checkpoint.link_checkpoint(file, latest)  # the look at this step is repeated, and may make it the best
    if changes:
        announce(exp, changes)
    logger.info(f"resuming {run} at step {exp.state.step} of {exp.num_steps}")
    if changes:
        words = [*_words_of(run), *own_words()]
        folder.write_text(run / "overrides.yaml", yaml.safe_dump(words, allow_unicode=True))
        folder.write_text(run / "config.yaml", yaml.safe_dump(exp.config, sort_keys=False, allow_unicode=True))
    return run


def load_state(exp: Any, content: dict[str, Any], run: str, changes: dict[str, Any]) -> None:
    """Restore a checkpoint of a run, with the settings that were changed since it was written.

    Raises:
        UserError: the data are not those of the run, or its state cannot take over a changed setting.
    """
    for name, split in exp.datasets.items():
        saved, now = content["splits"].get(name, [0]), split.fingerprint()
        if saved[:2] != now[:2]:
            raise UserError(f"data: the {name} split is not the one of {run}: {saved[0]} items, now {now[0]}")
        if len(saved) > 2 and saved[2] != now[2]:  # older checkpoints do not hold it
            text = f"data: the {name} split is not the one of {run}: its items have other values now"
            if content["numerics"] == numerics(exp.device):
                raise UserError(
                    f"{text}\ngive back the data that it was trained on, or start a new run with fork={run}"
                )
            logger.warning(f"{text}, or another machine computes other last bits")
    for schedule in content["schedulers"].values():
        if schedule.get("total_steps", exp.schedule_steps) != exp.schedule_steps:
            raise UserError(
                f"run.schedule_budget: refused, the schedule of {run} was made for {schedule['total_steps']} steps"
                f"\nkeep run.schedule_budget={schedule['total_steps']}: it cannot be stretched"
            )
    if content["format"] == 1:
        logger.warning(
            f"{run} was made by an older version, whose dropout and noise came from generators that were saved: "
            "it goes on, but not with the numbers that it would have drawn"
        )
    exp.load_state_dict(content)
    for key, (_, value) in changes.items():
        if key.startswith("optimizer."):
            _set_optimizers(exp.optimizers, key, value)
    if {"run.monitor", "run.monitor_mode"} & changes.keys():  # values of another kind cannot be compared
        exp.state.best = exp.state.best_step = None
        exp.state.evaluations_since_best = 0
    if "run.target_loss" in changes:
        exp.state.target_reached = False


def _set_optimizers(optimizers: dict[str, Any], key: str, value: Any) -> None:
    """Give restored optimizers a changed setting; UserError: an optimizer has no such setting."""
    name = key.removeprefix("optimizer.")
    for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
        if name not in group:
            raise UserError(f"{key}: refused, an optimizer at work cannot take it over")
        group[name] = value


def fork(exp: Any, create: Any) -> Path:
    """Start from a run's best weights or, with fork_state=true, from the whole of its newest state.

    Args:
        exp: built from the config that `check` accepted.
        create: `create(exp, parent, words)` makes the new run's folder, which is returned.
    """
    run = Path(exp.cfg.fork)
    files, kept = CheckpointFiles(run), "weights"
    config = _config_of(exp, run)
    changes = changed_keys(config, exp.config)
    if exp.cfg.fork_state:
        kept = "state"
        newest = files.newest()
        if newest is None:
            raise UserError(f"fork={run.name}: it has no checkpoint yet\nfork_state=true needs one")
        file, content = newest
        load_state(exp, content, run.name, changed_keys(content.get("config") or config, exp.config))
        if exp.num_steps <= exp.state.step:
            raise UserError(
                f"run.budget: {exp.num_steps} steps, and {run.name} has done {exp.state.step}\ngive a larger run.budget"
            )
        exp.state.target_reached = False
    else:
        file = files.best_or_latest()
        content = checkpoint.load(file)
        _load_weights(exp, content, run.name)
    if changes:
        announce(exp, changes)
    parent = {"verb": "fork", "run": str(run), "checkpoint": file.name, "step": content["state"]["step"], "kept": kept}
    path: Path = create(exp, parent, [])
    own = CheckpointFiles(path)
    own.folder.mkdir()
    checkpoint.link_checkpoint(file, own.parent)
    if exp.cfg.fork_state:
        checkpoint.link_checkpoint(file, own.latest)
        if files.best.exists() and exp.state.best_step is not None:
            checkpoint.link_checkpoint(files.best, own.best)
    return path


def _load_weights(exp: Any, content: dict[str, Any], run: str) -> None:
    """Take over weights; warn if they were trained on other data: with another vocabulary they know nothing."""
    exp.load_weights(content)
    for name, part in exp.objects().items():
        if name.startswith("datasets.") and name in content["objects"]:
            try:
                part.load_state_dict(content["objects"][name])
            except UserError as error:
                logger.warning(f"{error}; the weights of {run} were trained on that one")


def rerun(exp: Any, create: Any) -> Path:
    """Start where another run started. Arguments are those of `fork`."""
    run = Path(exp.cfg.rerun)
    announce(exp, changed_keys(_config_of(exp, run), exp.config))
    _start_like(exp, run)
    parent = {"verb": "rerun", "run": str(run), "kept": (read_record(run).get("parent") or {}).get("kept")}
    path: Path = create(exp, parent, _words_of(run))
    own, other = CheckpointFiles(path), CheckpointFiles(run)
    own.folder.mkdir()
    if other.parent.exists():
        checkpoint.link_checkpoint(other.parent, own.parent)
    return path


def _start_like(exp: Any, run: Path) -> None:
    """Start where a run started: from nothing, or as a fork from the checkpoint that it keeps as parent.pt."""
    file = CheckpointFiles(run).parent
    if not file.exists():
        return
    content = checkpoint.load(file)
    if (read_record(run).get("parent") or {}).get("kept") == "state":
        load_state(exp, content, run.name, changed_keys(content.get("config", exp.config), exp.config))
        exp.state.target_reached = False
    else:
        _load_weights(exp, content, run.name)


def _config_of(exp: Any, run: Path) -> Any:
    """The config of a run as config.yaml would hold it today."""
    return hide_secrets(portable(read_config(run, exp.project), exp.project))


def _words_of(run: Path) -> list[str]:
    """The overrides that made a run; none for a rehearsal."""
    file = run / "overrides.yaml"
    if not file.exists():
        return []
    words: list[str] = yaml.safe_load(file.read_text())
    return words


WAYS = {"resume": resume, "fork": fork, "rerun": rerun}
