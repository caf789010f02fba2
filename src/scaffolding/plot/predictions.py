"""Validation images and what a classifier takes them for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE, GAP, CAPTION, HEADING = 1.0, 0.2, 0.3, 0.4  # inches: longer side of an image, around it, under it, on top
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

    def __call__(self, exp: Any) -> "Figure | str":
        """The sheet for `exp.eval_model`; batches must be (images, labels), logits (B, num_classes)."""
        dataset = exp.datasets["val"]
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
        items = [dataset[index] for index in order[: self.num_images].tolist()]
        batch = getattr(dataset, "collate", default_collate)(items)
        if not (
            isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)
        ):
            return "batches are not (images, labels)"
        images, labels = batch[0].to(exp.device), batch[1]
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.is_complex() or not images.numel():
            return f"inputs are not grey or colour images (B, C, H, W), but {tuple(images.shape)}"
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
            return f"labels are not one class index for each image, but {tuple(labels.shape)} {labels.dtype}"
        try:
            with torch.no_grad(), exp.autocast:
                logits = exp.eval_model(images)
        except Exception as error:  # a network of noise, of two inputs, ...: anything may come of calling it like this
            return f"the model is not a function of images alone ({type(error).__name__}: {_first_line(error)})"
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
            return "the model's output is not (batch, classes)"
        if self.class_names is not None and logits.shape[1] != len(self.class_names):
            return f"the model has {logits.shape[1]} outputs, but there are {len(self.class_names)} class names"
        probabilities, predicted = logits.float().softmax(dim=1).max(dim=1)
        return self.draw(images, labels.tolist(), predicted.tolist(), probabilities.tolist(), exp.state.step)

    def draw(
        self, images: Tensor, labels: list[int], predicted: list[int], probabilities: list[float], step: int
    ) -> "Figure":
        """The sheet of images (B, C, H, W); colours are stretched, each channel to the range it has on the sheet."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle

        pixels = images.float().nan_to_num(posinf=0, neginf=0)
        low, high = pixels.amin(dim=(0, 2, 3), keepdim=True), pixels.amax(dim=(0, 2, 3), keepdim=True)
        sheet = ((pixels - low) / (high - low).clamp_min(1e-12)).permute(0, 2, 3, 1).cpu().numpy()  # B, H, W, C
        num_images = len(sheet)
        height, width = (IMAGE * length / max(images.shape[2:]) for length in images.shape[2:])
        columns = min(self.columns, num_images)
        rows = -(-num_images // columns)
        cell = height + CAPTION + GAP
        size = (max(columns * (IMAGE + GAP) + GAP, 4.5), rows * cell + HEADING)
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))  # one for all, in inches from the upper left
        for index, image in enumerate(sheet):
            left = GAP + index % columns * (IMAGE + GAP) + (IMAGE - width) / 2
            top = HEADING + index // columns * cell
            box = (left, left + width, top + height, top)
            axes.imshow(image, "gray", extent=box, vmin=0, vmax=1)
            caption = f"{self._name(predicted[index])} ({100 * probabilities[index]:.0f} %)"
            is_wrong = predicted[index] != labels[index]
            if is_wrong:
                caption += f"\nis {self._name(labels[index])}"
                axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=WRONG, linewidth=2.5))
            color = WRONG if is_wrong else "black"
            middle = left + width / 2
            axes.text(middle, top + height + 0.04, caption, fontsize=7.5, color=color, ha="center", va="top")
        num_wrong = sum(guess != label for guess, label in zip(predicted, labels, strict=True))
        heading = f"Validation images at step {step}: {num_wrong} of {num_images} wrong (framed)"
        axes.text(GAP, HEADING / 2, heading, fontsize=9, va="center")
        axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
        axes.set_axis_off()
        return figure

    def _name(self, index: int) -> str:
        """A class's name, at most 11 characters; the index where there is no name."""
        known = self.class_names is not None and 0 <= index < len(self.class_names)
        name = str(self.class_names[index]) if self.class_names is not None and known else str(index)
        return name if len(name) <= 11 else f"{name[:10]}…"


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:100].rstrip(".") if lines else ""
