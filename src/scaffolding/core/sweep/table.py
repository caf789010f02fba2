"""What came out of a sweep: its table, its best run, its report. Does not import torch."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..table.best import best_of
from ..table.columns import table_of_runs
from ..table.runs import Run, read_some
from ..table.seeds import SEED, group, remarks, table_of_groups
from ..table.show import cell
from .points import Sweep


@dataclass
class Job:
    """A job of a sweep: its run's folder, and its values of the keys that vary, as they were written."""

    path: Path
    own: dict[str, str]


def jobs_of(sweep: Sweep) -> list[Job]:
    """The jobs of a sweep of scripts/sweep.py."""
    return [Job(sweep.folder / f"job{job}", sweep.own(job)) for job in range(len(sweep.points))]


def print_end(
    folder: Path, jobs: Sequence[Job], over: str | None = SEED, has_reasons: bool = True, is_look: bool = False
) -> None:
    """Print the table of a sweep, its best run and where its report is.

    Args:
        folder: of the sweep.
        jobs: all of them; those that made no run show as missing.
        over: a key. Where it varies, the table has a row for each choice of the other keys, else one for each run.
        has_reasons: whether to name the jobs that did not finish, and to say why.
        is_look: whether nothing may be written, not even the report.
    """
    runs = _read(folder, jobs)
    own = {run["name"]: job.own for run, job in zip(runs, jobs, strict=True)}
    keys = list(dict.fromkeys(key for job in jobs for key in job.own))
    counts = Counter(run["status"] for run in runs)
    vary = f"; {_listed(keys)} var{'ies' if len(keys) == 1 else 'y'}" if keys else ""
    print(f"\n{len(runs)} runs: {', '.join(f'{count} {status}' for status, count in counts.items())}{vary}")
    finished = [run for run in runs if run["status"] == "finished"]
    if finished and over in keys:
        others = [key for key in keys if key != over]
        groups = group(
            finished,
            key=lambda run: repr([own[run["name"]].get(key) for key in others]),
            shared=lambda run: {key: own[run["name"]].get(key) for key in others},
            seed=lambda run: own[run["name"]].get(over, ""),
        )
        print(table_of_groups(groups).in_format("text"))
        for line in remarks(groups, over):
            print(line)
    else:
        print(table_of_runs(runs, own=own).in_format("text"))
    for run in runs if has_reasons else ():
        if run["status"] != "finished":
            print(_told(run, own[run["name"]]))
    _print_best(finished)
    if not is_look:
        _write_report(folder, [Path(run["path"]) for run in runs if run["status"] != "missing"])
    sys.stdout.flush()


def _read(folder: Path, jobs: Sequence[Job]) -> list[Run]:
    runs = read_some([job.path for job in jobs], folder.parent)
    for run in runs:
        if not Path(run["path"], "config.yaml").exists():
            run |= {"status": "missing", "reason": None}
    return runs


def _told(run: Run, own: dict[str, str]) -> str:
    """Which job did not finish, and why."""
    words = " ".join(f"{key}={text}" for key, text in own.items())
    reason = f": {run['reason']}" if run["reason"] else ""
    return cell(f"{run['short']} {run['status']} ({words}){reason}".partition("\n")[0])


def _listed(words: Sequence[str]) -> str:
    """a, b and c"""
    return " and ".join([*filter(None, [", ".join(words[:-1])]), *words[-1:]])


def _print_best(runs: Sequence[Run]) -> None:
    try:
        best = best_of(runs)
    except UserError as error:
        print(f"best:     {str(error).partition(chr(10))[0]}")
        return
    if best is not None:
        print(f"best:     {cell(best['short'])}, {cell(best['monitor'] or 'best')} {cell(best['best'])}")


def _write_report(folder: Path, runs: list[Path]) -> None:
    """Write the page that compares the runs; one that cannot be written costs a line."""
    if not runs:
        return
    from ..report.write import write_report  # a look at a sweep does not need it

    file = folder / "report.html"
    try:
        write_report(runs, file, title=folder.name)
        print(f"report:   {file}")
    except Exception as error:
        print(f"report:   not written: {type(error).__name__}: {cell(str(error))}")
