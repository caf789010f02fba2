"""Carrying a run on: which settings the command line may change, and taking them over. Add your own keys to FREE."""

import re
from pathlib import Path
from typing import Any

from loguru import logger
from omegaconf import DictConfig

from .core import checkpoint
from .core.checkpoint import RunState
from .core.compose import Project, portable, read_config
from .core.errors import UserError
from .core.run import write_config
from .core.run_folder import read_status
from .experiment import PROJECT, Experiment

# what a resumed run takes over; everything else is what makes it this run, and refused
FREE = re.compile(
    r"run\.(description|tags|\w+_every|patience|target_loss|clip_grad_norm|device|compile|rehearse_resume)(\.|$)"
    r"|loader\.(num_workers|start_method)$|(paths|plots|tracker)(\.|$)"
)
UNSCHEDULED = re.compile(r"run\.budget$|optimizer\.[a-z]\w*$")  # also free where no schedule depends on them


def check_resume(cfg: DictConfig, project: Project) -> dict[str, Any]:
    """Check that the run in `cfg.resume` is not in use and what the command line changes of it.

    Returns:
        Changed keys with their new values; all of them take effect.

    Raises:
        UserError: the run is in use, or a key would make it another run.
    """
    run = Path(cfg.resume)
    status = read_status(run)
    if status["status"] == "running":
        raise UserError(f"{run.name} is in use by process {status['pid']} on {status['host']}\nwait for it, or stop it")
    changes = changed_keys(portable(read_config(run, project), project), portable(cfg, project))
    schedules = [cfg.scheduler] if "interval" in cfg.scheduler else list(cfg.scheduler.values())
    scheduled = any(spec.schedule is not None for spec in schedules)
    for key, (before, after) in changes.items():
        if FREE.match(key) or (UNSCHEDULED.match(key) and not scheduled):
            continue
        why = "a schedule depends on it" if UNSCHEDULED.match(key) else "it makes the run"
        raise UserError(
            f"{key}={after}: refused, {run.name} has {key}={before} and {why}"
            f"\nstart a new run from its weights with fork={run.name} {key}={after}"
        )
    return {key: after for key, (_, after) in changes.items()}


def changed_keys(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {key: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for part in [*before, *(name for name in after if name not in before)]:
        changes |= changed_keys(before.get(part), after.get(part), f"{key}.{part}" if key else part)
    return changes


def check_budget(state: RunState, num_steps: int, run: Path) -> bool:
    """Whether a run is finished: its budget used and its end recorded.

    Raises:
        UserError: the budget asked for is smaller than what is already done.
    """
    if num_steps < state.step:
        raise UserError(f"run.budget: {num_steps} steps are fewer than the {state.step} that {run.name} has done")
    return read_status(run)["status"] == "finished" and (num_steps == state.step or state.stopped)


def set_optimizers(optimizers: dict[str, Any], changes: dict[str, Any]) -> None:
    """Give restored optimizers the settings that the command line changed.

    Raises:
        UserError: an optimizer has no such setting.
    """
    for key, value in changes.items():
        name = key.removeprefix("optimizer.")
        for group in (g for optimizer in optimizers.values() for g in optimizer.param_groups if name != key):
            if name not in group:
                raise UserError(f"{key}: refused, an optimizer at work cannot take it over")
            group[name] = value


def restore(exp: Experiment, changes: dict[str, Any]) -> None:
    """Load the latest checkpoint of the run in `exp.path`, and take over what the command line changed.

    Raises:
        SystemExit: with code 0 and nothing changed, if the run is finished.
    """
    assert exp.path is not None
    latest = exp.path / "checkpoints" / "latest.pt"
    if latest.exists():
        content = checkpoint.load(latest)
        for name, split in exp.datasets.items():
            if (saved := content["splits"][name]) != (now := split.fingerprint()):
                raise UserError(
                    f"data: the {name} split is not the one of {exp.path.name}: {saved[0]} items, now {now[0]}"
                )
        exp.load_state_dict(content)
        set_optimizers(exp.optimizers, changes)
    if check_budget(exp.state, exp.num_steps, exp.path):
        logger.info(f"{exp.path} is finished at step {exp.state.step}; a larger run.budget would carry it on")
        raise SystemExit(0)
    logger.info(f"resuming {exp.path} at step {exp.state.step} of {exp.num_steps}")
    for key, value in changes.items():
        logger.info(f"{key}={value} takes effect")
    if changes:
        write_config(exp.path, portable(exp.cfg, PROJECT))
