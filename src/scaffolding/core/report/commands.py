"""The commands on the page of a run, to be pasted: they start it again, resume it, and load it in Python."""

import json
import shlex
from pathlib import Path
from typing import Any


def commands_of(run: Path, settings: dict[str, Any], provenance: dict[str, Any]) -> list[tuple[str, str]]:
    """The label and the text of each command that the run has the files for.

    Args:
        run: its folder.
        settings: of its config, by dotted key.
        provenance: the content of its provenance.json.
    """
    words = _texts(provenance.get("argv"))
    trust = needed_trust(provenance)
    commands = []
    if words:
        commands.append(("again", shlex.join(["python", *words])))
    checkpoints = run / "checkpoints"
    if words and (checkpoints / "latest.pt").exists():
        name, root = _name_below_root(run, str(settings.get("paths.output_root")))
        resume = ["python", words[0], f"resume={name}"]
        if any(word.startswith("paths.output") for word in words):
            resume.append(f"paths.output_root={root}")
        if trust:
            resume.append(f"trust={','.join(trust)}")
        commands.append(("resume", shlex.join(resume)))
    newest = "latest"
    if (checkpoints / "best.pt").exists():
        newest = "best"
    if (checkpoints / f"{newest}.pt").exists():
        arguments = f'{json.dumps(str(run.resolve()), ensure_ascii=False)}, checkpoint="{newest}"'
        if trust:
            arguments += f", trust={tuple(trust)}"
        commands.append(("load", f"exp = Experiment.from_path({arguments})"))
    return commands


def needed_trust(provenance: dict[str, Any]) -> list[str]:
    """What `trust=` must list to resume or load the run, as its newest session wrote it down; empty for most runs."""
    known = [_texts(session["trust"]) for session in sessions(provenance) if "trust" in session]
    if not known:  # it was made by an older version
        return []
    return known[-1]


def sessions(provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """What provenance.json says of the first session and of each resumed one."""
    resumed = provenance.get("resumed")
    if not isinstance(resumed, list):
        resumed = []
    return [provenance, *(entry for entry in resumed if isinstance(entry, dict))]


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list):
        return []
    return [each for each in value if isinstance(each, str)]


def _name_below_root(run: Path, output_root: str) -> tuple[str, Path]:
    """The name that `resume=` takes, which is the path below the output root, and that root."""
    parts = Path(output_root).parts
    for folder in run.resolve().parents:
        if folder.parts[-len(parts) :] == parts:
            return run.resolve().relative_to(folder).as_posix(), folder
    return run.name, run.resolve().parent
