"""Autoencoder of parts, with a discrete latent space if wanted (VQ-VAE).

Source: van den Oord, Vinyals and Kavukcuoglu, "Neural Discrete Representation Learning", 2017.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENTS = ("none", "linear", "vq")


class Autoencoder(nn.Module):
    """An encoder down to a map of features, latent vectors, and a decoder back up to an image.

    Args:
        encoder, decoder: each has `map_shape`, the (channels, height, width) of the map between them; any encoder goes
            with any decoder of the same one.
        latent: "none": the decoder gets the encoder's map; "linear": a linear projection of each of its vectors to
            `latent_size` values; "vq": that projection, replaced by the nearest vector of a codebook.
        latent_size: values in each projected vector.
        num_codes: vectors in the codebook.

    Raises:
        ValueError: `latent` is something else, or encoder and decoder have another map.
    """

    def __init__(
        self, encoder: nn.Sequential, decoder: nn.Sequential, latent: str, latent_size: int, num_codes: int
    ) -> None:
        super().__init__()
        if latent not in LATENTS:
            raise ValueError(f"latent={latent!r} is none of {', '.join(LATENTS)} (model.latent)")
        shapes: Any = encoder.map_shape, decoder.map_shape
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the encoder makes maps of {shapes[0]}, and the decoder takes {shapes[1]} (channels, height, width)"
                "\ngive model.encoder and model.decoder the same channels, or map_shape"
            )
        self.num_codes = num_codes
        self.encoder, self.decoder = encoder, decoder
        if latent != "none":
            num_channels = shapes[0][0]
            self.encoder = nn.Sequential(*encoder, nn.Conv2d(num_channels, latent_size, kernel_size=1))
            self.decoder = nn.Sequential(nn.Conv2d(latent_size, num_channels, kernel_size=3, padding=1), *decoder)
        self.latent: nn.Module = Continuous()
        if latent == "vq":
            self.latent = VectorQuantizer(num_codes, latent_size)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstructions of images of shape (B, C, H, W)."""
        latents, _ = self.latent(self.encoder(images))
        reconstructions: Tensor = self.decoder(latents)
        return reconstructions


class ConvEncoder(nn.Sequential):
    """Strided convolutions, then residual blocks on the smallest map.

    Args:
        image_shape: channels, height, width.
        channels: units of each 4x4 convolution; each halves height and width.
        num_residual_blocks: on the smallest map.

    Raises:
        ValueError: height or width cannot be halved that often.
    """

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int], num_residual_blocks: int) -> None:
        layers: list[nn.Module] = []
        for outer, inner in itertools.pairwise([image_shape[0], *channels]):
            layers += [nn.Conv2d(outer, inner, kernel_size=4, stride=2, padding=1), nn.ReLU()]
        super().__init__(*layers, *(ResidualBlock(channels[-1]) for _ in range(num_residual_blocks)))
        self.map_shape = halved(image_shape, channels[-1], len(channels))


class ConvDecoder(nn.Sequential):
    """The mirror image of `ConvEncoder`, with the same arguments."""

    def __init__(self, image_shape: Sequence[int], channels: Sequence[int], num_residual_blocks: int) -> None:
        layers: list[nn.Module] = [ResidualBlock(channels[-1]) for _ in range(num_residual_blocks)]
        for inner, outer in itertools.pairwise([*reversed(channels), image_shape[0]]):
            layers += [nn.ReLU(), nn.ConvTranspose2d(inner, outer, kernel_size=4, stride=2, padding=1)]
        super().__init__(*layers)
        self.map_shape = halved(image_shape, channels[-1], len(channels))


def halved(image_shape: Sequence[int], num_channels: int, num_halvings: int) -> tuple[int, int, int]:
    """The shape of an image's map; ValueError: height or width cannot be halved that often."""
    _, height, width = image_shape
    factor = 2**num_halvings
    if height % factor or width % factor:
        raise ValueError(f"images of {height}x{width} cannot be halved {num_halvings} times (model.encoder)")
    return num_channels, height // factor, width // factor


