"""Evaluation: metrics over a whole split, weighted by items."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .core.state import keys

if TYPE_CHECKING:
    from .experiment import Experiment


@torch.no_grad()
def evaluate(exp: "Experiment", split: str) -> dict[str, Any]:
    """Losses and metrics of `exp.eval_model` over all of a split.

    Means are over items, so a small last batch counts for what it holds; metrics under `metrics:` see every batch and
    compute their value once. What a loss draws is a function of (seed, split, position), and training cannot tell that
    an evaluation ran. A signal that stops the run leaves from here at the next batch.

    Args:
        exp: the experiment.
        split: "train", "val" or "test".

    Returns:
        {"loss": ..., "accuracy": ...}; with several losses, {"<key>/loss": ...}.
    """
    model, loader, seed = exp.eval_model, exp.loaders[split], exp.settings.seed
    was_training = model.training
    model.eval()
    totals: dict[str, Any] = {}
    num_items = 0
    for metric in exp.metrics.values():
        metric.reset()
    with keys.keyed(seed, "evaluate", split):
        for position, batch in enumerate(loader):
            exp.run.leave_if_asked()
            keys.seed_torch(exp.device, keys.key(seed, "evaluate", split, position))
            size = loader.num_items(batch)
            num_items += size
            with exp.autocast:
                for name, loss_fn in exp.losses.items():
                    loss, values = loss_fn(model, batch)
                    for key, value in {"loss": loss, **values}.items():
                        if name:
                            key = f"{name}/{key}"
                        totals[key] = totals.get(key, 0) + widened(value) * size  # stays on the device until the end
                for metric in exp.metrics.values():
                    metric.update(model, batch)
    model.train(was_training)
    means = {key: float(total) / num_items for key, total in totals.items()}
    return means | {name: metric.compute() for name, metric in exp.metrics.items()}


def widened(value: Tensor) -> Tensor:
    """The value in float32 or wider: a long sum in bfloat16 stops growing, and in float16 overflows."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
