"""Validation images and what a classifier takes them for."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import Drawing, logits_of, not_classes, not_images, sheet, short_name, some_items

CAPTION = 0.33  # inches under an image
WRONG = "#c1440e"


class Predictions:
    """A sheet of validation images over the predicted class and its probability; wrong ones framed, with the truth.

    The images are drawn at random, but the same ones every time, so that sheets can be compared.

    Args:
        num_images: images on the sheet.
        columns: images side by side.
        class_names: names by class index; None: the index itself.
    """

    moment = "val"

    def __init__(self, num_images: int, columns: int, class_names: Sequence[str] | None = None) -> None:
        self.num_images, self.columns, self.class_names = num_images, columns, class_names

    def __call__(self, exp: Any) -> Drawing:
        """The sheet for `exp.eval_model`; batches must be (images, labels), logits (B, num_classes)."""
        if "val" not in exp.datasets:
            return "the run has no validation split"
        batch = some_items(exp, self.num_images)
        reason = not_classes(batch)
        if reason is not None:
            return reason
        images, labels = batch[0].to(exp.device), batch[1]
        reason = not_images(images)
        if reason is not None:
            return reason
        logits = logits_of(exp, images, self.class_names)
        if isinstance(logits, str):
            return logits
        probabilities, predicted = logits.float().softmax(dim=1).max(dim=1)
        return self.draw(images, labels.tolist(), predicted.tolist(), probabilities.tolist(), exp.state.step)

    def draw(
        self, images: Tensor, labels: list[int], predicted: list[int], probabilities: list[float], step: int
    ) -> Drawing:
        """The sheet of images (B, C, H, W), each over what it was taken for."""
        from matplotlib.patches import Rectangle

        num_wrong = sum(guess != label for guess, label in zip(predicted, labels, strict=True))
        heading = f"Validation images at step {step}: {num_wrong} of {len(images)} wrong (framed)"
        figure, axes, boxes = sheet(images, images, self.columns, heading, CAPTION)
        for index, (left, top, width, height) in enumerate(boxes):
            caption = f"{self.name(predicted[index])} ({100 * probabilities[index]:.0f} %)"
            color = "black"
            if predicted[index] != labels[index]:
                caption += f"\nis {self.name(labels[index])}"
                color = WRONG
                axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=WRONG, linewidth=2.5))
            middle = left + width / 2
            axes.text(middle, top + height + 0.04, caption, fontsize=8.5, color=color, ha="center", va="top")
        return figure

    def name(self, index: int) -> str:
        """A class's name, at most 10 characters; the index where it has no name."""
        return short_name(index, self.class_names, str(index), 10)
