"""Rows of a table of times: medians, and the middle half of what was measured in brackets."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from shared import Row

CYCLES = {True: 3, False: 11}  # of a quick run, and of a full one


def spread(values: list[float], unit: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.2f}{unit} ({low:.2f} to {high:.2f})"


def at_most(what: str, values: list[float], unit: str, most: float) -> Row:
    return what, spread(values, f" {unit}"), f"<= {most:g} {unit}", statistics.median(values) <= most


def ratio(what: str, ours: list[float], floor: list[float], most: float | None, scale: float, unit: str) -> Row:
    """How our times compare with those of the floor in the same cycle; without `most` it informs."""
    found = [one / other for one, other in zip(ours, floor, strict=True)]
    times = " against ".join(f"{scale * statistics.median(side):.4g}" for side in (ours, floor))
    figure = f"<= {most:.2f}x" if most else ""
    return what, f"{spread(found, 'x')}; {times} {unit}", figure, not most or statistics.median(found) <= most


def turns(cycles: int, *sides: Callable[[], float]) -> list[list[float]]:
    """What each side returns in every cycle after one to warm up; every other cycle goes backwards."""
    orders = (1 - 2 * (cycle % 2) for cycle in range(cycles + 1))
    found = [[side() for side in sides[::order]][::order] for order in orders][1:]
    return [list(times) for times in zip(*found, strict=True)]


def cpu(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of CPU time that a call takes."""
    before = time.process_time()
    function(*arguments)
    return time.process_time() - before


def process(*arguments: str) -> float:
    """Run python on `arguments`: seconds to its end, or to the time that it prints."""
    before = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    after = time.monotonic()
    assert done.returncode == 0, f"{arguments[-1]} failed\n{done.stderr[-2000:]}"
    if done.stdout.replace(".", "", 1).isdigit():
        after = float(done.stdout)
    return after - before
