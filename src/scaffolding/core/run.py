"""One run while it trains: its folder, log, facts, tracker and checkpoints, and how it ended."""

import contextlib
import json
import math
import resource
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
from torch import Tensor

from . import checkpoint, provenance
from .checkpoint import RunState
from .console import Console, command
from .errors import RunError
from .files import write_text
from .run_folder import Facts, claim, write_status
from .signals import StopFlag
from .tracking import Tracking


class Stopped(SystemExit):
    """A signal asked the run to stop; it did, at a step boundary, with a checkpoint."""


class Run:
    """The record of one run in the folder `path`, claimed before; `tracker` (or None) follows its rows and figures.

    `num_steps` is the budget; `keep_halfway` keeps the last checkpoint before half of it, for the rehearsal.
    """

    def __init__(self, path: Path, tracker: Any, num_steps: int, keep_halfway: bool = False) -> None:
        self.path, self.num_steps, self.keep_halfway = path, num_steps, keep_halfway
        for name in ("facts", "checkpoints", "figures"):
            (path / name).mkdir(exist_ok=True)
        for aside in path.glob("*/.*.tmp"):  # what a kill during a write left
            aside.unlink()
        self.latest, self.best, self.halfway = (path / f"checkpoints/{n}.pt" for n in ("latest", "best", "halfway"))
        self.facts, self.tracking, self.stop = Facts(path / "facts"), Tracking(tracker), StopFlag()
        self.console: Console | None = None
        self.closing: list[str] = []  # the last lines, fit to be pasted
        self.left_out: set[str] = set()  # names of logged values that are no numbers
        self.since = (time.perf_counter(), 0)  # time and samples at the last logged training row

    @staticmethod
    def create(output: Path, config: dict[str, Any], name: str | None) -> Path:
        """Claim a folder and write what the run is: the config and what the command line said."""
        sweep = HydraConfig.get() if HydraConfig.initialized() else None
        if sweep is not None and sweep.mode == RunMode.MULTIRUN:
            path = claim(Path(sweep.sweep.dir), name, f"_job{sweep.job.num}")
        else:
            path = claim(output, name)
        write_text(path / "overrides.yaml", yaml.safe_dump([provenance.masked(word) for word in overrides()]))
        write_config(path, config)  # last: a folder with a config is a run
        return path

    def describe(self, root: Path, parent: str | None) -> None:
        """Write provenance.json and changes.patch (after the first step: packages take a while to list)."""
        content = provenance.describe(root) | {"parent": parent}
        write_text(self.path / "provenance.json", json.dumps(content, indent=2) + "\n")
        write_text(self.path / "changes.patch", provenance.uncommitted_changes(root))

    @contextlib.contextmanager
    def session(self, state: RunState, config: dict[str, Any]) -> Iterator[None]:
        """While training: log file, signals, tracker, status. Records how the block ended, whichever way."""
        event = "on_resume" if state.step or self.facts.rows() else "on_start"
        cut = self.facts.cut_after(state.step)
        self.facts.event(event, step=state.step, epoch=state.epoch, rows_cut=cut)
        self._status("running", state)
        self.tracking.start(self.path, provenance.hide_secrets(config))
        self.since = (time.perf_counter(), state.samples)
        code = 0
        with Console(self.path / "log.txt", self.num_steps, state.step) as self.console, self.stop:
            try:
                yield
                self.facts.event("on_train_end", step=state.step, epoch=state.epoch, best=state.best)
                self._status("finished", state)
            except BaseException as error:
                stopped = isinstance(error, Stopped)
                code = 128 + (self.stop.received or 0) if stopped else 1
                reason = getattr(self.stop.received, "name", "") if stopped else f"{type(error).__name__}: {error}"
                self.facts.event("on_exception", step=state.step, reason=reason)
                self._status("interrupted" if stopped else "failed", state, reason)
                if not stopped:
                    good = self.latest if self.latest.exists() else "none"
                    logger.error(f"failed at step {state.step}: {type(error).__name__}; last good checkpoint: {good}")
                    logger.debug("".join(traceback.format_exception(error)))  # log.txt has it always
                raise
            finally:
                self.tracking.finish(code)
                self.closing[:0] = [f"run:      {self.path}", f"resume:   {command()} resume={self.path.name}"]
                logger.debug("\n".join(["", *self.closing]))
                print("\n".join(self.closing), flush=True)

    def _status(self, status: str, state: RunState, reason: str | None = None) -> None:
        values = {"step": state.step, "num_steps": self.num_steps, "best": state.best, "best_step": state.best_step}
        write_status(self.path, status, reason=reason, **values)

    def log(
        self, state: RunState, split: str, values: dict[str, Any], loss_watch: Tensor | None = None
    ) -> dict[str, float]:
        """Record one row: facts first, then console and tracker. Tensors are read here; RunError as in check_finite."""
        if loss_watch is not None:
            self.check_finite(state, loss_watch)
        numbers: dict[str, float] = {}
        for name, value in values.items():
            with contextlib.suppress(TypeError, ValueError):  # None, a list: left out, and named once
                numbers[name] = float(value.squeeze().tolist() if isinstance(value, Tensor) else value)  # type: ignore
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
        self.facts.add_row(row)
        self.tracking.log(row)
        if self.console is not None:
            self.console.row(row)
        return numbers

    def check_finite(self, state: RunState, loss_watch: Tensor) -> None:
        """Look at the sum of the losses since the last look, and begin it anew; RunError if it is not finite."""
        if not math.isfinite(float(loss_watch)):
            raise RunError(
                f"the training loss was not finite at or before step {state.step}; nothing was saved since"
                f"\nlast good checkpoint: {self.latest if self.latest.exists() else 'none yet'}"
                "\ntry a lower optimizer.lr, run.clip_grad_norm, or run.precision=float32"
            )
        loss_watch.zero_()

    def save(self, state: RunState, content: dict[str, Any], best: bool, loss_watch: Tensor) -> None:
        """Write checkpoints/latest.pt once; best.pt and halfway.pt are links to it.

        Raises:
            RunError: a loss or a weight is not finite, or the disk does not take it; what was there before stays.
        """
        self.check_finite(state, loss_watch)
        if broken := checkpoint.first_nonfinite(content["model"]):
            raise RunError(f"{broken} is not finite at step {state.step}; nothing was saved\nlast good: {self.latest}")
        checkpoint.save(self.latest, content)
        if best:
            checkpoint.link(self.latest, self.best)
            with contextlib.suppress(OSError):  # it exists, or the file system has no links: best.pt is there anyway
                (self.path / "model.pt").symlink_to(Path("checkpoints", "best.pt"))
        if self.keep_halfway and (2 * state.step < self.num_steps or state.step == 1):
            checkpoint.link(self.latest, self.halfway)
        self.facts.event("on_save", step=state.step, best=best)

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
