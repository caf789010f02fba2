"""Metrics that are not means over items: objects with `update(model, batch[, output])`, `compute()`, `reset()`.

`output` is what the loss gives under that name, else None. `compute` returns a number, or a dict of numbers.
`SampleQuality` is for `rollout:`, a callable of (model, loader) that returns a dict of numbers.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .core.modes import evaluating


class TorchMetric:
    """A metric of torchmetrics (optional group `metrics`) on a classifier's logits and labels.

    Args:
        metric: takes logits of shape (B, num_classes) and labels of shape (B,), e.g. a MulticlassAUROC.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor], output: Tensor | None = None) -> None:
        """See one batch: images (B, ...), labels (B,) and, where the loss gives them, the logits."""
        images, labels = batch
        if output is None:
            output = model(images)
        self.metric.to(labels.device).update(output, labels)

    def compute(self) -> Any:
        """The value over everything seen since `reset`; of a collection of metrics, a dict."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()


class SampleQuality:
    """How far images that a model draws are from real ones, in pixel space; a rollout.

    Args:
        num_samples: number of images drawn, and of validation images drawn at random to compare with them; all of these
            where there are fewer.
        num_neighbours: k, of density and coverage.
        seed: of the samples, and of the choice of validation images.

    Raises:
        ValueError: `num_samples` is below 2.
    """

    def __init__(self, num_samples: int, num_neighbours: int, seed: int) -> None:
        if num_samples < 2:
            raise ValueError(f"num_samples={num_samples}: two or more can be compared with images")
        self.num_samples, self.num_neighbours, self.seed = num_samples, num_neighbours, seed

    @torch.no_grad()
    def __call__(self, model: Any, loader: Iterable[Any]) -> dict[str, float]:
        """Squared MMD, density and coverage of `model.sample(num, generator)`, on batches that begin with images.

        Raises:
            ValueError: there are fewer than two validation images.
        """
        batches = [batch[0] if isinstance(batch, list | tuple) else batch for batch in loader]
        real = torch.cat(batches)
        if len(real) < 2:
            raise ValueError(f"{len(real)} validation images: two or more can be compared with samples")
        chosen = torch.randperm(len(real), generator=torch.Generator().manual_seed(self.seed))[: self.num_samples]
        real = real[chosen.to(real.device)]
        with evaluating(model):
            samples = model.sample(len(real), torch.Generator().manual_seed(self.seed))
        real, samples = (part.flatten(1).cpu().double() for part in (real, samples))
        density, coverage = density_and_coverage(real, samples, self.num_neighbours)
        return {"mmd2": squared_mmd(real, samples), "density": density, "coverage": coverage}


def squared_mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy of samples (n, D) and (m, D): about 0 where they agree.

    The kernel is a Gaussian as wide as the median distance within `x`. Source: Gretton et al., "A Kernel Two-Sample
    Test", 2012, equation 3.
    """
    width = torch.pdist(x).median()
    k_xx, k_yy, k_xy = (torch.exp(-(torch.cdist(a, b) / width).square() / 2) for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)  # the diagonals, ones, are left out
    return float((k_xx.sum() - n) / (n * (n - 1)) + (k_yy.sum() - m) / (m * (m - 1)) - 2 * k_xy.mean())


def density_and_coverage(real: Tensor, samples: Tensor, num_neighbours: int) -> tuple[float, float]:
    """How densely samples (m, D) lie among real items (n, D), and the share of real items that have one close by.

    Close is nearer than the real item's k-th nearest real neighbour. Samples of the real distribution have density 1
    and, with m = n, coverage 1 - 2^-k. Source: Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative
    Models", 2020.
    """
    k = min(num_neighbours, len(real) - 1)
    radii = torch.cdist(real, real).kthvalue(k + 1, dim=1).values  # the nearest is the item itself
    is_close = torch.cdist(real, samples) < radii[:, None]
    return float(is_close.double().sum() / (k * len(samples))), float(is_close.any(dim=1).double().mean())
