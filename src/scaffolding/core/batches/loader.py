"""Batches of one split: order and randomness as functions of (seed, epoch, position), so nothing needs to be saved.

A dataset with `get_batch(indices)` is read a batch at a time in the training process. Any other is read sample by
sample through torch's DataLoader (workers.py). Both start anywhere in an epoch at no cost: position is arithmetic.
"""

import contextlib
import functools
import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import RunError, UserError
from ..state import keys
from ..state.progress import RunState
from .move import to_device


class MicroBatch(NamedTuple):
    """A part of an optimizer step's data; the weights of a step's micro-batches add up to 1."""

    batch: Any
    weight: float  # share of the step's items; the loss may give another one; 0: another process counts it
    num_items: int
    epoch: int
    position: int  # in the epoch


class MicroBatches(list[MicroBatch]):
    """Those of an optimizer step that this process computes, and how many batches and items all processes compute."""

    def __init__(self, num_batches: int, num_items: int) -> None:
        super().__init__()
        self.num_batches, self.num_items = num_batches, num_items


def deal(span: range, rank: int, num_processes: int) -> list[tuple[int, bool]]:
    """Which batches of a span of positions a process computes, and whether it is the one that counts them.

    They are dealt like cards. All processes compute as many, as they meet after each: where a process has one too few,
    it computes its last one (or, without any, the last of the span) again, and that does not count.
    """
    own = span[rank::num_processes]
    dealt = [(position, True) for position in own]
    if len(own) * num_processes < len(span):
        dealt.append(((own or span)[-1], False))
    return dealt


