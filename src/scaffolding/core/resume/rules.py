"""What a setting that is changed with `resume=`, `fork=` or `rerun=` does. Imported only where one is changed.

The word at its field in the schema says it: free (takes effect, no consequence for the run), course (changes how it
continues), identity (refused).
"""

from pathlib import Path
from typing import Any

from loguru import logger

from ..config.build import by_network, takes_total
from ..config.compose import Project, masked
from ..config.usage import change_of
from ..errors import UserError

IN_WORKERS = ("loader.num_workers", "loader.start_method", "loader.timeout")
CYCLIC = ("one_cycle", "OneCycleLR", "CyclicLR")  # schedules that set momentum or betas, too

Changes = dict[str, tuple[Any, Any]]  # dotted key: before and after


def refuse(verb: str, run: Path, changes: Changes, cfg: Any, project: Project) -> None:
    """UserError: the first change that a verb does not allow, with the reason and what to do."""
    for key, (old, new) in changes.items():
        reason, _, advice = _reason_against(verb, key, changes, cfg, project).partition("\n")
        if reason:
            advice = advice or f"start a new run from its weights with fork={run.name} {key}={new}"
            raise UserError(f"{key}={new}: refused, {run.name} has {key}={old} and {reason}\n{advice}")


def _reason_against(verb: str, key: str, changes: Changes, cfg: Any, project: Project) -> str:
    """Why a changed setting is refused; empty where it is not. A second line says what to do."""
    keeps_state = verb == "resume" or (verb == "fork" and cfg.fork_state)
    if key == "run.name" and verb != "resume":
        return ""
    if verb == "fork" and not keeps_state:
        return ""
    word = change_of(project.schema, key)
    if key == "run.name":
        return "a run keeps its name"
    if word == "identity":
        return "it is part of what this run is"
    if verb == "rerun" and word == "course":
        return "the rows would not be comparable"
    if not keeps_state:
        return ""
    schedules = schedule_targets(cfg)
    scheduled = ["lr"] if schedules else []
    if any(name.endswith(CYCLIC) for name in schedules):
        scheduled += ["momentum", "betas"]
    if key.startswith("optimizer.") and key.rpartition(".")[2] in scheduled:
        return "a schedule sets it"
    if key == "run.budget" and any(map(takes_total, schedules)):
        before, after = changes[key]
        if "run.schedule_budget" not in changes and cfg.run.schedule_budget is None:
            return (
                "a schedule depends on the total\nsay which total the schedule is made for: "
                f"run.schedule_budget={before} (as before) or run.schedule_budget={after} (stretched)"
            )
    return ""


def schedule_targets(cfg: Any) -> list[str]:
    """Dotted names of the schedules of a config."""
    specs = by_network(cfg.scheduler, "scheduler", marker="schedule").values()
    return [spec.schedule._target_ for spec in specs if spec.schedule is not None]


def announce(exp: Any, changes: Changes) -> None:
    """Log what each changed setting does."""
    for key, (_, value) in changes.items():
        effect = "takes effect"
        if _is_idle(exp, key):
            effect = "has no effect here"
        if key != "run.name":  # a new run has another name
            logger.info(f"{masked(f'{key}={value}')} {effect}")


def _is_idle(exp: Any, key: str) -> bool:
    """Whether a setting has no effect in this experiment, because of others."""
    cfg = exp.cfg
    if key in IN_WORKERS and all(loader.workers is None for loader in exp.loaders.values()):
        return True
    if key in ("loader.start_method", "loader.timeout"):
        return bool(cfg.loader.num_workers == 0)
    if key in ("run.monitor_mode", "run.patience"):
        every = cfg.run.eval_every
        if str(exp.monitor).startswith("rollout/"):
            every = cfg.run.rollout_every
        return exp.monitor is None or every is None
    if key == "run.rollout_every":
        return exp.rollout is None
    if key == "run.plot_every":
        return not exp.plots
    if key == "run.schedule_budget":
        return not any(map(takes_total, schedule_targets(cfg)))
    return False
