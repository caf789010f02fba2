"""Figures: one kind a file. A kind is a class built from the plain numbers in configs/plots/, called with the
experiment; it returns a matplotlib figure, or in a few words why it cannot draw this model or data. Its `moment` says
when it is drawn: "start", once after the first step, "val", at every `run.plot_every`, or "end", once after the test.
One that has a method `watch(exp)` may hook into optimizers there, before the first step of a session.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from loguru import logger
from torch import Tensor
from torch.utils.data import default_collate

from ..core.errors import failure
from ..core.folder.folder import replacing
from ..core.modes import evaluating
from ..core.state import keys

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..experiment import Experiment

IMAGE, GAP = 1.0, 0.2  # inches: longer side of an image on a sheet, around it
MARGIN, MIN_WIDTH = 0.2, 5.0  # inches: above and below a heading together, a sheet

Drawing: TypeAlias = "Figure | str"  # or in a few words why there is none
Box = tuple[float, float, float, float]  # left, top, width, height, in inches from the upper left


def watch(exp: "Experiment") -> None:
    """Let the figures that look at updates do so, from the next one on."""
    for plot in exp.plots.values():
        if hasattr(plot, "watch"):
            plot.watch(exp)


@torch.no_grad()
def draw(exp: "Experiment", moment: str) -> None:
    """Draw the configured figures of a moment to figures/<kind>-<moment>-<step>.png.

    Training cannot tell that it happened. A figure that fails is logged and noted in `exp.failed_figures`: not worth
    stopping a run for, but the run says so, and exits with an error, at its end.
    """
    run: Any = exp.run  # there is one, or nothing would be drawn
    exp.clock.enter("plot")
    parts = (exp.eval_model, *exp.losses.values(), *exp.plots.values())
    with evaluating(*parts), keys.keyed(exp.settings.seed, "plot"):
        for kind, plot in exp.plots.items():
            if plot.moment != moment:
                continue
            try:
                figure = plot(exp)
                if isinstance(figure, str):
                    logger.info(f"figure {kind} skipped: {figure}")
                    continue
                if exp.processes.rank > 0:  # the first process saves it
                    continue
                file = run.path / "figures" / f"{kind}-{moment}-{exp.state.step:06d}.png"
                with replacing(file) as stream:  # whole or not at all, also for those who are just reading it
                    figure.savefig(stream, format="png", dpi=120)
            except Exception as error:
                exp.failed_figures[kind] = f"{type(error).__name__}: {error}"
                told = failure(error, f"plots.{kind}")
                logger.error(f"figure {kind} failed; training goes on, the traceback is in log.txt\n{told}")
                logger.opt(exception=error).debug(f"figure {kind}")


def some_items(exp: "Experiment", num_items: int) -> Any:
    """A batch of validation items drawn at random, but the same ones every time, so that sheets can be compared."""
    dataset = exp.datasets["val"]
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))
    if hasattr(dataset, "get_batch"):
        return dataset.get_batch(order[:num_items])
    items = [dataset[index] for index in order[:num_items].tolist()]
    return getattr(dataset, "collate", default_collate)(items)


def some_images(exp: "Experiment", num_items: int) -> Tensor | str:
    """The first part of `some_items`, where that is grey or colour images (B, C, H, W); else why it is not."""
    if "val" not in exp.datasets:
        return "the run has no validation split"
    images = some_items(exp, num_items)
    if isinstance(images, list | tuple):
        images = images[0]
    return not_images(images) or images.to(exp.device)


def not_images(inputs: Any) -> str | None:
    """Why a sheet cannot show them; None where they are grey or colour images (B, C, H, W)."""
    if not isinstance(inputs, Tensor):
        return f"inputs are not a tensor, but {type(inputs).__name__}"
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3) and inputs.numel() and not inputs.is_complex():
        return None
    return f"inputs are not grey or colour images (B, C, H, W), but {tuple(inputs.shape)}"


def not_classes(batch: Any) -> str | None:
    """Why a batch is not (inputs, labels (B,)), as a classifier learns from; None where it is."""
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        return "batches are not (inputs, labels)"
    labels = batch[1]
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        return f"labels are not one class index for each item, but {tuple(labels.shape)} {labels.dtype}"
    return None


def not_logits(logits: Any, num_items: int, class_names: Sequence[str] | None) -> str | None:
    """Why the model's output is not logits (B, classes); None where it is."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != num_items or logits.shape[1] < 2:
        return "the model's output is not (batch, classes)"
    if class_names is not None and logits.shape[1] != len(class_names):
        return f"the model has {logits.shape[1]} outputs, but there are {len(class_names)} class names"
    return None


