"""What the same run would take in prod mode: time, disk and memory."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .compose import Project, compose_config
from .run import peak_memory

PATIENCE = 2.0  # seconds that the timed steps may take


def prod_overrides(words: list[str]) -> list[str]:
    """The overrides of a run, for prod mode."""
    return [word for word in words if word.partition("=")[0] not in ("mode", "run.name")] + ["mode=prod"]


def estimate(
    project: Project, words: list[str], experiment: Callable[..., Any], train_step: Callable[..., Any], done: Any
) -> str:
    """One line: time, disk and memory of the run that `words` describes in prod mode.

    Times a few steps at that mode's batch size on the data at hand (a sample, where a dataset ships one); where they
    would take too long, scales the steps of the run just `done` by the number of items.
    """
    cfg = compose_config(project, [*prod_overrides(words), f"loader.sample={done.cfg.loader.sample}", "loader.num_workers=0"])
    exp = experiment(cfg)
    window = next(exp.train_loader.windows(exp.state, cfg.run.accumulate))
    items = sum(count for _, count in window)
    per_item = _seconds(train_step, done, next(done.train_loader.windows(done.state, 1)))
    seconds = per_item * items
    if seconds < PATIENCE / 4:
        seconds = _seconds(train_step, exp, window) * items
    num_train = cfg.data.get("num_train", None)
    at_hand = len(exp.datasets["train"])
    scale = num_train * (1 - (cfg.data.get("val_from_train") or 0)) / at_hand if num_train and cfg.loader.sample else 1
    if cfg.loader.limit_train is not None:
        scale = 1
    epochs = exp.num_steps / exp.steps_per_epoch
    steps = round(exp.num_steps * scale) if "epoch" in cfg.run.budget else exp.num_steps
    evaluation = len(exp.datasets["val"]) * scale * seconds / items / 3  # a forward pass is a third of a step
    total = steps * seconds + epochs * evaluation
    size = done.run.latest.stat().st_size
    return (
        f"{_duration(total)} ({steps:,} steps of {1000 * seconds:.3g} ms), "
        f"{_bytes(3 * size)} on disk, {_bytes(peak_memory())} of memory"
    )


def _seconds(train_step: Callable[..., Any], exp: Any, window: Any) -> float:
    """Seconds per item of a training step, after one to warm up."""
    exp.model.train()
    train_step(exp, window)
    times = []
    start = time.perf_counter()
    for _ in itertools.takewhile(lambda _: time.perf_counter() - start < PATIENCE / 4, range(20)):
        before = time.perf_counter()
        train_step(exp, window)["loss"].item()  # waits for the device
        times.append(time.perf_counter() - before)
    return sorted(times)[len(times) // 2] / sum(count for _, count in window)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


