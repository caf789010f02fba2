"""Which columns a table of runs shows, and the tables of runs and of their differences. Does not import torch."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, nearest
from ..folder.reading import MAX_FACTS, read_bytes, read_json
from .runs import Run, as_text, columns, group_of, is_same, value
from .show import Table, duration

# Settings that say which run it is and where it lies, not what is trained.
APART = re.compile(r"run\.(name|description|tags)|(paths|tracker)(\..*)?")
HIDDEN = re.compile(r"run\.name|paths\..*")  # from the differences: their heads say it
NOTES = ("tags", "description", "note")  # shown where a run has some
LOOKS = ("test/", "rollout/")  # results that are shown next to the monitored one


def varying(runs: Sequence[Run]) -> list[str]:
    """The settings that differ among runs: classes by their group, and those that all runs have come first."""
    keys = dict.fromkeys(key for run in runs for key in run["settings"] if not APART.fullmatch(key))
    differing = []
    for key in keys:
        first = runs[0]["settings"].get(key)
        if not all(is_same(first, run["settings"].get(key)) for run in runs):
            differing.append(key)
    found: dict[str, None] = {}
    for key in sorted(differing, key=lambda key: (group_of(key) is None, any(key not in r["settings"] for r in runs))):
        group = group_of(key)
        is_class = group is not None and len({as_text(value(run, group)) for run in runs}) > 1
        found[str(group) if is_class else key] = None
    return list(found)


def metrics(runs: Sequence[Run]) -> list[str]:
    """The results that a table shows: what is monitored, and what the test and a rollout gave; else the losses."""
    names = dict.fromkeys(name for run in runs for name in run["results"])
    monitored = dict.fromkeys(run["monitor"] for run in runs if run["monitor"] in names)
    found = [*monitored, *(name for name in names if name.startswith(LOOKS) and name not in monitored)]
    return found or [name for name in names if name.startswith("val/") and name.endswith("loss")]


def check_columns(option: str, wanted: Sequence[str], runs: Sequence[Run]) -> None:
    """UserError: a column is not there; the nearest is named."""
    known = columns(runs)
    for name in wanted:
        if name not in known:
            raise UserError(f"{option}: no such column {name!r}; nearest: {', '.join(nearest(name, known, 3))}")


def table_of_runs(
    runs: Sequence[Run], chosen: Sequence[str] | None = None, own: Mapping[str, Mapping[str, str]] | None = None
) -> Table:
    """A row for each run.

    Args:
        runs: from top to bottom.
        chosen: the columns, in place of those that choose themselves.
        own: of the jobs of a sweep, by name of the run, their values of the keys that vary, in place of all settings.
    """
    own, results = own or {}, metrics(runs)
    keys = list(dict.fromkeys(key for values in own.values() for key in values)) or varying(runs)
    found, notes = [*keys, *results], [name for name in NOTES if any(run[name] for run in runs)]
    if chosen is not None:
        found, notes = list(chosen), []
    table = Table(["run", "age", "status", *found, "step", *notes])
    for run in runs:
        words = own.get(run["name"], {})
        cells = [words[name] if name in words else value(run, name) for name in found]
        texts = [", ".join(map(str, run["tags"])) if name == "tags" else run[name] for name in notes]
        step = f"{run['step']}/{run['num_steps'] or '?'}"
        age = "" if run["status"] == "missing" else duration(run["age"])
        table.rows.append([run["short"], age, run["status"], *cells, step, *texts])
    # where a terminal is too narrow: the last ones are left out first
    ranked = ["run", "status", *results[:1], *found, "step", "age", *reversed(notes)]
    if chosen is not None:
        ranked = table.head
    table.ranks = [ranked.index(name) for name in table.head]
    return table


def problems(runs: Sequence[Run]) -> list[str]:
    """A line on each damaged run, and why those that failed did."""
    told = [run for run in runs if run["reason"] and run["status"] in ("damaged", "failed")]
    return [f"{run['short']}: {run['reason']}".partition("\n")[0] for run in told]


def table_of_differences(runs: Sequence[Run]) -> Table:
    """What differs among runs: settings, code, packages, results; of two, also by how much."""
    has_two = len(runs) == 2
    table = Table(["", *(run["short"] for run in runs), *(["difference"] if has_two else [])], num_keys=1)
    settings = dict.fromkeys(key for run in runs for key in run["settings"] if not HIDDEN.fullmatch(key))
    parts = [[run["settings"].get(key) for run in runs] for key in settings]
    rows = dict(zip(settings, parts, strict=True))
    origins = [origin(Path(run["path"])) for run in runs]
    rows |= {key: [found.get(key) for found in origins] for key in dict.fromkeys(key for one in origins for key in one)}
    rows |= {name: [run[name] for run in runs] for name in ("status", "step")}
    names = dict.fromkeys(name for run in runs for name in run["results"])
    rows |= {name: [run["results"].get(name) for run in runs] for name in names}
    for key, cells in rows.items():
        if all(is_same(cells[0], cell) for cell in cells):
            continue
        table.rows.append([key, *cells])
        if has_two:
            table.rows[-1].append(_difference(*cells))
    return table


def _difference(one: Any, other: Any) -> str:
    if any(isinstance(cell, bool) or not isinstance(cell, int | float) for cell in (one, other)):
        return ""
    return f"{other - one:+.4g}"


def origin(run: Path) -> dict[str, Any]:
    """Where a run's code came from, and what it ran on: by the names under which `diff` shows them."""
    found: dict[str, Any] = {}
    try:
        record = read_json(run / "provenance.json")
    except UserError as error:
        return {"provenance": str(error).partition("\n")[0]}
    for name in ("commit", "code", "python"):
        found[name] = record.get(name)
    file = run / "changes.patch"
    if file.exists():
        try:
            patch = read_bytes(file, MAX_FACTS)
        except UserError:
            patch = b""
        found["changes.patch"] = f"{len(patch.splitlines())} lines {hashlib.sha256(patch).hexdigest()[:8]}"
    for part in ("numerics", "packages"):
        content = record.get(part)
        if isinstance(content, dict):
            found |= {f"{part}: {name}": content[name] for name in content}
    return found
