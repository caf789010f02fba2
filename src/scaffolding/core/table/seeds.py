"""Runs that differ in their seed alone, as groups: a row for each with mean, spread and a paired test.

Does not import torch.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .columns import APART, metrics, varying
from .runs import Run, as_text, number, value
from .show import Table
from .statistics import describe_test, summarise

SEED = "run.seed"


@dataclass
class Group:
    """Finished runs that differ in one setting alone, by its value as text.

    Args:
        shared: what the runs have in common, by the columns that are shown.
        runs: one for each value of the setting.
        num_repeats: how many older runs with a value that is there already are left out.
    """

    shared: dict[str, Any]
    runs: dict[str, Run]
    num_repeats: int = 0

    def values(self, metric: str) -> dict[str, float]:
        """The values of a metric, of the runs that have one."""
        found = {key: number(run, metric) for key, run in self.runs.items()}
        return {key: found_value for key, found_value in found.items() if found_value is not None}


def group_by_settings(runs: Sequence[Run], over: str = SEED) -> list[Group]:
    """Groups of finished runs: all their settings are the same but for `over`, names, notes, paths and tracker."""
    finished = [run for run in runs if run["status"] == "finished"]
    names = [name for name in varying(finished) if name != over]

    def settings(run: Run) -> str:
        return as_text({key: own for key, own in run["settings"].items() if key != over and not APART.fullmatch(key)})

    return group(
        finished, settings, lambda run: {name: value(run, name) for name in names}, lambda run: run_seed(run, over)
    )


def run_seed(run: Run, over: str = SEED) -> str:
    """The value of the setting that runs of a group differ in."""
    return as_text(value(run, over))


def group(
    runs: Sequence[Run], key: Callable[[Run], str], shared: Callable[[Run], dict[str, Any]], seed: Callable[[Run], str]
) -> list[Group]:
    """Groups of the runs that have one key.

    Of runs with one seed, the newest counts: a run that is repeated is not evidence.

    Args:
        runs: oldest first.
        key: tells groups apart.
        shared: what the runs of a group have in common, to be shown.
        seed: tells runs of a group apart.
    """
    groups: dict[str, Group] = {}
    for run in runs:
        found = groups.setdefault(key(run), Group(shared(run), {}))
        found.num_repeats += seed(run) in found.runs
        found.runs[seed(run)] = run
    return list(groups.values())


def sorted_by(groups: Sequence[Group], metric: str) -> list[Group]:
    """The groups with the best mean of a metric first; those of which some run has no value (NaN) come last."""

    def place(one: Group) -> tuple[bool, float]:
        values = [*one.values(metric).values()]
        if not values:
            return True, math.inf
        run = next(iter(one.runs.values()))
        is_max = run["monitor_mode"] == "max" and run["monitor"] == metric
        mean = summarise(values).mean
        return len(values) < len(one.runs), -mean if is_max else mean

    return sorted(groups, key=place)


def table_of_groups(groups: Sequence[Group], chosen: Sequence[str] | None = None) -> Table:
    """A row for each group. The first metric decides on the order, and is tested against the first group."""
    runs = [run for one in groups for run in one.runs.values()]
    names = list(chosen or metrics(runs))
    keys = list(dict.fromkeys(key for one in groups for key in one.shared))
    table = Table([*keys, "n", *(f"{name}  mean ± std  [95 %]" for name in names)], num_keys=len(keys) + 1)
    if not names:
        table.rows = [[*(one.shared.get(key) for key in keys), len(one.runs)] for one in groups]
        return table
    ordered = sorted_by(groups, names[0])
    first = ordered[0].values(names[0]) if ordered else {}
    for one in ordered:
        row = [*(one.shared.get(key) for key in keys), len(one.runs)]
        row += [_describe([*one.values(name).values()], len(one.runs)) for name in names]
        table.rows.append(row)
    if len(ordered) > 1:
        table.head.append("against the first")
        table.rows[0].append("")
        for row, one in zip(table.rows[1:], ordered[1:], strict=True):
            values = one.values(names[0])
            row.append(describe_test([values[seed] - first[seed] for seed in values if seed in first]))
    return table


def _describe(values: Sequence[float], count: int) -> str:
    """Mean, spread and interval; how many runs have a value, where some have none."""
    if not values:
        return "no value"
    lacking = f"  ({len(values)} of {count} runs)" if len(values) < count else ""
    return f"{summarise(values)}{lacking}"


def remarks(groups: Sequence[Group], over: str = SEED) -> list[str]:
    """What the reader of a table of groups must know."""
    lines = []
    num_repeats = sum(one.num_repeats for one in groups)
    if num_repeats:
        lines.append(f"{num_repeats} older runs repeat a {over} of their group: only the newest of each counts")
    keys = [key for one in groups for key in one.runs]
    if len(groups) > 1 and len(set(keys)) > 1 and all(len(one.runs) == 1 for one in groups):
        shared = ", ".join(dict.fromkeys(key for one in groups for key in one.shared))
        lines.append(f"no two runs differ in {over} alone; what differs, too: {shared}")
    return lines
