"""Autoencoder whose reconstructions must also pass for real images.

Sources: Larsen et al., "Autoencoding beyond pixels using a learned similarity metric", 2016; the sum of both losses as
in Esser, Rombach and Ommer, "Taming Transformers for High-Resolution Image Synthesis" (VQGAN), 2021, without the codes.
"""

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GANAutoencoder(nn.Module):
    """An autoencoder through a short latent vector, and a discriminator that tells reconstructions from real images.

    Args:
        image_shape: channels, height, width.
        channels: maps after each 4x4 convolution of encoder and discriminator; each halves height and width.
        latent_size: values in a latent vector.

    Raises:
        ValueError: height or width cannot be halved that often.
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int], latent_size: int) -> None:
        super().__init__()
        num_channels, height, width = image_shape
        scale = 2 ** len(channels)
        if height % scale or width % scale:
            raise ValueError(f"images of {height}x{width} cannot be halved {len(channels)} times (model.channels)")
        smallest = (channels[-1], height // scale, width // scale)
        sizes = [num_channels, *channels]
        up: list[nn.Module] = [nn.Linear(latent_size, math.prod(smallest)), nn.Unflatten(1, smallest)]
        for inner, outer in zip(reversed(channels), reversed(sizes[:-1]), strict=True):
            up += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, kernel_size=4, stride=2, padding=1)]
        down, judge = convolutions(sizes), convolutions(sizes)
        encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(math.prod(smallest), latent_size))
        self.autoencoder = nn.Sequential(encoder, nn.Sequential(*up))
        self.discriminator = nn.Sequential(*judge, nn.Conv2d(channels[-1], 1, kernel_size=1))  # a logit a patch

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions of images of shape (B, C, H, W)."""
        reconstructions: Tensor = self.autoencoder(images)
        return reconstructions


def convolutions(sizes: Sequence[int]) -> list[nn.Module]:
    """4x4 convolutions with leaky ReLU from `sizes[0]` maps to `sizes[-1]`, each halving height and width."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in itertools.pairwise(sizes):
        layers += [nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return layers


class RealOrReconstructedLoss:
    """-log D(x) - log(1 - D(x')) for images x and their reconstructions x'; the discriminator's."""

    def __call__(self, model: GANAutoencoder, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats; `real` and `fake`, mean probabilities of being real, 0..1; images are the batch's first."""
        images = batch[0]
        with torch.no_grad():
            reconstructions = model.autoencoder(images)
        real, fake = model.discriminator(images), model.discriminator(reconstructions)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()  # softplus(-logit) = -log sigmoid(logit)
        return loss, {"real": real.sigmoid().mean(), "fake": fake.sigmoid().mean()}


class AdversarialReconstructionLoss:
    """Squared error plus a share of -log D(x'): close to the image, and where that leaves a choice, like a real one.

    Args:
        adversarial: weight of the second term.
    """

    def __init__(self, adversarial: float) -> None:
        self.adversarial = adversarial

    def __call__(self, model: GANAutoencoder, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, and its parts: `reconstruction`, a mean over pixels, and `adversarial` in nats, before its weight."""
        images = batch[0]
        reconstructions = model.autoencoder(images)
        reconstruction = F.mse_loss(reconstructions, images)
        adversarial = F.softplus(-model.discriminator(reconstructions)).mean()
        metrics = {"reconstruction": reconstruction, "adversarial": adversarial}
        return reconstruction + self.adversarial * adversarial, metrics
