"""Learning-rate schedules that know the total number of optimizer steps, and when schedules advance.

Each takes the optimizer first and returns one of torch's schedulers; the template passes `num_steps`. The schedules in
this file advance once per applied update. Their step counts the updates before the current one, from 0.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from .core.errors import RunError


class Schedule(NamedTuple):
    """A scheduler, when it advances ("step", "epoch" or "metric"), and the value it then looks at ("val/loss")."""

    scheduler: Any
    interval: str
    monitor: str | None


def advance(
    schedules: Mapping[str, Schedule], interval: str, values: dict[str, float] | None = None, split: str = ""
) -> None:
    """Advance the schedules of an interval; those of "metric" look at the `values` of their split (val, rollout)."""
    for scheduler, own_interval, monitor in schedules.values():
        if own_interval != interval:
            continue
        if values is None or monitor is None:
            scheduler.step()
        elif split_of(monitor) == split:
            scheduler.step(read(values, monitor))


def split_of(monitor: str) -> str:
    """Which row a monitored value stands in: "rollout" of "rollout/mmd2", "val" of everything else."""
    if monitor.startswith("rollout/"):
        return "rollout"
    return "val"


def read(values: dict[str, float], monitor: str) -> float:
    """The value that `monitor` ("val/loss", "rollout/mmd2") names.

    Raises:
        RunError: no value has this name; the message lists the names.
    """
    split = split_of(monitor)
    name = monitor.removeprefix(f"{split}/")
    if name not in values:
        raise RunError(f"{monitor} is not among the evaluated values: {', '.join(f'{split}/{key}' for key in values)}")
    return values[name]


def linear(optimizer: Optimizer, num_steps: int, warmup: float, final: float) -> LambdaLR:
    """Linear warm-up, then a straight line down.

    The rate depends on the step and these arguments alone, and a checkpoint keeps only the step: a run that is resumed
    with another budget follows the schedule of that budget. The same holds for `cosine`.

    Args:
        optimizer: its learning rates are the peaks.
        num_steps: total number of optimizer steps, at least 1.
        warmup: length of the warm-up as a fraction of `num_steps`, 0..1.
        final: rate after the last step as a fraction of the peak, at least 0.

    Raises:
        ValueError: `warmup` is outside 0..1.
    """
    return _schedule(optimizer, linear_multiplier, num_steps, warmup, final)


def cosine(optimizer: Optimizer, num_steps: int, warmup: float, final: float) -> LambdaLR:
    """Linear warm-up, then half a period of a cosine down. Arguments and errors are those of `linear`.

    Source: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017; without restarts.
    """
    return _schedule(optimizer, cosine_multiplier, num_steps, warmup, final)


def one_cycle(
    optimizer: Optimizer,
    num_steps: int,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
    anneal_strategy: Literal["cos", "linear"],
    cycle_momentum: bool,
    base_momentum: float,
    max_momentum: float,
) -> OneCycleLR:
    """torch's OneCycleLR over `num_steps` steps, with the optimizer's learning rates as peaks.

    It saves its length with its state: unlike `linear` and `cosine`, it cannot be resumed with a longer budget.

    Source: Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates",
    2019.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=num_steps,
        pct_start=pct_start,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal_strategy=anneal_strategy,
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
    )


def linear_multiplier(step: int, num_steps: int, warmup: float, final: float) -> float:
    """Fraction of the peak rate at a step: 1 after the warm-up, exactly `final` from step `num_steps` on."""
    warmup_steps = round(warmup * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)  # not step / warmup_steps: the first update would have a rate of 0
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    return (1 - progress) + progress * final


def cosine_multiplier(step: int, num_steps: int, warmup: float, final: float) -> float:
    """Fraction of the peak rate at a step: 1 after the warm-up, exactly `final` from step `num_steps` on."""
    warmup_steps = round(warmup * num_steps)
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, num_steps - warmup_steps))
    height = (1 + math.cos(math.pi * progress)) / 2
    return height + (1 - height) * final


def _schedule(
    optimizer: Optimizer, multiplier: Callable[..., float], num_steps: int, warmup: float, final: float
) -> LambdaLR:
    if not 0 <= warmup <= 1:
        raise ValueError(f"warmup={warmup} is a fraction of all steps, 0..1, not a number of steps")
    return LambdaLR(optimizer, partial(multiplier, num_steps=num_steps, warmup=warmup, final=final))
