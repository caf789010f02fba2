"""Code from outside of the checkout that a config names under `imports`. Imported only where it does."""

import importlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from ..faults import fault


def import_plugins(entries: Iterable[str], root: Path) -> None:
    """Import modules by their dotted names; a folder (relative to `root`) makes the modules in it known by name.

    Raises:
        FaultsError: the folder or module does not exist, or cannot be imported.
    """
    for entry in entries:
        folder = root / os.path.expanduser(entry)
        if "/" in entry:
            if not folder.is_dir():
                raise fault("imports", entry, "it is not a folder", "give a folder of modules, or the name of a module")
            if str(folder) not in sys.path:
                sys.path.append(str(folder))  # last: nothing that is installed is hidden
            continue
        try:
            importlib.import_module(entry)
        except ImportError as error:
            advice = f"a folder is written with a slash: imports=[./{entry}]"
            raise fault("imports", entry, f"importing it failed: {error}", advice) from error