class MLPEncoder(nn.Sequential):
    """Fully connected layers from all pixels to all values of the map.

    Args:
        image_shape: channels, height, width.
        hidden_sizes: units of each hidden layer, from the image to the map.
        num_channels: of the map.
        num_halvings: of height and width, from the image to the map.

    Raises:
        ValueError: height or width cannot be halved that often.
    """

    def __init__(
        self, image_shape: Sequence[int], hidden_sizes: Sequence[int], num_channels: int, num_halvings: int
    ) -> None:
        shape = halved(image_shape, num_channels, num_halvings)
        sizes = [math.prod(image_shape), *hidden_sizes, math.prod(shape)]
        super().__init__(nn.Flatten(), *fully_connected(sizes), nn.Unflatten(1, shape))
        self.map_shape = shape


class MLPDecoder(nn.Sequential):
    """The mirror image of `MLPEncoder`, with the same arguments."""

    def __init__(
        self, image_shape: Sequence[int], hidden_sizes: Sequence[int], num_channels: int, num_halvings: int
    ) -> None:
        shape = halved(image_shape, num_channels, num_halvings)
        sizes = [math.prod(shape), *reversed(hidden_sizes), math.prod(image_shape)]
        super().__init__(nn.Flatten(), *fully_connected(sizes), nn.Unflatten(1, tuple(image_shape)))
        self.map_shape = shape


def fully_connected(sizes: Sequence[int]) -> list[nn.Module]:
    """Linear layers from each size to the next, with a ReLU between two of them."""
    layers: list[nn.Module] = []
    for num_inputs, num_outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(num_inputs, num_outputs), nn.ReLU()]
    return layers[:-1]


class ResidualBlock(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """A map of shape (B, C, h, w) to one of the same shape."""
        residual: Tensor = self.layers(x)
        return x + residual


class Continuous(nn.Module):
    """Latent vectors as they are."""

    def forward(self, z: Tensor) -> tuple[Tensor, None]:
        """The map, and no codes."""
        return z, None


class VectorQuantizer(nn.Module):
    """The nearest vector e_k of a codebook in place of each latent vector z_e (equations 1 and 2 of the paper).

    The choice has no gradient: the vectors returned are a function of the codebook alone.

    Args:
        num_codes: K, vectors in the codebook.
        latent_size: D, values in each.
    """

    def __init__(self, num_codes: int, latent_size: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(num_codes, latent_size)
        # on the scale of the encoder's outputs, which would otherwise drift away from the codes
        nn.init.normal_(self.codebook.weight, std=0.5)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, D, h, w) to codebook vectors z_q of the same shape and their codes (B, h, w), int64."""
        vectors, book = z.detach().movedim(1, -1), self.codebook.weight.detach()
        codes = torch.cdist(vectors.flatten(0, 2).to(book), book).argmin(dim=1).view(vectors.shape[:-1])
        return self.codebook(codes).movedim(-1, 1), codes


class AutoencoderLoss:
    """Squared reconstruction error; with a codebook, also what moves codebook and encoder to each other (equation 3).

    The codebook term moves the codes to the encoder's outputs, the commitment term the outputs to their codes; both are
    zero without a codebook.

    Args:
        commitment: beta, the weight of the commitment term.
    """

    def __init__(self, commitment: float) -> None:
        self.commitment = commitment

    def __call__(self, model: Autoencoder, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts from images (B, C, H, W), the first of the batch; errors are means over pixels.

        With a codebook also `perplexity`, the effective number of codes in the batch, 1..num_codes, and `codes_used`,
        the share of codes that occur in it, 0..1.
        """
        images = batch[0]
        z_e = model.encoder(images)
        z_q, codes = model.latent(z_e)
        reconstructions = model.decoder(z_e + (z_q - z_e).detach())  # straight-through: dL/dz_e is dL/dz_q
        reconstruction = F.mse_loss(reconstructions, images)
        metrics = {"reconstruction": reconstruction}
        if codes is None:
            return reconstruction, metrics
        codebook, commitment = F.mse_loss(z_q, z_e.detach()), F.mse_loss(z_e, z_q.detach())
        metrics |= {"codebook": codebook} | codebook_usage(codes, model.num_codes)
        return reconstruction + codebook + self.commitment * commitment, metrics


def codebook_usage(codes: Tensor, num_codes: int) -> dict[str, Tensor]:
    """Perplexity, exp of the entropy (nats) of the codes' frequencies, 1..num_codes; and the share of codes used."""
    frequencies = torch.bincount(codes.flatten(), minlength=num_codes) / codes.numel()
    entropy = -torch.xlogy(frequencies, frequencies).sum()
    return {"perplexity": entropy.exp(), "codes_used": (frequencies > 0).float().mean()}
