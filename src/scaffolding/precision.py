"""Device, number format and averaged weights: what `auto` means here, and stand-ins for what is off."""

import contextlib
import functools
from typing import Any

import torch
from loguru import logger
from torch import nn

from .core.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device that `run.device` asks for.

    Raises:
        UserError: it is not a device, or not on this machine.
    """
    accelerators = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    accelerators += ["mps"] if torch.backends.mps.is_available() else []
    if name == "auto":
        return torch.device(accelerators[0].removesuffix(":0") if accelerators else "cpu")
    present = ["cpu", *(["cuda"] if torch.cuda.is_available() else []), *accelerators]
    if name not in present:
        raise UserError(f"run.device={name}: no such device on this machine\nhere: auto, {', '.join(present)}")
    return torch.device(name)


@functools.cache  # so that it warns once
def choose_precision(name: str, device: torch.device) -> str:
    """float32, bfloat16 or float16; auto is bfloat16 where the device computes it natively, else float32."""
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bfloat16" if native else "float32"
    if name == "float16" and device.type == "cpu":
        logger.warning("run.precision=float16 on a CPU works, about 12 times slower than float32")
    return name


def autocast(precision: str, device: torch.device) -> Any:
    """The context forward passes run in; does nothing for float32."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """The gradient scaler float16 needs; a stand-in that passes everything through otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def make_ema(model: nn.Module, decay: float | None) -> Any:
    """An exponential moving average of the weights (buffers are copied), as `.module`; None: it is off."""
    if decay is None:
        return None
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
