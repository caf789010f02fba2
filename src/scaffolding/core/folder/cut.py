"""Cutting from the facts of a run what a resumed run does again. Imported only then."""

import json
from pathlib import Path
from typing import Any

from .files import write_text
from .run_folder import Facts, append


def cut_after(facts: Facts, step: int) -> int:
    """Cut rows later than `step`, of the final test, and torn last lines: all come again. Returns how many rows.

    What is cut is kept in cut.jsonl.
    """
    kept: list[dict[str, Any]] = []
    cut: list[dict[str, Any]] = []
    for row in facts.rows():
        (kept if row["step"] <= step and row["split"] != "test" else cut).append(row)
    torn = {file: _torn(file) for file in (facts.scalars_file, facts.events_file)}
    lines = [{"cut_at": step, **row} for row in cut]
    lines += [{"cut_at": step, "file": file.name, "torn": text} for file, text in torn.items() if text]
    if lines:
        append(facts.cut_file, "".join(json.dumps(line) + "\n" for line in lines))
    if torn[facts.events_file]:
        write_text(facts.events_file, facts.events_file.read_text().removesuffix(torn[facts.events_file]))
    if cut or torn[facts.scalars_file]:
        facts.write(kept, facts.columns())
    return len(cut) + bool(torn[facts.scalars_file])


def _torn(file: Path) -> str:
    """What follows the last newline of a file."""
    return file.read_text(errors="replace").rpartition("\n")[2] if file.exists() else ""
