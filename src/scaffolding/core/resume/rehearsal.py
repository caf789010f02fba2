"""The proof that a run resumes bit by bit, and what the same command would take in prod mode.

Both run the owner's own `main`, which takes a config and nothing else, in a temporary folder inside the run's.
"""

import contextlib
import io
import math
import shlex
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import open_dict
from torch import Tensor

from ..config.compose import compose_config, own_words, portable
from ..errors import RunError
from ..folder.facts import Facts
from ..intervals import in_steps
from ..output import transcript
from ..session.console import command
from ..session.record import peak_memory
from ..state import checkpoint
from ..state.files import CheckpointFiles
from ..tree import leaves

NUM_TIMED, MAX_SECONDS = 6, 10.0  # steps that are timed in prod mode; what one of them may be expected to take

Main = Callable[[Any], Any]


def rehearse(exp: Any, main: Main) -> list[str]:
    """Prove that a run which has just reached its last step resumes bit by bit, and look ahead to the real thing.

    Returns:
        The last lines of the run: what was compared, what prod mode would take, and its command.

    Raises:
        RunError: names the first state that differs.
    """
    proof = "none: no checkpoint is left from the first half of the run"
    if exp.run.record.checkpoints.halfway.exists():  # else the run was resumed after it
        proof = f"{continue_halfway(exp, main)} tensors identical"
    lines = [f"resume rehearsal: {proof}"]
    if not (exp.cfg.resume or exp.cfg.rerun):  # their command lines say little
        words = [*(word for folder in _config_dirs() for word in ("--config-dir", folder)), *_prod_words()]
        lines.append(f"in prod mode: {estimate(exp, main)}")
        lines.append(f"next:     {command()} {shlex.join(words)}")
    return lines


def continue_halfway(exp: Any, main: Main) -> int:
    """Carry a run on from its half-way checkpoint, in a folder inside its own, and compare the end with the run's.

    Returns:
        The number of tensors that were compared and are identical.

    Raises:
        RunError: names the first state that differs.
    """
    logger.info("rehearsing the resume, from the half-way checkpoint, in a temporary folder")
    with tempfile.TemporaryDirectory(prefix=".rehearsal_", dir=exp.path) as folder:
        again = Path(folder)
        cfg = exp.cfg.copy()
        with open_dict(cfg):
            cfg.resume, cfg.fork, cfg.rerun = folder, None, None
            cfg.tracker, cfg.plots, cfg.run.rehearse_resume = {}, {}, False
            cfg.loader.num_workers = 0  # nothing may depend on it, and workers take seconds to start
        (again / "config.yaml").write_text(yaml.safe_dump(portable(cfg, exp.project)))
        (again / "provenance.json").write_text("{}")
        shutil.copytree(exp.path / "facts", again / "facts")
        (again / "checkpoints").mkdir()
        checkpoint.link_checkpoint(exp.run.record.checkpoints.halfway, CheckpointFiles(again).latest)
        step = checkpoint.load(CheckpointFiles(again).latest)["state"]["step"]
        with _silence():
            main(cfg)
        return compare(exp.path, again, step)


def compare(run: Path, again: Path, step: int) -> int:
    """The number of tensors in the last checkpoints of two runs, which are identical, as are all logged values.

    Raises:
        RunError: names the first that differs; `step` is where the second run was carried on.
    """
    expected, found = (checkpoint.load(CheckpointFiles(path).latest) for path in (run, again))
    expected.pop("config", None)
    found.pop("config", None)
    for name in expected["objects"].keys() - found["objects"].keys():
        if name.startswith(("plots.", "trackers.")):  # a rehearsal draws and tracks nothing
            del expected["objects"][name]
    difference = first_difference(expected, found)
    rows, others = ([row for row in Facts(path / "facts").values() if row["split"] != "test"] for path in (run, again))
    if difference is None and first_difference(rows, others) is not None:
        difference = "a logged value (facts/scalars.csv)"
    if difference is not None:
        message = (
            f"resume rehearsal: continued from step {step}, {difference} differs from the run that went through"
            "\nsomething keeps state that is not in the checkpoint, or draws random numbers outside of a step"
        )
        if torch.cuda.is_initialized():
            message += "; on a GPU it may also be a kernel that sums in no fixed order (README, What is exact)"
        raise RunError(message)
    return sum(isinstance(value, Tensor) for _, value in leaves(expected))


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
    flat = value.detach().cpu().to_dense().contiguous().flatten()
    return value.layout, value.dtype, value.shape, flat.view(torch.uint8).numpy().tobytes()


