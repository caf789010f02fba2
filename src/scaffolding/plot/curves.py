"""Every logged metric over optimizer steps."""

import math
from typing import Any

from ..core.folder.facts import COLUMNS
from . import Drawing

COLORS = {"train": "#7fa8c9", "val": "#1b4965", "test": "#c1440e", "rollout": "#5b8c5a"}
MARKERS = {"test": "D"}  # others: a disc
MAX_MARKERS = 30  # points, beyond which a line is drawn without them


class Curves:
    """A panel for each metric in the run's facts, with a line for each split; the best step is marked.

    Args:
        columns: panels side by side.
        log_from: a positive metric that falls to less than 1 / log_from of its first value gets a logarithmic axis.
    """

    moment = "val"

    def __init__(self, columns: int, log_from: float) -> None:
        self.columns, self.log_from = columns, log_from

    def __call__(self, exp: Any) -> Drawing:
        """The curves up to now, from `exp.history()`."""
        from matplotlib.figure import Figure

        rows = exp.history()
        metrics = list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))
        if not metrics:
            return "nothing has been logged"
        columns = min(self.columns, len(metrics))
        num_rows = -(-len(metrics) // columns)
        figure = Figure(figsize=(max(3.2 * columns, 4.5), 2.3 * num_rows + 0.35), layout="constrained")
        panels = figure.subplots(num_rows, columns, squeeze=False, sharex=True).flatten()
        for axes in panels[len(metrics) :]:
            axes.remove()
        lines: dict[str, Any] = {}
        for metric, axes in zip(metrics, panels, strict=False):
            for split in dict.fromkeys(row["split"] for row in rows):
                points = [(row["step"], row[metric]) for row in rows if row["split"] == split and metric in row]
                if points:
                    lines[split] = self.draw(axes, split, points)
            if exp.state.best_step is not None:
                lines[f"best: step {exp.state.best_step}"] = axes.axvline(
                    exp.state.best_step, color="black", linewidth=0.8, linestyle=(0, (4, 3)), zorder=3
                )
            if self.is_falling([row[metric] for row in rows if metric in row]):
                axes.set_yscale("log")
            axes.set_title(metric, fontsize=9, loc="left")
            axes.tick_params(labelsize=7, which="both")
            axes.locator_params(axis="x", nbins=5, integer=True)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[max(0, len(metrics) - columns) : len(metrics)]:
            axes.set_xlabel("optimizer step", fontsize=8)
            axes.tick_params(labelbottom=True)
        figure.legend(
            lines.values(), lines.keys(), loc="outside upper left", ncols=len(lines), fontsize=8, frameon=False
        )
        return figure

    def draw(self, axes: Any, split: str, points: list[tuple[int, float]]) -> Any:
        """One split's line, with markers where its points are few; the training line is thin and below the others."""
        steps, values = zip(*points, strict=True)
        style: dict[str, Any] = {"color": COLORS.get(split, "black"), "linewidth": 1.6, "zorder": 2}
        if split == "train":
            style |= {"linewidth": 1.0, "zorder": 1.5}
        if len(points) == 1 or (split != "train" and len(points) <= MAX_MARKERS):
            style |= {"marker": MARKERS.get(split, "o"), "markersize": 4}
        return axes.plot(steps, values, **style)[0]

    def is_falling(self, values: list[float]) -> bool:
        """Whether a logarithmic axis shows more: all positive, and the least far below the first."""
        finite = [value for value in values if math.isfinite(value)]
        return bool(finite) and min(finite) > 0 and finite[0] > self.log_from * min(finite)
