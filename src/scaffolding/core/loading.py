"""Loading data: order and randomness as functions of (seed, epoch, index), so that worker counts and restarts cannot matter.

A dataset with `get_batch(indices)` is read a batch at a time in the training process. Any other goes through torch's
DataLoader, sample by sample. Both start anywhere in an epoch at no cost: position is arithmetic.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from . import rng
from .checkpoint import RunState
from .errors import UserError
from .signals import ignore_in_worker

Window = list[tuple[Any, int]]  # (batch, its number of items) of the micro-batches of one optimizer step


class View:
    """Some items of a dataset, in a given order. Forwards `get_batch` and `collate` where the dataset has them.

    Args:
        dataset: any map-style dataset.
        indices: int64 tensor of shape (n,), positions in `dataset`; None: all of it as it is.
        name: split name, part of the key of every sample's randomness.
    """

    def __init__(self, dataset: Any, indices: Tensor | None, name: str) -> None:
        self.dataset = dataset
        self.indices = indices
        self.name = name
        if hasattr(dataset, "get_batch"):
            self.get_batch = self._get_batch  # an attribute, so that hasattr tells
        if hasattr(dataset, "collate"):
            self.collate = dataset.collate

    def __len__(self) -> int:
        return len(self.dataset) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index if self.indices is None else int(self.indices[index])]

    def _get_batch(self, indices: Tensor) -> Any:
        return self.dataset.get_batch(indices if self.indices is None else self.indices[indices])


def split_indices(num_items: int, fraction: float, seed: int) -> dict[str, Tensor]:
    """Disjoint sorted "train" and "val" positions that cover `num_items`, a function of (seed, num_items) alone.

    Raises:
        UserError: the fraction leaves one of the two empty.
    """
    num_val = round(num_items * fraction)
    if not 0 < num_val < num_items:
        raise UserError(
            f"data.val_from_train={fraction} of {num_items} items leaves train or val empty"
            "\nallowed: a fraction between 0 and 1"
        )
    order = torch.randperm(num_items, generator=rng.generator(seed, "val_from_train"))
    return {"train": order[num_val:].sort().values, "val": order[:num_val].sort().values}


def fingerprint(view: View) -> list[Any]:
    """[number of items, hash of their positions] of a split, to compare at resume."""
    digest = hashlib.sha256()
    while isinstance(view, View):
        if view.indices is not None:
            digest.update(view.indices.numpy().tobytes())
        last, view = view, view.dataset
    return [len(last.dataset), digest.hexdigest()[:16]]


def limit(num_items: int, setting: float | None, seed: int, name: str) -> Tensor | None:
    """Sorted positions of the items a `limit_*` setting keeps: drawn by (seed, name), not the first ones; None: all.

    Raises:
        UserError: the setting is a number of items, but not a whole one.
    """
    if setting is None:
        return None
    count = max(1, round(num_items * setting)) if setting < 1 else setting
    if count != int(count):
        raise UserError(f"loader.limit_*={setting}: a fraction below 1 or a whole number of items is needed")
    if count >= num_items:
        return None
    return torch.randperm(num_items, generator=rng.generator(seed, "limit", name))[: int(count)].sort().values


class _Batches:
    """Batch sampler: lists of (epoch, index), from batch `start` of epoch `epoch`."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader
        self.epoch = self.start = 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.epoch
        for indices in self.loader.index_batches(epoch, self.start):
            yield [(epoch, index) for index in indices.tolist()]


