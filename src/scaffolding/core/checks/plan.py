"""Checks of what a config plans, before a run is made: monitors, metrics, schedules, the names of values."""

import re
import warnings
from collections.abc import Mapping
from typing import Any

from loguru import logger

from ..config.build import by_network
from ..errors import UserError, failure, nearest
from ..faults import fault
from ..folder.facts import COLUMNS
from ..optimizers import spare

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


def choose_monitors(exp: Any) -> dict[str, str | None]:
    """What each config key monitors, e.g. {"run.monitor": "val/loss"}; None: nothing.

    `run.monitor=auto` becomes nothing where nothing is evaluated.

    Raises:
        UserError: `run.patience` waits for nothing; of a run that is carried on or repeated, a warning.
    """
    settings = exp.settings
    if settings.monitor == "auto" and ("val" not in exp.loaders or settings.eval_every is None):
        exp.monitor = None
    if exp.monitor is None and settings.patience is not None:
        problem = f"run.patience={settings.patience}: nothing is monitored"
        if not (exp.cfg.resume or exp.cfg.rerun):
            raise UserError(f"{problem}\nset run.monitor to the value that is to get better, or run.patience=null")
        logger.warning(f"{problem}: it has no effect")
    monitors = {f"scheduler.{name}.monitor": schedule.monitor for name, schedule in exp.schedulers.items()}
    return {"run.monitor": exp.monitor, **monitors}


def check_monitors(exp: Any, monitors: Mapping[str, str | None], names: list[str]) -> None:
    """FaultsError: nothing gives a monitored value; those that an evaluation gives (`names`) are named."""
    allowed = [f"val/{name}" for name in names]
    has_rollouts = exp.rollout is not None and exp.settings.rollout_every is not None
    for key, monitor in ((name.replace("..", "."), value) for name, value in monitors.items()):
        if monitor is None:
            continue
        if monitor.startswith("val/") and allowed and exp.settings.eval_every is None:
            wrong = "run.eval_every=null, so nothing would give that value"
            raise fault(key, monitor, wrong, "set run.eval_every, or monitor nothing (null)")
        if monitor in allowed:
            continue
        if monitor.startswith("rollout/"):  # its names show when it runs
            if has_rollouts:
                continue
            raise fault(key, monitor, "the run has no rollouts", "set rollout and run.rollout_every")
        if any(monitor.startswith(f"val/{metric}/") for metric in exp.metrics):  # one of the numbers of a metric
            continue
        if not allowed:
            raise fault(key, monitor, "the run has no validation split", "set it to null or rollout/KEY")
        advice = f"nearest: {nearest(monitor, allowed)[0]}; allowed: {', '.join(allowed)}"
        raise fault(key, monitor, "an evaluation gives no such value", advice)


def warn_of_untrained(exp: Any) -> None:
    """Warn of parameters that want gradients and belong to no key of `loss:`: no optimizer has them."""
    trained = {id(parameter) for named in exp.trained.values() for parameter in named.values()}
    parameters = [(name, part) for name, part in exp.model.named_parameters() if part.requires_grad]
    left = [name for name, parameter in parameters if id(parameter) not in trained]
    if left:
        logger.warning(
            f"loss: {len(left)} of {len(parameters)} parameters belong to none of its keys and are not trained; "
            f"the first: {', '.join(left[:3])}"
            "\ngive their network a key under loss, or call requires_grad_(False) where the model is built"
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
            raise UserError(failure(error, f"{key}, at its first step")) from error
        for multiplier in getattr(scheduler, "lr_lambdas", ()):
            try:
                multiplier(count)
            except Exception as error:
                raise UserError(failure(error, f"{key}, at {schedule.interval} {count}")) from error


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
