"""Images that a generative model draws."""

from typing import Any

import torch

from . import GAP, Drawing, ranges, sheet, some_images


class Samples:
    """A sheet of generated images, from the same noise every time, below a row of validation images.

    All are on the scale of the validation images; the heading has both ranges of values, of which the sheet shows no
    more than that of the validation images.

    Args:
        num_images: generated images on the sheet; no more than there are validation images.
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
        columns = min(self.columns, len(images))
        heading = f"Samples at step {exp.state.step}; the row on top is of the validation split"
        heading += f"\nvalues: {ranges(validation=images, samples=samples)}"
        shown = torch.cat([images[:columns].to(samples), samples])
        figure, axes, boxes = sheet(shown, images, columns, heading)
        bottom = boxes[0][1] + boxes[0][3] + GAP / 2
        axes.plot([GAP, boxes[columns - 1][0] + boxes[0][2]], [bottom] * 2, color="black", linewidth=1.5)
        return figure
