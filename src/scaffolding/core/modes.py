"""Modules in eval mode for a while."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def evaluating(*parts: Any) -> Iterator[None]:
    """Run a block with modules in eval mode; then each of their parts is in the mode that it was in.

    `module.train()` afterwards would also set those parts to train mode that their owner keeps in eval mode, such as
    a frozen trunk.

    Args:
        parts: modules; what is not a module is left alone.
    """
    modes = [(module, module.training) for module in _modules(parts)]
    for part in parts:
        if isinstance(part, nn.Module):
            part.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _modules(parts: Iterable[Any]) -> Iterator[nn.Module]:
    for part in parts:
        if isinstance(part, nn.Module):
            yield from part.modules()
