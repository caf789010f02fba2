"""A run of which nothing is kept: it works in a temporary folder that is gone at its end, however it ends."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from ..errors import UserError
from .policy import EPHEMERAL

# Another process, which waits for the end of this one: a signal or a crash may leave no time to delete anything.
CLEANER = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


@contextlib.contextmanager
def kept_nowhere(cfg: Any, processes: Any) -> Iterator[None]:
    """Where `run.provenance=ephemeral` says so, train in a temporary folder, without trackers and figures.

    Raises:
        UserError: the processes of the run are on several machines, which do not share a temporary folder.
    """
    if cfg.run.provenance != EPHEMERAL:
        yield
        return
    hosts = {host for host, _ in getattr(processes, "peers", ())}
    if len(hosts) > 1:
        raise UserError(
            f"run.provenance={EPHEMERAL}: {len(hosts)} machines train this run without a common temporary folder"
            "\ngive run.provenance=allow, warn or refuse"
        )
    cfg.tracker, cfg.plots = {}, {}
    cfg.paths.output = processes.first(tempfile.mkdtemp, "", "ephemeral_")
    if processes.rank > 0:
        yield
        return
    with _deleted_at_the_end(cfg.paths.output):
        try:
            yield
        finally:
            print(f"kept:     nothing (run.provenance={EPHEMERAL})", flush=True)


@contextlib.contextmanager
def _deleted_at_the_end(folder: str) -> Iterator[None]:
    command = [sys.executable, "-I", "-S", "-c", CLEANER, folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as cleaner:
        try:
            yield
        finally:
            assert cleaner.stdin is not None
            cleaner.stdin.close()
