"""What the page that compares several runs shows, as plain data."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import CONTROL, UserError
from ..table.columns import varying
from ..table.runs import Run, read_run, short_names, value
from ..table.seeds import group_by_settings, remarks, table_of_groups
from ..table.show import cell
from .curves import read_curves

MAX_RUNS = 1000  # the newest ones: a browser has to hold them all
MAX_ROWS, MIN_ROWS = 400, 60  # of a split of a run; fewer, the more runs there are
ALL_ROWS = 60_000


def read_runs(paths: list[Path], file: Path, title: str) -> dict[str, Any]:
    """All that the page of several runs shows; see page/compare.js.

    Args:
        paths: the folders of the runs.
        file: the page, which links to the pages of the runs.
        title: what its heading says, e.g. the name of a sweep.
    """
    names = _names(paths)
    short = short_names(names)
    found = [read_run(path, name, short[name]) for path, name in zip(paths, names, strict=True)]
    found.sort(key=lambda run: (run["started"], run["name"]))
    shown = found[-MAX_RUNS:]
    monitor, mode = _common_monitor(shown)
    keys = varying(shown)
    most = max(MIN_ROWS, min(MAX_ROWS, ALL_ROWS // max(1, len(shown))))
    runs = [_row(run, file, keys, most) for run in shown]
    return {
        "kind": "runs",
        "title": _text(title) or f"{len(paths)} runs",
        "left_out": len(found) - len(shown),
        "rows": most,
        "monitor": monitor,
        "mode": mode,
        "varying": keys,
        "metrics": _metrics(runs, monitor),
        "seeds": _seeds(shown),
        "runs": runs,
    }


def _names(paths: list[Path]) -> list[str]:
    """The paths of the runs below the folder that all of them are in."""
    whole = [path.resolve() for path in paths]
    root = os.path.commonpath([path.parent for path in whole]) if whole else ""
    return [os.path.relpath(path, root) for path in whole]


def _row(run: Run, file: Path, keys: list[str], most: int) -> dict[str, Any]:
    """One run: what the table shows of it, and its curves."""
    path = Path(run["path"])
    try:
        curves, problem = read_curves(path, run["started"], most), None
    except UserError as error:
        curves, problem = {}, str(error).partition("\n")[0]
    settings = {key: value(run, key) for key in keys}
    return {
        "name": _text(run["short"]),
        "folder": _text(run["name"]),
        "link": _link(path, file),
        "status": run["status"],
        "reason": _text(run["reason"] or problem) or None,
        "description": _text(run["description"]),
        "tags": [_text(tag) for tag in run["tags"]],
        "note": _text(run["note"]),
        "seconds": None if run["duration"] is None else round(run["duration"], 1),
        "step": run["step"],
        "num_steps": run["num_steps"],
        "settings": {key: found for key, found in settings.items() if found is not None or key in run["settings"]},
        "results": run["results"],
        "curves": curves,
    }


def _seeds(runs: Sequence[Run]) -> dict[str, Any] | None:
    """The table of the means over seeds, and what a reader must know of it; None: no settings have several seeds."""
    groups = group_by_settings(runs)
    if not any(len(group.runs) > 1 for group in groups):
        return None
    found = table_of_groups(groups)
    notes = ["Finished runs only. The interval is that of the mean, by Student's t: wide where the seeds are few."]
    return {
        "columns": found.head,
        "rows": [[_shown(content) for content in row] for row in found.rows],
        "notes": notes + remarks(groups),
    }


def _shown(content: Any) -> Any:
    """A number, or a text."""
    if isinstance(content, int | float) and not isinstance(content, bool) and math.isfinite(content):
        return content
    return cell(content)


def _text(value: Any) -> str:
    return "" if value is None else str(value).translate(CONTROL)


def _common_monitor(summaries: list[dict[str, Any]]) -> tuple[str | None, str]:
    """What decides which run is best: what most of them watch."""
    counted = Counter((summary["monitor"], summary["monitor_mode"]) for summary in summaries if summary["monitor"])
    return counted.most_common(1)[0][0] if counted else (None, "min")


def _metrics(runs: list[dict[str, Any]], monitor: str | None) -> list[str]:
    """The results that the table shows: what is monitored, then what validation, test and rollout gave."""
    names = list(dict.fromkeys(name for run in runs for name in run["results"]))
    wanted = [name for name in names if not name.startswith("train/")] or names
    return sorted(wanted, key=lambda name: (name != monitor, name.partition("/")[0] != "test"))


def _link(run: Path, file: Path) -> str | None:
    """The address of a run's own page, from the page that compares; None: it has none."""
    page = run / "report.html"
    if not page.exists():
        return None
    return f"./{quote(os.path.relpath(page.resolve(), file.resolve().parent))}"
