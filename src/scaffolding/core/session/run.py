"""One run while it trains: its rows, checkpoints and log, the signals that ask it to stop, and how it ended."""

import contextlib
import functools
import json
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from loguru import logger

from ..errors import CONTROL, CodeError, RunError, UserError
from ..find import absolute, created, shortest_name
from ..folder import folder, summary
from ..folder.facts import Facts
from ..output import transcript
from ..provenance.policy import EPHEMERAL
from ..secrets import without_keys
from ..signals import StopFlag, Stopped
from ..state.files import CheckpointFiles
from ..state.progress import RunState
from ..tracking.follow import End
from ..trust.targets import needed_trust
from .cause import explain
from .console import ProgressBar, command, program
from .exits import no_early_exit
from .failure import cause_of
from .new import clear, create
from .record import Record, Start


class NoRun:
    """Stands in for the record of a run where there is none: in scripts and notebooks."""

    closing: tuple[str, ...] = ()

    def leave_if_asked(self) -> None:
        """There is nothing to leave."""

    def log(self, split: str, values: dict[str, Any], at: Any = None) -> dict[str, Any]:
        """Record nothing."""
        return values


class Run:
    """The record of one run in the folder `path`, claimed before.

    It copies from the experiment what it needs: state, budget, settings, config, trackers and the check for infinite
    values (`check_finite`).
    """

    @classmethod
    def begin(cls, exp: Any) -> "Run":
        """Claim a folder for a new run, or go on from another run as resume=, fork= or rerun= says.

        UserError: the experiment has a run already.
        """
        if exp.path is not None:
            raise UserError(f"this experiment is the run {exp.path}\nbuild another one with Experiment.from_config")
        if exp.cfg.resume or exp.cfg.fork or exp.cfg.rerun:
            from ..resume.resume import WAYS  # only where there is another run

            (way,) = [way for verb, way in WAYS.items() if exp.cfg[verb]]
            exp.path = way(exp, create)
        else:
            exp.path = create(exp, None)
        _ = exp.watch  # from here on: what is infinite now is meant to be
        exp.processes.check_start(exp)
        return cls(exp, exp.path)

    def __init__(self, exp: Any, path: Path) -> None:
        self.path, self.state, self.num_steps, self.settings = path, exp.state, exp.num_steps, exp.settings
        self.check_finite, self.check_weights = exp.check_finite, exp.check_weights
        self.trackers, self.config, self.monitor = exp.trackers, exp.config, exp.monitor
        self.clock, self.meter, self.explain = exp.clock, exp.meter, functools.partial(explain, exp)
        self.project, self.close_loaders, self.processes = exp.project, exp.close, exp.processes
        self.processes.first(clear, path)
        self.is_kept = self.settings.provenance != EPHEMERAL
        self.stop = StopFlag()
        if self.processes.count > 1:
            self.stop.agree = self.processes.agree
        state = self.state
        self.start = Start(state.step, list(state.looks), state.samples, time.perf_counter())
        self.closing: list[str] = []  # the last lines, fit to be pasted
        self.progress: Any = None

    @cached_property
    def trust(self) -> list[str]:
        """What `trust=` must list where the run is resumed or loaded."""
        return needed_trust(self.config, self.project)

    @cached_property
    def record(self) -> Record:
        """The rows and checkpoints of the run."""
        return Record(self, self.progress)

    @property
    def facts(self) -> Facts:
        """The files of facts/."""
        return self.record.facts

    def log(self, split: str, values: dict[str, Any], at: RunState | None = None) -> dict[str, float]:
        """Record one row and say it; `at` is where the run stood when its weights were saved, if they are older ones.

        Returns:
            The values as numbers.

        Raises:
            RunError: a training row, and a loss since the last one, a weight or an optimizer's state is not finite.
        """
        if split == "train":
            self.clock.enter("device")  # whose time ends here: what it still has to do is read
            values = self.meter.average(values)
            self.check_finite()
            values = self.processes.mean(values)
            self.clock.enter("log")
        numbers: dict[str, float] = self.processes.first(self._add, split, values, at)
        return numbers

    def _add(self, *row: Any) -> dict[str, float]:
        return self.record.add(*row)

    def save(self, content: dict[str, Any], is_last: bool = False) -> None:
        """Write checkpoints/latest.pt: the state after a step, before anything looks at it.

        Raises:
            RunError: a loss or a weight is not finite, or a value is of a type that could not be loaded again.
            StorageError: the disk does not take it, and the run cannot go on without.
        """
        self.clock.enter("device")
        self.check_finite()
        self.clock.enter("save")
        self.check_weights()
        self.processes.first(self._save, content, is_last)

    def _save(self, content: dict[str, Any], is_last: bool) -> None:
        self.record.save(content, is_last)

    def keep_best(self) -> bool:
        """Make best.pt the checkpoint of this step; False: there is none, as it could not be saved."""
        is_kept: bool = self.processes.first(lambda: self.record.keep_best())
        return is_kept

    def end_epoch(self) -> None:
        """Note down that the last step ended an epoch."""
        self.clock.end_epoch()
        if self.processes.rank == 0:
            self.facts.event("on_epoch_end", step=self.state.step, epoch=self.state.epoch_of_step)

    def is_first_step(self) -> bool:
        """Whether the last step was the first of this session."""
        return bool(self.state.step == self.start.step + 1)

    # --- beginning and end

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """While training: lock, log file, signals, status. Records how the block ended, whichever way."""
        if self.processes.rank > 0:
            with self.processes.following(self):
                yield
            return
        folder.acquire(self.path)
        folder.written.append(self.path)
        code, lines = 0, list[str]()
        with self.stop, self._log_file(), no_early_exit(self._write_status):
            self._write_status("running")  # only now: a signal before would end the process, and the run read as died
            (self.path / summary.FILE).unlink(missing_ok=True)
            self.clock.start(self.state.position == 0)
            try:
                yield
                self.processes.wait()  # what fails in another process, fails the run
                self.facts.sync()  # what waits for the disk is a part of the summary
                if self.record.save_error is not None:
                    raise self.record.save_error
                done = self._summarise("finished")
                came_out = {name: done[name] for name in ("best", "results", "seconds")}
                self.facts.event("on_train_end", step=self.state.step, **came_out)
                self.facts.sync()
                self._write_status("finished")
                self._write_summary(done)
                lines.append(summary.result_line(done))
            except Stopped as error:
                code = int(str(error.code))
                reason = signal.Signals(code - 128).name
                self._end("interrupted" if reason == "SIGINT" else "preempted", reason)
                raise
            except BaseException as error:
                code = 1
                told = "".join(traceback.format_exception(error))
                logger.debug(told)  # log.txt has it always
                cause = self.processes.cause(cause_of(error, self), self.path)
                latest = CheckpointFiles(self.path).latest
                good = latest if self.is_kept and latest.exists() else "none"
                kind = type(error if isinstance(cause, CodeError) else cause).__name__
                logger.error(f"failed at step {self.state.step}: {kind}; last good checkpoint: {good}")
                reason = str(cause) if isinstance(cause, CodeError) else f"{kind}: {cause}"
                self._end("failed", reason, traceback=without_keys(told), good=str(good))
                if cause is not error:
                    raise cause from error
                raise
            finally:
                self.close_loaders()
                if "record" in vars(self) and "tracking" in vars(self.record):  # they have been used
                    self.record.tracking.finish(End(code, self.state.step), self.stop)
                if self.is_kept:
                    from ..report.write import write_at_end  # a run needs it only here

                    lines += write_at_end(self)
                    lines += [f"run:      {self.path}", f"resume:   {self._resume_command()}"]
                print("\n".join([*lines, *self.closing]), flush=True)
                folder.release(self.path)

    def leave_if_asked(self) -> None:
        """Raise Stopped if a signal asked for it. The caller has saved, or a resumed run does again what is left."""
        received = self.stop.look()
        if received is not None:
            if self.processes.rank == 0:
                logger.info(f"{received.name}: stopped at step {self.state.step}, saved at {self.record.saved_step}")
            raise Stopped(128 + received)

    def _resume_command(self) -> str:
        """The command that carries the run on, to be pasted into a shell."""
        root = absolute(self.config["paths"]["output_root"], self.project.root)
        words = [f"resume={self.path.name}", f"paths.output={self.path.parent}"]
        for place, more in ((None, []), (root, [f"paths.output_root={root}"])):
            with contextlib.suppress(UserError, OSError):
                name = shortest_name(self.path, place or self.project.output_root)
                words = [f"resume={name}", *more]
                break
        start = command()
        if not program():  # a notebook, or a script that has another purpose
            start = f"python {shlex.quote(str(self.project.sources / 'train.py'))}"
        return f"{start} {shlex.join([*words, *self.trust_words])}"

    @property
    def trust_words(self) -> list[str]:
        """What a command line must say so that the config of the run is trusted; empty for most runs."""
        if not self.trust:
            return []
        return [f"trust={','.join(self.trust)}"]

    def _end(self, status: str, reason: str, **more: str) -> None:
        reason = without_keys(reason.translate(CONTROL))  # it may be the message of any library
        with contextlib.suppress(OSError, RunError):  # the record itself cannot be made where the disk is full
            self.facts.event("on_exception", step=self.state.step, reason=reason, **more)
        self._write_status(status, reason)
        with contextlib.suppress(UserError):  # rows that cannot be read; readers take the other files
            self._write_summary(self._summarise(status, reason))

    def _write_status(self, status: str, reason: str | None = None) -> None:
        state, file = self.state, self.path / "status.json"
        content = {"status": status, "reason": reason, "step": state.step, "num_steps": self.num_steps}
        content |= {"best": state.best, "best_step": state.best_step}
        content |= {"time": time.time(), "pid": os.getpid(), "host": socket.gethostname()}
        try:
            folder.write_text(file, json.dumps(content, indent=2) + "\n")
        except OSError as error:
            logger.warning(folder.storage_error(file, error))

    def _summarise(self, status: str, reason: str | None = None) -> dict[str, Any]:
        """What summary.json is to hold."""
        state = self.state
        content = {"status": status, "reason": reason, "step": state.step, "num_steps": self.num_steps}
        content |= {"best": state.best, "best_step": state.best_step}
        content |= {"monitor": self.monitor, "monitor_mode": self.settings.monitor_mode}
        content |= {"description": self.settings.description, "tags": self.settings.tags}
        content |= {"started": created(self.path), "ended": time.time(), "seconds": self.clock.read()}
        return summary.summarise(self.path, content, self.config)

    def _write_summary(self, content: dict[str, Any]) -> None:
        try:
            summary.write_summary(self.path, content)
        except OSError as error:
            logger.warning(folder.storage_error(self.path / summary.FILE, error))

    @contextlib.contextmanager
    def _log_file(self) -> Iterator[None]:
        """Everything that is logged or printed goes to log.txt as well; a terminal gets a progress bar."""
        with contextlib.ExitStack() as stack:
            if sys.stderr.isatty():
                self.progress = stack.enter_context(ProgressBar(self.state, self.num_steps, self.clock))
            stack.enter_context(transcript.to_file(self.path / "log.txt"))
            yield
