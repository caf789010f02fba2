"""What a run says of itself: after the first step, and in its last lines."""

import math

from loguru import logger
from torch import Tensor

from . import plot
from .core.batches.loader import Window
from .core.config.compose import portable
from .core.config.trust import needed_trust
from .core.errors import RunError
from .experiment import PROJECT, Experiment
from .rehearsal import Train, TrainStep, rehearse
from .verbs import SOURCES, compare_with_parent


def describe_start(exp: Experiment, window: Window, metrics: dict[str, Tensor]) -> None:
    """What went into a session's first step and what came out; in a new run, before anything was learnt."""
    exp.run.describe(PROJECT.root, SOURCES, exp.device, exp.state)
    if exp.state.step > 1:
        return
    fact = "num_classes" if "accuracy" in metrics else "vocab_size" if "bits_per_token" in metrics else ""
    known = f" (ln {count} = {math.log(count):.4f})" if (count := exp.cfg.data.get(fact)) else ""  # of a cross-entropy
    losses = ", ".join(f"{name} {float(value):.4f}{known}" for name, value in metrics.items() if name.endswith("loss"))
    logger.info(f"{exp!r}; batch: {plot.describe_batch(window[0][0])}; initial {losses}")
    if foreign := needed_trust(portable(exp.cfg, PROJECT), PROJECT):
        logger.info(f"not in TRUSTED of config.py: to resume, fork or load this run, add trust={','.join(foreign)}")
    plot.draw(exp, "start")


def report(exp: Experiment, train: Train, train_step: TrainStep) -> None:
    """Add to the last lines of a run, fit to be pasted; where the config asks for it, rehearse the resume."""
    run, settings = exp.run, exp.cfg.run
    run.closing.append(f'load:     exp = Experiment.from_path("{run.path}", checkpoint="best")')
    if settings.target_loss is not None:
        gone = "is gone" if exp.state.stopped else "did NOT go: a bug, unless the loss cannot be 0 (noise in it)"
        run.closing.append(f"overfit:  the loss {gone} (below {settings.target_loss} wanted; step {exp.state.step})")
    if settings.rehearse_resume:
        run.closing += rehearse(exp, train, train_step)
    run.closing += compare_with_parent(run)
    if exp.failed_figures:
        raise RunError(f"trained to the end, but figures failed: {exp.failed_figures}")
