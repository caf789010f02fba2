"""Evaluation: metrics over a whole split, weighted by items."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .core.checks.losses import NOT_METRICS, takes_output
from .core.errors import RunError
from .core.modes import evaluating
from .core.state import keys

if TYPE_CHECKING:
    from .experiment import Experiment

MAX_PARTS = 1000  # kept on the device before they are added up


@torch.no_grad()
def evaluate(exp: "Experiment", split: str) -> dict[str, Any]:
    """Losses and metrics of `exp.eval_model` over all of a split.

    Means are over items, so a small last batch counts for what it holds, or as the loss says (`weight`); a value that
    only some batches have is a mean over these. Metrics under `metrics:` see every batch and compute their value once;
    one that takes a third argument gets the `output` that the loss gives, and need not call the model again. What a
    loss draws is a function of (seed, split, position), and training cannot tell that an evaluation ran. A signal that
    stops the run leaves from here at the next batch.

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
    means = Means()
    with_output = {name: takes_output(metric) for name, metric in exp.metrics.items()}
    for metric in exp.metrics.values():
        metric.reset()
    with evaluating(model, *exp.losses.values(), *exp.metrics.values()), keys.keyed(seed, "evaluate", split):
        for position, batch in enumerate(loader):
            exp.run.leave_if_asked()
            keys.seed_torch(exp.device, keys.key(seed, "evaluate", split, position))
            output = None
            with exp.autocast:
                for name, loss_fn in exp.losses.items():
                    loss, values = loss_fn(model, batch)
                    means.add(name, loss, values, loader.size(position))
                    output = values.get("output", output)
                for name, metric in exp.metrics.items():
                    if with_output[name]:
                        metric.update(model, batch, output)
                    else:
                        metric.update(model, batch)
    values, others = means.values(), computed(exp.metrics)
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


class Means:
    """Weighted means of the scalars that losses give. They stay on the device; nothing is read from it."""

    def __init__(self) -> None:
        self.parts: defaultdict[str, list[tuple[Any, Any]]] = defaultdict(list)  # (value, weight) by name

    def add(self, network: str, loss: Tensor, values: Mapping[str, Any], weight: float) -> Any:
        """Add what a loss returned, as "<network>/<key>".

        Returns the weight used: that in `values` if there is one, else `weight`.
        """
        weight = scalar(values.get("weight", weight))
        for key, value in {"loss": loss, **values}.items():
            if key in NOT_METRICS:
                continue
            value = scalar(value)
            parts = self.parts[f"{network}/{key}" if network else key]
            parts.append((value, weight))
            if len(parts) > MAX_PARTS:
                parts[:] = [(mean(parts), sum(weight for _, weight in parts))]
        return weight

    def values(self) -> dict[str, Any]:
        """The means, by name."""
        return {name: mean(parts) for name, parts in self.parts.items()}


def scalar(value: Any) -> Any:
    """The value as a number or a detached 0-d tensor, so that sums do not broadcast."""
    if isinstance(value, Tensor):
        value = value.detach()
        if value.ndim > 0:
            value = value.reshape(())
    return value


def mean(parts: list[tuple[Any, Any]]) -> Any:
    """Weighted mean of scalars, from (value, weight) pairs; in float32 or wider: a sum in bfloat16 stops growing.

    What has weight 0 counts for nothing, even if it is not finite, as the mean over a batch of padding is. Where all
    has weight 0, all counts alike.
    """
    if len(parts) == 1:
        return parts[0][0]
    values, weights = map(stack, zip(*parts, strict=True))
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    weights = weights.to(values)
    weights = torch.where(weights.any(), weights, 1)
    return (torch.where(weights != 0, values, 0) * weights).sum() / weights.sum()


def stack(scalars: Sequence[Any]) -> Tensor:
    """Scalars, numbers and tensors of one device, as a tensor of shape (n,)."""
    devices = [scalar.device for scalar in scalars if isinstance(scalar, Tensor)]
    if not devices:
        return torch.tensor(scalars)
    return torch.stack([torch.as_tensor(scalar, device=devices[0]) for scalar in scalars])
