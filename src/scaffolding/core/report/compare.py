"""What the page that compares several runs shows, as plain data."""

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import CONTROL, UserError
from ..folder.summary import read_summary
from .curves import read_curves

MAX_RUNS = 1000  # the newest ones: a browser has to hold them all
MAX_ROWS, MIN_ROWS = 400, 60  # of a split of a run; fewer, the more runs there are
ALL_ROWS = 100_000
# settings that say which run it is, where it lies or who follows it, not what it computes
NAMES = re.compile(r"run\.(name|description|tags)|(paths|tracker|plots)\..*|version")


def read_runs(paths: list[Path], file: Path, title: str) -> dict[str, Any]:
    """All that the page of several runs shows; see page/compare.js.

    Args:
        paths: the folders of the runs.
        file: the page, which links to the pages of the runs.
        title: what its heading says, e.g. the name of a sweep.
    """
    summaries = [(path, read_summary(path)) for path in paths]
    summaries.sort(key=lambda pair: (pair[1]["started"] or 0.0, pair[0].name))
    shown = summaries[-MAX_RUNS:]
    monitor, mode = _common_monitor([summary for _, summary in shown])
    varying = _varying([summary["settings"] for _, summary in shown])
    most = max(MIN_ROWS, min(MAX_ROWS, ALL_ROWS // max(1, len(shown))))
    names = _short_names([path for path, _ in shown])
    runs = [_row(path, summary, varying, most) for path, summary in shown]
    for run, name in zip(runs, names, strict=True):
        run["name"] = name
        run["link"] = _link(Path(run.pop("path")), file)
    return {
        "kind": "runs",
        "title": title or f"{len(paths)} runs",
        "left_out": len(summaries) - len(shown),
        "rows": most,
        "monitor": monitor,
        "mode": mode,
        "varying": varying,
        "metrics": _metrics(runs, monitor),
        "seeds": None,
        "runs": runs,
    }


def _row(path: Path, summary: dict[str, Any], varying: list[str], most: int) -> dict[str, Any]:
    """One run: what the table shows of it, and its curves."""
    try:
        curves, problem = read_curves(path, summary["started"], most), None
    except UserError as error:
        curves, problem = {}, str(error).partition("\n")[0]
    is_over = summary["started"] is not None and summary["ended"] is not None
    return {
        "path": str(path),
        "folder": path.name,
        "status": summary["status"],
        "reason": _text(summary["reason"] or problem) or None,
        "description": _text(summary["description"]),
        "tags": [_text(tag) for tag in summary["tags"]],
        "note": _text(summary["note"]),
        "seconds": round(summary["ended"] - summary["started"], 1) if is_over else None,
        "step": summary["step"],
        "num_steps": summary["num_steps"],
        "settings": {key: summary["settings"][key] for key in varying if key in summary["settings"]},
        "results": summary["results"],
        "curves": curves,
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value).translate(CONTROL)


def _common_monitor(summaries: list[dict[str, Any]]) -> tuple[str | None, str]:
    """What decides which run is best: what most of them watch."""
    counted = Counter((summary["monitor"], summary["monitor_mode"]) for summary in summaries if summary["monitor"])
    return counted.most_common(1)[0][0] if counted else (None, "min")


def _varying(settings: list[dict[str, Any]]) -> list[str]:
    """The settings of which the runs have several values, in the order of the config."""
    values: dict[str, set[str]] = {}
    for each in settings:
        for key, value in each.items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    counted = Counter(key for each in settings for key in each)
    whole = sum(1 for each in settings if each)  # a damaged run has none
    return [key for key in values if not NAMES.fullmatch(key) and (len(values[key]) > 1 or counted[key] < whole)]


def _metrics(runs: list[dict[str, Any]], monitor: str | None) -> list[str]:
    """The results that the table shows: what is monitored, then what validation, test and rollout gave."""
    names = list(dict.fromkeys(name for run in runs for name in run["results"]))
    wanted = [name for name in names if not name.startswith("train/")] or names
    return sorted(wanted, key=lambda name: (name != monitor, name.partition("/")[0] != "test"))


def _short_names(paths: list[Path]) -> list[str]:
    """The names of the runs, after their folder's where several have the same."""
    counted = Counter(path.name for path in paths)
    names = [path.name if counted[path.name] == 1 else f"{path.parent.name}/{path.name}" for path in paths]
    return [_text(name) for name in names]


def _link(run: Path, file: Path) -> str | None:
    """The address of a run's own page, from the page that compares; None: it has none."""
    page = run / "report.html"
    if not page.exists():
        return None
    return f"./{quote(os.path.relpath(page.resolve(), file.resolve().parent))}"
