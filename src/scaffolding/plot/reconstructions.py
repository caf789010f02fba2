"""Validation images and what an autoencoder makes of them."""

from typing import Any

import torch
from torch import Tensor

from . import Drawing, outputs, sheet, some_images


class Reconstructions:
    """A sheet with rows of validation images, each row over its reconstructions; the same images every time.

    Args:
        num_images: validation images on the sheet; of a last row that would not be full, only what fills it.
        columns: images side by side.
    """

    moment = "val"

    def __init__(self, num_images: int, columns: int) -> None:
        self.num_images, self.columns = num_images, columns

    def __call__(self, exp: Any) -> Drawing:
        """The sheet for `exp.eval_model`, a function of images (B, C, H, W), the first tensor of a batch."""
        images = some_images(exp, self.num_images)
        if isinstance(images, str):
            return images
        reconstructions = outputs(exp, images)
        if isinstance(reconstructions, str):
            return reconstructions
        if not isinstance(reconstructions, Tensor) or reconstructions.shape != images.shape:
            return "the model's output is not images of the shape of its input"
        columns = min(self.columns, len(images))
        rows = zip(images.split(columns), reconstructions.split(columns), strict=True)
        pairs = torch.cat([part.float() for row in rows if len(row[0]) == columns for part in row])
        distance = float((reconstructions.float() - images).square().mean())
        heading = f"Validation images over reconstructions at step {exp.state.step}, mean squared error {distance:.3g}"
        return sheet(pairs, images, columns, heading)[0]
