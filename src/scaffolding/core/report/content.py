"""What the page of one run shows, as plain data. A damaged file costs its part of the page, and a word on it."""

import json
import os
import statistics
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..clock import is_waiting_for_data, training_seconds
from ..errors import CONTROL, UserError
from ..folder.reading import MAX_FACTS, open_plain, read_bytes, read_json, read_yaml
from ..folder.summary import read_summary
from .commands import commands_of, needed_trust, sessions
from .curves import read_curves
from .figures import read_figures

LOG_LINES, EVENTS = 400, 200  # the last ones
TAIL = 400_000  # bytes at the end of a file that grows with the run
SLOW = 0.2  # share of the time from which on a phase is worth a word
SAVERS = {
    "evaluate": "run.eval_every",
    "rollout": "run.rollout_every",
    "plot": "run.plot_every",
    "save": "run.save_every",
}


def read_run(run: Path) -> dict[str, Any]:
    """All that the page of a run shows; see page/run.js."""
    summary = read_summary(run)
    problems: list[str] = []

    def part(empty: Any, read: Callable[[], Any]) -> Any:
        """A part of the page; where its file is damaged, `empty`, and the page names the problem."""
        try:
            return read()
        except UserError as error:
            problems.append(str(error).partition("\n")[0])
            return empty

    provenance = part({}, lambda: _mapping(run / "provenance.json"))
    curves = part({}, lambda: read_curves(run, summary["started"]))
    events = part([], lambda: _events(run / "facts" / "events.jsonl"))
    content = {
        **{key: value for key, value in summary.items() if key not in ("path", "settings", "seconds", "results")},
        "reason": _text(summary["reason"]),
        "description": _text(summary["description"]),
        "tags": [_text(tag) for tag in summary["tags"]],
        "traceback": _traceback(events, summary["status"]),
        "curves": curves,
        "results": summary["results"],
        "speed": _speed(curves),
        "epoch": _epoch(curves),
        "phases": sorted(summary["seconds"].items(), key=lambda pair: -pair[1]),
        "advice": advice(summary["seconds"]),
        "config": part([], lambda: _config(run, summary["settings"], provenance)),
        "commands": [[label, _text(command)] for label, command in commands_of(run, summary["settings"], provenance)],
        "trust": [_text(name) for name in needed_trust(provenance)],
        "figures": read_figures(run / "figures", problems),
        "provenance": _provenance(provenance),
        "changed": part([], lambda: _changed_files(run / "changes.patch")),
        "packages": [f"{name} {version}" for name, version in _dict(provenance.get("packages")).items()],
        "events": [_event(event) for event in events[-EVENTS:]],
        "log": part("", lambda: _log(run / "log.txt")),
    }
    return {"kind": "run", "title": run.name, "run": content | {"problems": problems}}


def advice(seconds: dict[str, float]) -> str:
    """A sentence that says what would make a run faster; "" where nothing stands out.

    It mentions waiting for data only where the device has nothing else to do.
    """
    total = sum(seconds.values())
    if is_waiting_for_data(seconds):
        share = f"{100 * seconds['data'] / training_seconds(seconds):.0f} %"
        return f"Training waits for data {share} of its time: raise loader.num_workers, or keep the data in memory."
    phase = max(SAVERS, key=lambda phase: seconds.get(phase, 0.0))
    if total > 60 and seconds.get(phase, 0.0) > SLOW * total:  # in a shorter run it does not matter
        share = f"{100 * seconds[phase] / total:.0f} %"
        return f"{phase.capitalize()} takes {share} of the time: a larger {SAVERS[phase]} makes the run faster."
    return ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).translate(CONTROL)


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    return value


def _mapping(file: Path) -> dict[str, Any]:
    if not os.path.lexists(file):
        return {}
    return read_json(file)


def _tail(file: Path, size: int = TAIL) -> str:
    """The end of a text file, from the beginning of a line on; "" where the file does not exist."""
    if not os.path.lexists(file):
        return ""
    with open_plain(file, MAX_FACTS) as stream:
        start = max(0, os.fstat(stream.fileno()).st_size - size)
        stream.seek(start)
        text = stream.read().decode(errors="replace")
    if start:
        text = text.partition("\n")[2]
    return text


def _log(file: Path) -> str:
    return "\n".join(_text(line) for line in deque(_tail(file).splitlines(), maxlen=LOG_LINES))


