"""Random numbers are functions of keys; a keyed block leaves the process's own generators as they were."""

import random

import numpy as np
import pytest
import torch

from scaffolding.core.state import keys

GOLDEN = 4004993037752336081


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_keys_are_the_same_on_every_machine() -> None:
    """A changed key would silently change the order, the splits and the weights of every run made before."""
    assert keys.key(42, "train", 3) == GOLDEN
    assert len({keys.key(1, 23), keys.key(12, 3), keys.key("1", "23"), keys.key(1, "23"), keys.key(123)}) == 5
    assert all(0 <= keys.key(seed) < 2**63 for seed in range(100))


def test_a_keyed_block_is_neutral_and_repeatable() -> None:
    keys.seed_all(7)
    expected = draw() + draw()
    keys.seed_all(7)
    first = draw()
    with keys.keyed(3, "evaluate"):
        inside = draw()
    with pytest.raises(ZeroDivisionError), keys.keyed(3, "evaluate"):
        assert draw() == inside
        raise ZeroDivisionError
    assert first + draw() == expected
    with keys.keyed(3, "plot"):
        assert draw() != inside
