"""Trying losses and metrics on a few items, which leaves no trace in what is trained."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..batches.move import to_device
from ..errors import RunError, UserError, failure
from ..modes import evaluating
from ..state import keys


@contextlib.contextmanager
def without_trace(exp: Any, model: nn.Module) -> Iterator[None]:
    """Put a model, the losses and the metrics into eval mode; give modes, buffers and states back afterwards."""
    others = (*exp.losses.values(), *exp.metrics.values())
    modules = [module for part in (model, *others) if isinstance(part, nn.Module) for module in part.modules()]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    values = [(buffer, buffer.clone()) for _, named in buffers for buffer in named.values() if buffer is not None]
    stateful = [part for part in others if hasattr(part, "load_state_dict") and not isinstance(part, nn.Module)]
    states = [copy.deepcopy(part.state_dict()) for part in stateful]
    try:
        with evaluating(model, *others):
            yield
    finally:
        for module, named in buffers:
            module._buffers.update(named)
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)
        for part, state in zip(stateful, states, strict=True):
            part.load_state_dict(state)


@contextlib.contextmanager
def trial(exp: Any) -> Iterator[Any]:
    """Two items as a batch to try losses on. Modes, buffers, states and generators are given back afterwards.

    Raises:
        UserError: there are only streams of training items.
    """
    split = next((name for name in ("train", "val") if name in exp.datasets), None)
    if split is None:
        raise UserError(
            "data.stream: several processes look at the losses before they begin, and there is nothing to look at"
            "\ngive the data a validation split, or train in one process"
        )
    batch = to_device(first_batch(exp, split), exp.device)
    with without_trace(exp, exp.train_model), keys.keyed(exp.settings.seed, "trial"), exp.autocast:
        yield batch


def first_batch(exp: Any, split: str) -> Any:
    """The first two items of a split's first batch, as a batch."""
    return read(exp, split, next(iter(exp.loaders[split].indices(0)))[:2])


def read(exp: Any, split: str, indices: Tensor, epoch: int = 0) -> Any:
    """Some items of a split as a batch of an epoch, on the CPU; UserError: one of them cannot be read."""
    loader = exp.loaders[split]
    if loader.workers is not None:
        try:
            return loader.workers.read(epoch, indices)
        except RunError as error:
            raise UserError(f"data.dataset: {error}") from error
    with keys.keyed(exp.settings.seed, "check", split, epoch):
        try:
            return loader.dataset.get_batch(indices)
        except Exception as error:
            raise UserError(failure(error, f"data.dataset: get_batch of the {split} split")) from error
