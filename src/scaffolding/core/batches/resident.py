"""Datasets in memory whose tensors are kept on the GPU, so that no batch is copied in a step.

Nothing is wanted of their authors, and no value may change: `resident` takes a dataset only if its `get_batch` picks
items out of tensors with operations that are exact on every device, and draws no random numbers.
"""

import contextlib
import copy
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import UserError
from ..state import keys
from ..tree import tensors
from .move import to_device

SHARE = 0.1  # of the GPU's free memory, that a dataset may take

# They move values, convert them to a wider type, or compute what IEEE 754 rounds in one way on every device. Not among
# them: division, which some devices do by the reciprocal, and sums, whose order is not fixed.
EXACT = {
    *("index_select", "index", "gather", "select", "slice", "unfold", "view", "_unsafe_view", "reshape", "unsqueeze"),
    *("squeeze", "permute", "transpose", "t", "expand", "clone", "alias", "detach", "contiguous", "stack", "cat"),
    *("split", "chunk", "unbind", "flip", "where", "arange", "empty_like", "zeros_like", "_to_copy", "copy_"),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "neg", "bitwise_and", "bitwise_or", "bitwise_not"),
    *("eq", "ne", "lt", "le", "gt", "ge"),
}


class Operations(TorchDispatchMode):
    """Notes the names of all operations on tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Resident:
    """A copy of a dataset with its tensors on a device; the dataset itself stays as it is.

    Args:
        dataset: the attributes that are tensors are copied; two that share their memory share it there, too.
        device: where to.
    """

    def __init__(self, dataset: Any, device: torch.device) -> None:
        self.dataset, self.there, self.device = dataset, copy.copy(dataset), device
        storages: dict[Any, Tensor] = {}
        self.found = attributes(dataset)
        for name, value, _ in self.found:
            if isinstance(value, Tensor):
                setattr(self.there, name, _moved(value, device, storages))
        self.copied = attributes(self.there)

    def order_there(self, order: Tensor, positions: Tensor | None) -> Tensor:
        """On the device, the positions in the dataset of items of a split, in an order.

        Args:
            order: positions in the split.
            positions: of the split's items in the dataset; None: it is all of it.
        """
        if positions is not None:
            order = positions.index_select(0, order)
        there: Tensor = to_device(order, self.device)
        return there

    def is_current(self) -> bool:
        """Whether nothing was assigned to the dataset since, nor changed in place by torch, here or on the device."""
        return is_unchanged(self.dataset, self.found) and is_unchanged(self.there, self.copied)


def attributes(dataset: Any) -> list[tuple[str, Any, int | None]]:
    """Name, value and, of tensors, version of each attribute."""
    return [(name, value, _version(value)) for name, value in vars(dataset).items()]


def is_unchanged(dataset: Any, found: list[tuple[str, Any, int | None]]) -> bool:
    """Whether a dataset has the same attributes, and none of them was changed in place."""
    now = vars(dataset)
    return len(now) == len(found) and all(
        now.get(name) is value and _version(value) == version for name, value, version in found
    )


def _version(value: Any) -> int | None:
    """How often a tensor was changed in place."""
    return value._version if isinstance(value, Tensor) else None


def _moved(tensor: Tensor, device: torch.device, storages: dict[Any, Tensor]) -> Tensor:
    """The tensor on a device; of several views of the same memory that is copied once, into `storages`."""
    storage = tensor.untyped_storage()
    place = (storage.data_ptr(), tensor.dtype)
    if place not in storages:
        storages[place] = torch.empty(0, dtype=tensor.dtype).set_(storage).to(device, copy=True)
    return storages[place].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def num_bytes(dataset: Any) -> int:
    """What the tensors of a dataset take."""
    found = [value for value in vars(dataset).values() if isinstance(value, Tensor)]
    return sum({value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in found}.values())


def reason_against(dataset: Any, indices: Tensor) -> str:
    """Why a dataset cannot be kept on a device without a doubt about its values; empty where it can.

    Args:
        dataset: with `get_batch`.
        indices: of a batch to try, on the CPU.
    """
    if not hasattr(dataset, "__dict__"):
        return "its attributes cannot be listed"
    found = [value for value in vars(dataset).values() if isinstance(value, Tensor)]
    if not found:
        return "none of its attributes is a tensor"
    if any(type(value) is not Tensor or value.layout != torch.strided or value.is_cuda for value in found):
        return "one of its tensors is not a plain one on the CPU"
    if any(isinstance(value, np.ndarray) and _is_shared(value, found) for value in vars(dataset).values()):
        return "one of its tensors shares its memory with an array of numpy, which changes it unnoticed"
    known = attributes(dataset)
    with keys.keyed("resident"), torch.no_grad():
        before = _generators()
        with Operations() as operations:
            dataset.get_batch(indices)
        if _generators() != before:
            return "get_batch draws random numbers"
    inexact = sorted(operations.names - EXACT)
    if inexact:
        return f"get_batch uses {', '.join(inexact)}, which may round in another way there"
    if not is_unchanged(dataset, known):
        return "get_batch changes the dataset"
    return ""


def _is_shared(array: np.ndarray, tensors: list[Tensor]) -> bool:
    """Whether an array lies in the memory of a tensor."""
    memories = [torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).numpy() for tensor in tensors]
    return any(np.may_share_memory(array, memory) for memory in memories)


def _generators() -> tuple[Any, ...]:
    """The states of the generators that a dataset may draw from."""
    name, bits, *rest = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), name, np.asarray(bits).tobytes(), tuple(rest), random.getstate()


def keep_on_device(dataset: Any, indices: Tensor, device: torch.device, setting: Any, key: str) -> Resident | None:
    """The dataset on a device, or None where it stays on the CPU.

    Args:
        dataset: with `get_batch`.
        indices: of a batch to try, on the CPU.
        device: of the run.
        setting: True; False; or "auto": on a GPU, if it takes at most SHARE of its free memory.
        key: of the setting, for messages.

    Raises:
        UserError: it is to be kept there, and cannot be.
    """
    if setting is False or device.type == "cpu" or (setting == "auto" and device.type != "cuda"):
        return None
    reason, found = reason_against(dataset, indices), None
    if not reason and setting == "auto" and num_bytes(dataset) > SHARE * torch.cuda.mem_get_info(device)[0]:
        reason = f"it takes {num_bytes(dataset) / 1e6:.0f} MB, more than {SHARE:.0%} of the free memory"
    if not reason:
        try:
            found = Resident(dataset, device)
            reason = difference(dataset, found, indices, device)
        except torch.OutOfMemoryError:
            reason = f"it takes {num_bytes(dataset) / 1e6:.0f} MB, and there is not as much memory"
    if not reason:
        return found
    text = f"{type(dataset).__name__} cannot be kept on the device: {reason}"
    if setting is True:
        raise UserError(f"{key}=true: {text}\nset it to auto")
    logger.debug(text)
    return None


def difference(dataset: Any, resident: Resident, indices: Tensor, device: torch.device) -> str:
    """In what a batch of a resident dataset differs from that of the dataset itself; empty where it does not."""
    there = indices.to(device)
    try:
        with _without_waiting(device):
            found = dict(tensors(resident.there.get_batch(there)))
    except (RuntimeError, TypeError, ValueError) as error:
        return f"get_batch fails there: {str(error).partition(chr(10))[0]:.200}"
    expected = dict(tensors(dataset.get_batch(indices)))
    if found.keys() != expected.keys() or not found:
        return "a batch has other parts there"
    kept = {part.untyped_storage().data_ptr() for part in vars(resident.there).values() if isinstance(part, Tensor)}
    for name, value in expected.items():
        other = found[name]
        if other.untyped_storage().data_ptr() in kept:  # whoever changes the batch would change the dataset
            return f"a batch shares the memory of the dataset in {name or 'its value'}"
        if other.device.type != device.type or other.dtype != value.dtype or not _is_equal(other.cpu(), value):
            return f"a batch has another {name or 'value'} there"
    return ""


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal, NaN being equal to NaN."""
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


@contextlib.contextmanager
def _without_waiting(device: torch.device) -> Iterator[None]:
    """RuntimeError: something in the block waits for the GPU, as it does where values are read from it."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
