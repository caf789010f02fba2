"""Loading: order and randomness as functions of (seed, epoch, index), so worker counts and restarts cannot matter.

A dataset with `get_batch(indices)` is read a batch at a time in the training process. Any other goes through torch's
DataLoader, sample by sample. Both start anywhere in an epoch at no cost: position is arithmetic.
"""

import atexit
import contextlib
import itertools
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from loguru import logger
from torch import Tensor
from torch.utils.data import DataLoader, default_collate, get_worker_info

from ..errors import RunError, UserError
from ..session.signals import blocked, die_with_parent
from ..state import keys
from ..state.checkpoint import RunState

Window = list[tuple[Any, int]]  # (batch, its number of items) of the micro-batches of one optimizer step


with_workers: "weakref.WeakSet[Loader]" = weakref.WeakSet()


@atexit.register  # python itself would end workers with a signal that they ignore, and wait for ever
def _end_workers() -> None:
    for loader in list(with_workers):
        loader.close()


class _Failed(NamedTuple):
    """In the place of a batch: what went wrong in reading it, in words and as a traceback."""

    message: str
    details: str


def _failed(error: Exception, what: str) -> _Failed:
    from .faults import describe  # imported only here

    return _Failed(describe(error, what), "".join(traceback.format_exception(error)))


class _KeyedSamples:
    """The dataset as DataLoader reads it: generators are seeded for each sample by (seed, split, epoch, index).

    `at_work`, shared with the workers, shape (num_workers, 2), holds the index each one is reading, or -1, and since
    when (monotonic seconds).
    """

    def __init__(self, dataset: Any, name: str, seed: int, num_workers: int) -> None:
        self.dataset, self.name, self.seed = dataset, name, seed
        self.at_work = torch.full((num_workers, 2), -1.0, dtype=torch.float64).share_memory_()
        self.collate = getattr(dataset, "collate", default_collate)

    def __getitems__(self, wanted: list[tuple[int, int]]) -> Any:
        samples, info = [], get_worker_info()
        at_work = self.at_work.numpy()[info.id] if info is not None else None
        with keys.set_aside(with_python=True):
            for epoch, index in wanted:
                if at_work is not None:
                    at_work[:] = index, time.monotonic()
                seed = keys.key(self.seed, self.name, epoch, index)
                keys.seed_host(seed)
                try:
                    samples.append(self.dataset[index])
                except Exception as error:
                    worker = f" (worker {info.id})" if info is not None else ""
                    return _failed(error, f"sample {index} of the {self.name} split{worker}")
        if at_work is not None:
            at_work[0] = -1
        try:
            return self.collate(samples)
        except Exception as error:
            return _failed(error, f"collating samples {[index for _, index in wanted]} of the {self.name} split")


