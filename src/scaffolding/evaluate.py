"""Evaluation: metrics over a whole split, weighted by items."""

from typing import TYPE_CHECKING, Any

import torch

from .core.batches.loader import num_items
from .core.session.signals import Interrupted, StopFlag
from .core.state import keys

if TYPE_CHECKING:
    from .experiment import Experiment


@torch.no_grad()
def evaluate(exp: "Experiment", split: str, stop: StopFlag | None = None) -> dict[str, Any]:
    """Losses and metrics of `exp.eval_model` over all of a split.

    Means are over items, so a small last batch counts for what it holds; metrics under `metrics:` see every batch and
    compute their value once. What is drawn (noise in a loss, say) is the same at every evaluation, and training cannot
    tell that it ran.

    Args:
        exp: the experiment.
        split: "train", "val" or "test".
        stop: a run's flag for signals.

    Returns:
        {"loss": ..., "accuracy": ...}; with several losses, {"<key>/loss": ...}.

    Raises:
        Interrupted: a signal came; the values are of no use.
    """
    model = exp.eval_model
    was_training = model.training
    model.eval()
    totals: dict[str, Any] = {}
    count = 0
    for metric in exp.metrics.values():
        metric.reset()
    with keys.keyed(exp.cfg.run.seed, "evaluate", split):
        for batch in exp.loaders[split]:
            if stop is not None and stop.received is not None:
                raise Interrupted
            items = num_items(batch)
            count += items
            with exp.autocast:
                for name, loss_fn in exp.losses.items():
                    loss, values = loss_fn(model, batch)
                    for key, value in {"loss": loss, **values}.items():
                        key = f"{name}/{key}" if name else key
                        totals[key] = totals.get(key, 0) + value * items  # stays on the device until the end
            for metric in exp.metrics.values():
                metric.update(model, batch)
    model.train(was_training)
    means = {key: float(total) / count for key, total in totals.items()}
    return means | {name: metric.compute() for name, metric in exp.metrics.items()}
