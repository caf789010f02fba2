"""Metrics that are not means over items: objects with `update(model, batch)`, `compute()` and `reset()`."""

from typing import Any

from torch import Tensor, nn


class TorchMetric:
    """A metric of torchmetrics (optional group `metrics`) on a classifier's logits and labels.

    Args:
        metric: takes logits of shape (B, num_classes) and labels of shape (B,), e.g. a MulticlassAUROC.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        """See one batch: images (B, ...) and labels (B,)."""
        images, labels = batch
        self.metric.to(labels.device).update(model(images), labels)

    def compute(self) -> float:
        """The value over everything seen since `reset`."""
        return float(self.metric.compute())

    def reset(self) -> None:
        """Forget what was seen."""
        self.metric.reset()
