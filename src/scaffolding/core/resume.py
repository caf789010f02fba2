"""Carrying a run on: which settings may change, and the rehearsal that proves that it works."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from . import checkpoint
from .compose import Project, changed_keys, portable, read_config
from .errors import RunError, UserError
from .run import Run, write_config
from .run_folder import TIMINGS, Facts
from .tracking import Tracker

# settings that a resumed run takes over; everything else is what the run is, and refused
FREE = re.compile(
    r"run\.(description|tags|\w+_every|patience|target_loss|clip_grad_norm|device|compile|rehearse_resume)(\.|$)"
    r"|loader\.(num_workers|start_method)$|(paths|plots|tracker)(\.|$)"
)


def apply_changes(cfg: DictConfig, project: Project) -> dict[str, Any]:
    """Check what the command line changes of the run in `cfg.resume`.

    Returns:
        Changed keys with their new values; all of them take effect.

    Raises:
        UserError: a key that would make it another run.
    """
    run = Path(cfg.resume)
    changes = changed_keys(portable(read_config(run, project), project), portable(cfg, project))
    schedules = [cfg.scheduler] if "interval" in cfg.scheduler else list(cfg.scheduler.values())
    scheduled = any(spec.schedule is not None for spec in schedules)
    for key, (before, after) in changes.items():
        free = FREE.match(key) or (not scheduled and (key == "run.budget" or re.match(r"optimizer\.\w+$", key)))
        if free and not key.endswith("_target_"):
            continue
        why = "a schedule depends on it" if key == "run.budget" or key.startswith("optimizer.") else "it makes the run"
        raise UserError(
            f"{key}={after}: refused, {run.name} has {key}={before} and {why}"
            f"\nstart a new run from its weights with fork={run.name} {key}={after}"
        )
    return {key: after for key, (_, after) in changes.items()}


def set_optimizers(optimizers: dict[str, Any], changes: dict[str, Any]) -> None:
    """Give restored optimizers the settings that the command line changed.

    Raises:
        UserError: an optimizer has no such setting.
    """
    for key, value in changes.items():
        if key.startswith("optimizer."):
            name = key.rpartition(".")[2]
            for group in (group for optimizer in optimizers.values() for group in optimizer.param_groups):
                if name not in group:
                    raise UserError(f"{key}: refused, a running optimizer cannot take it over")
                group[name] = value


def rehearse(run: Run, config: dict[str, Any], restart: Callable[[Run], None]) -> int:
    """Carry on from the half-way checkpoint in a folder of its own and compare the end with the run's own, bit by bit.

    Args:
        run: a run that has just reached its last step.
        config: its config.
        restart: restores the run it is given from its latest checkpoint and trains to the end.

    Returns:
        The number of tensors compared.

    Raises:
        RunError: names the first state that differs.
    """
    if not run.halfway.exists():
        raise RunError("run.rehearse_resume: no checkpoint was made before half of the budget\nset a smaller run.save_every")
    with tempfile.TemporaryDirectory(prefix=".rehearsal_", dir=run.path) as folder:
        again = Run(Path(folder), Tracker(), run.num_steps)
        again.stop = run.stop
        write_config(again.path, config)
        shutil.copyfile(run.facts.scalars_file, again.facts.scalars_file)
        checkpoint.link(run.halfway, again.latest)
        step = checkpoint.load(again.latest)["state"]["step"]
        again.facts.cut_after(step)
        restart(again)
        expected, found = checkpoint.load(run.latest), checkpoint.load(again.latest)
        if difference := checkpoint.first_difference(expected, found):
            raise RunError(
                f"resume rehearsal: continued from step {step}, {difference} differs from the run that was not interrupted"
                "\nsomething keeps state that the checkpoint does not hold, or draws random numbers of its own"
            )
        if _values(run.facts) != _values(again.facts):
            raise RunError(f"resume rehearsal: continued from step {step}, the logged values differ (facts/scalars.csv)")
        return checkpoint.count_tensors(expected)


def _values(facts: Facts) -> list[dict[str, Any]]:
    rows = [row for row in facts.rows() if row["split"] != "test"]  # the rehearsal ends before the final test
    return [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