def estimate(exp: Any, main: Main) -> str:
    """Time, disk and memory of the running command in prod mode.

    Takes a few steps at that mode's batch size on the data at hand (a sample, where a dataset ships one) and reads the
    rows that they log; where a step would take too long, scales those of the run just done by the number of items.
    """
    cfg = _prod_config(exp)
    speeds = [row["items_per_second"] for row in exp.history() if row["split"] == "train"]
    items = cfg.loader.batch_size * cfg.run.accumulate
    seconds = 0.0
    if speeds:
        seconds = items / max(speeds)  # at its best: the others include saving and drawing
    if seconds < MAX_SECONDS:
        speeds, num_train, num_val = _timed(exp, cfg, main)
        seconds = items / statistics.median(speeds[1:])
    else:
        num_train, num_val = len(exp.datasets["train"]), len(exp.datasets["val"])
    known = cfg.data.get("num_train")
    if known and cfg.loader.limit_train is None:  # the full set may be larger than what is here
        scale = known * (1 - (cfg.data.get("val_from_train") or 0)) / num_train
        num_train, num_val = round(num_train * scale), round(num_val * scale)
    steps_per_epoch = math.ceil(num_train / items)
    num_steps = in_steps(cfg.run.budget, steps_per_epoch)
    evaluation = num_val * seconds / items / 3  # a forward pass is a third of a step
    duration = _duration(num_steps * seconds + num_steps / steps_per_epoch * evaluation)
    disk = (
        2 + exp.settings.num_checkpoints
    ) * exp.run.record.checkpoints.latest.stat().st_size  # best, and one being written
    return (
        f"about {duration} ({num_steps:,} steps of {1000 * seconds:.3g} ms), "
        f"{_size(disk)} on disk, {_size(peak_memory())} of memory"
    )


def _timed(exp: Any, cfg: Any, main: Main) -> tuple[list[float], int, int]:
    """Items per second at each of a few steps in prod mode, and the sizes of its splits."""
    with tempfile.TemporaryDirectory(prefix=".estimate_", dir=exp.path) as folder:
        short = cfg.copy()
        with open_dict(short):
            short.tracker, short.plots, short.rollout = {}, {}, None
            short.paths.output = folder
            short.run.name, short.run.compile, short.run.num_checkpoints = "run", False, 1
            short.run.budget, short.run.log_every = f"{NUM_TIMED}steps", "1"
            for name in ("eval_every", "plot_every", "rollout_every", "save_every"):
                short.run[name] = None
        with _silence():
            main(short)
        rows = Facts(Path(folder) / "run" / "facts").rows()
        record = checkpoint.load(CheckpointFiles(Path(folder) / "run").latest)
    speeds = [row["items_per_second"] for row in rows if row["split"] == "train"]
    return speeds, record["splits"]["train"][0], record["splits"]["val"][0]


def _prod_config(exp: Any) -> Any:
    folders = ",".join(f"'file://{folder}'" for folder in _config_dirs())
    more = [f"loader.sample={exp.cfg.loader.sample}", "loader.num_workers=0", f"hydra.searchpath=[{folders}]"]
    return compose_config(exp.project, [*_prod_words(masked=False), *more])


def _prod_words(masked: bool = True) -> list[str]:
    """The running command's overrides for prod mode."""
    words = list(HydraConfig.get().overrides.task)
    if masked:
        words = own_words()
    return [word for word in words if word.partition("=")[0] not in ("mode", "run.name")] + ["mode=prod"]


def _config_dirs() -> list[str]:
    """The user's own config folders (--config-dir)."""
    sources = HydraConfig.get().runtime.config_sources
    return [source.path for source in sources if source.provider == "command-line"]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """A rehearsal is silent, on the console and in the run's log.txt; it still reacts to the run's signals."""
    nothing = io.StringIO()
    with (
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
        transcript.to(lambda text: None),
    ):
        yield


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{max(1, seconds):.0f} s"


def _size(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{max(1, count / 1e6):.0f} MB"
