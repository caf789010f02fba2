"""Validation images and what an autoencoder makes of them."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import not_images, sheet, some_images

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Reconstructions:
    """A sheet with rows of validation images, each row over its reconstructions; the same images every time.

    Args:
        num_images: validation images on the sheet; of a last row that would not be full, only what fills it.
        columns: images side by side.
    """

    moment = "val"

    def __init__(self, num_images: int, columns: int) -> None:
        self.num_images, self.columns = num_images, columns

    def __call__(self, exp: Any) -> "Figure | str":
        """The sheet for `exp.eval_model`, a function of images (B, C, H, W), the first tensor of a batch."""
        images = some_images(exp, self.num_images)
        reason = not_images(images)
        if reason is not None:
            return reason
        images = images.to(exp.device)
        try:
            with torch.no_grad(), exp.autocast:
                reconstructions = exp.eval_model(images)
        except Exception as error:  # a network of noise, of two inputs, ...: anything may come of calling it like this
            return f"the model is not a function of images alone ({type(error).__name__})"
        if not isinstance(reconstructions, Tensor) or reconstructions.shape != images.shape:
            return "the model's output is not images of the shape of its input"
        columns = min(self.columns, len(images))
        rows = zip(images.split(columns), reconstructions.split(columns), strict=True)
        pairs = torch.cat([part.float() for row in rows if len(row[0]) == columns for part in row])
        distance = float((reconstructions.float() - images).square().mean())
        heading = f"Validation images over reconstructions at step {exp.state.step}, mean squared error {distance:.3g}"
        return sheet(pairs, images, columns, heading)[0]
