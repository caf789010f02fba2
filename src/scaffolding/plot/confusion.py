"""Which classes a classifier takes for which."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import Drawing, logits_of, not_classes, short_name

MAX_COUNTED = 12  # classes, up to which the cells hold numbers
MAX_NAMED = 30  # classes, up to which all of them are named
CELL, SIZE = 0.42, 4.2  # inches: a cell with a number in it, all cells without


class Confusion:
    """How many validation items of each class (rows) are taken for each class (columns); grey is the share of a row.

    The whole validation split goes through `exp.eval_model` once more for it.

    Args:
        class_names: names by class index; None: the index itself.
    """

    moment = "val"

    def __init__(self, class_names: Sequence[str] | None = None) -> None:
        self.class_names = class_names

    def __call__(self, exp: Any) -> Drawing:
        """The counts as a matrix; batches must be (inputs, labels (B,)), the model's output logits (B, classes)."""
        if "val" not in exp.loaders:
            return "the run has no validation split"
        counts: Tensor | None = None
        for batch in exp.loaders["val"]:
            exp.run.leave_if_asked()
            reason = not_classes(batch)
            if reason is not None:
                return reason
            inputs, labels = (part.to(exp.device) for part in batch)
            logits = logits_of(exp, inputs, self.class_names)
            if isinstance(logits, str):
                return logits
            num_classes = logits.shape[1]
            if bool((labels < 0).any()) or bool((labels >= num_classes).any()):
                return f"labels are not in 0..{num_classes - 1}"
            pairs = labels.long() * num_classes + logits.float().argmax(dim=1)
            seen = torch.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
            counts = seen if counts is None else counts + seen
        if counts is None:
            return "the validation split is empty"
        return self.draw(counts.cpu(), exp.state.step)

    def draw(self, counts: Tensor, step: int) -> Drawing:
        """Counts (classes, classes), rows by the true class, as a picture."""
        from matplotlib.figure import Figure

        num_classes, total, right = len(counts), int(counts.sum()), int(counts.trace())
        shares = counts / counts.sum(dim=1, keepdim=True).clamp_min(1)
        size = SIZE
        if num_classes <= MAX_COUNTED:
            size = max(CELL * num_classes, 1.2)
        names = [short_name(index, self.class_names, str(index), 12) for index in range(num_classes)]
        figure = Figure(figsize=(max(size + 1.9, 4.2), size + 1.5), layout="constrained")
        axes = figure.subplots()
        drawn = axes.imshow(shares.numpy(), "Greys", vmin=0, vmax=1, interpolation="nearest")
        axes.tick_params(labelsize=8)
        title = f"Validation items at step {step}\n{100 * right / total:.4g} % of {total:,} right"
        figure.suptitle(title, fontsize=10, x=0.02, ha="left", linespacing=1.4)
        every = -(-num_classes // MAX_NAMED)
        ticks = list(range(0, num_classes, every))
        angle = 0 if max(map(len, names)) <= 3 else 90
        axes.set_xticks(ticks, [names[index] for index in ticks], rotation=angle)
        axes.set_yticks(ticks, [names[index] for index in ticks])
        axes.set_xlabel("taken for", fontsize=9)
        axes.set_ylabel("true class", fontsize=9)
        for row, column in torch.cartesian_prod(*[torch.arange(num_classes)] * 2).tolist():
            if num_classes <= MAX_COUNTED and counts[row, column] > 0:
                color = "white" if shares[row, column] > 0.5 else "black"
                text = f"{int(counts[row, column])}"
                axes.text(column, row, text, fontsize=min(9, 27 / len(text)), color=color, ha="center", va="center")
        bar = figure.colorbar(drawn, shrink=0.8, pad=0.02)
        bar.set_ticks([0, 0.5, 1], labels=["0", "50 %", "100 %"])
        bar.ax.tick_params(labelsize=8)
        bar.set_label("share of a row", fontsize=8)
        return figure
