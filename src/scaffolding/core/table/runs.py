"""The runs below a folder, each a row whose columns are its settings and its results. Does not import torch.

A run is what `read_summary` gives, with `name` as the path below the folder of the runs, `short` as the shortest name
that `find_run` takes, and `age` and `duration` in seconds.
"""

import functools
import gc
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..find import created, list_runs, rest_of
from ..folder.summary import read_summary

Run = dict[str, Any]
TEXTS = ("name", "status", "reason", "monitor", "description", "tags", "note")  # columns that are compared as text
NUMBERS = ("age", "duration", "step", "num_steps", "best", "best_step")
SECONDS = "seconds/"  # how long each phase of a run took
TARGET = "_target_"


def read_runs(root: Path, has_dev: bool = False) -> list[Run]:
    """All runs below a folder, oldest first; dev runs only if they are asked for."""
    names = {os.path.relpath(path, root): path for path in list_runs(root, is_sorted=False)}
    short = short_names(names)
    is_on = gc.isenabled()
    gc.disable()  # none of what is read is garbage, and looking for it takes as long as reading
    runs = [read_run(path, name, short[name]) for name, path in names.items() if has_dev or not name.startswith("dev/")]
    if is_on:
        gc.enable()
    return sorted(runs, key=lambda run: (run["started"], run["name"]))


def read_some(paths: Iterable[Path], root: Path) -> list[Run]:
    """Some of the runs below a folder, or of the places where runs may come to be, in this order."""
    short = short_names(os.path.relpath(path, root) for path in list_runs(root, is_sorted=False))
    names = {os.path.relpath(path, root): path for path in paths}
    return [read_run(path, name, short.get(name, path.name)) for name, path in names.items()]


def read_run(path: Path, name: str, short: str) -> Run:
    """One run, by a path below the folder of the runs and by a short name."""
    run = read_summary(path) | {"name": name, "short": short}
    started, ended = _finite(run["started"]), _finite(run["ended"])
    run["started"] = created(path) if started is None else started
    run["age"] = time.time() - run["started"]
    run["duration"] = None if ended is None else ended - run["started"]
    if not isinstance(run["monitor"], str):  # in a stranger's file
        run["monitor"] = None
    return run


def value(run: Run, column: str) -> Any:
    """What a run has in a column; None where it has nothing."""
    if column in TEXTS or column in NUMBERS:
        return run[column]
    for place in ("results", "settings"):
        if column in run[place]:
            return run[place][column]
    if column.startswith(SECONDS):
        return run["seconds"].get(column.removeprefix(SECONDS))
    key = _target_key(tuple(run["settings"]), column)
    if key is None:
        return None
    return str(run["settings"][key]).rpartition(".")[2].lower()


def number(run: Run, column: str) -> float | None:
    """The same where it is a finite number, else None."""
    return _finite(value(run, column))


def _finite(found: Any) -> float | None:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and abs(found) <= sys.float_info.max else None


@functools.lru_cache(maxsize=1000)
def _target_key(settings: tuple[str, ...], group: str) -> str | None:
    """The setting that names the class of a group, e.g. data.dataset._target_ of data; None: none does, or several."""
    targets = [key for key in settings if key.startswith(f"{group}.") and key.endswith(f".{TARGET}")]
    outer = [key for key in targets if key.count(".") == min(map(str.count, targets, "." * len(targets)))]
    return outer[0] if len(outer) == 1 else None


def group_of(setting: str) -> str | None:
    """The group whose class a setting names: data of data.dataset._target_; None: it names no class."""
    group, _, rest = setting.partition(".")
    return group if rest.endswith(TARGET) else None


def columns(runs: Iterable[Run]) -> list[str]:
    """All columns that runs have, each once."""
    found: dict[str, None] = dict.fromkeys((*TEXTS, *NUMBERS))
    seen = set()
    for run in runs:
        for place, prefix in (("results", ""), ("settings", ""), ("seconds", SECONDS)):
            names = tuple(run[place])
            if (place, names) not in seen:  # most runs have the same ones
                seen.add((place, names))
                found |= dict.fromkeys(f"{prefix}{name}" for name in names)
    found |= dict.fromkeys(group for group in map(group_of, list(found)) if group is not None)
    return list(found)


def short_names(names: Iterable[str]) -> dict[str, str]:
    """By name of each run, the shortest that `find_run` takes: without folder and date where the rest is unique."""
    names = list(names)
    whole = Counter(name.rpartition("/")[2] for name in names)
    rests = Counter(rest_of(name) for name in names)
    found = {}
    for name in names:
        last, rest = name.rpartition("/")[2], rest_of(name)
        found[name] = name
        if rests[rest] == 1 and (rest == last or not whole[rest]):
            found[name] = rest
        elif whole[last] == 1:
            found[name] = last
    return found


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are the same: true is not 1, and 1 is not 1.0."""
    if isinstance(one, list | dict):
        return as_text(one) == as_text(other)
    return type(one) is type(other) and bool(one == other)


def as_text(content: Any) -> str:
    """A value as JSON, by which values are told apart."""
    return json.dumps(content, sort_keys=True, default=str)
