"""Checks that need an item of data: before a run is made, so that nothing is lost."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import default_collate

from ..errors import UserError, nearest
from ..modes import evaluating
from ..state import keys
from ..tree import map_tensors


def check_losses(exp: Any) -> None:
    """Let every loss that has `check(model, batch)` look at a batch of one training item.

    Raises:
        UserError: a loss raised a ValueError: the model or the batches are not what it takes.
    """
    for name, loss in exp.losses.items():
        if not hasattr(loss, "check"):
            continue
        try:
            loss.check(exp.model, _one_item(exp, "train"))
        except ValueError as error:
            key = f"loss.{name}".rstrip(".")
            raise UserError(f"{key}: {error}") from error


def check_monitors(exp: Any, monitors: Mapping[str, str | None]) -> None:
    """Evaluate one validation item and look for the monitored values.

    Args:
        exp: the experiment.
        monitors: what each config key monitors, e.g. {"run.monitor": "val/loss"}; None: nothing.

    Raises:
        UserError: an evaluation gives no such value; those that it gives are named.
    """
    names = [f"val/{name}" for name in _evaluated_names(exp)]
    for key, monitor in monitors.items():
        if monitor is not None and monitor.startswith("rollout/"):  # its names show when it runs
            if exp.rollout is None or exp.settings.rollout_every is None:
                raise UserError(
                    f"{key.replace('..', '.')}={monitor}: there are no rollouts\nset rollout and run.rollout_every"
                )
        elif monitor is not None and monitor not in names:
            near = nearest(monitor, names)[0]
            raise UserError(
                f"{key.replace('..', '.')}={monitor}: an evaluation gives no such value"
                f"\nnearest: {near}; allowed: {', '.join(names)}"
            )


def _evaluated_names(exp: Any) -> list[str]:
    batch = map_tensors(_one_item(exp, "val"), lambda tensor: tensor.to(exp.device))
    names, model = [], exp.eval_model
    with evaluating(model, *exp.losses.values()), keys.keyed(exp.settings.seed, "check"), torch.no_grad(), exp.autocast:
        for name, loss in exp.losses.items():
            _, values = loss(model, batch)
            names += [f"{name}/{key}".lstrip("/") for key in ("loss", *values) if key not in ("weight", "output")]
    return [*names, *exp.metrics]


def _one_item(exp: Any, split: str) -> Any:
    dataset = exp.datasets[split]
    with keys.keyed(exp.settings.seed, "check"):
        if hasattr(dataset, "get_batch"):
            return dataset.get_batch(torch.tensor([0]))
        return getattr(dataset, "collate", default_collate)([dataset[0]])
