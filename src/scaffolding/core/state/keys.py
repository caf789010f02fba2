"""Random numbers: keys instead of streams, and the global generators' states as plain values.

Whatever must not depend on worker counts, restarts or what else was drawn is seeded with `key(seed, ...)`: the order
of an epoch, a sample's augmentation, a split, the weights. What remains on the global generators (dropout in the
training step) is saved and restored with the checkpoint.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.random import mtrand

_SPARE = np.random.MT19937(0)  # swapped in for numpy's global bits: 1 us, where saving their state costs 70 us


def key(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator of its own, seeded with `key(*parts)`."""
    return torch.Generator().manual_seed(key(*parts))


def seed_arrays(seed: int) -> None:
    """Seed what vectorised code draws from: torch on the CPU (torch.manual_seed would take 370 us) and numpy."""
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)


def seed_host(seed: int) -> None:
    """Seed what a sample may draw from: these, and python's generator."""
    random.seed(seed)
    seed_arrays(seed)


def seed_all(seed: int) -> None:
    """Seed python's, numpy's, torch's and every accelerator's global generator."""
    seed_host(seed)
    torch.manual_seed(seed)


@contextlib.contextmanager
def keyed(*parts: int | str) -> Iterator[None]:
    """Run a block on generators seeded with `key(*parts)`, then give all of them back: nothing outside can tell."""
    states = capture()
    seed_all(key(*parts))
    try:
        yield
    finally:
        restore(states)


@contextlib.contextmanager
def set_aside(with_python: bool) -> Iterator[None]:
    """Give torch's (CPU), numpy's and perhaps python's generators back as they were; the block seeds them itself."""
    state, bits = torch.default_generator.get_state(), mtrand.get_bit_generator()
    python = random.getstate() if with_python else None
    mtrand.set_bit_generator(_SPARE)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        mtrand.set_bit_generator(bits)
        if python is not None:
            random.setstate(python)


def capture() -> dict[str, Any]:
    """The states of all global generators as tensors and plain values (loads with weights_only=True)."""
    name, keys, position, has_gauss, gauss = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    version, words, gauss_next = random.getstate()
    return {
        "python": [version, list(words), gauss_next],
        "numpy": [name, torch.from_numpy(keys.copy()), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "mps": torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
    }


def restore(states: dict[str, Any]) -> None:
    """Set all global generators to what `capture` returned; states of devices that are not here are left out."""
    version, words, gauss_next = states["python"]
    random.setstate((version, tuple(words), gauss_next))
    name, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((name, keys.numpy(), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    if states["mps"] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
