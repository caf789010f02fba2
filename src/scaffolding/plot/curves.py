"""Every logged metric over optimizer steps."""

import math
import textwrap
from collections.abc import Iterable
from typing import Any

from ..core.folder.facts import COLUMNS
from ..core.folder.summary import read_summary
from . import Drawing, titled

COLORS = {"train": "#7fa8c9", "val": "#1b4965", "test": "#c1440e", "rollout": "#5b8c5a"}
MARKERS = {"test": "D", "rollout": "^"}  # others: a disc
MAX_MARKERS = 30  # points, beyond which a line is drawn without them
WIDTH, HEIGHT = 3.2, 2.1  # inches of a panel
LETTERS = 14  # of the smallest size, to an inch

Points = list[tuple[int, float]]  # (step, value)


class Curves:
    """A panel for each metric in the run's facts, with a line for each split; the best step is marked.

    A metric that has one value, or always the same, has it in words. What measures the machine is left out.

    Args:
        columns: panels side by side.
        log_from: a positive metric that falls to less than 1 / log_from of its first value gets a logarithmic axis.
    """

    moment = "end"

    def __init__(self, columns: int, log_from: float) -> None:
        self.columns, self.log_from = columns, log_from

    def __call__(self, exp: Any) -> Drawing:
        """The curves up to now, from `exp.history()`."""
        from matplotlib.figure import Figure

        metrics = by_metric(exp.history())
        if not metrics:
            return "nothing has been logged"
        notes = {metric: note for metric, splits in metrics.items() if (note := in_words(splits))}
        drawn = {metric: splits for metric, splits in metrics.items() if metric not in notes}
        if not drawn:
            return "no metric has more than one value"
        columns = min(self.columns, len(drawn))
        num_rows = -(-len(drawn) // columns)
        figure = Figure(figsize=(max(WIDTH * columns, 4.5), HEIGHT * num_rows + 0.8), layout="constrained")
        panels = figure.subplots(num_rows, columns, squeeze=False, sharex=True).flatten()
        for axes in panels[len(drawn) :]:
            axes.remove()
        lines: dict[str, Any] = {}
        best = best_step(exp)
        for index, ((metric, splits), axes) in enumerate(zip(drawn.items(), panels, strict=False)):
            lines |= {split: self.draw(axes, split, points) for split, points in splits.items()}
            if best is not None:
                style: Any = {"color": "black", "linewidth": 0.8, "linestyle": (0, (4, 3)), "zorder": 1}
                lines[f"best: step {best}"] = axes.axvline(best, **style)
            if not is_rate(metric) and self.is_falling([value for points in splits.values() for _, value in points]):
                axes.set_yscale("log")
            titled(axes, metric)
            axes.tick_params(labelbottom=index + columns >= len(drawn))  # the lowest of its column
            axes.locator_params(axis="x", nbins=4, integer=True)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[(num_rows - 1) * columns : len(drawn)]:
            axes.set_xlabel("optimizer step", fontsize=9)
        if notes:
            text = "without a curve: " + ", ".join(f"{metric} {note}" for metric, note in notes.items())
            text = textwrap.fill(text, round(LETTERS * figure.get_figwidth()))
            figure.supxlabel(text, fontsize=8, x=0.01, ha="left", linespacing=1.4)
        order = [name for name in COLORS if name in lines]
        order += [name for name in lines if name not in order]
        name = exp.path.name if exp.path is not None else ""
        figure.legend(
            [lines[name] for name in order], order, title=name, alignment="left", loc="outside upper left",
            ncols=len(order), fontsize=9, title_fontproperties={"size": 10, "weight": "bold"}, frameon=False,
        )  # fmt: skip
        return figure

    def draw(self, axes: Any, split: str, points: Points) -> Any:
        """One split's line, with markers where its points are few; the training line is thin and below the others."""
        steps, values = zip(*points, strict=True)
        style: dict[str, Any] = {"color": COLORS.get(split, "black"), "linewidth": 1.6, "zorder": 2}
        if split == "train":
            style |= {"linewidth": 1.0, "zorder": 1.5}
        if len(points) == 1 or (split != "train" and len(points) <= MAX_MARKERS):
            style |= {"marker": MARKERS.get(split, "o"), "markersize": 4}
        return axes.plot(steps, values, **style)[0]

    def is_falling(self, values: list[float]) -> bool:
        """Whether a logarithmic axis shows more: all values are positive, and the least is far below the first."""
        finite = [value for value in values if math.isfinite(value)]
        return bool(finite) and min(finite) > 0 and finite[0] > self.log_from * min(finite)


def by_metric(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Points]]:
    """The points of each split of each metric, in the order in which they were logged first."""
    metrics: dict[str, dict[str, Points]] = {}
    for row in rows:
        step, split = row["step"], row["split"]
        for name, value in row.items():
            if name not in COLUMNS and not name.startswith("seconds/"):
                metrics.setdefault(name, {}).setdefault(split, []).append((step, value))
    return metrics


def best_step(exp: Any) -> int | None:
    """The step of the run's best weights; None: it is not known.

    A checkpoint is saved before the evaluation of its step. So once a run has ended, its summary knows better.
    """
    found: int | None = exp.state.best_step
    if exp.path is not None:
        summary = read_summary(exp.path)
        if summary["status"] != "running" and summary["best_step"] is not None:
            found = summary["best_step"]
    return found


def in_words(splits: dict[str, Points]) -> str:
    """What is to be said of a metric without a course: one value, or the same at every step; "" of any other."""
    points = [(step, value, split) for split, points in splits.items() for step, value in points]
    step, value, split = points[0]
    if len(points) == 1:
        return f"{value:.4g} ({split}, step {step})"
    if all(each == value for _, each, _ in points):
        return f"{value:.4g} (always)"
    return ""


def is_rate(metric: str) -> bool:
    """Whether a metric is a learning rate, whose schedule has its shape on a linear axis."""
    return "lr" in metric.split("/")
