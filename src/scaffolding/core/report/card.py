"""What a notebook shows of an experiment: a small table of what it is and what came out, and a link to its report."""

import html
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..folder.summary import read_summary


def card(path: Path | None, model: str, num_parameters: int) -> str:
    """HTML of an experiment. Texts of a run, which may be a stranger's, appear as they are, never as HTML.

    Args:
        path: of its run; None: it has not run.
        model: the name of its class.
        num_parameters: of the model.
    """
    rows: dict[str, Any] = {"run": "not run"}
    link = ""
    if path is not None:
        found = read_summary(path)
        rows = {"run": path.name, "status": _status(found)}
        if found["best"] is not None:
            rows["best"] = f"{found['monitor']} {found['best']:.4g} (step {found['best_step']})"
        tested = {name[5:]: value for name, value in found["results"].items() if name.startswith("test/")}
        if tested:
            rows["test"] = ", ".join(f"{name} {_number(value)}" for name, value in tested.items())
        if (path / "report.html").is_file():
            place = quote(os.path.relpath(path / "report.html").replace(os.sep, "/"))
            link = f'<a href="{place}" target="_blank">report.html</a>'
    rows |= {"model": model, "parameters": f"{num_parameters:,}"}
    lines = "".join(f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items())
    return f"<table>{lines}</table>{link}"


def _status(found: dict[str, Any]) -> str:
    text = f"{found['status']}, step {found['step']} of {found['num_steps']}"
    if found["reason"]:
        text += f": {found['reason']}"
    return text


def _number(value: Any) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)
