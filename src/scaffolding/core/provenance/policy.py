"""What `run.provenance` wants of code that is not committed: allow, warn, refuse, or keep nothing of the run."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import ONE_LINE, UserError
from .git import GitError
from .patch import files_of, uncommitted_changes

NUM_NAMED = 5  # files in a message
EPHEMERAL = "ephemeral"  # the value of run.provenance with which nothing is kept
NOTHING_KEPT = (
    f"run.provenance={EPHEMERAL} keeps neither a checkpoint nor a log: to look into this, run it again with "
    "run.provenance=allow"
)


def settle(cfg: Any, project: Any, first: Callable[..., Any], carried_on: str, says_yes: bool) -> None:
    """Check the repository as `run.provenance` wants it, before data are read; it may become "ephemeral".

    Args:
        cfg: the config of a run that is about to begin.
        project: where its code is.
        first: calls a function in the first of several processes.
        carried_on: the word by which this is a run that is carried on, or part of a sweep; "": it is neither.
        says_yes: whether `-y` answers the question.

    Raises:
        UserError: the code is refused; or nothing is to be kept of a run that another command carries on.
    """
    wanted = cfg.run.provenance
    if wanted == EPHEMERAL and carried_on:
        raise UserError(
            f"run.provenance={EPHEMERAL}: not together with {carried_on}, which needs the folder of a run"
            "\ngive run.provenance=allow, warn or refuse"
        )
    if wanted in ("warn", "refuse"):
        cfg.run.provenance = first(_judged, wanted, project, bool(carried_on), says_yes)


def _judged(wanted: str, project: Any, is_carried_on: bool, says_yes: bool) -> str:
    """The value of run.provenance that holds: the wanted one, or "ephemeral" where the user agrees to that."""
    why = not_committed(project.root, [project.sources, project.configs])
    if not why:
        return wanted
    if wanted == "warn":
        logger.warning(f"{why}: commit it, or this run is known by its changes.patch alone")
        return wanted
    if not is_carried_on and (says_yes or _agrees(why)):
        return EPHEMERAL
    advice = "commit the code, or give run.provenance=allow"
    if not is_carried_on:
        advice += "; -y runs without keeping anything"
    raise UserError(f"run.provenance=refuse: {why}\n{advice}")


def not_committed(root: Path, sources: list[Path]) -> str:
    """Why no commit says which code is here, with the first files that differ; "": one does."""
    try:
        changes = uncommitted_changes(root, sources)
    except GitError as error:
        return f"{error}: no commit says which code this is"
    if changes.commit is None:
        return "git has no commit yet"
    names = [name.translate(ONE_LINE) for name in dict.fromkeys([*files_of(changes.patch), *changes.left_out])]
    if not names:
        return ""
    more = f" and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else ""
    return f"not committed: {', '.join(names[:NUM_NAMED])}{more}"


def _agrees(why: str) -> bool:
    """Ask on a terminal whether to run without keeping anything; without a terminal the answer is no."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{why}\nrun without keeping anything? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
