"""Where several processes find each other's addresses."""

import os
from datetime import timedelta
from typing import Any

from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous


def open_store(timeout: timedelta) -> Any:
    """The store of the addresses.

    A torchrun that restarts them keeps its store, where the addresses of the processes that are gone still stand, so
    each attempt has separate names. Several torchruns do not count alike; they have a new store each time.
    """
    store, _, _ = next(rendezvous("env://", timeout=timeout))
    attempt = "0"
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"attempt {attempt}", store)
