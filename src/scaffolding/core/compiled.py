"""Networks under torch.compile, and what CUDA graphs want: the memory of a graph's outputs is used again by its next
replay.

A network gives copies of its outputs, so whoever keeps one (metrics, figures, rollouts) keeps its values. Gradients
that are to stay are copied, too, and each pass is marked: see "CUDAGraph Trees" in torch's manual.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from .tree import map_parts

WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that record CUDA graphs


def has_graphs(mode: Any, device: torch.device) -> bool:
    """Whether networks that are compiled in a mode are replayed as CUDA graphs."""
    return mode in WITH_GRAPHS and device.type == "cuda"


def compile_network(network: nn.Module, mode: Any, device: torch.device) -> None:
    """Compile a network in place, so that its weights keep their plain names; one kernel per size of the batch.

    Args:
        network: changed.
        mode: True, or a mode of torch.compile.
        device: that of the network.
    """
    torch._dynamo.config.recompile_limit = 256  # torch's limit of 8 would leave later sizes uncompiled
    network.compile(dynamic=False, mode=None if mode is True else mode)
    if has_graphs(mode, device):
        call: Any = network._compiled_call_impl
        network._compiled_call_impl = functools.partial(_call_and_copy, call)


def _call_and_copy(call: Any, *arguments: Any, **named: Any) -> Any:
    return _copied(call(*arguments, **named))


def _copied(output: Any) -> Any:
    """Nested outputs with copies of all tensors."""
    if isinstance(output, Tensor):
        return output.clone()
    return map_parts(output, _copied)


def begin_pass(model: nn.Module) -> None:
    """Call this before each forward pass of training: what graphs gave before may now be overwritten.

    Gradients that are there are still wanted: micro-batches add to them, and so do the losses of other networks.
    """
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.clone()
    end_pass()


def end_pass() -> None:
    """Call this after the last backward pass of a step, so that an evaluation begins anew."""
    torch.compiler.cudagraph_mark_step_begin()
