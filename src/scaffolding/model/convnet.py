"""Small convolutional network."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvNet(nn.Module):
    """3x3 convolutions with ReLU, each followed by 2x2 max-pooling, then one hidden layer with dropout.

    Args:
        image_shape: channels, height, width.
        num_classes: number of logits.
        channels: output channels of each convolution.
        hidden_size: units of the hidden layer.
        dropout: probability of dropping a unit before and after the hidden layer, 0..1.

    Raises:
        ValueError: the image is too small to be halved once per convolution.
    """

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int], hidden_size: int, dropout: float
    ) -> None:
        super().__init__()
        in_channels, height, width = image_shape
        if min(height, width) < 2 ** len(channels):
            raise ValueError(
                f"images of {height}x{width} cannot be halved by {len(channels)} convolutions (model.channels)"
            )
        layers: list[nn.Module] = []
        for out_channels in channels:
            layers += [nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            in_channels, height, width = out_channels, height // 2, width // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(in_channels * height * width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images of shape (B, C, H, W) to logits of shape (B, num_classes)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits
