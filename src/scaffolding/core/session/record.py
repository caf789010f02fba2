"""What a run records: rows, written to facts/, where trackers read them, and shown; and checkpoints."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import torch
from loguru import logger

from .. import system
from ..clock import training_seconds
from ..errors import RunError, StorageError
from ..folder.facts import COLUMNS, SECONDS, Facts, is_timing
from ..folder.summary import plain
from ..state.checkpoint import link_checkpoint
from ..state.files import CheckpointFiles
from ..state.progress import RunState
from ..tracking.tracking import Tracking
from .console import describe_row

MAX_FAILED_SAVES = 10  # in a row: the disk will not recover by itself
ROWS_OF_LOOKS = {"eval": "val", "rollout": "rollout"}  # the split of the row that a look at a step adds


class Start(NamedTuple):
    """Where and when a session began."""

    step: int
    looks: list[str]  # those that a resumed run does again
    samples: int
    time: float  # time.perf_counter()


class Record:
    """Adds rows and checkpoints to a run.

    Created with the first row or event of a session, so that it does not delay the first step. Creating it cuts the
    rows that a resumed run writes again.
    """

    def __init__(self, run: Any, bar: Any) -> None:
        self.state, self.num_steps, self.settings, self.bar = run.state, run.num_steps, run.settings, bar
        start = run.start
        self.samples = start.samples  # at the last training row
        self.left_out: set[str] = set()  # names of logged values that are not numbers
        self.saved_step: int | None = start.step or None  # of latest.pt
        self.save_error: StorageError | None = None  # of the last save, if it failed
        self.num_failed_saves = 0
        self.checkpoints = CheckpointFiles(run.path)
        self.facts = Facts(run.path / "facts")
        if self.facts.events_file.exists():
            again = [ROWS_OF_LOOKS[look] for look in start.looks if look in ROWS_OF_LOOKS]
            rows_cut = self.facts.cut_after(start.step, again)
            self.facts.event("on_resume", step=start.step, rows_cut=rows_cut)
        else:
            self.facts.event("on_start", step=start.step)
        self.run, self.clock, self.monitor = run, run.clock, run.monitor

    @cached_property
    def tracking(self) -> Tracking:
        """The trackers, which start with the first row: a run that fails before it leaves nothing with them."""
        return Tracking(self.run.trackers, self.run.path, self.run.config, self.run.trust)

    def add(self, split: str, values: dict[str, Any], at: RunState | None = None) -> dict[str, float]:
        """Record one row, of the weights at state `at` or of today's. Tensors are read here.

        Returns:
            The values as numbers.
        """
        if not isinstance(values, Mapping):
            raise RunError(f"the {split} row: {values!r:.60} is not a dict of numbers\na rollout returns one")
        taken = {name for name in values if name in COLUMNS or is_timing(name)}
        if taken:
            raise RunError(
                f"a value of the {split} row is named {', '.join(sorted(taken))}, which is a column of every row"
                "\ngive it another name where it is made: in a loss, a metric, a rollout or train_step"
            )
        state, numbers = at or self.state, self._numbers(values)
        row: dict[str, Any] = {"step": state.step, "epoch": state.epoch_of_step, "samples": state.samples}
        row["split"] = split
        row |= {**numbers, "time": round(time.time(), 3)}
        if split == "train":
            row |= self._timings(state.samples)
        had_error = self.facts.error is not None
        self.facts.add_row(row)
        if self.facts.error is not None and not had_error:
            logger.warning(f"{self.facts.error}; rows wait in memory, training goes on")
        if split != "train":
            self.facts.event("on_evaluate", step=state.step, split=split, values=plain(numbers))
        _ = self.tracking
        self._show(row)
        return numbers

    def _timings(self, samples: int) -> dict[str, float]:
        """What a training row says of the machine, since the last one."""
        seconds = self.clock.read()
        taken = training_seconds(seconds)
        found = {"peak_memory_mb": round(peak_memory() / 1e6, 1)}
        if taken > 0:
            found["items_per_second"] = round((samples - self.samples) / taken, 1)
        if (epoch := self.clock.read_epoch()) is not None:
            found["epoch_seconds"] = round(epoch, 3)
        self.samples = samples
        return found | {f"{SECONDS}{phase}": round(value, 6) for phase, value in seconds.items()}

    def _is_best(self, row: dict[str, Any]) -> bool:
        """Whether a row has the best monitored value up to now."""
        split, _, name = str(self.monitor).partition("/")
        value = row.get(name)
        return row["split"] == split and value is not None and self.state.is_better(value, self.settings.monitor_mode)

    def _show(self, row: dict[str, Any]) -> None:
        line = describe_row(row, self.num_steps, self._is_best(row))
        if self.bar is None or row["split"] != "train":
            logger.info(line)
        else:
            logger.debug(line)  # log.txt has every line; the terminal has the bar
            self.bar.show(row)

    def _numbers(self, values: dict[str, Any]) -> dict[str, float]:
        numbers = {}
        for name, value in values.items():
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError, RuntimeError):
                if name not in self.left_out:
                    logger.warning(f"{name} is not logged: {type(value).__name__} is not a number")
                self.left_out.add(name)
        return numbers

    def save(self, content: dict[str, Any], is_last: bool = False) -> None:
        """Write checkpoints/latest.pt.

        A disk that does not take it costs a warning, and what was there before stays; at the last step, or at
        MAX_FAILED_SAVES in a row, it is an error.
        """
        step = self.state.step
        try:
            self.facts.sync()  # a checkpoint is never ahead of the rows
            self.checkpoints.save(content, self.saved_step, self.settings.num_checkpoints)
            if self.settings.rehearse_resume:
                self._keep_for_rehearsal()
        except StorageError as error:
            self.save_error = error
            self.num_failed_saves += 1
            if is_last or self.num_failed_saves >= MAX_FAILED_SAVES:
                raise
            logger.warning(f"{error}; training goes on, a failed save is tried again when the next is due")
            return
        self.save_error, self.num_failed_saves, self.saved_step = None, 0, step
        self.facts.event("on_save", step=step)

    def _keep_for_rehearsal(self) -> None:
        """Keep the last checkpoint of the first half, and the first of the second half within a later epoch."""
        state, files = self.state, self.checkpoints
        if 2 * state.step < self.num_steps or state.step == 1:
            link_checkpoint(files.latest, files.halfway)
        elif state.step < self.num_steps and not files.later_epoch.exists() and (state.epoch, state.position) > (1, 0):
            link_checkpoint(files.latest, files.later_epoch)

    def keep_best(self) -> bool:
        """Make best.pt the checkpoint of this step; False: there is none, as it could not be saved."""
        if self.saved_step != self.state.step:
            return False
        try:
            self.checkpoints.keep_best()
        except StorageError as error:
            logger.warning(f"{error}; training goes on, and a later best is kept")
            return False
        self.facts.event("on_best", step=self.state.step)
        return True


def peak_memory() -> float:
    """Peak memory in bytes: of the GPU if one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    return float(system.peak_memory())
