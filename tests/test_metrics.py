"""Metrics of samples, on samples whose distance is known."""

import math
from typing import Any

import pytest
import torch

from scaffolding.losses import accuracy
from scaffolding.metrics import SampleQuality, density_and_coverage, squared_mmd


def normal(num: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_squared_mmd_in_closed_form() -> None:
    """Two points each: every kernel value can be written down."""
    x, y = torch.tensor([[0.0], [2.0]]).double(), torch.tensor([[1.0], [5.0]]).double()

    def kernel(distance: float) -> float:
        return math.exp(-((distance / 2) ** 2) / 2)  # 2: the median distance within x

    expected = kernel(2) + kernel(4) - (kernel(1) + kernel(5) + kernel(1) + kernel(3)) / 2
    assert squared_mmd(x, y) == pytest.approx(expected)


def test_squared_mmd_is_unbiased() -> None:
    """Samples of one distribution: on average 0, now above and now below; of two: far from it."""
    same = [squared_mmd(normal(50, seed=2 * seed), normal(50, seed=2 * seed + 1)) for seed in range(100)]
    mean = sum(same) / len(same)
    std_of_mean = (sum((value - mean) ** 2 for value in same) / len(same) ** 2) ** 0.5
    assert abs(mean) < 3 * std_of_mean < 0.01 and min(same) < 0 < max(same)
    assert squared_mmd(normal(50), normal(50, shift=1, seed=1)) > 4 * max(same)


def test_density_and_coverage() -> None:
    line = torch.arange(6.0).double()[:, None]  # radii with one neighbour: 1 each
    assert density_and_coverage(line, line + 0.1, 1) == pytest.approx(((6 + 5) / 6, 1))  # also close to the next one
    assert density_and_coverage(line, line + 100, 1) == (0, 0)
    assert density_and_coverage(line, torch.zeros(4, 1).double(), 1) == pytest.approx((1, 1 / 6))  # collapsed to one
    density, coverage = density_and_coverage(normal(2000), normal(2000, seed=1), 5)
    assert density == pytest.approx(1, abs=0.05) and coverage == pytest.approx(1 - 2**-5, abs=0.02)


class Model(torch.nn.Module):
    """Draws what the loader has, or something else."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift
        self.was_training: list[bool] = []

    def sample(self, num: int, generator: torch.Generator) -> torch.Tensor:
        self.was_training.append(self.training)
        return torch.randn(num, 1, 2, 2, generator=generator) + self.shift


@pytest.mark.parametrize("batches", ["tuples", "tensors"])
def test_rollout(batches: str) -> None:
    images = torch.randn(90, 1, 2, 2, generator=torch.Generator().manual_seed(1)).split(30)
    loader: list[Any] = [(part, torch.zeros(30)) for part in images] if batches == "tuples" else list(images)
    rollout, model, before = SampleQuality(80, 5, seed=0), Model(0), torch.get_rng_state()
    values = rollout(model, loader)
    assert rollout(model, loader) == values
    assert abs(values["mmd2"]) < 0.02 and values["coverage"] > 0.9
    assert model.training and model.was_training == [False, False]
    assert torch.equal(torch.get_rng_state(), before)
    far = rollout(Model(9), loader)
    assert far["mmd2"] > 0.5 and far["coverage"] == 0


def test_real_images_are_drawn_from_all_there_are() -> None:
    """Fails where the first ones are taken: of data stored by class, a few classes."""
    images = torch.randn(80, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    images[40:] += 9
    assert SampleQuality(40, 5, seed=0)(Model(9), images.split(40))["coverage"] > 0.3
    with pytest.raises(ValueError, match="1 validation images"):
        SampleQuality(40, 5, seed=0)(Model(9), [images[:1]])


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]], [0, 0, 0], 2 / 3),
        ([[[1.0], [0.0]], [[0.0], [1.0]]], [[0], [0]], 1 / 2),  # two items of two classes at one place
        ([[3.0], [-2.0], [0.5], [-1.0]], [[1.0], [0.0], [0.0], [0.0]], 3 / 4),  # one logit, as for a binary loss
        ([[3.0], [-2.0], [0.5], [-1.0]], [1.0, 0.0, 0.0, 0.0], 3 / 4),
        ([3.0, -2.0, 0.5, -1.0], [1, 0, 0, 0], 3 / 4),
    ],
)
def test_accuracy(logits: Any, labels: Any, expected: float) -> None:
    """Fails where one logit counts as a choice among one class: the share of class 0."""
    assert accuracy(torch.tensor(logits), torch.tensor(labels)) == pytest.approx(expected)


@pytest.mark.parametrize(("logits", "labels"), [((4, 3), (4, 3)), ((4, 3), (4, 1)), ((4, 1), (1, 4)), ((4,), (3,))])
def test_accuracy_of_other_shapes_is_refused(logits: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match="accuracy of logits"):
        accuracy(torch.zeros(logits), torch.zeros(labels))
