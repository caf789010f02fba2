"""Multilayer perceptron."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between them, on the flattened image.

    Args:
        image_shape: channels, height, width.
        num_classes: number of logits.
        hidden_sizes: units of each hidden layer; empty: a linear classifier.
        dropout: probability of dropping a hidden unit, 0..1.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, hidden_sizes: Sequence[int], dropout: float
    ) -> None:
        super().__init__()
        sizes = [math.prod(image_shape), *hidden_sizes]
        layers: list[nn.Module] = [nn.Flatten()]
        for in_features, out_features in itertools.pairwise(sizes):
            layers += [nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (B, C, H, W) to logits of shape (B, num_classes)."""
        logits: Tensor = self.layers(images)
        return logits
