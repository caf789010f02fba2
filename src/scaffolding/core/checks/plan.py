"""Checks of what a config plans, before a run is made: monitors, metrics, schedules, the names of values."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from loguru import logger

from ..config.build import by_network
from ..errors import UserError, explain, nearest
from ..folder.facts import AXES, TIMINGS
from ..optimizers import spare

COLUMNS = (*AXES, *TIMINGS)  # of every row; a value of such a name would take their place
HIGHER = (  # words in the name of a value of which higher is better
    "accuracy", "acc", "auc", "auroc", "auprc", "f1", "iou", "miou", "dice", "map", "ap", "bleu", "rouge", "reward",
    "return", "returns", "precision", "recall", "r2", "psnr", "ssim", "score", "coverage",
)  # fmt: skip
LOWER = (
    "loss", "error", "err", "mse", "rmse", "mae", "nll", "perplexity", "ppl", "bpb", "bpc", "fid", "wer", "cer", "ece",
)  # fmt: skip


def warn_of_direction(monitor: str | None, mode: str) -> None:
    """Warn where the name of the monitored value says that the worst one would be kept."""
    words = set(re.split(r"[^a-z0-9]+", (monitor or "").lower()))
    kept, better, other = "lowest", "higher", "max"
    if mode == "max":
        kept, better, other = "highest", "lower", "min"
    says = {"higher": bool(words.intersection(HIGHER)), "lower": bool(words.intersection(LOWER))}
    if says.pop(better) and not any(says.values()):  # "error of the score" says both
        logger.warning(
            f"run.monitor={monitor} with run.monitor_mode={mode}: the {kept} value is the best one"
            f"\nif {better} is better, set run.monitor_mode={other}"
        )


def check_monitors(
    monitors: Mapping[str, str | None], names: list[str], metrics: list[str], has_rollouts: bool
) -> None:
    """UserError: no evaluation gives a monitored value; those that it gives (`names`) are named."""
    allowed = [f"val/{name}" for name in names]
    for key, monitor in monitors.items():
        if monitor is None or monitor in allowed:
            continue
        if monitor.startswith("rollout/"):  # its names show when it runs
            if has_rollouts:
                continue
            raise UserError(
                f"{key.replace('..', '.')}={monitor}: the run has no rollouts\nset rollout and run.rollout_every"
            )
        if any(monitor.startswith(f"val/{metric}/") for metric in metrics):  # one of the numbers of a metric
            continue
        if not allowed:
            raise UserError(
                f"{key.replace('..', '.')}={monitor}: the run has no validation split\nset it to null or rollout/KEY"
            )
        near = nearest(monitor, allowed)[0]
        raise UserError(
            f"{key.replace('..', '.')}={monitor}: an evaluation gives no such value"
            f"\nnearest: {near}; allowed: {', '.join(allowed)}"
        )


def check_metrics(exp: Any) -> None:
    """UserError: a metric lacks a method, or its name is that of a column."""
    for name, metric in exp.metrics.items():
        check_name(f"metrics.{name}", name, (*COLUMNS, "loss"))
        missing = [method for method in ("update", "compute", "reset") if not hasattr(metric, method)]
        if missing:
            raise UserError(
                f"metrics.{name}: {type(metric).__name__} has no {', '.join(missing)}"
                "\na metric has update(model, batch) or update(model, batch, output), compute() and reset()"
            )


def check_schedules(exp: Any) -> None:
    """UserError: a schedule cannot be advanced as often as the run does it."""
    for name, schedule in exp.schedulers.items():
        count, scheduler = exp.num_steps, schedule.scheduler
        if schedule.interval == "metric":
            continue
        if schedule.interval == "epoch":
            count //= exp.steps_per_epoch
        key = f"scheduler.{name}".rstrip(".") + ".schedule"
        total = getattr(scheduler, "total_steps", count)
        if count > total:
            raise UserError(
                f"{key}: {type(scheduler).__name__} ends after {total} {schedule.interval}s, and the run has {count}"
                "\ngive it as many, or a smaller run.budget; run.schedule_budget=null makes it as long as the run"
            )
        try:
            _advance(exp, name)
        except Exception as error:
            raise UserError(explain(error, f"{key}, at its first step")) from error
        for multiplier in getattr(scheduler, "lr_lambdas", ()):
            try:
                multiplier(count)
            except Exception as error:
                raise UserError(explain(error, f"{key}, at {schedule.interval} {count}")) from error


def _advance(exp: Any, name: str) -> None:
    """Advance a schedule of the config once, where nobody notices."""
    optimizer = spare(exp.optimizers[name])
    spec = by_network(exp.cfg.scheduler, "scheduler", exp.losses, "schedule").get(name) or {}
    if spec.get("schedule") is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer made no step
            exp.make_schedule(name, exp.schedule_steps, optimizer).scheduler.step()


def check_name(place: str, name: Any, taken: tuple[str, ...]) -> None:
    if not isinstance(name, str):
        raise UserError(f"{place}: {name!r} is a {type(name).__name__}, not a name")
    if name in taken:
        raise UserError(f"{place}: the name {name!r} is taken\nchoose another than {', '.join(taken)}")
