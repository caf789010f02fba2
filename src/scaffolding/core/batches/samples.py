"""Samples read one by one, each with a key for its random numbers, and what went wrong in reading them."""

import time
import traceback
from typing import Any, NamedTuple

import torch
from torch.utils.data import default_collate, get_worker_info

from ..errors import failure
from ..state import keys


class Failed(NamedTuple):
    """In the place of a batch: what went wrong in reading it, in words and as a traceback."""

    message: str
    details: str


class KeyedSamples:
    """The dataset as DataLoader reads it: generators are seeded for each sample by (seed, split, epoch, index, ...).

    `at_work`, shared with the workers, shape (num_workers, 2), holds the index each one is reading, or -1, and since
    when (monotonic seconds; 0: it has not read anything, -1: it has not come to life).
    """

    def __init__(self, dataset: Any, name: str, seed: int, num_workers: int) -> None:
        self.dataset, self.name, self.seed = dataset, name, seed
        self.at_work = torch.full((num_workers, 2), -1.0, dtype=torch.float64).share_memory_()
        self.collate = getattr(dataset, "collate", default_collate)

    def __getitems__(self, wanted: list[tuple[int, ...]]) -> Any:
        samples, info = [], get_worker_info()
        at_work, where = None, ""
        if info is not None:
            at_work, where = self.at_work.numpy()[info.id], f" (worker {info.id})"
        with keys.preserved(with_python=True):
            for epoch, index, *repeat in wanted:
                if at_work is not None:
                    at_work[:] = index, time.monotonic()
                keys.seed_host(keys.key(self.seed, self.name, epoch, index, *repeat))
                try:
                    samples.append(self.dataset[index])
                except (Exception, SystemExit) as error:
                    return _failed(error, f"sample {index} of the {self.name} split{where}")
            if at_work is not None:
                at_work[0] = -1
            keys.seed_host(keys.key(self.seed, self.name, "collate", *wanted[0]))  # it may mix or mask at random
            try:
                return self.collate(samples)
            except (Exception, SystemExit) as error:
                return _failed(
                    error, f"collating samples {[index for _, index, *_ in wanted]} of the {self.name} split"
                )


def _failed(error: BaseException, what: str) -> Failed:
    return Failed(failure(error, what), "".join(traceback.format_exception(error)))
