"""The first training batch, exactly as the model sees it."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..core import tree
from . import GAP, IMAGE, Drawing, grid, short_name

CAPTION, HEADING, BAR, MIN_WIDTH = 0.17, 0.72, 0.75, 5.0  # inches


class FirstBatch:
    """A sheet of inputs after all processing, on the scale of their values, with labels, shapes and dtypes.

    The inputs are the first tensor of the batch: images (B, C, H, W) with 1 or 3 channels, or rows (B, F), which are
    drawn as a heat map. Labels are the next tensor with one number for each item, if there is one.

    Args:
        num_items: items on the sheet.
        columns: images side by side.
        class_names: names by class index; None: the index itself.
    """

    moment = "start"

    def __init__(self, num_items: int, columns: int, class_names: Sequence[str] | None = None) -> None:
        self.num_items, self.columns, self.class_names = num_items, columns, class_names

    def __call__(self, exp: Any) -> Drawing:
        """The sheet of the first batch of epoch 0."""
        if "train" not in exp.datasets:
            return "a stream is not read for a figure"
        # another loader, without workers: it reads the same items, and the one that trains does not notice
        first = exp.train_loader.without_workers()
        parts = list(tree.tensors(next(iter(first))))
        if not parts:
            return "the batch holds no tensor"
        inputs = parts[0][1]
        if inputs.is_complex() or not inputs.numel() or not inputs.ndim:
            return f"inputs are complex, empty or one number: {tuple(inputs.shape)} {inputs.dtype}"
        finite = inputs[inputs.isfinite()]
        if not finite.numel():
            return "no value of the inputs is finite"
        scale = (float(finite.min()), float(finite.max()))
        labels = next((part for _, part in parts[1:] if part.shape == inputs.shape[:1]), None)
        names: list[str] = []
        if labels is not None:
            shown_labels = labels[: self.num_items].tolist()
            names = [short_name(label, self.class_names, f"{label:.4g}", 14) for label in shown_labels]
        shown = inputs[: self.num_items].float().cpu()
        text = f"First batch, as the model sees it ({len(shown)} of {len(inputs)} items)"
        text = "\n".join([text, *(f"{name} {tree.describe_tensor(tensor)}" for name, tensor in parts[:2])])
        if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            return self.draw_images(shown, names, scale, text)
        if inputs.ndim == 2:
            return self.draw_rows(shown, names, scale, text)
        return f"inputs are neither grey or colour images (B, C, H, W) nor rows (B, F), but {tuple(inputs.shape)}"

    def draw_images(self, images: Tensor, names: list[str], scale: tuple[float, float], text: str) -> Drawing:
        """Images (B, C, H, W) over their labels, if there are any; grey ones with a bar that gives the values."""
        is_colour = images.shape[1] == 3
        if is_colour:
            low, high = scale
            images = (images.nan_to_num(nan=low).clamp(low, high) - low) / max(high - low, 1e-12)
            text = text.replace("\n", f", colours from {low:.3g} (black) to {high:.3g} (full)\n", 1)
        caption = CAPTION if names else 0.0
        bar = 0.0 if is_colour else BAR
        figure, axes, boxes = grid(images, scale, self.columns, caption, HEADING, MIN_WIDTH, bar)
        for name, (left, top, width, height) in zip(names, boxes, strict=False):
            axes.text(left + width / 2, top + height + 0.04, name, fontsize=8.5, ha="center", va="top")
        axes.text(GAP, 0.1, text, fontsize=9, va="top", linespacing=1.4)
        if not is_colour:
            width, height = figure.get_size_inches()
            right = min(self.columns, len(images)) * (IMAGE + GAP) + GAP
            bottom = boxes[-1][1] + boxes[-1][3]
            bar_axes = figure.add_axes((right / width, 1 - bottom / height, 0.12 / width, (bottom - HEADING) / height))
            figure.colorbar(axes.images[-1], cax=bar_axes).ax.tick_params(labelsize=8)
        return figure

    def draw_rows(self, rows: Tensor, names: list[str], scale: tuple[float, float], text: str) -> Drawing:
        """Rows (B, F) as a heat map with a bar that gives the values."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.5, HEADING + 0.7 + 0.16 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        low, high = scale
        drawn = axes.imshow(rows.numpy(), "viridis", aspect="auto", interpolation="nearest", vmin=low, vmax=high)
        axes.set_title(text, fontsize=9, loc="left", linespacing=1.4)
        axes.set_xlabel("position", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.locator_params(axis="x", integer=True)
        axes.set_yticks(range(len(rows)), names or map(str, range(len(rows))))
        axes.set_ylabel("label", fontsize=9)
        if not names:
            axes.set_ylabel("item", fontsize=9)
        figure.colorbar(drawn, pad=0.02).ax.tick_params(labelsize=8)
        return figure
