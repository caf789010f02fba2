"""Checks of what a config plans, before a run is made: metrics, schedules, the names of values."""

import warnings
from typing import Any

from loguru import logger

from ..config.build import by_network
from ..errors import UserError, failure
from ..folder.facts import COLUMNS
from ..optimizers import spare


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
