"""The best of the runs. Does not import torch."""

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .query import select
from .runs import Run, number, read_runs


def best(root: Path, where: str | None = None, sort: str | None = None, has_dev: bool = False) -> Run:
    """The finished run with the best monitored value or, with `sort`, the first one in that order.

    Args:
        root: the folder of the runs.
        where: an expression over their columns, as scripts/runs.py takes it.
        sort: another expression.
        has_dev: whether dev runs count.

    Raises:
        UserError: no run has one; the runs monitor different values; an expression is wrong.
    """
    found = select(read_runs(root, has_dev), where, sort)
    finished = [run for run in found if run["status"] == "finished"]
    if sort and finished:
        return finished[0]
    run = best_of(finished)
    if run is None:
        why = "none of them has a best value: sort them by a column" if finished else "none of them has finished"
        raise UserError(f"no best run: {len(found)} runs in {root} fit{' ' + where if where else ''}\n{why}")
    return run


def best_of(runs: Sequence[Run]) -> Run | None:
    """The finished run with the best monitored value, the older of two equal ones; None: no finished run has one.

    Raises:
        UserError: they monitor different values, which cannot be compared.
    """
    found = [run for run in runs if run["status"] == "finished" and number(run, "best") is not None]
    if not found:
        return None
    kinds = {f"{run['monitor']} ({run['monitor_mode']})" for run in found}
    if len(kinds) > 1:
        raise UserError(
            f"the runs monitor different values: {', '.join(sorted(kinds))}\nchoose some, or sort by a column"
        )
    pick = max if found[0]["monitor_mode"] == "max" else min
    return pick(found, key=lambda run: float(run["best"]))
