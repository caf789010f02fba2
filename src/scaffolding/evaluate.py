"""Evaluation: metrics over a whole split, weighted by items."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from .core.checks.losses import takes_output
from .core.errors import RunError
from .core.means import Means
from .core.modes import evaluating
from .core.state import keys

if TYPE_CHECKING:
    from .experiment import Experiment


@torch.no_grad()
def evaluate(exp: "Experiment", split: str) -> dict[str, Any]:
    """Losses and metrics of `exp.eval_model` over all of a split.

    Means are over items, so a small last batch counts for what it holds, or as the loss says (`weight`); a value that
    only some batches have is a mean over these. Metrics under `metrics:` see every batch and compute their value once;
    one that takes a third argument gets the `output` that the loss gives, and need not call the model again. What a
    loss draws is a function of (seed, split, position), and training cannot tell that an evaluation ran. A signal that
    stops the run leaves from here at the next batch.

    Several processes share the batches out, and compute the same values as one would; where there are `metrics:`, which
    must see every item, each of them reads the whole split.

    Args:
        exp: the experiment.
        split: "train", "val" or "test"; of "train", the batches of epoch 0, without what `loader.drop_last` leaves out.

    Returns:
        {"loss": ..., "accuracy": ...}; with several losses, {"<key>/loss": ...}; of a metric with several values,
        {"<metric>/<key>": ...}.

    Raises:
        RunError: a loss and a metric give values of the same name.
    """
    model, loader, seed = exp.eval_model, exp.loaders[split], exp.settings.seed
    means, is_shared = Means(), not exp.metrics
    with_output = {name: takes_output(metric) for name, metric in exp.metrics.items()}
    for metric in exp.metrics.values():
        metric.reset()
    with evaluating(model, *exp.losses.values(), *exp.metrics.values()), keys.keyed(seed, "evaluate", split):
        for position, num_items, batch in loader.shared() if is_shared else loader.sized():
            exp.run.leave_if_asked()
            keys.seed_torch(exp.device, keys.key(seed, "evaluate", split, position))
            output = None
            with exp.autocast:
                for name, loss_fn in exp.losses.items():
                    loss, parts = loss_fn(model, batch)
                    means.add(name, loss, parts, num_items)
                    output = parts.get("output", output)
                for name, metric in exp.metrics.items():
                    if with_output[name]:
                        metric.update(model, batch, output)
                    else:
                        metric.update(model, batch)
    values: dict[str, Any] = means.values()
    if is_shared:
        values = exp.processes.mean(values)
    others = computed(exp.metrics)
    taken = ", ".join(sorted(values.keys() & others.keys()))
    if taken:
        raise RunError(f"a loss and one of metrics both give {taken}\ngive the metric another name under metrics:")
    return {name: float(value) for name, value in values.items()} | others


def computed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The values of metrics by name, those of a metric that gives a dict as "<metric>/<key>"."""
    values: dict[str, Any] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        if isinstance(value, Mapping):
            values |= {f"{name}/{key}": part for key, part in value.items()}
        else:
            values[name] = value
    return values
