"""Where several processes find each other's addresses."""

import time
from datetime import timedelta
from typing import Any
from uuid import uuid4

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


def open_store(timeout: timedelta) -> Any:
    """The store of the addresses, with names of this attempt alone.

    A torchrun that restarts its processes keeps the store, where the addresses of those that are gone still stand, and
    several torchruns do not count their attempts alike. So the first process chooses a name for the attempt. Each of
    the others asks for it with a word that nobody has used before; what the dead asked is answered to nobody.

    Raises:
        DistStoreError: not all processes come within the timeout.
    """
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    if rank > 0:
        question = uuid4().hex
        store.set(f"question {rank}", question)
        attempt = store.get(question).decode()  # waits for the answer
        store.set(f"{attempt} {rank}", "heard")
    else:
        attempt = uuid4().hex
        _answer(store, attempt, set(range(1, count)), time.monotonic() + timeout.total_seconds())
    return PrefixStore(attempt, store)


def _answer(store: Any, attempt: str, others: set[int], end: float) -> None:
    """Tell the other processes the name of the attempt, until all have heard it."""
    while others:
        if time.monotonic() > end:
            raise DistStoreError(f"these processes did not come in time: {', '.join(map(str, sorted(others)))}")
        for rank in sorted(others):
            if store.check([f"{attempt} {rank}"]):
                others.remove(rank)
            elif store.check([f"question {rank}"]):
                store.set(store.get(f"question {rank}").decode(), attempt)
        time.sleep(0.01)
