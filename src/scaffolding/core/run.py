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
from omegaconf import DictConfig
from torch import Tensor
from torch import Tensor

from . import checkpoint, provenance
from .build import build
from .checkpoint import RunState
from .console import Console
from .errors import RunError
from .files import write_text
from .run_folder import Facts, claim, write_status
from .signals import StopFlag
from .tracking import Tracker


class Stopped(SystemExit):
    """A signal asked the run to stop; it did, at a step boundary, with a checkpoint."""


class Run:
    """The record of one run.

    Args:
        path: its folder, claimed before.
        tracker: follows the rows and figures.
        num_steps: the budget in optimizer steps.
        keep_halfway: whether to keep the last checkpoint before half of the budget, for the rehearsal.
    """

    def __init__(self, path: Path, tracker: Tracker, num_steps: int, keep_halfway: bool = False) -> None:
        self.path, self.tracker, self.num_steps = path, tracker, num_steps
        for name in ("facts", "checkpoints", "figures"):
            (path / name).mkdir(exist_ok=True)
        for aside in path.glob("**/.*.tmp"):  # what a kill during a write left
            aside.unlink()
        self.facts = Facts(path / "facts")
        self.stop = StopFlag()
        self.failed_figures: list[str] = []
        self.since = (time.perf_counter(), 0)  # time and samples at the last logged training row
        self.console: Console | None = None
        self.keep_halfway = keep_halfway
        self.closing: list[str] = []  # the last lines, fit to be pasted

    @property
    def latest(self) -> Path:
        return self.path / "checkpoints" / "latest.pt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.pt"

    @property
    def halfway(self) -> Path:
        return self.path / "checkpoints" / "halfway.pt"

    @staticmethod
    def create(output: Path, config: dict[str, Any], name: str | None) -> Path:
        """Claim a folder and write what the run is: the config and what the command line said."""
        path = claim(output, name, job_suffix())
        write_text(path / "overrides.yaml", yaml.safe_dump([provenance.masked(word) for word in overrides()]))
        write_config(path, config)  # last: a folder with a config is a run
        return path

    def describe(self, root: Path, **more: Any) -> None:
        """Write provenance.json and changes.patch (after the first step: packages take a while to list)."""
        write_text(self.path / "provenance.json", json.dumps(provenance.describe(root) | more, indent=2) + "\n")
        write_text(self.path / "changes.patch", provenance.uncommitted_changes(root))

    @contextlib.contextmanager
    def session(self, state: RunState, config: dict[str, Any]) -> Iterator[None]:
        """While training: log file, signals, tracker, status. Records how the block ended, whichever way."""
        event = "on_resume" if state.step or self.facts.rows() else "on_start"
        dropped = self.facts.cut_after(state.step)
        write_status(self.path, "running", step=state.step, num_steps=self.num_steps)
        self.facts.event(event, step=state.step, epoch=state.epoch, rows_cut=dropped)
        self.tracker.start(self.path, self.path.name, provenance.hide_secrets(config), self.path.name)
        self.since = (time.perf_counter(), state.samples)
        status, reason, code = "finished", None, 0
        with Console(self.path / "log.txt", self.num_steps, state.step) as self.console, self.stop:
            try:
                yield
            except Stopped as stopped:
                reason = self.stop.received.name if self.stop.received else ""
                status, code = "interrupted", stopped.code
                self.facts.event("on_exception", step=state.step, reason=reason)
                raise
            except BaseException as error:
                status, reason, code = "failed", f"{type(error).__name__}: {error}", 1
                self.facts.event("on_exception", step=state.step, reason=reason)
                logger.debug("".join(traceback.format_exception(error)))  # the log file has it always
                good = self.latest if self.latest.exists() else "none"
                logger.error(f"failed at step {state.step}: {reason.splitlines()[0]}; last good checkpoint: {good}")
                raise
            else:
                self.facts.event("on_train_end", step=state.step, epoch=state.epoch, best=state.best)
            finally:
                self.tracker.finish(code if isinstance(code, int) else 1)
                write_status(self.path, status, step=state.step, num_steps=self.num_steps, reason=reason)
        print("\n".join(self.closing), flush=True)

    def log(
        self, state: RunState, split: str, values: dict[str, Any], loss_watch: Tensor | None = None
    ) -> dict[str, float]:
        """Record one row: facts first, then console and tracker. Tensors are read here and nowhere else.

        Raises:
            RunError: a training loss since the last look was not finite.
        """
        if loss_watch is not None:
            self.check_finite(state, loss_watch)
        numbers = {name: float(value) for name, value in values.items()}
        row: dict[str, Any] = {"step": state.step, "epoch": state.epoch, "samples": state.samples, "split": split}
        row |= {**numbers, "time": round(time.time(), 3)}
        if split == "train":
            now = time.perf_counter()
            row["items_per_second"] = round((state.samples - self.since[1]) / (now - self.since[0]), 1)
            row["peak_memory_mb"] = round(peak_memory() / 1e6, 1)
            self.since = (now, state.samples)
        self.facts.add_row(row)
        self.tracker.log(row)
        if self.console is not None:
            self.console.row(row)
        return numbers

    def check_finite(self, state: RunState, loss_watch: Tensor) -> None:
        """Look at the sum of the losses since the last look, and begin it anew.

        Raises:
            RunError: names the step and the last good checkpoint.
        """
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
            pointer = self.path / "model.pt"
            if not pointer.exists():
                with contextlib.suppress(OSError):  # a file system without links still has best.pt
                    pointer.symlink_to(Path("checkpoints") / "best.pt")
        if self.keep_halfway and 2 * state.step < self.num_steps:
            checkpoint.link(self.latest, self.halfway)
        self.facts.event("on_save", step=state.step, best=best)

    def stop_if_asked(self, state: RunState) -> None:
        """Leave where a signal asked for it; the caller has saved.

        Raises:
            Stopped: exit code 128 + the signal's number.
        """
        if self.stop.received is not None:
            logger.info(f"{self.stop.received.name}: stopped after step {state.step}, saved")
            raise Stopped(128 + self.stop.received)

    def draw(self, name: str, plot: Any, experiment: Any, moment: str) -> None:
        """One figure to figures/<name>-<moment>-<step>.png. A plot that fails is logged, and fails the run at its end."""
        try:
            figure = plot(experiment)
        except Exception as error:
            self.failed_figures.append(f"{name}: {type(error).__name__}: {error}")
            logger.opt(exception=error).error(f"figure {name} failed; training goes on")
            return
        if isinstance(figure, str):
            logger.info(f"figure {name} skipped: {figure}")
            return
        step = experiment.state.step
        file = self.path / "figures" / f"{name}-{moment}-{step:06d}.png"
        figure.savefig(file, dpi=120)
        self.tracker.log_figure(name, file, step)

    def raise_failed_figures(self) -> None:
        """Raises RunError if a figure failed: not worth stopping a run for, but not to be overlooked either."""
        if self.failed_figures:
            raise RunError(f"{len(self.failed_figures)} figures failed: {'; '.join(sorted(set(self.failed_figures)))}")


def write_config(path: Path, config: dict[str, Any]) -> None:
    """Write config.yaml: the resolved config as plain YAML."""
    write_text(path / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


def make_tracker(spec: Any) -> Tracker:
    """The configured tracker, or the stand-in."""
    return build(spec, "tracker") if spec and "_target_" in spec else Tracker()


def overrides() -> list[str]:
    """The overrides of the running command, without the machinery's own."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def output_folder(cfg: DictConfig) -> Path:
    """Where this run's folder goes: paths.output, or the folder of the sweep that it is a job of."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return Path(HydraConfig.get().sweep.dir)
    return Path(cfg.paths.output)


def job_suffix() -> str:
    """`_job<N>` in a sweep, else nothing."""
    multirun = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    return f"_job{HydraConfig.get().job.num}" if multirun else ""


def peak_memory() -> float:
    """Peak memory in bytes: of the GPU if one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return float(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


