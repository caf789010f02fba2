"""Budgets, intervals and limits: `500` or `500steps`, `5epochs`, for intervals `10min`, for limits `0.1`."""

import math
import re
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|min)?")


def parse(text: str, units: Collection[str] = ("step", "epoch", "min")) -> tuple[float, str]:
    """(amount, unit) of a budget or interval; ValueError if it is neither, or in none of these units."""
    match = FORM.fullmatch(str(text).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError("not a number of steps, epochs or minutes")
    amount, unit = float(match[1]), (match[2] or "step").rstrip("s")
    if unit not in units or (unit == "step" and amount != int(amount)):
        raise ValueError(f"not a whole number of steps, or not in {', '.join(units)}")
    return amount, unit


def in_steps(text: str, steps_per_epoch: int) -> int:
    """A budget or a step or epoch interval as a number of optimizer steps, at least 1."""
    amount, unit = parse(text)
    if unit == "epoch":
        amount *= steps_per_epoch
    return max(1, math.ceil(round(amount, 6)))  # 0.07 * 100 is 7.000000000000001


class Intervals:
    """Says what is due of log, eval, rollout, plot and save; after the last step of the budget, all that are not null.

    Args:
        settings: `<name>_every` of each, as in the config; null: never.
        steps_per_epoch: optimizer steps.
        num_steps: the budget in optimizer steps.
        agree: gives several processes, whose clocks differ, the largest of their numbers.
    """

    def __init__(
        self, settings: Mapping[str, Any], steps_per_epoch: int, num_steps: int, agree: Callable[[int], int] = int
    ) -> None:
        self.num_steps, self.agree = num_steps, agree
        self.steps: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        for key, text in settings.items():
            name = key.removesuffix("_every")
            if name == key or text is None:
                continue
            amount, unit = parse(text)
            if unit == "min":
                self.seconds[name] = 60 * amount
            else:
                self.steps[name] = in_steps(text, steps_per_epoch)
        self.last_time = dict.fromkeys(self.seconds, time.monotonic())
        self.answers: dict[str, tuple[int, bool]] = {}  # to the last question about each by time

    def due(self, name: str, step: int) -> bool:
        """Whether `name` is due after optimizer step `step` (counted from 1)."""
        if name in self.steps:
            return step % self.steps[name] == 0 or step == self.num_steps
        if name not in self.seconds:
            return False
        asked, is_due = self.answers.get(name, (0, False))
        if asked == step:
            return is_due
        now = time.monotonic()
        is_due = bool(self.agree(now - self.last_time[name] >= self.seconds[name])) or step == self.num_steps
        if is_due:
            self.last_time[name] = now
        self.answers[name] = step, is_due
        return is_due


def is_limit(value: Any) -> bool:
    """Whether a value is a number of items (3, 2e3) or a fraction of them (0.1, 1.0)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value > 0 and (value <= 1 or float(value).is_integer())


def num_kept(num_items: int, limit: int | float | None) -> int:
    """How many of some items a limit keeps, at least one: 1.0 is all of them, 1 is one."""
    if limit is None:
        return num_items
    if isinstance(limit, float) and limit <= 1:
        return max(1, round(num_items * limit))
    return min(num_items, int(limit))