class Loader:
    """Batches of one split on the run's device; iterate it, or start anywhere with `batches(epoch, start)`.

    The map-style dataset may have `get_batch(indices)`, `collate(samples)` and, where it is shuffled,
    `order(generator)`, which returns the positions that an epoch reads, int64 of shape (n,), n the same every epoch.
    Worker processes are for datasets without `get_batch`. The last batch of an epoch may be smaller than `batch_size`,
    unless `drop_last` leaves it out. `steps` and `shared` read what is this process's part, where there are several.
    """

    def __init__(
        self, dataset: Any, name: str, batch_size: int, *, shuffle: bool, seed: int, device: torch.device,
        drop_last: bool = False, num_workers: int = 0, start_method: str | None = None, timeout: float | None = None,
        rank: int = 0, num_processes: int = 1, memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:  # fmt: skip
        self.dataset, self.name, self.batch_size, self.shuffle = dataset, name, batch_size, shuffle
        self.seed, self.device, self.drop_last = seed, device, drop_last
        self.rank, self.num_processes = rank, num_processes
        self.memory_format = memory_format
        self.is_moved = device.type != "cpu" or memory_format != torch.contiguous_format  # batches are read on the CPU
        self.has_order = shuffle and hasattr(dataset, "order")
        self.num_items = len(dataset)  # that an epoch reads
        if self.has_order:
            self.num_items = len(self._order(0))
        if self.num_items == 0:
            raise UserError(f"the {name} split is empty")
        if len(self) == 0:
            raise UserError(
                f"loader.drop_last=true: the {name} split has {self.num_items} items, a batch {batch_size}"
                "\ngive a smaller loader.batch_size"
            )
        self.reading: tuple[int, int] | None = None  # epoch and position of the newest batch; None: read to the end
        self.resident: Any = None  # the dataset's copy on the device, where there is one
        self.workers: Any = None
        if not hasattr(dataset, "get_batch"):
            from .workers import Workers  # only where samples are read one by one

            self.workers = Workers(self, num_workers, start_method, timeout)

    def without_workers(self) -> "Loader":
        """A loader that reads the same batches in this process; this one does not notice."""
        return Loader(
            self.dataset, self.name, self.batch_size, shuffle=self.shuffle, seed=self.seed, device=self.device,
            drop_last=self.drop_last, memory_format=self.memory_format,
        )  # fmt: skip

    def close(self) -> None:
        """End the worker processes."""
        if self.workers is not None:
            self.workers.close()

    def __len__(self) -> int:
        """Batches in an epoch."""
        if self.drop_last:
            return self.num_items // self.batch_size
        return -(-self.num_items // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(0)

    def size(self, position: int) -> int:
        """Items in the batch at a position of any epoch."""
        return min(self.batch_size, self.num_items - position * self.batch_size)

    def indices(self, epoch: int, start: int = 0) -> Iterator[Tensor]:
        """Positions in the dataset of each batch of an epoch, from batch `start`."""
        return (indices for _, indices in self.indices_of(epoch, range(start, len(self))))

    def indices_of(self, epoch: int, positions: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
        """Some batches of an epoch: the position of each in the epoch, and the positions of its items in the dataset.

        Raises:
            RunError: the dataset's order() has another length than before.
        """
        order = self._checked_order(epoch)
        return ((position, self._cut(order, position)) for position in positions)

    def _cut(self, order: Tensor, position: int) -> Tensor:
        """The part of an epoch's order that is the batch at a position."""
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def _checked_order(self, epoch: int) -> Tensor:
        order = self._order(epoch)
        if len(order) != self.num_items:
            raise RunError(f"order() of the {self.name} split gives {len(order)} items, and gave {self.num_items}")
        return order

    def _order(self, epoch: int) -> Tensor:
        """Positions in the dataset in the order in which an epoch reads them."""
        if not self.shuffle:
            return torch.arange(len(self.dataset))
        generator = keys.generator(self.seed, self.name, epoch)
        if self.has_order:
            order: Tensor = self.dataset.order(generator)
            return order
        return torch.randperm(len(self.dataset), generator=generator)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches of an epoch on the run's device, from batch `start`.

        What datasets draw, they draw from generators seeded for each batch or sample, which are given back as they
        were.
        """
        return self._read(epoch, range(start, len(self)), leaves_no_trace=True)

    def shared(self) -> Iterator[tuple[int, int, Any]]:
        """(position, items, batch) of what this process reads of epoch 0; 0 items: another process counts it."""
        dealt = self._deal(range(len(self)))
        batches, last = self._read(0, list(dict(dealt)), leaves_no_trace=True), None
        for position, counts in dealt:
            if position != last:
                self.reading = 0, position
                batch, last = next(batches), position
            yield position, self.size(position) * counts, batch
        self.reading = None

    def sized(self) -> Iterator[tuple[int, int, Any]]:
        """(position, items, batch) of all of epoch 0."""
        batches = iter(self)
        for position in range(len(self)):
            self.reading = 0, position
            yield position, self.size(position), next(batches)
        self.reading = None

    def _read(self, epoch: int, positions: Iterable[int], leaves_no_trace: bool) -> Iterator[Any]:
        """Some batches of an epoch; generators are not given back, where a dataset has `get_batch` and that says so."""
        if self.workers is not None:
            for batch in self.workers.batches(epoch, positions):
                if self.is_moved:
                    batch = to_device(batch, self.device, self.memory_format)
                yield batch
            return
        given_back: Any = contextlib.nullcontext
        if leaves_no_trace:
            given_back = functools.partial(keys.preserved, with_python=False)
        order = self._checked_order(epoch)
        if self.resident is not None:
            order_there = self.resident.order_there(order, self.dataset.indices)
        for position in positions:
            if self.resident is not None and self.resident.is_current():  # it draws nothing
                batch = self.resident.there.get_batch(self._cut(order_there, position))
                if self.memory_format != torch.contiguous_format:
                    batch = to_device(batch, self.device, self.memory_format)
                yield batch
                continue
            # one key per batch; python's own generator, which costs more than the batch, is left as it is
            with given_back():
                keys.seed_host(keys.key(self.seed, self.name, epoch, position), with_python=False)
                batch = self.dataset.get_batch(self._cut(order, position))
            if self.is_moved:
                batch = to_device(batch, self.device, self.memory_format)
            yield batch

    def steps(self, state: RunState, accumulate: int) -> Iterator[MicroBatches]:
        """Endless optimizer steps of up to `accumulate` micro-batches, from where `state` stands.

        No step crosses an epoch's end. The caller advances `state` after each step. What a step draws from numpy's and
        python's generators is keyed here by (seed, step, process); torch's are keyed for each micro-batch, where it is
        used.
        """
        process = ("rank", self.rank) if self.rank else ()
        while True:
            epoch, start = state.epoch, state.position
            positions: Iterable[int] = range(start, len(self))
            if self.num_processes > 1:
                dealt = (self._deal(span) for span in self._spans(start, accumulate))
                positions = (position for own in dealt for position in dict(own))
            batches = self._read(epoch, positions, leaves_no_trace=False)  # all generators are seeded again below
            for span in self._spans(start, accumulate):
                key = keys.key(self.seed, "step", state.step, *process)
                random.seed(key)  # before reading: get_batch may draw from python's generator, too
                micro_batches = MicroBatches(len(span), sum(map(self.size, span)))
                last: int | None = None
                for position, counts in self._deal(span):
                    if position != last:
                        self.reading = epoch, position
                        batch, last = next(batches), position
                    size = self.size(position) * counts
                    micro_batches.append(MicroBatch(batch, size / micro_batches.num_items, size, epoch, position))
                keys.seed_host(key, with_python=False)
                yield micro_batches

    def _spans(self, start: int, accumulate: int) -> Iterator[range]:
        """The positions of each optimizer step of an epoch, from batch `start`."""
        num_batches = len(self)
        return (range(first, min(first + accumulate, num_batches)) for first in range(start, num_batches, accumulate))

    def _deal(self, span: range) -> list[tuple[int, bool]]:
        return deal(span, self.rank, self.num_processes)
