"""What the running command would take in prod mode: time, disk and memory."""

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from ..clock import duration
from ..config.compose import compose_config, own_words
from ..folder.facts import Facts
from ..intervals import in_steps, num_kept
from ..output import silence
from ..session.record import peak_memory
from ..state import checkpoint, keys
from ..state.files import CheckpointFiles

NUM_TIMED, MAX_SECONDS = 6, 10.0  # steps that are timed in prod mode, and what they may be expected to take together
READING_SECONDS = 0.5  # for which samples are read one by one

Main = Callable[[Any], Any]


def estimate(exp: Any, main: Main, folders: list[Path]) -> str:
    """Time, disk and memory of the running command in prod mode; in words, where that mode fails.

    Takes a few steps at its batch size on the data at hand (a sample, where a dataset ships one) and reads the rows
    that they log; where these would take too long, scales those of dev mode by the number of items.

    Args:
        exp: the run in dev mode that is done.
        main: trains, given a config.
        folders: of the run and of its rehearsals, whose rows say how fast dev mode is.
    """
    try:
        return _estimate(exp, main, folders)
    except Exception as error:  # this run is done and good, whatever prod mode comes to
        return f"a few steps of it failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"


def _estimate(exp: Any, main: Main, folders: list[Path]) -> str:
    cfg = _prod_config(exp)
    items, num_workers = cfg.loader.batch_size * cfg.run.accumulate, min(cfg.loader.num_workers, os.cpu_count() or 1)
    speeds = [speed for folder in folders for speed in _speeds(folder)]
    reading, step = items * _reading(exp), 0.0
    if speeds:
        step = items / max(speeds)  # at its best: the others include saving, drawing, and a tracker's start elsewhere
    is_stream = "train" not in exp.datasets
    num_train = exp.train_loader.num_items
    if NUM_TIMED * max(step, reading) < MAX_SECONDS:
        speeds, num_read = _timed(exp, cfg, main)  # without workers: a sample is read when it is needed
        step = items / statistics.median(speeds[1:])
        num_train = num_read or num_train
    if is_stream:
        num_train = num_kept(num_train, cfg.loader.limit_train)
    computing = max(step - reading, 0.0)
    known = cfg.data.get("num_train")
    fraction = cfg.data.get("val_from_train") or 0
    if known and cfg.loader.limit_train is None:  # the full set may be larger than what is here
        num_train = round(known * (1 - fraction))
    num_val = _num_val(exp, cfg, num_train, fraction)
    steps_per_epoch = math.ceil(num_train / items)
    num_steps = in_steps(cfg.run.budget, steps_per_epoch)
    step = _together(computing, reading, num_workers)
    evaluation = num_val / items * _together(computing / 3, reading, num_workers)  # forward is a third of a step
    time_taken = duration(num_steps * step + num_steps / steps_per_epoch * evaluation)
    disk = (
        2 + exp.settings.num_checkpoints
    ) * exp.run.record.checkpoints.latest.stat().st_size  # best, and one being written
    return (
        f"about {time_taken} ({num_steps:,} steps of {float(f'{1000 * step:.3g}'):,g} ms), "
        f"{_size(disk)} on disk, {_size(peak_memory())} of memory"
    )


def _together(computing: float, reading: float, num_workers: int) -> float:
    """Seconds of a step of which reading takes so long in one process: workers read while it is computed."""
    if num_workers == 0:
        return computing + reading
    return max(computing, reading / num_workers)


def _reading(exp: Any) -> float:
    """Seconds that reading a sample takes in one process; 0 for datasets that are read a batch at a time."""
    dataset = exp.datasets.get("train")
    if dataset is None or hasattr(dataset, "get_batch"):  # a stream is read by the steps alone
        return 0.0
    begin, count = time.perf_counter(), 0
    with keys.keyed(exp.settings.seed, "estimate"):
        while count < len(dataset) and time.perf_counter() - begin < READING_SECONDS:
            _ = dataset[count]
            count += 1
    return (time.perf_counter() - begin) / count


def _num_val(exp: Any, cfg: Any, num_train: int, fraction: float) -> int:
    """Items of the validation split in prod mode."""
    if "val" not in exp.datasets:
        return 0
    count = round(num_train * fraction / (1 - fraction))
    if not fraction:
        count = len(exp.datasets["val"].dataset)
    return num_kept(count, cfg.loader.limit_eval)


def _timed(exp: Any, cfg: Any, main: Main) -> tuple[list[float], int]:
    """Items per second at each of a few steps in prod mode, and the number of training items; 0: it is a stream."""
    with tempfile.TemporaryDirectory(prefix=".estimate_", dir=exp.path) as folder:
        short = cfg.copy()
        with open_dict(short):
            short.tracker, short.plots, short.rollout = {}, {}, None
            short.run.monitor = short.run.patience = None  # it may be a rollout's value
            short.paths.output = folder
            short.loader.num_workers = 0
            short.loader.limit_eval = cfg.loader.batch_size  # main tests in the end: a batch will do
            short.run.name, short.run.compile, short.run.num_checkpoints = "run", False, 1
            short.run.rehearse_resume = False  # a rehearsal within the rehearsal would never end
            short.run.budget, short.run.log_every = f"{NUM_TIMED}steps", "1"
            short.run.eval_every = short.run.budget  # a schedule may want an evaluation
            for name in ("plot_every", "rollout_every", "save_every"):
                short.run[name] = None
        with silence():
            main(short)
        run = Path(folder) / "run"
        record = checkpoint.load(CheckpointFiles(run).latest)
        return _speeds(run), record["splits"].get("train", [0])[0]


def _speeds(run: Path) -> list[float]:
    """Items per second in each row of training."""
    return [row["items_per_second"] for row in Facts(run / "facts").rows() if row["split"] == "train"]


def _prod_config(exp: Any) -> Any:
    folders = ",".join(f"'file://{folder}'" for folder in config_dirs())
    more = [f"loader.sample={exp.cfg.loader.sample}", f"hydra.searchpath=[{folders}]"]
    return compose_config(exp.project, [*prod_words(masked=False), *more])


def prod_words(masked: bool = True) -> list[str]:
    """The running command's overrides for prod mode."""
    words = list(HydraConfig.get().overrides.task)
    if masked:
        words = own_words()
    return [word for word in words if word.partition("=")[0] not in ("mode", "run.name")] + ["mode=prod"]


def config_dirs() -> list[str]:
    """The user's own config folders (--config-dir)."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


def _size(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{max(1, count / 1e6):.0f} MB"
