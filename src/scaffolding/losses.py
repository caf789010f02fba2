"""Losses that several models share: `loss, metrics = loss_fn(model, batch)`.

A loss calls the model, because it may call it more than once, or several networks. It returns the scalar to minimise
and a dict of scalar metrics, all as tensors: reading a value (`.item()`) would make a GPU wait at every step. The dict
may also hold "weight", how much these means count (tokens that are not padding, pairs), where that is not the number of
items, and "output", what the model gave, for `metrics:`. In training a loss of weight 0 must itself be finite: its
gradients are multiplied by 0, which leaves NaN as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationLoss:
    """Cross-entropy, with the accuracy as metric.

    Args:
        label_smoothing: weight of the uniform distribution in the target, 0..1 (Szegedy et al., "Rethinking the
            Inception Architecture for Computer Vision", 2016, section 7).
    """

    def __init__(self, label_smoothing: float) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats and accuracy in 0..1, both means over the batch, from images (B, ...) and labels (B,)."""
        images, labels = batch
        logits = model(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss, {"accuracy": accuracy(logits, labels), "output": logits}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Fraction of items that are predicted right, 0..1.

    Args:
        logits: (B, C, ...) for C classes, or one for each label, (B,) or (B, 1, ...).
        labels: class indices (B, ...), or for single logits 0 or 1; above 0.5 counts as 1.

    Raises:
        ValueError: the shapes are others.
    """
    if logits.ndim > 1 and logits.shape[1] > 1 and labels.shape == logits.shape[:1] + logits.shape[2:]:
        is_correct = logits.argmax(dim=1) == labels  # argmax has no gradient, so this needs no no_grad
    elif logits.numel() == labels.numel() and len(logits) == len(labels) and logits.shape[1:2] in ((), (1,)):
        is_correct = (logits > 0).flatten() == (labels > 0.5).flatten()
    else:
        raise ValueError(
            f"accuracy of logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: labels number the classes of "
            "dimension 1, or there is one logit for each label"
        )
    return is_correct.mean(dtype=torch.float32)
