"""What follows a dev run: the proof that it resumes bit by bit, and what the same run would take in prod mode."""

import math
import shlex
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from omegaconf import DictConfig
from torch import Tensor

from .core.batches.loader import Window
from .core.config.compose import compose_config, portable
from .core.errors import RunError
from .core.folder.provenance import masked
from .core.folder.run_folder import TIMINGS, Facts
from .core.session.console import command
from .core.session.run import Run, config_dirs, overrides, peak_memory, write_config
from .core.state import checkpoint
from .core.state.checkpoint import leaves
from .experiment import PROJECT, Experiment
from .intervals import in_steps
from .verbs import restore

PATIENCE = 10.0  # seconds a step may be expected to take for one or more to be timed

Train = Callable[[Experiment], None]
TrainStep = Callable[[Experiment, Window], dict[str, Tensor]]


def rehearse(exp: Experiment, train: Train, train_step: TrainStep) -> list[str]:
    """Prove that a run which has just reached its last step resumes bit by bit, and look ahead to the real thing.

    Returns:
        The last lines of the run: what was compared, what prod mode would take, and its command.

    Raises:
        RunError: names the first state that differs.
    """
    proof = "none: no checkpoint is left from the first half of the run"
    if exp.run.halfway.exists():  # else the run was resumed after it
        proof = f"{continue_halfway(exp.cfg, exp.run, train)} tensors identical"
    lines = [f"resume rehearsal: {proof}"]
    if not exp.cfg.resume:  # its command line says little
        lines.append(f"in prod mode: {estimate(train_step, exp)}")
        lines.append(f"next:     {command()} {shlex.join(prod_command())}")
    return lines


def continue_halfway(cfg: DictConfig, run: Run, train: Train) -> int:
    """Carry a run on from its half-way checkpoint, in a folder of its own, and compare the end with the run's own.

    Args:
        cfg: config of the run.
        run: it has just reached its last step.
        train: the loop.

    Returns:
        The number of tensors that were compared and are identical.

    Raises:
        RunError: names the first state that differs.
    """
    logger.info("rehearsing the resume, from the half-way checkpoint in a folder of its own")
    with tempfile.TemporaryDirectory(prefix=".rehearsal_", dir=run.path) as folder:
        again = Run(Path(folder), {}, run.num_steps)
        again.stop = run.stop  # a Ctrl-C counts here too
        write_config(again.path, portable(cfg, PROJECT))
        shutil.copyfile(run.facts.scalars_file, again.facts.scalars_file)
        checkpoint.link(run.halfway, again.latest)
        step = checkpoint.load(again.latest)["state"]["step"]
        from .core.folder.cut import cut_after

        cut_after(again.facts, step)
        exp = Experiment(cfg)  # as `resume=` does it in a new process
        exp.prepare()
        exp.plots.clear()
        exp.path, exp.run = again.path, again
        restore(exp, {})
        train(exp)
        for loader in exp.loaders.values():
            loader.close()
        expected, found = checkpoint.load(run.latest), checkpoint.load(again.latest)
        difference = first_difference(expected, found)
        if difference is None and first_difference(logged_values(run.facts), logged_values(again.facts)) is not None:
            difference = "a logged value (facts/scalars.csv)"
        if difference is not None:
            raise RunError(
                f"resume rehearsal: continued from step {step}, {difference} differs from the run that went through"
                "\nsomething keeps state that is not in the checkpoint, or draws random numbers of its own"
            )
        return sum(isinstance(value, Tensor) for _, value in leaves(expected))


def logged_values(facts: Facts) -> list[dict[str, Any]]:
    """The logged rows without what measures the machine; the rehearsal ends before the final test."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in facts.rows() if row["split"] != "test"]


def first_difference(left: Any, right: Any) -> str | None:
    """The name of the first value in which two nested states differ, bit for bit; None where they are equal."""
    ours, theirs = dict(leaves(left)), dict(leaves(right))
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs or _bits(ours[name]) != _bits(theirs[name]):
            return name
    return None


def _bits(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return repr(value)  # NaN equals itself here
    flat = value.detach().cpu().contiguous().flatten()
    return value.dtype, value.shape, flat.view(torch.uint8).numpy().tobytes()


def prod_command() -> list[str]:
    """The words of the running command in prod mode, secrets hidden."""
    return [*(word for folder in config_dirs() for word in ("--config-dir", folder)), *map(masked, prod_overrides())]


def prod_overrides() -> list[str]:
    """The running command's overrides for prod mode."""
    return [word for word in overrides() if word.partition("=")[0] not in ("mode", "run.name")] + ["mode=prod"]


def estimate(train_step: TrainStep, done: Experiment) -> str:
    """Time, disk and memory of the running command in prod mode.

    Times a few steps at that mode's batch size on the data at hand (a sample, where a dataset ships one); where they
    would take too long, scales the steps of the run just `done` by the number of items.
    """
    sample = f"loader.sample={done.cfg.loader.sample}"
    folders = ",".join(f"'file://{folder}'" for folder in config_dirs())
    words = [*prod_overrides(), sample, "loader.num_workers=0", f"hydra.searchpath=[{folders}]"]
    cfg = compose_config(PROJECT, words)
    exp = Experiment(cfg)
    window = next(exp.train_loader.windows(exp.state, exp.accumulate))
    items = sum(count for _, count in window)
    speeds = [row["items_per_second"] for row in done.history() if row["split"] == "train"]
    seconds = items / max(speeds)  # at its best: the others include saving and drawing
    if seconds < PATIENCE:
        seconds = _seconds_per_step(train_step, exp, window)
    num_train, num_val = len(exp.datasets["train"]), len(exp.datasets["val"])
    if cfg.data.get("num_train") and cfg.loader.limit_train is None:  # the full set may be larger than what is here
        scale = cfg.data.num_train * (1 - (cfg.data.get("val_from_train") or 0)) / num_train
        num_train, num_val = round(num_train * scale), round(num_val * scale)
    steps_per_epoch = math.ceil(num_train / items)
    num_steps = in_steps(cfg.run.budget, steps_per_epoch)
    evaluation = num_val * seconds / items / 3  # a forward pass is a third of a step
    duration = _duration(num_steps * seconds + num_steps / steps_per_epoch * evaluation)
    count = 2 + done.cfg.run.num_checkpoints  # best, and one being written
    disk = count * done.run.latest.stat().st_size
    return (
        f"about {duration} ({num_steps:,} steps of {1000 * seconds:.3g} ms), "
        f"{_size(disk)} on disk, {_size(peak_memory())} of memory"
    )


def _seconds_per_step(train_step: TrainStep, exp: Experiment, window: Window) -> float:
    """Median seconds of a training step, after one to warm up."""
    exp.model.train()
    train_step(exp, window)
    times: list[float] = []
    while sum(times) < 0.5 and len(times) < 20:
        start = time.perf_counter()
        float(next(iter(train_step(exp, window).values())))  # reading a value waits for the device
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if size > 1 else f"{seconds:.0f} s"
    return "a second"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, count / 1e6):.0f} MB"