class _Keys:
    """Batch sampler of a loader: lists of (epoch, index), from where the loader stands."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch = self.loader.epoch
        for indices in self.loader.indices(epoch, self.loader.start):
            yield [(epoch, index) for index in indices.tolist()]


class Loader:
    """Batches of one split on the run's device; iterate it, or start anywhere with `batches(epoch, start)`.

    `get_batch(indices)` and `collate(samples)` are used where the map-style dataset has them; worker processes are for
    datasets without `get_batch`. `name`, `seed`, epoch and index are the key of all order and randomness. The last
    batch of an epoch may be smaller than `batch_size`.
    """

    def __init__(
        self, dataset: Any, name: str, batch_size: int, *, shuffle: bool, seed: int, device: torch.device,
        num_workers: int = 0, start_method: str | None = None, timeout: float | None = None,
    ) -> None:  # fmt: skip
        if len(dataset) == 0:
            raise UserError(f"the {name} split is empty")
        self.dataset, self.name, self.batch_size, self.shuffle = dataset, name, batch_size, shuffle
        self.seed, self.device = seed, device
        self.epoch = self.start = 0  # where the next iteration of `workers` begins
        self.workers: DataLoader[Any] | None = None
        if not hasattr(dataset, "get_batch"):
            self.samples = _KeyedSamples(dataset, name, seed, num_workers)
            self.workers = DataLoader(
                self.samples,  # type: ignore[arg-type]
                batch_sampler=_Keys(weakref.proxy(self)),  # no cycle: workers end with the last reference
                collate_fn=_as_it_is,
                num_workers=num_workers,
                multiprocessing_context=start_method if num_workers else None,
                persistent_workers=num_workers > 0,
                worker_init_fn=die_with_parent,
                timeout=(timeout or 0) if num_workers else 0,
                pin_memory=device.type == "cuda",
                generator=keys.generator(seed, name),  # else DataLoader draws from the global one
            )
            with_workers.add(self)

    def close(self) -> None:
        """End the worker processes; those that are still at work after a second are killed."""
        if self.workers is None or self.workers._iterator is None:
            return
        processes = self.workers._iterator._workers  # type: ignore[attr-defined]
        timer = threading.Timer(1.0, lambda: [process.kill() for process in processes])
        timer.start()
        with _deaths_ignored():
            self.workers._iterator._shutdown_workers()  # type: ignore[attr-defined]
        timer.cancel()
        self.workers._iterator = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(0)

    def indices(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Positions in the dataset of each batch of an epoch, from batch `start`."""
        num_items = len(self.dataset)
        if self.shuffle:
            order = torch.randperm(num_items, generator=keys.generator(self.seed, self.name, epoch))
        else:
            order = torch.arange(num_items)
        return iter(order[start * self.batch_size :].split(self.batch_size) if start < len(self) else ())

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch on the run's device, from batch `start`."""
        if self.workers is not None:
            self.epoch, self.start = epoch, start
            with blocked():
                iterator = iter(self.workers)
            for batch in iterator:
                if isinstance(batch, _Failed):
                    logger.debug(batch.details)
                    raise RunError(batch.message)
                yield to_device(batch, self.device)
            return
        for position, indices in enumerate(self.indices(epoch, start), start):
            # one key per batch; python's own generator, which costs more than the batch, is left as it is
            with keys.set_aside(with_python=False):
                keys.seed_arrays(keys.key(self.seed, self.name, epoch, position))
                batch = self.dataset.get_batch(indices)
            yield to_device(batch, self.device)

    def windows(self, state: RunState, accumulate: int) -> Iterator[Window]:
        """Endless windows of up to `accumulate` micro-batches, from where `state` stands; none crosses an epoch's end.

        The caller advances `state` after each window.
        """
        while True:
            stream = self.batches(state.epoch, state.batch)
            while window := [(batch, num_items(batch)) for batch in itertools.islice(stream, accumulate)]:
                yield window


@contextlib.contextmanager
def _deaths_ignored() -> Iterator[None]:
    """DataLoader raises an error wherever the main thread is when a worker dies; not so while they are made to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def _as_it_is(batch: Any) -> Any:
    return batch


def num_items(batch: Any) -> int:
    """Items in a batch: the length of its first tensor; UserError if there is none."""
    while not isinstance(batch, Tensor):
        if isinstance(batch, Mapping) and batch:
            batch = next(iter(batch.values()))
        elif isinstance(batch, list | tuple) and batch:
            batch = batch[0]
        else:
            raise UserError(
                f"a batch must hold a tensor first, found {type(batch).__name__}"
                "\nitems are tensors and numbers in tuples or dicts; anything else needs its own `collate`"
            )
    return len(batch)


def map_tensors(batch: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The batch with `function` applied to every tensor in nested tuples, lists and dicts."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {name: map_tensors(value, function) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        values = (map_tensors(value, function) for value in batch)
        return type(batch)(*values) if hasattr(batch, "_fields") else type(batch)(values)
    return batch


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch on `device`; to a GPU from pinned memory, without waiting."""
    if device.type == "cpu":
        return batch  # loaders make CPU tensors
    pin = device.type == "cuda"
    return map_tensors(batch, lambda t: (t.pin_memory() if pin else t).to(device, non_blocking=True))
