"""Generative adversarial network with convolutions, and its two losses.

Sources: Goodfellow et al., "Generative Adversarial Nets", 2014; the shape of the networks: Radford, Metz and Chintala,
"Unsupervised Representation Learning with Deep Convolutional Generative Adversarial Networks" (DCGAN), 2016.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GAN(nn.Module):
    """A generator of images and a discriminator that tells them from real ones.

    Unlike DCGAN without batch normalisation, so that an image does not depend on the others of its batch, and training
    and evaluation see the same networks: the generator normalises by groups of channels, the discriminator not at all.

    Args:
        image_shape: channels, height, width.
        noise_size: values in a noise vector.
        channels: maps after each 4x4 convolution of the discriminator, each of which halves height and width; the
            generator has them in reverse.

    Raises:
        ValueError: height or width cannot be halved that often.
    """

    def __init__(self, image_shape: Sequence[int], noise_size: int, channels: Sequence[int]) -> None:
        super().__init__()
        num_channels, height, width = image_shape
        scale = 2 ** len(channels)
        if height % scale or width % scale:
            raise ValueError(f"images of {height}x{width} cannot be halved {len(channels)} times (model.channels)")
        smallest = (channels[-1], height // scale, width // scale)
        self.noise_size = noise_size
        self.generator = Generator(noise_size, smallest, [*reversed(channels[:-1]), num_channels])
        self.discriminator = Discriminator([num_channels, *channels], smallest)

    def forward(self, noise: Tensor) -> Tensor:
        """Noise (B, noise_size), standard normal, to images (B, C, H, W)."""
        images: Tensor = self.generator(noise)
        return images

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """`num` images (num, C, H, W) from noise drawn with a generator on the CPU."""
        device = next(self.parameters()).device
        images: Tensor = self(torch.randn(num, self.noise_size, generator=generator).to(device))
        return images


class Generator(nn.Module):
    """G: a linear layer to the smallest map, then transposed 4x4 convolutions, each doubling height and width.

    Args:
        noise_size: values in a noise vector.
        smallest: channels, height, width of the first map.
        channels: maps after each convolution; the last are the image, unbounded, as the data are normalised.
    """

    def __init__(self, noise_size: int, smallest: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        in_channels, height, width = smallest
        layers: list[nn.Module] = [
            nn.Linear(noise_size, in_channels * height * width),
            nn.Unflatten(1, tuple(smallest)),
        ]
        for out_channels in channels:
            layers += [nn.GroupNorm(8, in_channels), nn.ReLU()]
            layers.append(nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1))
            in_channels = out_channels
        self.layers = nn.Sequential(*layers)

    def forward(self, noise: Tensor) -> Tensor:
        """Noise (B, noise_size) to images (B, C, H, W)."""
        images: Tensor = self.layers(noise)
        return images


class Discriminator(nn.Module):
    """D: 4x4 convolutions with leaky ReLU, each halving height and width, and one logit: positive for real images.

    Args:
        channels: of the image, then maps after each convolution.
        smallest: channels, height, width of the last map.
    """

    def __init__(self, channels: Sequence[int], smallest: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for in_channels, out_channels in itertools.pairwise(channels):
            layers += [nn.Conv2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(smallest[0] * smallest[1] * smallest[2], 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B,)."""
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


class DiscriminatorLoss:
    """-log D(x) - log(1 - D(G(z))): real images are to be called real, generated ones not."""

    def __call__(self, model: GAN, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats; D(x) as `real`, D(G(z)) as `fake`, mean probabilities 0..1; images are the batch's first."""
        images = batch[0]
        with torch.no_grad():
            fakes = model.generator(torch.randn(len(images), model.noise_size, device=images.device))
        real, fake = model.discriminator(images), model.discriminator(fakes)
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()  # softplus(-logit) = -log sigmoid(logit)
        return loss, {"real": real.sigmoid().mean(), "fake": fake.sigmoid().mean()}


class GeneratorLoss:
    """-log D(G(z)), the non-saturating form: its gradient is strong where the discriminator is not fooled."""

    def __call__(self, model: GAN, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats, on as many generated images as the batch has."""
        images = batch[0]
        fakes = model.generator(torch.randn(len(images), model.noise_size, device=images.device))
        return F.softplus(-model.discriminator(fakes)).mean(), {}