def _events(file: Path) -> list[dict[str, Any]]:
    """The last events, oldest first, without a line that the run is just writing."""
    found = []
    for line in _tail(file).splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _event(event: dict[str, Any]) -> list[Any]:
    """Time, name, step and the rest of an event, as text."""
    rest = {key: value for key, value in event.items() if key not in ("time", "event", "step", "traceback")}
    when = _text(event.get("time"))[:19].replace("T", " ")
    step = event.get("step")
    if not isinstance(step, int):
        step = None
    return [when, _text(event.get("event")), step, _said(rest)]


def _said(values: dict[str, Any]) -> str:
    parts = []
    for key, value in values.items():
        if isinstance(value, dict):
            parts.append(_said(value))
        elif isinstance(value, float):
            parts.append(f"{key} {value:.4g}")
        else:
            parts.append(f"{key} {_text(value)}")
    return ", ".join(part for part in parts if part)[:2000]


def _traceback(events: list[dict[str, Any]], status: str) -> str:
    """That of the last exception, of a run that failed."""
    if status != "failed":
        return ""
    for event in reversed(events):
        if event.get("event") == "on_exception" and "traceback" in event:
            return _text(event["traceback"])
    return ""


def _speed(curves: dict[str, Any]) -> float | None:
    """The median of the items per second, as the first row of a session is slow."""
    speeds = curves.get("train", {}).get("values", {}).get("items_per_second", [])
    numbers = [speed for speed in speeds if isinstance(speed, float)]
    if not numbers:
        return None
    return round(statistics.median(numbers), 1)


def _epoch(curves: dict[str, Any]) -> float | None:
    """The epochs that had passed at the last row; None: no row says it."""
    epochs = [split["epoch"][-1] or 0 for split in curves.values() if split["epoch"]]
    return max(epochs, default=None)


def _config(run: Path, settings: dict[str, Any], provenance: dict[str, Any]) -> list[list[Any]]:
    """Key, value, default and what set it, of each setting; the last two are None where it has its default."""
    set_by = _dict(provenance.get("set_by"))
    if not set_by:
        set_by = _words_given(run)
    rows = []
    for key, value in settings.items():
        places = [place for place in set_by.get(key) or [] if isinstance(place, list) and len(place) == 2]
        default = source = None
        if len(places) > 1:
            default = _value(places[0][1])
        if places:
            source = _text(places[-1][0])
        rows.append([_text(key), _value(value), default, source])
    return rows


def _words_given(run: Path) -> dict[str, list[list[Any]]]:
    """What the command line set, for a run that does not say where its settings are from."""
    file = run / "overrides.yaml"
    if not os.path.lexists(file):
        return {}
    words = read_yaml(file)
    if not isinstance(words, list):
        return {}
    pairs = [str(word).lstrip("+~").partition("=") for word in words]
    return {key: [["command line", value]] for key, _, value in pairs}


def _value(value: Any) -> str:
    """A setting as it would be typed."""
    if not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return _text(value)


def _provenance(found: dict[str, Any]) -> list[list[str]]:
    """Names and values of what provenance.json says, without what the page shows elsewhere."""
    commit = found.get("commit")
    if commit and found.get("dirty"):
        commit = f"{commit} and uncommitted changes"
    facts = {"commit": commit, "hash of the code": found.get("code"), "python": found.get("python")}
    facts |= {**_dict(found.get("machine")), **_dict(found.get("numerics"))}
    facts |= {
        "parent": found.get("parent"),
        "resumed at step": [entry.get("step") for entry in sessions(found)[1:]],
    }
    return [[_text(name), _value(value)] for name, value in facts.items() if value not in (None, [], {}, "")]


def _changed_files(patch: Path) -> list[list[Any]]:
    """Name, lines added and lines removed of each file of the patch. Not its text: a report is handed on."""
    if not os.path.lexists(patch):
        return []
    files: list[list[Any]] = []
    for line in read_bytes(patch, 100_000_000).decode(errors="replace").splitlines():
        if line.startswith("diff --git "):
            files.append([_text(line.rpartition(" b/")[2]), 0, 0])
        elif files and line.startswith("+") and not line.startswith("+++ "):
            files[-1][1] += 1
        elif files and line.startswith("-") and not line.startswith("--- "):
            files[-1][2] += 1
    return files
