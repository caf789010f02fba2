"""How the losses of an experiment call its model, seen on real items: with what, and what it gives."""

import contextlib
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..checks.trial import without_trace
from ..state import keys
from ..tree import map_parts, tensors


@dataclass
class Call:
    """A call of a model's `forward` with a batch of items."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any
    num_items: int

    def named(self, model: nn.Module) -> dict[str, Any]:
        """The arguments by the names that `forward` gives them."""
        return inspect.signature(model.forward).bind(*self.args, **self.kwargs).arguments

    def first(self, count: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments for the first items alone: tensors are cut whose first dimension is the batch."""

        def cut(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[:count] if self.is_batched(value) else value
            return map_parts(value, cut)

        return cut(self.args), cut(self.kwargs)

    def is_batched(self, value: Any) -> bool:
        """Whether a value is a tensor with an entry for each item."""
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.num_items


def find_call(exp: Any, batch: Any) -> Call | None:
    """The first call of the model as a whole that a loss makes of a batch.

    The losses see eval mode and no gradients, as in an evaluation; what they draw is always the same. Where they call
    only parts of the model, it is called with the first part of the batch; None: it does not take that.
    """
    model, found = exp.eval_model, list[Call]()
    num_items = max((len(value) for _, value in tensors(batch) if value.ndim), default=0)

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        found.append(Call(args, kwargs, output, num_items))

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        with torch.no_grad(), without_trace(exp, model), keys.keyed(exp.settings.seed, "call"), exp.autocast:
            for loss in exp.losses.values():
                loss(model, batch)
            if not found and isinstance(batch, list | tuple):
                with contextlib.suppress(Exception):  # a generator takes noise
                    model(batch[0])
    finally:
        hook.remove()
    return next(iter(found), None)
