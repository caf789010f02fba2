"""Budgets and intervals: `500` or `500steps`, `5epochs`, and for intervals `10min`."""

import math
import re
import time

FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(steps?|epochs?|min)?")


def parse(text: str | int) -> tuple[float, str]:
    """(amount, "step" | "epoch" | "min") of a budget or interval.

    Raises:
        ValueError: not of the form above, or not positive.
    """
    match = FORM.fullmatch(str(text).strip())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{text!r} is not a number of steps, epochs or minutes")
    amount, unit = float(match[1]), (match[2] or "step").rstrip("s")
    if unit == "step" and amount != int(amount):
        raise ValueError(f"{text!r} is not a whole number of steps")
    return amount, unit


def in_steps(text: str | int, steps_per_epoch: int) -> int:
    """A budget or a step or epoch interval as a number of optimizer steps, at least 1."""
    amount, unit = parse(text)
    return max(1, math.ceil(amount * (steps_per_epoch if unit == "epoch" else 1)))


class Intervals:
    """Says which of the `*_every` settings are due. The last step of the budget is due for all that are not null."""

    def __init__(self, settings: dict[str, str | None], steps_per_epoch: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.steps: dict[str, int] = {}
        self.seconds: dict[str, float] = {}
        for name, text in settings.items():
            if text is not None and parse(text)[1] == "min":
                self.seconds[name] = 60 * parse(text)[0]
            elif text is not None:
                self.steps[name] = in_steps(text, steps_per_epoch)
        self.last_time = dict.fromkeys(self.seconds, time.monotonic())

    def due(self, name: str, step: int) -> bool:
        """Whether `name` is due after optimizer step `step` (counted from 1)."""
        if name in self.steps:
            return step % self.steps[name] == 0 or step == self.num_steps
        if name not in self.seconds:
            return False
        now = time.monotonic()
        if now - self.last_time[name] < self.seconds[name] and step != self.num_steps:
            return False
        self.last_time[name] = now
        return True
