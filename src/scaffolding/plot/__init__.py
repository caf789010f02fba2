"""Figures: one kind a file. A kind is a class built from the plain numbers in configs/plots/, called with the
experiment; it returns a matplotlib figure, or in a few words why it cannot draw this model or data. Its `moment` says
when it is drawn: "start", once after the first step, or "val", at every `run.plot_every`.
"""

from typing import TYPE_CHECKING, Any

import torch
from loguru import logger

from ..core import rng

if TYPE_CHECKING:
    from ..experiment import Experiment


@torch.no_grad()
def draw(exp: "Experiment", moment: str) -> None:
    """Draw the configured figures of a moment to figures/<kind>-<moment>-<step>.png.

    Training cannot tell that it happened. A figure that fails is logged and noted in `exp.failed_figures`: not worth
    stopping a run for, but the run says so, and exits with an error, at its end.
    """
    was_training = exp.eval_model.training
    exp.eval_model.eval()
    with rng.keyed(exp.cfg.run.seed, "plot"):
        for kind, plot in exp.plots.items():
            if plot.moment != moment:
                continue
            try:
                figure = plot(exp)
                if isinstance(figure, str):
                    logger.info(f"figure {kind} skipped: {figure}")
                    continue
                file = exp.run.path / "figures" / f"{kind}-{moment}-{exp.state.step:06d}.png"
                figure.savefig(file, dpi=120)
                exp.run.tracking.log_figure(file)
            except Exception as error:
                exp.failed_figures[kind] = f"{type(error).__name__}: {error}"
                logger.opt(exception=error).error(f"figure {kind} failed; training goes on")
    exp.eval_model.train(was_training)


def describe_batch(batch: Any) -> str:
    """Shapes, dtypes and ranges of a batch, in one line."""
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{name}: {describe_batch(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, list | tuple):
        return ", ".join(describe_batch(value) for value in batch)
    if not hasattr(batch, "dtype"):
        return type(batch).__name__
    kind = str(batch.dtype).removeprefix("torch.")
    known = batch.numel() > 0 and not batch.is_complex()
    extent = f" in [{float(batch.min()):.3g}, {float(batch.max()):.3g}]" if known else ""
    return f"{tuple(batch.shape)} {kind}{extent}"
