"""A program of one checkout runs the sources of that checkout, although another one is installed in the environment.

Git worktrees and second clones often share an environment, which knows one of them. A script there would otherwise
evaluate with the model, and write into the folder, of the other checkout, without a word.
"""

import os
import subprocess
import sys
from pathlib import Path


def sources_of(program: Path, package: str) -> Path | None:
    """The folder that holds `package` in the checkout of a program; None: it is not a program of a checkout.

    Args:
        program: src/PACKAGE/train.py or another file there, or scripts/NAME.py or another file below scripts/.
        package: name of the package.
    """
    places = [program.parent.parent, *(folder.parent / "src" for folder in program.parents if folder.name == "scripts")]
    for place in places:
        if (place / package / "core" / "launch.py").exists() and place.name == "src":
            return place
    return None


def use_own_sources() -> None:
    """Start the program again with its own sources first on the path, if these are those of another checkout."""
    package = Path(__file__).resolve().parents[1]
    if not sys.argv or not sys.argv[0].endswith(".py"):
        return
    sources = sources_of(Path(sys.argv[0]).resolve(), package.name)
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if sources in (None, package.parent) or path[0] == str(sources):
        return
    os.environ["PYTHONPATH"] = os.pathsep.join([str(sources), *filter(None, path)])
    if sys.platform == "win32":  # `execv` would not wait for the other program there
        sys.exit(subprocess.call(sys.orig_argv))
    os.execv(sys.executable, sys.orig_argv)


use_own_sources()
