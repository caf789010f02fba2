"""How a device computes: number format, memory format, compiled networks; what torch's scaler and averages lack."""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .errors import RunError, UserError
from .tree import map_parts

WITH_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that record CUDA graphs
MAX_SKIPPED = 20  # float16 updates skipped in a row; the scale halves each time, so this many cannot be a search for it


class Scaler(torch.amp.GradScaler):
    """The gradient scaler that float16 needs; for other types it is disabled and passes everything through."""

    num_skipped = 0  # updates in a row whose gradients were infinite

    def update(self, new_scale: Any = None) -> None:
        """Adjust the scale: it falls where an update was skipped."""
        before = self.get_scale()
        super().update(new_scale)
        if self.get_scale() < before:
            self.num_skipped += 1
        else:
            self.num_skipped = 0

    def took_step(self) -> bool:
        """Whether the last update was applied.

        Raises:
            RunError: too many in a row were not.
        """
        if self.num_skipped >= MAX_SKIPPED:
            raise RunError(f"{MAX_SKIPPED} updates in a row had infinite gradients in float16")
        return self.num_skipped == 0

    def state_dict(self) -> dict[str, Any]:
        """The scale and the count; empty where the scaler is disabled."""
        state = super().state_dict()
        if state:
            state["num_skipped"] = self.num_skipped
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.num_skipped = state.get("num_skipped", 0)


class AveragedWeights(AveragedModel):
    """An exponential moving average of the weights, as `.module`; buffers and extra state are copied."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        try:
            super().__init__(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        except (NotImplementedError, RuntimeError, TypeError) as error:  # copy.deepcopy: sparse CSR tensors, locks, ...
            raise UserError(f"run.ema_decay={decay}: the model cannot be copied: {error}\nset it to null") from error
        self.extra = [name for name, part in model.named_modules() if _has_extra_state(part)]

    def update_parameters(self, model: nn.Module) -> None:
        """Average in the weights of `model`."""
        super().update_parameters(model)
        for name in self.extra:
            self.module.get_submodule(name).set_extra_state(model.get_submodule(name).get_extra_state())


def _has_extra_state(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def choose_device(name: str, precision: str) -> tuple[torch.device, str]:
    """The device and the number format that `run.device` and `run.precision` ask for.

    `auto` is the first accelerator of this machine, and bfloat16 where that computes it natively, else float32.

    Raises:
        UserError: the device is not one, or not on this machine.
    """
    present = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        present.append("mps")
    present.append("cpu")
    if name == "auto":
        name = present[0]
    if name not in present and not (name == "cuda" and "cuda:0" in present):
        raise UserError(f"run.device={name}: no such device on this machine\nhere: auto, {', '.join(present)}")
    device = torch.device(name)
    if precision == "auto":
        precision = "float32"
        if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
            precision = "bfloat16"
    return device, precision


def arrange(model: nn.Module, memory_format: torch.memory_format) -> None:
    """Give parameters and buffers of four dimensions a memory format, in place; their values stay.

    Raises:
        UserError: the model has weights that cannot have it.
    """
    try:
        model.to(memory_format=memory_format)
    except RuntimeError as error:  # weights of five dimensions
        raise UserError(
            f"run.memory_format={str(memory_format).rpartition('.')[2]}: {error!s:.200}"
            "\nset it to contiguous: it is for images in two dimensions"
        ) from error


# --- compiled networks, and what CUDA graphs want (torch's manual: CUDAGraph Trees)
#
# The memory of a graph's outputs is used again by its next replay. So networks give copies of their outputs: whoever
# keeps one (metrics, figures, rollouts) keeps its values. Gradients that stay are copied, too, and each pass is marked.


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
