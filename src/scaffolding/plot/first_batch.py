"""The first training batch, exactly as the model sees it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..core import tree

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGE, GAP, CAPTION, HEADING, BAR = 1.0, 0.2, 0.15, 0.66, 0.7  # inches: longer side of an image, around it, ...


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

    def __call__(self, exp: Any) -> "Figure | str":
        """The sheet of the first batch of epoch 0."""
        # another loader, without workers: it reads the same items, and the one that trains does not notice
        loader = exp.train_loader
        first = type(loader)(
            dataset=loader.dataset,
            name=loader.name,
            batch_size=loader.batch_size,
            shuffle=loader.shuffle,
            seed=loader.seed,
            device=loader.device,
        )
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
            names = [self._name(label) for label in labels[: self.num_items].tolist()]
        shown = inputs[: self.num_items].float().cpu()
        text = f"First batch, as the model sees it ({len(shown)} of {len(inputs)} items)"
        text = "\n".join([text, *(f"{name} {tree.describe_tensor(tensor)}" for name, tensor in parts[:2])])
        if inputs.ndim == 4 and inputs.shape[1] in (1, 3):
            return self.draw_images(shown, names, scale, text)
        if inputs.ndim == 2:
            return self.draw_rows(shown, names, scale, text)
        return f"inputs are neither grey or colour images (B, C, H, W) nor rows (B, F), but {tuple(inputs.shape)}"

    def draw_images(self, images: Tensor, names: list[str], scale: tuple[float, float], text: str) -> "Figure":
        """Images (B, C, H, W) over their labels, if there are any; grey ones with a bar that gives the values."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        is_colour = images.shape[1] == 3
        low, high, bar_width = *scale, BAR
        if is_colour:
            low, high, bar_width = 0.0, 1.0, 0.0
            images = (images.nan_to_num(nan=scale[0]).clamp(*scale) - scale[0]) / max(scale[1] - scale[0], 1e-12)
            text = text.replace("\n", f", colours from {scale[0]:.3g} (black) to {scale[1]:.3g} (full)\n", 1)
        num_images = len(images)
        height, width = (IMAGE * length / max(images.shape[2:]) for length in images.shape[2:])
        columns = min(self.columns, num_images)
        rows = -(-num_images // columns)
        cell = height + GAP
        if names:
            cell += CAPTION
        size = (max(columns * (IMAGE + GAP) + GAP, 5.0) + bar_width, rows * cell + HEADING)
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))  # one for all, in inches from the upper left
        for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            left = GAP + index % columns * (IMAGE + GAP) + (IMAGE - width) / 2
            top = HEADING + index // columns * cell
            box = (left, left + width, top + height, top)
            drawn = axes.imshow(image, "gray", extent=box, vmin=low, vmax=high)
            if names:
                axes.text(left + width / 2, top + height + 0.04, names[index], fontsize=7.5, ha="center", va="top")
        axes.text(GAP, 0.1, text, fontsize=8, va="top", linespacing=1.4)
        axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
        axes.set_axis_off()
        if not is_colour:
            lowest, highest = 1 - (HEADING + rows * cell - cell + height) / size[1], 1 - HEADING / size[1]
            bar = figure.add_axes(((columns * (IMAGE + GAP) + GAP) / size[0], lowest, 0.12 / size[0], highest - lowest))
            figure.colorbar(drawn, cax=bar).ax.tick_params(labelsize=7)
        return figure

    def draw_rows(self, rows: Tensor, names: list[str], scale: tuple[float, float], text: str) -> "Figure":
        """Rows (B, F) as a heat map with a bar that gives the values."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.5, HEADING + 0.7 + 0.16 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        low, high = scale
        drawn = axes.imshow(rows.numpy(), "viridis", aspect="auto", interpolation="nearest", vmin=low, vmax=high)
        axes.set_title(text, fontsize=8, loc="left", linespacing=1.4)
        axes.set_xlabel("position", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", integer=True)
        axes.set_yticks(range(len(rows)), names or map(str, range(len(rows))))
        axes.set_ylabel("label", fontsize=8)
        if not names:
            axes.set_ylabel("item", fontsize=8)
        figure.colorbar(drawn, pad=0.02).ax.tick_params(labelsize=7)
        return figure

    def _name(self, label: float) -> str:
        """A label in at most 14 characters: a class's name where it has one."""
        if isinstance(label, int) and self.class_names is not None and 0 <= label < len(self.class_names):
            name = str(self.class_names[label])
        else:
            name = f"{label:.4g}"
        if len(name) > 14:
            name = f"{name[:13]}…"
        return name
