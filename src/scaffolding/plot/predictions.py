"""Validation images and what a classifier takes them for."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from . import Drawing, not_images, outputs, sheet, short_name, some_items

CAPTION = 0.3  # inches under an image
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
            return "there is no validation split"
        batch = some_items(exp, self.num_images)
        if not (
            isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
        ):
            return "batches are not (images, labels)"
        images, labels = batch[0].to(exp.device), batch[1]
        reason = not_images(images)
        if reason is not None:
            return reason
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            return f"labels are not one class index for each image, but {tuple(labels.shape)} {labels.dtype}"
        logits = outputs(exp, images)
        if isinstance(logits, str):
            return logits
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            return "the model's output is not (batch, classes)"
        if self.class_names is not None and logits.shape[1] != len(self.class_names):
            return f"the model has {logits.shape[1]} outputs, but there are {len(self.class_names)} class names"
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
            axes.text(middle, top + height + 0.04, caption, fontsize=7.5, color=color, ha="center", va="top")
        return figure

    def name(self, index: int) -> str:
        """A class's name, at most 11 characters; the index where it has no name."""
        return short_name(index, self.class_names, str(index), 11)
