"""The page that shows a run, or compares several: one HTML file with everything in it, which needs no network.

Python writes what the runs say into the file, as compressed JSON, and the page makes itself of it. The charts are drawn
by BokehJS, which is taken from the installed package `bokeh` as it is; Python's own bokeh is not imported. Does not
import torch.
"""

import base64
import functools
import hashlib
import importlib.util
import json
import shlex
import zlib
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

from loguru import logger

from ..errors import UserError
from ..folder.folder import storage_error, write_text
from .compare import read_runs
from .content import read_run

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("elements", "lines", "chart", "pointer", "series", "curves", "run", "table", "compare", "page")
BOKEH = "server/static/js/bokeh.min.js"  # the core alone: no widgets, no WebGL, no MathJax


def write_report(runs: list[Path], file: Path, title: str = "", reload: float = 0) -> None:
    """Write the page of a run, or the page that compares several, whole or not at all.

    Args:
        runs: their folders.
        file: the page.
        title: of a page of several runs, e.g. the name of a sweep.
        reload: seconds after which an open page loads itself again, while a run goes on; 0: never.

    Raises:
        UserError: the package `bokeh` is not installed.
        StorageError: the file could not be written.
    """
    if len(runs) == 1:
        data = read_run(runs[0])
    else:
        data = read_runs(runs, file, title)
    data |= {"written": f"{datetime.now():%Y-%m-%d %H:%M:%S}", "reload": reload}
    page = make_page(data)
    try:
        write_text(file, page)
    except OSError as error:
        raise storage_error(file, error) from error


def write_at_end(run: Any) -> list[str]:
    """Write report.html of a run that ends, unless `run.report` is false.

    Returns:
        The line that says where it is, or what command writes it; none for a run that is only rehearsed.
    """
    if run.path.parent.name.startswith("."):
        return []
    if not run.settings.report:
        script = run.project.root / "scripts" / "report.py"
        if script.is_relative_to(Path.cwd()):
            script = script.relative_to(Path.cwd())
        return [f"report:   python {shlex.join([str(script), str(run.path)])}"]
    file = run.path / "report.html"
    try:
        write_report([run.path], file)
    except Exception as error:  # the run is done, whatever becomes of the page
        logger.warning(f"{file} was not written: {type(error).__name__}: {error}")
        return []
    return [f"report:   {file}"]


def make_page(data: dict[str, Any]) -> str:
    """The page of what `read_run` or `read_runs` found.

    Only the scripts whose hashes are in its policy can run, nothing can be loaded, and the data is packed into letters
    and digits: whatever the runs say stays text.
    """
    library, library_hash = _library()
    scripts, scripts_hash = _scripts()
    boot = _text("boot.js")
    parts = {
        "data": _packed(json.dumps(data, separators=(",", ":"), allow_nan=False).encode()),
        "library": library,
        "scripts": scripts,
        "boot": boot,
        "hashes": f"{_hash(boot.encode())} {scripts_hash} {library_hash}",
        "style": _text("page.css"),
    }
    return Template(_text("page.html")).substitute(parts)


@functools.cache
def _library() -> tuple[str, str]:
    """BokehJS, packed, and the hash of what the page unpacks."""
    spec = importlib.util.find_spec("bokeh")  # this does not import it
    file = Path(spec.origin).parent / BOKEH if spec is not None and spec.origin else None
    if file is None or not file.exists():
        raise UserError("a report needs the package bokeh, whose BokehJS draws its charts\nrun pdm install")
    code = file.read_bytes()
    return _packed(code), _hash(code)


@functools.cache
def _scripts() -> tuple[str, str]:
    """The scripts of the page itself, likewise."""
    code = "\n".join(_text(f"{name}.js") for name in SCRIPTS).encode()
    return _packed(code), _hash(code)


def _packed(content: bytes) -> str:
    """Bytes, compressed and in base64: a third of the JSON of many rows."""
    return base64.b64encode(zlib.compress(content)).decode()


def _hash(code: bytes) -> str:
    """How a content security policy names a script that may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}'"


@functools.cache
def _text(name: str) -> str:
    return (PAGE / name).read_text("utf-8")
