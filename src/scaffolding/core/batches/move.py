"""Batches on their way to the device."""

from typing import Any

import torch
from torch import Tensor

from ..tree import map_parts


def to_device(batch: Any, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> Any:
    """The batch on a device; tensors on their way to a GPU through pinned memory, without waiting.

    Graphs, packed sequences and other objects have a `to(device)`, which moves them. What has none stays as it is.
    Floating tensors of four dimensions, which are images, get the memory format, if it is another than the usual one.
    """
    if isinstance(batch, Tensor):
        if device.type == "cuda" and batch.device.type == "cpu" and batch.layout == torch.strided:
            batch = batch.pin_memory()
        batch = batch.to(device, non_blocking=device.type == "cuda")
        if memory_format != torch.contiguous_format and batch.ndim == 4 and batch.is_floating_point():
            batch = batch.contiguous(memory_format=memory_format)
        return batch
    if hasattr(batch, "to"):
        return batch.to(device)
    return map_parts(batch, lambda part: to_device(part, device, memory_format))
