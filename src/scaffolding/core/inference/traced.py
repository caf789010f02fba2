"""A model as torch.export and ONNX write it, for any number of items, and compared with the model on real ones."""

import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..tree import leaves, map_parts, tensors
from .call import Call

COLOR = re.compile(r"\x1b\[[\d;]*m")


def trace(model: nn.Module, call: Call) -> Any:
    """The model as torch.export's program, for any number of items; UserError: it cannot be, in one line."""
    batch = torch.export.Dim("batch")

    def sizes(value: Any) -> Any:
        if isinstance(value, Tensor):
            return {0: batch} if call.is_batched(value) else {}
        parts = map_parts(value, sizes)
        return None if parts is value else parts

    try:
        return torch.export.export(model, call.args, call.kwargs, dynamic_shapes=sizes(dict(call.named(model))))
    except Exception as error:  # torch has a dozen classes of them
        raise UserError(
            f"{type(model).__name__} cannot be traced by torch.export: {first_line(error)}"
            "\nmodel.safetensors needs no tracing: leave out --torch-export and --onnx"
        ) from error


def check_program(model: nn.Module, call: Call, program: Any, file: Path, tolerance: float) -> float:
    """Write model.pt2, read it, compare; the largest difference of an output."""
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    return compare(model, call, lambda args, kwargs: loaded(*args, **kwargs), file.name, tolerance)


def check_onnx(model: nn.Module, call: Call, program: Any, file: Path, tolerance: float) -> float:
    """Write model.onnx, read it, compare; the largest difference of an output. UserError: it cannot be written."""
    import onnxruntime

    try:
        with contextlib.redirect_stdout(None):  # it prints its progress
            exported: Any = torch.onnx.export(program, dynamo=True, verbose=False)
            exported.save(file)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    except Exception as error:  # torch and onnxruntime each have many classes of them
        raise UserError(
            f"{file.name}: {type(model).__name__} cannot be written as ONNX: {first_line(error)}"
        ) from error
    names = [node.name for node in session.get_inputs()]

    def run(args: Any, kwargs: Any) -> Any:
        values = [value.numpy() for _, value in tensors([*args, kwargs])]
        return session.run(None, dict(zip(names, values, strict=True)))

    return compare(model, call, run, file.name, tolerance)


def compare(model: nn.Module, call: Call, other: Any, name: str, tolerance: float) -> float:
    """The largest difference between a model's outputs and those of what was made of it, for three sizes of a batch.

    UserError: it is above the tolerance, which is a share of the largest output if that is above 1.
    """
    largest = 0.0
    for count in sorted({1, (call.num_items + 1) // 2, call.num_items}):
        args, kwargs = call.first(count)
        with torch.no_grad():
            ours = [value for _, value in tensors([model(*args, **kwargs)])]
            try:
                theirs = [torch.as_tensor(value) for _, value in leaves([other(args, kwargs)])]
            except Exception as error:
                raise UserError(f"{name}: it fails on a batch of {count}: {first_line(error)}") from error
        shapes = [[list(value.shape) for value in values] for values in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise UserError(f"{name}: its outputs have the shapes {shapes[1]}, those of the model {shapes[0]}")
        for one, two in zip(ours, theirs, strict=True):
            scale = max(1.0, float(one.abs().max()) if one.numel() else 1.0)
            difference = float((one.double() - two.double()).abs().max()) / scale if one.numel() else 0.0
            if not difference <= tolerance:  # NaN is not
                raise UserError(
                    f"{name}: on a batch of {count} its outputs differ by {difference:.3g} from those of the model"
                    f"\nallowed: --tolerance {tolerance:g}"
                )
            largest = max(largest, difference)
    return largest


def first_line(error: BaseException) -> str:
    """What the cause of an error says, in one line; torch puts long advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = COLOR.sub("", str(error)).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text:.300}"
