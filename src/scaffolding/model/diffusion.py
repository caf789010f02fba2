"""Denoising diffusion probabilistic model with a small U-Net.

Source: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (DDPM), 2020, whose symbols are used here;
time steps count from 0: x_0 of the paper is the image, and t = 0 its first noisy version.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Diffusion(nn.Module):
    """Predicts the noise in a noisy image; samples by taking it out step by step.

    Args:
        image_shape: channels, height, width.
        num_timesteps: T, steps from image to noise, at least 25.
        num_sampling_steps: how many of them, evenly spread, a sample goes through; T: all, as in the paper.
        channels: maps at each level of the U-Net, multiples of 8; each level but the first halves height and width.
        num_blocks: residual blocks at each level, on the way down and again on the way up.

    Raises:
        ValueError: too few steps, more to sample than there are, or height or width cannot be halved that often.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_timesteps: int,
        num_sampling_steps: int,
        channels: Sequence[int],
        num_blocks: int,
    ) -> None:
        super().__init__()
        if num_timesteps < 25 or not 1 <= num_sampling_steps <= num_timesteps:
            raise ValueError(
                f"num_timesteps={num_timesteps} must be at least 25, num_sampling_steps={num_sampling_steps} 1 to that"
            )
        num_channels, height, width = image_shape
        scale = 2 ** (len(channels) - 1)
        if height % scale or width % scale:
            raise ValueError(f"images of {height}x{width} cannot be halved {len(channels) - 1} times (model.channels)")
        self.image_shape, self.num_timesteps = tuple(image_shape), num_timesteps
        self.num_sampling_steps = num_sampling_steps
        self.forward_process = ForwardProcess(num_timesteps)
        self.network = UNet(num_channels, channels, num_blocks)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise epsilon in noisy images x_t (B, C, H, W) of time steps t (B,), int64, 0..T-1."""
        epsilon: Tensor = self.network(x_t, t)
        return epsilon

    @torch.no_grad()
    def sample(self, num: int, generator: torch.Generator) -> Tensor:
        """`num` images (num, C, H, W), from noise drawn with a generator on the CPU (algorithm 2).

        Going through some steps only, each leap counts as one step with the noise of all it leaves out (Nichol and
        Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, section 4).
        """
        alpha_bars = self.forward_process.alpha_bar
        steps = (
            torch.linspace(0, self.num_timesteps - 1, self.num_sampling_steps, device=alpha_bars.device).round().long()
        )
        alpha_bar = alpha_bars[steps]
        before = torch.cat([torch.ones_like(alpha_bar[:1]), alpha_bar[:-1]])
        x = torch.randn(num, *self.image_shape, generator=generator).to(alpha_bar)
        for index in reversed(range(len(steps))):
            epsilon = self(x, steps[index].expand(num))
            mean, std = posterior(x, epsilon, alpha_bar[index], before[index])
            x = mean + std * torch.randn(x.shape, generator=generator).to(x)  # std is 0 in the last step
        return x


def posterior(x_t: Tensor, epsilon: Tensor, alpha_bar: Tensor, alpha_bar_before: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of x_{t-1}, given x_t and the noise in it (equations 11 and 7)."""
    alpha = alpha_bar / alpha_bar_before
    mean = (x_t - (1 - alpha) / (1 - alpha_bar).sqrt() * epsilon) / alpha.sqrt()
    return mean, ((1 - alpha_bar_before) / (1 - alpha_bar) * (1 - alpha)).sqrt()


class ForwardProcess(nn.Module):
    """q(x_t | x_0): an image and Gaussian noise, mixed so that a variance of 1 stays 1.

    The share of noise that each step adds, beta_t, grows linearly as in the paper, scaled so that any T ends in noise.

    Args:
        num_timesteps: T.
    """

    alpha_bar: Tensor  # (T,): the share of the image's variance that is left after each step

    def __init__(self, num_timesteps: int) -> None:
        super().__init__()
        beta = torch.linspace(1e-4, 0.02, num_timesteps, dtype=torch.float64) * 1000 / num_timesteps
        self.register_buffer("alpha_bar", (1 - beta).cumprod(dim=0).float())

    def forward(self, x_0: Tensor, t: Tensor, epsilon: Tensor) -> Tensor:
        """Noisy images x_t from images and noise (B, C, H, W) and time steps t (B,) (equation 4)."""
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * epsilon


