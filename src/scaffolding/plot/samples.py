"""Images that a generative model draws."""

from typing import Any

import torch

from . import Drawing, sheet, some_images


class Samples:
    """A sheet of generated images, from the same noise every time, on the scale of the validation images.

    Args:
        num_images: images on the sheet; no more than there are validation images.
        columns: images side by side.
        seed: of the noise.
    """

    moment = "val"

    def __init__(self, num_images: int, columns: int, seed: int) -> None:
        self.num_images, self.columns, self.seed = num_images, columns, seed

    def __call__(self, exp: Any) -> Drawing:
        """The sheet of `exp.eval_model.sample(num, generator)`: images (num, C, H, W)."""
        if not hasattr(exp.eval_model, "sample"):
            return "the model has no sample(num, generator)"
        images = some_images(exp, self.num_images)
        if isinstance(images, str):
            return images
        with exp.autocast:
            samples = exp.eval_model.sample(len(images), torch.Generator().manual_seed(self.seed))
        return sheet(samples, images, self.columns, f"Samples at step {exp.state.step}")[0]
