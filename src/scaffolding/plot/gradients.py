"""How large gradients and updates are, layer by layer."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import Drawing, titled

COLOR = "#1b4965"
ROW, MAX_NAME = 0.19, 30  # inches; letters of a layer's name


class Norms(NamedTuple):
    """Squared Euclidean norms of a layer; `gradient` is None where no backward pass reached it."""

    gradient: Tensor | None
    weight: Tensor
    update: Tensor


class Gradients:
    """The norm of each layer's gradient, and that of its update as a fraction of that of its weights.

    They are those of the update that a figure follows, as the optimizer saw them: averaged over micro-batches and
    processes, without the scale of float16, clipped where the run clips. The update is what the optimizer did to the
    weights, weight decay included. A layer that is far to the left hardly learns; one without a gradient does not.

    torch's hooks around an optimizer's step read them, only where a figure is due, and meanwhile keep a copy of the
    network's weights. Afterwards, `.grad` of one network would also hold what the backward pass of another added to it
    (a GAN's discriminator). What was not seen is not drawn: where a run is carried on, an update of before; where
    `run.plot_every` is in minutes, all but the last.

    Args:
        max_layers: rows of the figure; where there are more layers, those with the same beginning of their names are
            taken together.
    """

    moment = "val"

    def __init__(self, max_layers: int) -> None:
        self.max_layers = max_layers
        self.step: int | None = None  # of the update that was seen
        self.before: dict[str, list[Tensor]] = {}  # weights by network, while its optimizer steps
        self.seen: dict[str, dict[str, Norms]] = {}  # by network and parameter
        self.error: Exception | None = None  # of the last look

    def watch(self, exp: Any) -> None:
        """Have the optimizers of a run tell their updates, from the next one on."""
        for name, optimizer in exp.optimizers.items():
            if hasattr(optimizer, "register_step_pre_hook"):
                optimizer.register_step_pre_hook(partial(self._try, self._keep_weights, exp, name))
                optimizer.register_step_post_hook(partial(self._try, self._measure, exp, name))

    def _try(self, look: Callable[[Any, str], None], exp: Any, network: str, *_: Any) -> None:
        try:
            look(exp, network)
        except Exception as error:  # out of memory, say: the figure fails, when it is drawn, and not the update
            self.error = error

    def _keep_weights(self, exp: Any, network: str) -> None:
        step, intervals = exp.state.step + 1, exp.intervals
        if step == exp.num_steps or ("plot" in intervals.steps and intervals.due("plot", step)):
            self.before[network] = [part.detach().clone() for part in exp.trained[network].values()]

    @torch.no_grad()
    def _measure(self, exp: Any, network: str) -> None:
        before = self.before.pop(network, None)
        if before is None:
            return
        if self.step != exp.state.step + 1:
            self.step, self.seen = exp.state.step + 1, {}
        self.seen[network] = {}
        for (name, part), old in zip(exp.trained[network].items(), before, strict=True):
            gradient = None if part.grad is None else squared_norm(part.grad)
            self.seen[network][name] = Norms(gradient, squared_norm(old), squared_norm(part - old))

    def __call__(self, exp: Any) -> Drawing:
        """The norms of the last update."""
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        if self.step is None or self.step != exp.state.step:
            return "the last update was not seen: it was skipped, the run was just carried on, or plots are by minutes"
        layers: dict[str, list[Norms]] = {}
        for network, parts in self.seen.items():
            for name, norms in parts.items():
                layers.setdefault(f"{network}/{layer_of(name)}".lstrip("/"), []).append(norms)
        return self.draw(taken_together(layers, self.max_layers), self.step)

    def draw(self, layers: Mapping[str, list[Norms]], step: int) -> Drawing:
        """A row for each layer, in the model's order."""
        from matplotlib.figure import Figure

        gradients, updates = [], []
        for norms in layers.values():
            known = [each.gradient for each in norms if each.gradient is not None]
            gradients.append(root(known) if known else None)
            weight = root([each.weight for each in norms])
            updates.append(root([each.update for each in norms]) / weight if weight else None)
        figure = Figure(figsize=(5.6, ROW * len(layers) + 1.1), layout="constrained")
        engine: Any = figure.get_layout_engine()
        engine.set(wspace=0.08)
        panels = figure.subplots(1, 2, sharey=True)
        names = [name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for name in layers]
        for axes, values, title in zip(panels, (gradients, updates), ("gradient", "update / weights"), strict=True):
            plot_values(axes, values)
            axes.set_ylim(len(layers) - 0.4, -0.6)
            axes.set_yticks(range(len(layers)), names)
            titled(axes, title)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="both", color="#dddddd", linewidth=0.6)
            axes.set_axisbelow(True)
        figure.suptitle(f"Norms at step {step}, layer by layer", fontsize=10, x=0.01, ha="left", weight="bold")
        return figure


def plot_values(axes: Any, values: list[float | None]) -> None:
    """Values on a logarithmic axis, a row each; in words those that have no place on it."""
    places = {row: value for row, value in enumerate(values) if value is not None and 0 < value < math.inf}
    axes.set_xscale("log")
    axes.plot(list(places.values()), list(places), "o", color=COLOR, markersize=4.5)
    low, high = min(places.values(), default=1.0), max(places.values(), default=1.0)
    exponents = (math.floor(math.log10(low) - 0.1), math.ceil(math.log10(high) + 0.1))
    axes.set_xlim(10.0 ** exponents[0], 10.0 ** exponents[1])
    every = -(-(exponents[1] - exponents[0]) // 4)
    axes.set_xticks([10.0**exponent for exponent in range(exponents[0], exponents[1] + 1, every)])
    axes.minorticks_off()
    for row, value in enumerate(values):
        if row not in places:
            word = "none" if value is None else "0" if value == 0 else "not finite"
            axes.annotate(word, (0, row), (4, 0), ("axes fraction", "data"), "offset points", fontsize=8, va="center")


def squared_norm(values: Tensor) -> Tensor:
    """The sum of squares, in at least float32; where processes have a part each, of all parts."""
    if values.is_sparse:
        values = values.coalesce().values()
    total = values.detach().to(torch.promote_types(values.dtype, torch.float32)).abs().square().sum()
    if hasattr(total, "full_tensor"):
        total = total.full_tensor()
    return total


def root(squares: list[Tensor]) -> float:
    """The norm of parts from their squared norms."""
    return math.sqrt(sum(map(float, squares))) if squares else 0.0


def layer_of(parameter: str) -> str:
    """The name of the module that has a parameter; of one of the network itself, the parameter's."""
    return parameter.rpartition(".")[0] or parameter


def taken_together(layers: Mapping[str, list[Norms]], max_layers: int) -> dict[str, list[Norms]]:
    """At most so many layers, if names allow it: of each name, as many first parts are kept as is possible."""
    found = dict(layers)
    depth = max(name.count(".") for name in layers)
    while len(found) > max_layers and depth > 0:
        found = {}
        for name, norms in layers.items():
            found.setdefault(".".join(name.split(".")[:depth]), []).extend(norms)
        depth -= 1
    return found