class UNet(nn.Module):
    """Residual blocks down to the smallest map, attention there, and up again, joined with the maps from the way down.

    Args:
        image_channels: of image and noise.
        channels: maps at each level.
        num_blocks: residual blocks at each level, on both ways.
    """

    def __init__(self, image_channels: int, channels: Sequence[int], num_blocks: int) -> None:
        super().__init__()
        self.time_size = 4 * channels[0]
        self.time = nn.Sequential(
            nn.Linear(self.time_size, self.time_size), nn.SiLU(), nn.Linear(self.time_size, self.time_size), nn.SiLU()
        )
        self.first = nn.Conv2d(image_channels, channels[0], kernel_size=3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        size, kept = channels[0], [channels[0]]  # kept: channels of the maps that the way up gets
        for level, level_size in enumerate(channels):
            if level > 0:
                self.down.append(nn.Conv2d(size, size, kernel_size=3, stride=2, padding=1))
                kept.append(size)
            for _ in range(num_blocks):
                self.down.append(ResidualBlock(size, level_size, self.time_size))
                size = level_size
                kept.append(size)
        self.middle = ResidualBlock(size, size, self.time_size)
        self.attention = Attention(size)
        for level, level_size in reversed(list(enumerate(channels))):
            for _ in range(num_blocks + 1):
                self.up.append(ResidualBlock(size + kept.pop(), level_size, self.time_size))
                size = level_size
            if level > 0:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(size, size, 3, padding=1)))
        self.last = nn.Sequential(nn.GroupNorm(8, size), nn.SiLU(), nn.Conv2d(size, image_channels, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """A map like the noisy images (B, C, H, W), from their time steps (B,)."""
        time = self.time(time_embedding(t, self.time_size))
        x = self.first(x)
        kept = [x]
        for layer in self.down:
            x = layer(x, time) if isinstance(layer, ResidualBlock) else layer(x)
            kept.append(x)
        x = self.attention(self.middle(x, time))
        for layer in self.up:
            x = layer(torch.cat([x, kept.pop()], dim=1), time) if isinstance(layer, ResidualBlock) else layer(x)
        epsilon: Tensor = self.last(x)
        return epsilon


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the time added between them; the way past them is a 1x1 convolution where sizes differ."""

    def __init__(self, in_channels: int, out_channels: int, time_size: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        )
        self.time = nn.Linear(time_size, out_channels)
        self.second = nn.Sequential(
            nn.GroupNorm(8, out_channels), nn.SiLU(), nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        )
        self.past: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.past = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Maps (B, in_channels, h, w) and embedded times (B, time_size) to maps (B, out_channels, h, w)."""
        h = self.first(x) + self.time(time)[:, :, None, None]
        result: Tensor = self.past(x) + self.second(h)
        return result


class Attention(nn.Module):
    """Self-attention with one head among the positions of a map, added to it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, kernel_size=1)
        self.out = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to maps of the same shape."""
        q, k, v = self.query_key_value(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, dim=2)  # each (B, h * w, C)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).view(x.shape)
        result: Tensor = x + self.out(attended)
        return result


def time_embedding(t: Tensor, size: int) -> Tensor:
    """Sines and cosines of time steps (B,) at wavelengths of 2 pi to 20,000 pi steps: (B, size)."""
    frequencies = torch.exp(-math.log(10_000) * torch.arange(size // 2, device=t.device) / (size // 2 - 1))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class DiffusionLoss:
    """Squared error of the predicted noise, at a time step drawn for each image (algorithm 1, equation 14)."""

    def __call__(self, model: Diffusion, batch: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss, a mean over pixels, from images (B, C, H, W), the first of the batch."""
        x_0 = batch[0]
        t = torch.randint(model.num_timesteps, (len(x_0),), device=x_0.device)
        epsilon = torch.randn_like(x_0)
        x_t = model.forward_process(x_0, t, epsilon)
        return F.mse_loss(model(x_t, t), epsilon), {}
