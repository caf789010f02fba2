"""Training batches from a stream, which has no positions: it keeps in its state where it stands."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from ..errors import RunError, UserError
from ..intervals import num_kept
from ..state import keys
from ..state.progress import RunState
from .loader import MicroBatch, MicroBatches, deal
from .move import to_device


class StreamLoader:
    """Takes the place of a `Loader` for training; a checkpoint holds the stream's state.

    Args:
        stream: an endless iterable of batches, each of `batch_size` items, with `state_dict()` and
            `load_state_dict(state)`; it is read in the training process, and never further than it is trained on.
        num_items: that count as an epoch.
        limit: how much of an epoch to keep: a number of items, or a fraction of them up to 1.0; None: all.
        batch_size: items in a batch.
        seed: of the run; what the stream draws from the global generators is a function of (seed, step).
        device: where batches go.
        rank: of this process. All of them read the whole stream, and each trains on its part.
        num_processes: that train together.
        memory_format: of images in batches.

    Raises:
        UserError: the stream cannot be resumed, or `num_items` is missing.
    """

    workers = None  # what reads ahead stands somewhere else than training

    def __init__(
        self,
        stream: Any,
        num_items: int | None,
        limit: int | float | None,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        num_processes: int = 1,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if not num_items:
            raise UserError("data.num_items is not set\nit says how many items of data.stream count as an epoch")
        missing = [name for name in ("__iter__", "state_dict", "load_state_dict") if not hasattr(stream, name)]
        if missing:
            raise UserError(
                f"data.stream: {type(stream).__name__} has no {', '.join(missing)}"
                "\na stream is iterable, and its state says where it stands; see Streams in configs/README.md"
            )
        self.stream, self.batch_size, self.seed, self.device = stream, batch_size, seed, device
        self.num_batches = math.ceil(num_kept(num_items, limit) / batch_size)
        self.num_items = num_items
        self.rank, self.num_processes, self.memory_format = rank, num_processes, memory_format

    def __len__(self) -> int:
        """Batches that count as an epoch."""
        return self.num_batches

    def close(self) -> None:
        """Do nothing: a stream has no worker processes."""

    def state_dict(self) -> Any:
        """Where the stream stands."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Any) -> None:
        """Go on from there."""
        self.stream.load_state_dict(state)

    def steps(self, state: RunState, accumulate: int) -> Iterator[MicroBatches]:
        """Endless optimizer steps of up to `accumulate` micro-batches; as of a `Loader`, none crosses an epoch's end.

        Raises:
            RunError: the stream ended.
        """
        batches = iter(self.stream)
        while True:
            count = min(accumulate, self.num_batches - state.position)
            key = keys.key(self.seed, "step", state.step)
            keys.seed_host(key)
            if self.device.type != "cpu":  # a policy may act there
                keys.seed_torch(self.device, key)
            span = range(state.position, state.position + count)
            read = {}
            for position in span:
                try:
                    read[position] = to_device(next(batches), self.device, self.memory_format)
                except StopIteration:
                    raise RunError(
                        f"data.stream: {type(self.stream).__name__} ended after step {state.step}"
                        "\na stream for training is endless: let it begin again"
                    ) from None
            micro_batches = MicroBatches(count, count * self.batch_size)
            for position, counts in deal(span, self.rank, self.num_processes):
                share, size = counts / count, counts * self.batch_size
                micro_batches.append(MicroBatch(read[position], share, size, state.epoch, position))
            keys.seed_host(key)  # the step draws the same, however much the stream drew
            yield micro_batches