def logits_of(exp: "Experiment", inputs: Tensor, class_names: Sequence[str] | None) -> Tensor | str:
    """The logits (B, classes) that `exp.eval_model` gives for inputs; else why it is not a classifier of them."""
    logits = outputs(exp, inputs)
    if isinstance(logits, str):
        return logits
    return not_logits(logits, len(inputs), class_names) or logits


def outputs(exp: "Experiment", inputs: Tensor) -> Any:
    """What the model makes of inputs, or in words that it takes something else."""
    try:
        with torch.no_grad(), exp.autocast:
            return exp.eval_model(inputs)
    except Exception as error:  # a network of noise, of two inputs, ...: anything may come of calling it like this
        first_line = str(error).partition("\n")[0][:100].rstrip(".")
        return f"the model is not a function of the inputs alone ({type(error).__name__}: {first_line})"


def short_name(label: float, class_names: Sequence[str] | None, otherwise: str, length: int) -> str:
    """The name of a class, or what stands for a label without one, in at most `length` characters."""
    name = otherwise
    if isinstance(label, int) and class_names is not None and 0 <= label < len(class_names):
        name = str(class_names[label])
    if len(name) > length:
        name = f"{name[: length - 1]}…"
    return name


def titled(axes: Any, title: str) -> None:
    """Give axes a title, and letters that can be read on a telephone."""
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8, which="both")


def sheet(
    images: Tensor, like: Tensor, columns: int, heading: str, caption: float = 0.0
) -> tuple["Figure", Any, list[Box]]:
    """Images (B, C, H, W) side by side; colours are stretched, each channel to the range it has in `like`.

    Args:
        images: grey or colour.
        like: images (B, C, H, W) whose range is shown; what is beyond it is cut off.
        columns: images side by side.
        heading: lines of text on top.
        caption: inches that are kept free under each image.

    Returns:
        The figure; its only axes, in inches from the upper left; where each image is.
    """
    pixels, like = (part.detach().float().nan_to_num(posinf=0, neginf=0).cpu() for part in (images, like))
    low, high = like.amin(dim=(0, 2, 3), keepdim=True), like.amax(dim=(0, 2, 3), keepdim=True)
    shown = ((pixels - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    columns = min(columns, len(images))
    size = max(9.0, 1.2 * columns * (IMAGE + GAP))  # of letters: a wide sheet is shown smaller
    top = size / 45 * len(heading.splitlines()) + MARGIN
    figure, axes, boxes = grid(shown, (0, 1), columns, caption, top, MIN_WIDTH)
    axes.text(GAP, top / 2, heading, fontsize=size, va="center", linespacing=1.4)
    return figure, axes, boxes


def ranges(**images: Tensor) -> str:
    """The least and the greatest value of images, by what they are, in words."""
    parts = [part.detach().float() for part in images.values()]
    found = zip(images, parts, strict=True)
    return ", ".join(f"{name} {float(part.min()):.3g} to {float(part.max()):.3g}" for name, part in found)


def grid(
    images: Tensor,
    limits: tuple[float, float],
    columns: int,
    caption: float,
    heading: float,
    min_width: float,
    right: float = 0.0,
) -> tuple["Figure", Any, list[Box]]:
    """Images (B, C, H, W) side by side as they are: grey values between `limits`, colours 0..1.

    Inches are kept free: `caption` under each image, `heading` on top, `right` to the right of all. Returns what
    `sheet` returns.
    """
    from matplotlib.figure import Figure

    height, width = (IMAGE * length / max(images.shape[2:]) for length in images.shape[2:])
    columns = min(columns, len(images))
    cell = height + caption + GAP
    size = (max(columns * (IMAGE + GAP) + GAP, min_width) + right, -(-len(images) // columns) * cell + heading)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    boxes = []
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        left = GAP + index % columns * (IMAGE + GAP) + (IMAGE - width) / 2
        top = heading + index // columns * cell
        axes.imshow(image, "gray", extent=(left, left + width, top + height, top), vmin=limits[0], vmax=limits[1])
        boxes.append((left, top, width, height))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0), aspect="auto")
    axes.set_axis_off()
    return figure, axes, boxes
