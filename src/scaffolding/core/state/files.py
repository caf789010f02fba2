"""The checkpoint files of a run: which there are, which is the newest, which the best, and which are kept."""

import contextlib
import re
from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import DamagedError, StorageError, UserError
from ..folder.folder import NAME
from .checkpoint import Parts, check_whole, link_checkpoint, load, others, save, step_in

STEP = re.compile(r"step_\d+\.pt")  # a copy that somebody keeps, step_22_keep.pt, is never removed


class CheckpointFiles:
    """checkpoints/ of one run.

    latest.pt, best.pt and step_<N>.pt; of a fork parent.pt, from which it started, and parent_best.pt, where it goes on
    from the whole state of a run; for a rehearsal halfway.pt and later_epoch.pt.
    """

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"
        self.latest, self.best = (self.folder / f"{name}.pt" for name in ("latest", "best"))
        self.parent, self.parent_best = (self.folder / f"{name}.pt" for name in ("parent", "parent_best"))
        self.halfway, self.later_epoch = (self.folder / f"{name}.pt" for name in ("halfway", "later_epoch"))
        self.model = run / "model.pt"
        self.loaded: dict[Path, Parts] = {}  # by `keep_whole_best`

    def save(self, content: dict[str, Any], before: int | None, num_kept: int) -> None:
        """Replace latest.pt, keeping the one of step `before` as step_<before>.pt if more than one is kept.

        Raises:
            StorageError: the disk does not take it; latest.pt is untouched.
        """
        if num_kept > 1 and before not in (None, content["state"]["step"]) and self.latest.exists():
            link_checkpoint(self.latest, self.folder / f"step_{before}.pt")
        save(self.latest, content)
        self.prune(content["state"]["step"], num_kept)

    def prune(self, step: int, num_kept: int) -> None:
        """Of the checkpoints before `step`, that of latest.pt, keep the newest `num_kept` - 1."""
        older = [file for file in self.steps() if _step_of_name(file) < step]
        for old in older[: 1 - num_kept or None]:
            with contextlib.suppress(OSError):  # the next save tries again
                old.unlink(missing_ok=True)

    def keep_best(self) -> None:
        """Make best.pt, and model.pt in the run's folder, the latest checkpoint; StorageError as in `save`."""
        link_checkpoint(self.latest, self.best)
        self.point_to_best()

    def point_to_best(self) -> None:
        """Make model.pt a symbolic link to best.pt or, where the file system has none, the same file, or a copy of it.

        The last two do not follow when best.pt is replaced: whoever replaces it calls this again.
        """
        with contextlib.suppress(OSError):  # the link exists, or the file system does not know symbolic links
            self.model.symlink_to(self.best.relative_to(self.model.parent))
        if self.model.is_symlink():
            return
        try:
            link_checkpoint(self.best, self.model)
        except StorageError as error:
            with contextlib.suppress(OSError):  # rather none than that of another step
                self.model.unlink(missing_ok=True)
            logger.warning(f"{error}; checkpoints/best.pt is there")

    def steps(self) -> list[Path]:
        """The step_<N>.pt, oldest first."""
        files = [file for file in self.folder.glob("step_*.pt") if STEP.fullmatch(file.name)]
        return sorted(files, key=_step_of_name)

    def best_or_latest(self) -> Path:
        """The best checkpoint, or the latest where none was the best yet."""
        if self.best.exists():
            return self.best
        return self.latest

    def newest(self) -> tuple[Path, Parts] | None:
        """latest.pt and its content or, where it is missing or damaged, the newest whole checkpoint; names both.

        Raises:
            UserError: there are some, but none is whole, or the newest is not from here.
        """
        if not self.latest.exists() and not self._others():
            return None
        failed = ""
        for file in [self.latest, *self._others()]:
            try:
                content = load(file)
            except DamagedError as error:
                failed = failed or str(error).partition("\n")[0]
                continue
            if failed:
                logger.warning(f"{failed}; carrying on from {file.name}, step {content['state']['step']}")
            return file, content
        raise UserError(f"{failed}\nno other checkpoint there is whole")

    def find_best(self, step: int | None) -> Path:
        """best.pt or, where that is not whole or not of this step, another checkpoint of the step.

        Args:
            step: the step of the best checkpoint; None: any step.

        Raises:
            DamagedError: there is none, with the reason.
        """
        failed = ""
        for file in [self.best, *(file for file in self._others() if step is not None and step_in(file) == step)]:
            try:
                check_whole(file)
            except DamagedError as error:
                failed = failed or str(error).partition("\n")[0]
                continue
            if step in (None, step_in(file)):
                if failed:
                    logger.warning(f"{failed}; {file.name} is of the same step")
                return file
            failed = failed or f"{file} is of step {step_in(file)}, and the best was step {step}"
        raise DamagedError(failed)

    def best_or_newest(self, step: int | None) -> tuple[Path, Parts]:
        """What `find_best` finds and its content, or else, in words, the newest whole checkpoint.

        Nothing is said where none was the best yet. Where nothing is monitored, the newest is the best.

        Raises:
            UserError: no checkpoint is whole.
        """
        if step is None and self.latest.exists() and (step_in(self.latest) or 0) > (step_in(self.best) or 0):
            newest = self.newest()
            if newest is not None and newest[1]["state"].get("best_step") is None:
                return newest
        try:
            file = self.find_best(step)
        except DamagedError as error:
            newest = self.newest()
            if newest is None:
                raise
            file, content = newest
            if step is not None or self.best.exists():
                logger.warning(f"{error}; {file.name}, step {content['state']['step']}, is taken in its place")
            return newest
        return file, load(file)

    def keep_whole_best(self, step: int | None) -> Path:
        """The file that `best_or_newest` finds; where best.pt is damaged, it is set aside, and this takes its place."""
        file, content = self.best_or_newest(step)
        self.loaded = {file: content}
        if file != self.best and self.best.exists():
            set_aside(self.best)
            link_checkpoint(file, self.best)
            self.point_to_best()
        return file

    def _others(self) -> list[Path]:
        """The checkpoints of the run besides latest.pt, the newest first, by the step that they are of."""
        own = [file for file in self.folder.glob("*.pt") if file not in (self.latest, self.parent, self.parent_best)]
        return sorted(own, key=lambda file: (step_in(file) or -1, file.name), reverse=True)


def _step_of_name(file: Path) -> int:
    return int(file.stem.removeprefix("step_"))


def set_aside(file: Path) -> None:
    """Rename a checkpoint that is not whole, so that it is not taken for one, and can be looked at."""
    file.rename(file.with_suffix(".pt.damaged"))


def find_checkpoint(run: Path, name: str) -> Path:
    """The file of a run's checkpoint by its plain name; UserError: there is none; the message lists the others."""
    path, there = run / "checkpoints" / f"{name}.pt", run / "checkpoints" / ".pt"
    try:
        is_there = NAME.fullmatch(name) is not None and path.is_file()
    except PermissionError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not is_there:  # a name with slashes must not list another folder
        raise UserError(f"{run} has no checkpoint {name!r:.100}\ncheckpoints there: {others(there)}")
    return path
