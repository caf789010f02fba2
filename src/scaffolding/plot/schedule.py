"""The learning rates that are planned."""

import warnings
from typing import Any

from ..core.optimizers import learning_rates, spare
from . import Drawing, titled

COLORS = ("#1b4965", "#c1440e", "#5b8c5a", "#7fa8c9")
STYLES = ("-", "--", "-.", ":")  # they differ in print, too
MAX_LINES = 8


class Schedule:
    """The learning rate of every network, and of each group of its parameters, at each step of the budget.

    It is what the schedules give if every update is applied; in float16, those that are skipped do not count. A
    schedule that waits for a value (`monitor:`) cannot be planned, and the figure says so.
    """

    moment = "start"

    def __call__(self, exp: Any) -> Drawing:
        """The rates as lines; a schedule is stepped through on a copy of its optimizer."""
        from matplotlib.figure import Figure

        unplanned = [name for name, schedule in exp.schedulers.items() if schedule.interval == "metric"]
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for name in exp.optimizers:
            if name not in unplanned:
                lines |= planned(exp, name)
        notes = [f"{name} follows {exp.schedulers[name].monitor}".lstrip() for name in unplanned]
        if not lines:
            return f"a rate that waits for values cannot be planned: it {', '.join(notes).removeprefix('it ')}"
        if len(lines) > MAX_LINES:
            return f"{len(lines)} rates are more than a figure can tell apart"
        figure = Figure(figsize=(4.8, 2.8), layout="constrained")
        axes = figure.subplots()
        for index, (label, (steps, rates)) in enumerate(lines.items()):
            color, style = COLORS[index % len(COLORS)], STYLES[index % len(STYLES)]
            axes.plot(steps, rates, style, color=color, drawstyle="steps-post", label=label, linewidth=1.6)
        notes = [f"{note}: it cannot be planned" for note in notes]
        titled(axes, "\n".join(["Planned learning rate", *notes]))
        axes.set_xlabel("optimizer step", fontsize=9)
        axes.set_xlim(0, exp.num_steps)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=5, integer=True)
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        axes.yaxis.get_offset_text().set_fontsize(8)
        if len(lines) > 1:
            figure.legend(loc="outside lower left", ncols=2, fontsize=8, frameon=False)
        return figure


def planned(exp: Any, network: str) -> dict[str, tuple[list[int], list[float]]]:
    """The steps at which the rates of a network change, and the rates, by the names that they have in rows."""
    optimizer = spare(exp.optimizers[network])
    for group in optimizer.param_groups:  # as the config gives it: a schedule keeps it here, and has changed "lr"
        group["lr"] = group.get("max_lr", group.get("initial_lr", group["lr"]))
        group.pop("initial_lr", None)
    if network not in exp.schedulers:
        rates = learning_rates(optimizer, network)
        return {name: ([0, exp.num_steps], [float(rate)] * 2) for name, rate in rates.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch notes that the optimizer makes no steps
        scheduler, interval, _ = exp.make_schedule(network, exp.schedule_steps, optimizer)
        length = exp.steps_per_epoch if interval == "epoch" else 1
        steps = list(range(0, exp.num_steps, length))
        lines: dict[str, tuple[list[int], list[float]]] = {}
        for step in steps:
            if step > 0:
                scheduler.step()
            for name, rate in learning_rates(optimizer, network).items():
                lines.setdefault(name, (steps, []))[1].append(float(rate))
    return {name: ([*steps, exp.num_steps], [*rates, rates[-1]]) for name, (steps, rates) in lines.items()}