class _KeyedSamples:
    """What DataLoader reads: seeds the host's generators for every sample by (seed, split, epoch, index)."""

    def __init__(self, dataset: View, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[Any]:
        samples = []
        with rng.keyed_host():
            for epoch, index in keys:
                rng.seed_host(rng.key(self.seed, self.dataset.name, epoch, index))
                samples.append(self.dataset[index])
        return samples


class Loader:
    """Batches of one split on the run's device; iterate it, or start anywhere with `batches(epoch, start)`.

    Args:
        dataset: the split.
        batch_size: items per batch; the last batch of an epoch may be smaller.
        shuffle: whether each epoch has an order of its own.
        seed: with the split's name, the epoch and the index the key of all order and randomness.
        device: where batches arrive.
        num_workers: worker processes, for datasets without `get_batch`.
        start_method: how workers start; None: the platform's default.
    """

    def __init__(
        self,
        dataset: View,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        device: torch.device,
        num_workers: int = 0,
        start_method: str | None = None,
    ) -> None:
        if len(dataset) == 0:
            raise UserError(f"the {dataset.name} split is empty")
        self.dataset, self.batch_size, self.shuffle, self.seed, self.device = dataset, batch_size, shuffle, seed, device
        self.sampler = _Batches(self)
        self.workers: DataLoader[Any] | None = None
        if not hasattr(dataset, "get_batch"):
            self.workers = DataLoader(
                _KeyedSamples(dataset, seed),  # type: ignore[arg-type]
                batch_sampler=self.sampler,  # type: ignore[arg-type]
                collate_fn=getattr(dataset, "collate", default_collate),
                num_workers=num_workers,
                multiprocessing_context=start_method if num_workers else None,
                persistent_workers=num_workers > 0,
                worker_init_fn=ignore_in_worker,
                pin_memory=device.type == "cuda",
                generator=rng.generator(seed, dataset.name),  # else DataLoader draws from the global generator
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def index_batches(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Index tensors of the batches of an epoch, from batch `start`."""
        num_items = len(self.dataset)
        if self.shuffle:
            order = torch.randperm(num_items, generator=rng.generator(self.seed, self.dataset.name, epoch))
        else:
            order = torch.arange(num_items)
        return iter(order[start * self.batch_size :].split(self.batch_size) if start < len(self) else ())

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch on the run's device, from batch `start`."""
        if self.workers is not None:
            self.sampler.epoch, self.sampler.start = epoch, start
            for batch in self.workers:
                yield to_device(batch, self.device)
            return
        for position, indices in enumerate(self.index_batches(epoch, start), start):
            yield to_device(self._read(indices, epoch, position), self.device)

    def _read(self, indices: Tensor, epoch: int, position: int) -> Any:
        """One batch of an in-memory dataset; what it draws is a function of (seed, split, epoch, position).

        Keys torch's and numpy's generators, which vectorised code draws from; python's costs more than the batch.
        """
        states, bits = torch.default_generator.get_state(), rng.swap_numpy()
        seed = rng.key(self.seed, self.dataset.name, epoch, position)
        torch.default_generator.manual_seed(seed)
        rng.seed_numpy(seed)
        try:
            batch = self.dataset.get_batch(indices)
        finally:
            torch.default_generator.set_state(states)
            rng.swap_numpy(bits)
        return _map_tensors(batch, Tensor.pin_memory) if self.device.type == "cuda" else batch

    def __iter__(self) -> Iterator[Any]:
        return self.batches(0)

    def windows(self, state: RunState, accumulate: int) -> Iterator[Window]:
        """Endless windows of up to `accumulate` micro-batches, from where `state` stands; none crosses an epoch's end.

        The caller advances `state` after each window.
        """
        while True:
            stream = self.batches(state.epoch, state.batch)
            while window := [(batch, num_items(batch)) for batch in itertools.islice(stream, accumulate)]:
                yield window


def num_items(batch: Any) -> int:
    """Items in a batch: the length of its first tensor.

    Raises:
        UserError: the batch holds no tensor.
    """
    while not isinstance(batch, Tensor):
        if isinstance(batch, Mapping):
            batch = next(iter(batch.values()), None)
        elif isinstance(batch, list | tuple) and batch:
            batch = batch[0]
        else:
            raise UserError(
                f"a batch must hold a tensor first, found {type(batch).__name__}"
                "\nitems are tensors and numbers in tuples or dicts; anything else needs its own `collate`"
            )
    return len(batch)


def _map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: _map_tensors(value, function) for name, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_map_tensors(value, function) for value in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(_map_tensors(value, function) for value in batch)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch, tensors in nested tuples, lists and dicts moved to `device` (without waiting, from pinned memory)."""
    if device.type == "cpu":
        return batch  # loaders make CPU tensors
    return _map_tensors(batch, lambda tensor: tensor.to(device, non_blocking=True))


def describe_batch(batch: Any) -> str:
    """Shapes and dtypes of a batch, in one line."""
    if isinstance(batch, Tensor):
        return f"{tuple(batch.shape)} {str(batch.dtype).removeprefix('torch.')} in [{batch.min():.3g}, {batch.max():.3g}]"
    if isinstance(batch, Mapping):
        return ", ".join(f"{name}: {describe_batch(value)}" for name, value in batch.items())
    if isinstance(batch, list | tuple):
        return ", ".join(describe_batch(value) for value in batch)
    return type(batch).__name__
