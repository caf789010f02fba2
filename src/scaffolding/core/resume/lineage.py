"""A new run that starts from another: `fork=` takes its weights or its state, `rerun=` starts where it started."""

from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import UserError
from ..provenance.provenance import read_record
from ..state import checkpoint
from ..state.files import CheckpointFiles
from ..tree import changed_keys
from .restore import best_of, changes_since, check_data, config_of, load_state, load_weights, resumed_with, words_of
from .rules import announce


def fork(exp: Any, create: Any) -> Path:
    """Start from a run's best weights or, with fork_state=true, from the whole of its newest state.

    With fork_weights=partial, weights that do not fit are left out, and the log lists them.

    Args:
        exp: built from the config that `check` accepted.
        create: `create(exp, parent, words, links)` makes the new run's folder, which is returned.
    """
    run = Path(exp.cfg.fork)
    files, kept = CheckpointFiles(run), "weights"
    config = config_of(exp, run)
    changes = changed_keys(config, exp.config)
    if exp.cfg.fork_state:
        kept = "state"
        newest = files.newest()
        if newest is None:
            raise UserError(f"fork={run.name}: it has no checkpoint yet\nfork_state=true needs one")
        file, content = newest
        exp.processes.first(check_data, exp, run)
        load_state(exp, content, run.name, changes_since(exp, run, content))
        if exp.num_steps <= exp.state.step:
            raise UserError(
                f"run.budget: {exp.num_steps} steps, and {run.name} has done {exp.state.step}\ngive a larger run.budget"
            )
        exp.state.target_reached = False
    else:
        if exp.cfg.fork_weights == "partial":
            kept = "partial"
        _check_validation(exp, config, run.name)
        file, content = files.best_or_newest(None)
        load_weights(exp, content, run.name, is_partial=kept == "partial")
    steps = exp.processes.gather(content["state"]["step"])
    if len(set(steps)) > 1:
        raise UserError(f"fork={run.name}: it saved another checkpoint while processes read one\nrun the command again")
    if changes:
        announce(exp, changes)
    parent = {"verb": "fork", "run": str(run), "checkpoint": file.name, "step": content["state"]["step"], "kept": kept}
    links = {"parent": file}
    if exp.cfg.fork_state:
        links["latest"] = file
        best = best_of(exp, files)
        if best is not None:
            links |= {"best": best, "parent_best": best}
    path: Path = create(exp, parent, [], links)
    return path


def _check_validation(exp: Any, config: dict[str, Any], run: str) -> None:
    """UserError: a fork would be validated on items that its weights were trained on, and look better than it is."""
    ours, theirs = exp.config["data"], config["data"]
    targets = [(data.get("dataset") or {}).get("_target_") for data in (ours, theirs)]
    seeds = [data.get("split_seed") for data in (ours, theirs)]
    num_seen = exp.num_seen(config)
    if num_seen and targets[0] == targets[1]:
        kept = " ".join(f"++data.{name}={theirs.get(name) or 0}" for name in ("split_seed", "val_from_train"))
        raise UserError(
            f"data: {run} was trained on {num_seen} of the {len(exp.datasets['val'])} validation items"
            f"\nkeep its split: {kept}"
        )
    draws_itself = ours.get("val_from_train") is None and targets[0] == targets[1] and None not in seeds
    if num_seen or (draws_itself and seeds[0] != seeds[1]):
        logger.warning(
            f"data: {run} had data.split_seed={seeds[1]} and {targets[1]}: if these are the same items, some of those "
            "that this run is validated on are items that its weights were trained on"
        )


def rerun(exp: Any, create: Any) -> Path:
    """Start where another run started. Arguments are those of `fork`."""
    run = Path(exp.cfg.rerun)
    announce(exp, changed_keys(config_of(exp, run), exp.config))
    _warn_of_changes(run)
    exp.processes.first(check_data, exp, run)
    parent = {"verb": "rerun", "run": str(run), "kept": (read_record(run).get("parent") or {}).get("kept")}
    links = start_like(exp, run)
    path: Path = create(exp, parent, words_of(run), links)
    return path


def _warn_of_changes(run: Path) -> None:
    """Say where a run went on with other settings than it began with: a rerun has the last ones from its first step."""
    for step, changes in resumed_with(run):
        words = ", ".join(f"{key}={value}" for key, value in changes.items())
        logger.warning(f"{run.name} was resumed at step {step} with {words}, which a rerun begins with")


def start_like(exp: Any, run: Path) -> dict[str, Path]:
    """Start where a run started: from nothing, or as a fork from the checkpoint that it keeps as parent.pt.

    Returns:
        The checkpoints that another such run keeps, by name.
    """
    files, parent = CheckpointFiles(run), read_record(run).get("parent") or {}
    kept = parent.get("kept")
    if not files.parent.exists():
        if kept is not None:
            raise UserError(
                f"{files.parent} is gone, from which {run.name} started\nstart it anew: fork={parent.get('run')}"
            )
        return {}
    content = checkpoint.load(files.parent)
    links = {"parent": files.parent}
    if kept == "state":
        load_state(exp, content, run.name, changes_since(exp, run, content))
        exp.state.target_reached = False
        links["latest"] = files.parent
        if files.parent_best.exists():
            links |= {"best": files.parent_best, "parent_best": files.parent_best}
    else:
        load_weights(exp, content, run.name, is_partial=kept == "partial")
    return links
