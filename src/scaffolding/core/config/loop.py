"""`run.loop=NAME`: the file of the package whose `main(cfg)` is the run; train.py, and those that an owner adds."""

import importlib
import re
from collections.abc import Callable
from typing import Any

from ..errors import nearest
from ..faults import fault
from .project import Project

MAIN = re.compile(r"(?m)^def main\(")


def loop_of(name: str, main: Callable[[Any], Any], project: Project) -> Callable[[Any], Any]:
    """The `main` of a loop; `main` is that of train.py.

    Only a file of this checkout can be one, so a stranger's run starts nothing that its owner did not write.

    Raises:
        FaultsError: the package has no such file, or the file has no `main`.
    """
    if name == "train":
        return main
    loops = [file.stem for file in sorted(project.sources.glob("*.py")) if MAIN.search(file.read_text("utf-8"))]
    if name not in loops:
        near = ", ".join(nearest(name, loops))
        raise fault(
            "run.loop", name, "no such loop", f"nearest: {near}; a loop is src/{project.package}/NAME.py with main(cfg)"
        )
    found: Callable[[Any], Any] = importlib.import_module(f"{project.package}.{name}").main
    return found
