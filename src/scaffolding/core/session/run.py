"""One run while it trains: its folder, log, facts, tracker and checkpoints, and how it ended."""

import contextlib
import json
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from loguru import logger

from ..errors import RunError, StorageError
from ..folder import lock, provenance
from ..folder.files import storage_error, write_text
from ..folder.run_folder import Facts, claim, write_status
from ..state import checkpoint
from ..state.checkpoint import RunState
from ..state.finite import FiniteWatch, first_nonfinite
from .console import Console, command
from .signals import Interrupted, StopFlag
from .tracking import Tracking

MAX_FAILED_SAVES = 10  # in a row: by then it is not a passing trouble


class Stopped(SystemExit):
    """A signal asked the run to stop; it did, at a step boundary, with a checkpoint."""


class Run:
    """The record of one run in the folder `path`, claimed before; `trackers` follow its rows and figures.

    `num_steps` is the budget; `keep_halfway` keeps the last checkpoint before half of it, for the rehearsal;
    `num_checkpoints` newest ones are kept beside the best.
    """

    def __init__(
        self, path: Path, trackers: dict[str, Any], num_steps: int, num_checkpoints: int = 1, keep_halfway: bool = False
    ) -> None:
        self.path, self.num_steps = path, num_steps
        self.keep_halfway, self.num_checkpoints = keep_halfway, num_checkpoints
        for name in ("facts", "checkpoints", "figures"):
            (path / name).mkdir(exist_ok=True)
        for aside in (*path.glob(".*.tmp"), *path.glob("*/.*.tmp")):  # what a kill during a write left
            aside.unlink()
        self.latest, self.best, self.halfway = (path / f"checkpoints/{n}.pt" for n in ("latest", "best", "halfway"))
        self.facts, self.tracking, self.stop = Facts(path / "facts"), Tracking(trackers), StopFlag()
        self.console: Console | None = None
        self.closing: list[str] = []  # the last lines, fit to be pasted
        self.left_out: set[str] = set()  # names of logged values that are no numbers
        self.since = (time.perf_counter(), 0)  # time and samples at the last logged training row
        self.saved_step: int | None = None  # of latest.pt
        self.saved_best: tuple[float | None, int | None] = (None, None)  # value and step that best.pt has
        self.num_failed_saves = 0

    @staticmethod
    def create(output: Path, config: dict[str, Any], name: str | None, parent: dict[str, Any] | None) -> Path:
        """Claim a folder, lock it, write what the run is: the config, what the command line said, its `parent`."""
        sweep = HydraConfig.get() if HydraConfig.initialized() else None
        if sweep is not None and sweep.mode == RunMode.MULTIRUN:
            path = claim(Path(sweep.sweep.dir), name, f"_job{sweep.job.num}")
        else:
            path = claim(output, name)
        lock.acquire(path)
        write_text(path / "provenance.json", json.dumps({"parent": parent}) + "\n")
        write_text(path / "overrides.yaml", yaml.safe_dump([provenance.masked(word) for word in overrides()]))
        write_config(path, config)  # last: a folder with a config is a run
        return path

    def describe(self, root: Path, sources: Path, device: torch.device, state: RunState) -> None:
        """Write provenance.json and changes.patch (after the first step: packages take a while to list).

        Those of a resumed run are added under "resumed" and as changes_<step>.patch; a rehearsal has none.
        """
        file = self.path / "provenance.json"
        if not file.exists():
            return
        before, now = json.loads(file.read_text()), provenance.describe(root, sources, device)
        is_first = "commit" not in before
        if not is_first:
            del now["packages"]
            now = {"resumed": [*before.get("resumed", ()), {"step": state.step, **now}]}
        try:
            write_text(file, json.dumps(before | now, indent=2) + "\n")
            patch = "changes.patch" if is_first else f"changes_{state.step}.patch"
            write_text(self.path / patch, provenance.uncommitted_changes(root))
        except OSError as error:
            logger.warning(f"{storage_error(file, error)}; training goes on")

    @contextlib.contextmanager
    def session(self, state: RunState, config: dict[str, Any]) -> Iterator[None]:
        """While training: log file, signals, tracker, status. Records how the block ended, whichever way."""
        lock.acquire(self.path)
        lock.announce(self.path)
        self.saved_step = state.step if self.latest.exists() else None
        self.saved_best = (state.best, state.best_step)
        if self.facts.events_file.exists():
            from ..folder.cut import cut_after  # imported only here

            cut = cut_after(self.facts, state.step)
            self.facts.event("on_resume", step=state.step, epoch=state.epoch, rows_cut=cut)
        else:
            self.facts.event("on_start", step=state.step, epoch=state.epoch)
        self._status("running", state)
        self.tracking.start(self.path, provenance.hide_secrets(config))
        self.since = (time.perf_counter(), state.samples)
        code = 0
        with Console(self.path / "log.txt", self.num_steps, state.step) as self.console, self.stop:
            try:
                yield
                self.facts.event("on_train_end", step=state.step, epoch=state.epoch, best=state.best)
                self.facts.sync()
                self._status("finished", state)
            except (Stopped, Interrupted) as error:
                assert self.stop.received is not None
                code = 128 + self.stop.received
                self._end("interrupted" if self.stop.received == signal.SIGINT else "preempted", state, error)
                raise Stopped(code) from None
            except BaseException as error:
                code = 1
                failure = self._end("failed", state, error)
                if failure is not error:
                    raise failure from error
                raise
            finally:
                self.tracking.finish(code)
                self.closing[:0] = [f"run:      {self.path}", f"resume:   {command()} resume={self.path.name}"]
                logger.debug("\n".join(["", *self.closing]))
                print("\n".join(self.closing), flush=True)
                lock.release(self.path)

    def _end(self, status: str, state: RunState, error: BaseException) -> BaseException:
        """Record a run that did not finish; what is to be raised for `error`."""
        if status == "failed":
            logger.debug("".join(traceback.format_exception(error)))  # log.txt has it always
            if "DataLoader" in str(error):
                from ..batches.faults import worker_fault  # imported only here

                error = worker_fault(error) or error
            good = self.latest if self.latest.exists() else "none"
            logger.error(f"failed at step {state.step}: {type(error).__name__}; last good checkpoint: {good}")
        reason = f"{type(error).__name__}: {error}" if status == "failed" else getattr(self.stop.received, "name", "")
        self.facts.event("on_exception", step=state.step, reason=reason)
        self._status(status, state, reason)
        return error

    def _status(self, status: str, state: RunState, reason: str | None = None) -> None:
        values = {"step": state.step, "num_steps": self.num_steps, "best": state.best, "best_step": state.best_step}
        try:
            write_status(self.path, status, reason=reason, **values)
        except OSError as error:
            logger.warning(storage_error(self.path / "status.json", error))

    def log(
        self, state: RunState, split: str, values: dict[str, Any], watch: FiniteWatch | None = None
    ) -> dict[str, float]:
        """Record one row: facts first, then console and tracker. Tensors are read here; RunError as in check_finite."""
        if watch is not None:
            self.check_finite(state, watch)
        numbers: dict[str, float] = {}
        for name, value in values.items():
            with contextlib.suppress(TypeError, ValueError, RuntimeError):  # None, a list: left out, and named once
                numbers[name] = float(value)
        for name in values.keys() - numbers.keys() - self.left_out:
            logger.warning(f"{name} is left out of the log: {type(values[name]).__name__} is no number")
            self.left_out.add(name)
        row: dict[str, Any] = {"step": state.step, "epoch": state.epoch, "samples": state.samples, "split": split}
        row |= {**numbers, "time": round(time.time(), 3)}
        if split == "train":
            now = time.perf_counter()
            row["items_per_second"] = round((state.samples - self.since[1]) / (now - self.since[0]), 1)
            row["peak_memory_mb"] = round(peak_memory() / 1e6, 1)
            self.since = (now, state.samples)
        had_error = self.facts.error is not None
        self.facts.add_row(row)
        if self.facts.error is not None and not had_error:
            logger.warning(f"{self.facts.error}; rows wait in memory, training goes on")
        self.tracking.log(row)
        if self.console is not None:
            self.console.row(row)
        return numbers

    def check_finite(self, state: RunState, watch: FiniteWatch, optimizers: Any = None) -> None:
        """RunError if a loss since the last look, a weight, or a value of the optimizers' states is not finite."""
        if (fault := watch.fault() or first_nonfinite(optimizers)) is not None:
            raise RunError(
                f"{fault} was not finite at or before step {state.step}; nothing was saved since"
                f"\nlast good checkpoint: {self.latest if self.latest.exists() else 'none yet'}"
                f"\npython scripts/replay.py {self.path.name} stops before the update that did it; a lower "
                "optimizer.lr, run.clip_grad_norm or run.precision=float32 may avoid it"
            )

    def save(self, state: RunState, content: dict[str, Any], best: bool, watch: FiniteWatch) -> None:
        """Write checkpoints/latest.pt once; best.pt, and step_<N>.pt later on, are links to it.

        A disk that does not take it costs a warning, and what was there before stays; in the end, or at
        MAX_FAILED_SAVES in a row, it is an error.

        Raises:
            RunError: a loss or a weight is not finite, or a value is of a type that could not be loaded again.
            StorageError: the disk does not take it, and the run cannot go on without.
        """
        self.check_finite(state, watch, content["optimizers"])
        checkpoint.check_plain(content)
        try:
            self.facts.sync()  # a checkpoint is never ahead of the rows
            self._write(state, content, best)
        except StorageError as error:
            self.num_failed_saves += 1
            is_last = state.step >= self.num_steps or state.stopped or self.stop.received is not None
            if is_last or self.num_failed_saves >= MAX_FAILED_SAVES:
                raise
            logger.warning(f"{error}; training goes on, a failed save is tried again when the next is due")
            state.best, state.best_step = self.saved_best  # this best is not kept: a later one must count
            return
        self.num_failed_saves, self.saved_step, self.saved_best = 0, state.step, (state.best, state.best_step)
        self.facts.event("on_save", step=state.step, best=best)

    def _write(self, state: RunState, content: dict[str, Any], best: bool) -> None:
        folder, before = self.latest.parent, self.saved_step
        if self.num_checkpoints > 1 and before not in (None, state.step) and self.latest.exists():
            checkpoint.link(self.latest, folder / f"step_{before}.pt")
        checkpoint.save(self.latest, content)
        if best:
            checkpoint.link(self.latest, self.best)
            with contextlib.suppress(OSError):  # it exists, or the file system has no links: best.pt is there anyway
                (self.path / "model.pt").symlink_to(Path("checkpoints", "best.pt"))
        if self.keep_halfway and (2 * state.step < self.num_steps or state.step == 1):
            checkpoint.link(self.latest, self.halfway)
        for old in checkpoint.step_files(folder)[: 1 - self.num_checkpoints or None]:
            checkpoint.remove(old)

    def stop_if_asked(self, state: RunState) -> None:
        """Leave with Stopped, exit code 128 + its number, where a signal asked for it; the caller has saved."""
        if self.stop.received is not None:
            logger.info(f"{self.stop.received.name}: stopped after step {state.step}, saved")
            raise Stopped(128 + self.stop.received)


def overrides() -> list[str]:
    """The overrides of the running command, without the machinery's own."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def config_dirs() -> list[str]:
    """The user's own config folders (--config-dir)."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [source.path for source in sources if source.provider == "command-line"]


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write config.yaml: the resolved config as plain YAML, secrets hidden."""
    text = yaml.safe_dump(provenance.hide_secrets(config), sort_keys=False, allow_unicode=True)
    write_text(path / "config.yaml", text)


def peak_memory() -> float:
    """Peak memory in bytes: of the GPU if one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1.0 if sys.platform == "darwin" else 1024.0)
