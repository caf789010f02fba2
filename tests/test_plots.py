"""Figures: every kind is built from its YAML, draws what it can, and says why it cannot draw the rest."""

import contextlib
import copy
import functools
import itertools
import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from conftest import BASE, TESTS, Train, assert_same_run
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from omegaconf import OmegaConf, open_dict
from torch import nn

from scaffolding import plot
from scaffolding.core.batches.loader import Loader
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.build import build
from scaffolding.core.config.compose import compose_config
from scaffolding.core.session.run import NoRun
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.schedules import advance
from scaffolding.train import train_step

SEARCH = f"hydra.searchpath=['file://{TESTS / 'configs'}']"

FILES = sorted(file.stem for file in PROJECT.root.glob("src/*/plot/*.py") if file.stem != "__init__")
ROWS = [
    {"step": step, "epoch": 0, "samples": 8 * step, "split": split, "loss": 3 / step, "accuracy": 1 - 1 / step}
    for step in range(10, 60, 10)
    for split in ("train", "val")
]


def specs() -> dict[str, dict[str, Any]]:
    """Entries of configs/plots/*.yaml by the file of plot/ that they build from."""
    found = {}
    for file in sorted((PROJECT.configs / "plots").glob("*.yaml")):
        config = OmegaConf.create({"data": {}, "plots": OmegaConf.load(file)})
        for spec in OmegaConf.to_container(config, resolve=True)["plots"].values():
            if isinstance(spec, dict) and "_target_" in spec:
                found[spec["_target_"].split(".")[-2]] = spec
    return found


def make(file: str, **changes: Any) -> Any:
    return build(specs()[file] | changes, f"plots.{file}")


def experiment(items: list[Any], model: Any, rows: list[dict[str, Any]] | None = None) -> Any:
    """What a figure may use of an experiment."""
    cpu = torch.device("cpu")
    loaders = {name: Loader(items, name, 8, shuffle=name == "train", seed=0, device=cpu) for name in ("train", "val")}
    return SimpleNamespace(
        path=None,
        run=NoRun(),
        datasets={"train": items, "val": items},
        loaders=loaders,
        train_loader=loaders["train"],
        optimizers={"": torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)},
        schedulers={},
        num_steps=60,
        device=cpu,
        eval_model=model,
        autocast=contextlib.nullcontext(),
        state=SimpleNamespace(step=50, best_step=30),
        history=lambda: ROWS if rows is None else rows,
    )


def classifier(inputs: torch.Tensor) -> torch.Tensor:
    """Logits (B, 10) that depend on the inputs."""
    return torch.stack([inputs.flatten(1).float().mean(dim=1) * k for k in range(10)], dim=1)


def images(*shape: int, num: int = 20) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(shape, generator=generator), index % 10) for index in range(num)]


GREY = images(1, 8, 8)
ITEMS = {
    "grey images": GREY,
    "colour images": images(3, 12, 10),
    "one image": images(1, 8, 8, num=1),
    "images of two channels": images(2, 8, 8),
    "bytes": [(image.mul(50).to(torch.uint8), label) for image, label in images(3, 8, 8)],
    "constant images": [(torch.zeros(1, 8, 8), 0)] * 9,
    "images with holes": [(torch.full((1, 4, 4), float("nan")), 0), *images(1, 4, 4)],
    "nothing finite": [(torch.full((1, 4, 4), float("inf")), 0)] * 9,
    "rows": images(7),
    "volumes": images(1, 4, 4, 4),
    "complex images": [(torch.randn(1, 4, 4, dtype=torch.complex64), 0)] * 9,
    "empty images": [(torch.zeros(1, 0, 4), 0)] * 9,
    "numbers": [(index / 3, index) for index in range(20)],
    "tokens": [torch.arange(16)] * 20,
    "dicts": [{"image": image, "label": label} for image, label in images(3, 8, 8)],
    "nested": [({"image": image}, (label, label)) for image, label in GREY],
    "many parts": [(image, label, image, 0.5) for image, label in GREY],
    "images as labels": [(image, image) for image, _ in GREY],
    "numbers as labels": [(image, label / 7) for image, label in GREY],
    "labels out of range": [(image, label - 100) for image, label in GREY],
}
MODELS = {
    "broken classifier": lambda inputs: classifier(inputs) * float("nan"),
    "images to images": lambda inputs: inputs,
    "regression": lambda inputs: classifier(inputs)[:, :1],
    "several outputs": lambda inputs: (classifier(inputs), inputs),
    "no forward": nn.ModuleDict({"generator": nn.Linear(4, 4)}),
    "two inputs": lambda inputs, time: inputs,
    "other inputs": nn.Linear(3, 5),
    "noise": SimpleNamespace(sample=lambda num, generator: torch.randn(num, 1, 8, 8, generator=generator)),
}
CASES = {name: (items, classifier) for name, items in ITEMS.items()} | {
    name: (GREY, model) for name, model in MODELS.items()
}
DRAWN = {
    "curves": "rows",
    "first_batch": "bytes",
    "predictions": "colour images",
    "reconstructions": "images to images",
}


def pixels(figure: Figure, dpi: int = 100) -> np.ndarray:
    """The figure as an array (H, W, 3) of bytes."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3]


def assert_legible(figure: Figure) -> None:
    """It shows something, no letters smaller than 7 points, no text cut off or over another."""
    shown = pixels(figure)
    assert 0.01 < (shown != 255).any(axis=2).mean() < 0.99
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 8
    texts = drawn(figure)
    assert texts and min(text.get_fontsize() for text in texts) >= 7
    renderer = figure.canvas.get_renderer()
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    for text, box in boxes:
        assert min(box.x0, box.y0) >= 0, text
        assert box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    for (one, box), (other, other_box) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other_box), (one, other)


def drawn(figure: Figure) -> list[Text]:
    """The texts in a figure that are really drawn: axes also hold labels of ticks outside their limits."""
    texts = [*figure.texts]
    for legend in figure.legends:
        texts += [legend.get_title(), *legend.get_texts()]
    for axes in figure.axes:
        texts += axes.texts + [axes.title, getattr(axes, "_left_title")]  # noqa: B009 (no public name)
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [axis.label] if axis.label.get_visible() else []
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [label for tick in ticks for label in (tick.label1, tick.label2)]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def is_reason(text: Any) -> bool:
    return isinstance(text, str) and 5 < len(text) < 200 and "\n" not in text and not text.endswith(".")


def needs(file: str) -> Any:
    return pytest.mark.skipif(file not in FILES, reason=f"{file}.py is gone")


def test_every_plot_has_yaml_that_builds_it() -> None:
    assert set(FILES) <= set(specs())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("file", FILES)
def test_drawn_or_refused(file: str, case: str) -> None:
    """Whatever the data and the model are; draws from no global generator and leaves matplotlib's settings alone."""
    before, settings = torch.get_rng_state(), dict(matplotlib.rcParams)
    drawing = make(file)(experiment(*CASES[case]))
    if is_reason(drawing):
        assert DRAWN.get(file) != case, drawing
    else:
        assert pixels(drawing, dpi=20).min() < 255
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(matplotlib.rcParams) == settings


@pytest.mark.parametrize("names", [None, [f"a class of birds, number {index}" for index in range(10)]])
@pytest.mark.parametrize("items", ["grey images", "colour images", "one image"])
@pytest.mark.parametrize("file", FILES)
def test_legible(file: str, items: str, names: list[str] | None) -> None:
    changes = {"class_names": names} if "class_names" in specs()[file] else {}
    drawing = make(file, **changes)(experiment(ITEMS[items], classifier))
    if not is_reason(drawing):
        assert_legible(drawing)


@needs("curves")
def test_curves() -> None:
    draw = make("curves")
    assert is_reason(draw(experiment(ITEMS["rows"], classifier, rows=[])))
    splits = {"train": 2.0, "val": 3.0, "test": 4.0}
    one_each = [{"step": 5, "split": split, "loss": value, "time": 0.0} for split, value in splits.items()]
    assert is_reason(draw(experiment(ITEMS["rows"], classifier, rows=one_each[:1])))
    axes = draw(experiment(ITEMS["rows"], classifier, rows=one_each)).axes[0]
    assert [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1] == ["o", "o", "D"]
    values = [{"loss": 10.0**-step, "accuracy": step / 9, "lr": 10.0**-step} for step in range(9)]
    falling = [{"step": step, "split": "train"} | row for step, row in enumerate(values)]
    figure = draw(experiment(ITEMS["rows"], classifier, rows=falling))
    scales = {panel.get_title("left"): panel.get_yscale() for panel in figure.axes}
    assert scales == {"loss": "log", "accuracy": "linear", "lr": "linear"}
    many = [{"step": n, "split": "val"} | {f"part/metric_{k}": k * n for k in range(7)} for n in (9000, 1000000)]
    assert_legible(draw(experiment(ITEMS["rows"], classifier, rows=many)))
    broken = [{"step": step, "split": "train", "loss": float("nan")} for step in (1, 2)]
    pixels(draw(experiment(ITEMS["rows"], classifier, rows=broken)))


@needs("curves")
def test_curves_of_a_loaded_run_mark_its_best_step(train: Train, output_root: Path) -> None:
    """The checkpoint of that step was saved before the evaluation that made it the best."""
    train(*BASE, "optimizer=sgd", "run.name=run")
    exp = Experiment.from_path(output_root / "run", trust=("tiny",))
    best = exp.state.step
    assert exp.state.best_step != best
    texts = make("curves")(exp).legends[0].get_texts()
    assert f"best: step {best}" in [text.get_text() for text in texts]


@needs("curves")
def test_curves_leave_out_the_machine_and_write_what_has_no_course() -> None:
    machine = {"time": 1.0, "items_per_second": 5.0, "peak_memory_mb": 3.0, "seconds/data": 0.1}
    rows: list[dict[str, Any]] = [
        {"step": step, "split": "train", "loss": 1 / step, "lr": 0.25, **machine, "seconds/log": 1 / step}
        for step in range(1, 5)
    ]
    rows += [{"step": 3, "split": "test", "loss": 0.5, "only/f1": 0.625, **machine}]
    exp = experiment(ITEMS["rows"], classifier, rows)
    exp.path = Path("runs/amber_fox")
    figure = make("curves")(exp)
    assert [panel.get_title("left") for panel in figure.axes] == ["loss"]
    assert figure.get_supxlabel() == "without a curve: lr 0.25 (always), only/f1 0.625 (test, step 3)"
    assert figure.legends[0].get_title().get_text() == "amber_fox"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "test", "best: step 30"]
    assert_legible(figure)


@needs("confusion")
def test_confusion_counts() -> None:
    """Rows are the true classes, and every validation item counts once, also those of a last batch of odd size."""
    generator = torch.Generator().manual_seed(0)
    labels, guesses = (torch.randint(0, 3, (29,), generator=generator).tolist() for _ in range(2))
    items = [(torch.tensor([float(guess)]), label) for guess, label in zip(guesses, labels, strict=True)]
    figure = make("confusion", class_names=["ant", "bee", "cow"])(
        experiment(items, lambda inputs: torch.eye(3)[inputs[:, 0].long()])
    )
    axes, pairs = figure.axes[0], list(zip(labels, guesses, strict=True))
    numbers = {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in axes.texts}
    assert numbers == {pair: pairs.count(pair) for pair in set(pairs)}
    shares = np.asarray(axes.images[0].get_array())
    for row, column in itertools.product(range(3), repeat=2):
        assert shares[row, column] == pytest.approx(pairs.count((row, column)) / labels.count(row))
    right = sum(label == guess for label, guess in pairs)
    assert f"{100 * right / 29:.4g} % of 29 right" in figure.get_suptitle()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ant", "bee", "cow"]
    assert_legible(figure)


@needs("confusion")
@pytest.mark.parametrize("num_classes", [2, 12, 13, 100])
def test_confusion_is_legible_with_any_number_of_classes(num_classes: int) -> None:
    items = [(torch.tensor([float(label)]), label) for label in range(num_classes)] * 3
    exp = experiment(items, lambda inputs: torch.eye(num_classes)[inputs[:, 0].long()])
    figure = make("confusion", class_names=[f"species {index}" for index in range(num_classes)])(exp)
    assert len(figure.axes[0].texts) == (num_classes if num_classes <= 12 else 0)
    assert_legible(figure)
    assert "labels are not in 0.." in make("confusion")(experiment(ITEMS["labels out of range"], classifier))


def small_experiment(*words: str, model: str = "tiny", **parts: Any) -> Experiment:
    """A real one, some parts of whose config are others."""
    words = (
        SEARCH,
        "data=noisy",
        f"model={model}",
        "plots=none",
        "tracker=none",
        "mode=prod",
        "run.device=cpu",
        *words,
    )
    cfg = compose_config(PROJECT, [*words, "run.precision=float32"])
    with open_dict(cfg):
        for name, part in parts.items():
            cfg[name] = part
    exp = Experiment(cfg)
    exp.prepare()
    exp.model.train()
    return exp


def update(exp: Experiment) -> None:
    """The next step of the run."""
    steps = exp.train_loader.steps(exp.state, exp.settings.accumulate)
    micro_batches = next(steps)
    train_step(exp, micro_batches)
    exp.state.advance(micro_batches.num_batches, micro_batches.num_items, len(exp.train_loader))


SCHEDULES = {
    "none": {},
    "by step": {"_target_": "scaffolding.schedules.cosine", "warmup": 0.3, "final": 0.1},
    "by epoch": {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 1, "gamma": 0.5},
    "one cycle": {"_target_": "scaffolding.schedules.one_cycle", "pct_start": 0.3, "div_factor": 25.0,
        "final_div_factor": 1e4, "anneal_strategy": "cos", "cycle_momentum": True, "base_momentum": 0.85,
        "max_momentum": 0.95},
}  # fmt: skip


@needs("schedule")
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_planned_rates_are_those_that_are_used(name: str) -> None:
    """Drawn after the first step, as in a run; drawing leaves the optimizer and its schedule alone."""
    spec: dict[str, Any] = {"schedule": SCHEDULES[name] or None}
    if name == "by epoch":
        spec["interval"] = "epoch"
    exp = small_experiment("run.budget=3epochs", "loader.batch_size=32", "optimizer.lr=0.3", scheduler=spec)
    used, figure = [], None
    for _ in range(exp.num_steps):
        used.append(exp.optimizers[""].param_groups[0]["lr"])
        update(exp)
        if exp.state.is_new_epoch:
            advance(exp.schedulers, "epoch")
        if exp.state.step == 1:
            before = copy.deepcopy(exp.state_dict())
            figure = make("schedule")(exp)
            assert first_difference(before, exp.state_dict()) is None
    assert isinstance(figure, Figure)
    (line,) = figure.axes[0].lines
    steps, rates = line.get_data()
    planned = [rates[max(index for index, start in enumerate(steps) if start <= step)] for step in range(exp.num_steps)]
    assert planned == pytest.approx(used, rel=1e-9)
    assert len(set(used)) == {"none": 1, "by epoch": 3}.get(name, exp.num_steps)


@needs("schedule")
def test_a_rate_that_waits_for_values_is_not_planned() -> None:
    plateau = {"schedule": {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"}, "monitor": "val/loss"}
    exp = small_experiment(scheduler=plateau)
    assert make("schedule")(exp) == "a rate that waits for values cannot be planned: it follows val/loss"
    one = plateau | {"monitor": "val/generator/loss"}
    exp = small_experiment(scheduler={"discriminator": one, "generator": {"schedule": None}}, model="pair")
    figure = make("schedule")(exp)
    assert len(figure.axes[0].lines) == 1
    assert "discriminator follows val/generator/loss: it cannot be planned" in figure.axes[0].get_title("left")
    assert_legible(figure)


@needs("gradients")
@pytest.mark.parametrize("clip", [None, 1e-3])
def test_gradients_are_those_that_each_optimizer_saw(clip: float | None) -> None:
    """Fails where the discriminator is shown with what the generator's backward pass adds, or before clipping."""
    words = (f"run.clip_grad_norm={clip or 'null'}", "run.accumulate=2", "run.plot_every=2", "run.budget=9")
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1}
    exp = small_experiment(*words, model="pair", optimizer=sgd, plots={"gradients": specs()["gradients"]})
    plot.watch(exp)
    kind = exp.plots["gradients"]
    seen: dict[str, float] = {}

    def look(network: str, optimizer: Any, *_: Any) -> None:
        squares = sum(float(part.grad.square().sum()) for part in exp.trained[network].values())
        seen[network] = math.sqrt(squares)

    for name, optimizer in exp.optimizers.items():
        optimizer.register_step_pre_hook(functools.partial(look, name))
    update(exp)
    assert is_reason(kind(exp)), "nothing is due after the first step"
    before = {name: [part.detach().clone() for part in parts.values()] for name, parts in exp.trained.items()}
    update(exp)
    figure = kind(exp)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "discriminator/weight",
        "discriminator/bias",
        "generator/weight",
        "generator/bias",
    ]
    for index, name in enumerate(exp.trained):
        norms = [
            line.get_xdata()[2 * index : 2 * index + 2] for line in (figure.axes[0].lines[0], figure.axes[1].lines[0])
        ]
        assert math.hypot(*norms[0]) == pytest.approx(seen[name], rel=1e-4)
        for part, old, gradient, ratio in zip(exp.trained[name].values(), before[name], *norms, strict=True):
            assert ratio == pytest.approx(float((part.detach() - old).norm() / old.norm()), rel=1e-4)
            assert ratio == pytest.approx(0.1 * gradient / float(old.norm()), rel=1e-2)
    if clip:
        assert seen == pytest.approx(dict.fromkeys(seen, clip), rel=1e-3)
    assert_legible(figure)
    update(exp)
    assert is_reason(kind(exp)), "the figure of step 2 is not that of step 3"


@needs("gradients")
def test_layers_without_a_gradient_are_named_and_many_are_taken_together() -> None:
    spec = specs()["gradients"]
    exp = small_experiment("+model.is_frozen=true", "run.plot_every=1", plots={"gradients": spec})
    unused = nn.Parameter(torch.ones(2))
    exp.model.register_parameter("unused", unused)
    exp.trained[""]["unused"] = unused
    plot.watch(exp)
    update(exp)
    figure = exp.plots["gradients"](exp)
    rows = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert rows == ["1", "unused"] and [note.get_text() for note in figure.axes[0].texts] == ["none"]
    assert [note.get_text() for note in figure.axes[1].texts] == ["0"]
    exp = small_experiment("run.plot_every=1", plots={"gradients": spec | {"max_layers": 2}})
    plot.watch(exp)
    update(exp)
    rows = [label.get_text() for label in exp.plots["gradients"](exp).axes[0].get_yticklabels()]
    assert rows == ["0", "1"]  # 0.0 and 0.1 are the layer and its norm


@needs("gradients")
def test_a_look_that_fails_is_a_figure_that_fails() -> None:
    """Fails where it ends the run, whose update is sound."""
    exp = small_experiment("run.plot_every=1", plots={"gradients": specs()["gradients"]})
    plot.watch(exp)
    exp.intervals = SimpleNamespace(steps={"plot": 1}, due=lambda name, step: {"log": False}[name])
    before = copy.deepcopy(exp.model.state_dict())
    update(exp)
    assert first_difference(before, exp.model.state_dict()) is not None
    exp.run = SimpleNamespace(path=None)
    plot.draw(exp, "val")
    assert list(exp.failed_figures) == ["gradients"]


@needs("gradients")
def test_watching_updates_does_not_change_them(train: Train, output_root: Path) -> None:
    """A run, killed and carried on, is the same as one without the figure."""
    words = (*BASE, "run.plot_every=3", "run.clip_grad_norm=0.5", "run.ema_decay=0.9")
    train(*words, "run.name=plain")
    spec = [f"+plots.gradients.{name}={value}" for name, value in specs()["gradients"].items()]
    train(*words, *spec, "run.name=watched", env={"KILL_AT": "11"}, code=-signal.SIGKILL)
    train("resume=watched")
    assert_same_run(output_root / "watched", output_root / "plain")
    files = sorted(file.name for file in (output_root / "watched" / "figures").iterdir())
    assert files == [f"gradients-val-{step:06d}.png" for step in range(3, 25, 3)]


@needs("samples")
def test_samples_are_below_real_images_with_the_ranges_of_both() -> None:
    real = [(torch.full((1, 4, 4), index / 19), 0) for index in range(20)]
    model = SimpleNamespace(sample=lambda num, generator: torch.full((num, 1, 4, 4), 3.0))
    figure = make("samples", num_images=8, columns=4)(experiment(real, model))
    shown = [float(np.asarray(image.get_array()).mean()) for image in figure.axes[0].images]
    assert len(shown) == 4 + 8 and shown[4:] == [1.0] * 8 and len(set(shown[:4])) == 4
    assert "samples 3 to 3" in figure.axes[0].texts[0].get_text()
    assert_legible(figure)


@needs("predictions")
def test_predictions_count_and_name() -> None:
    items = [(torch.full((1, 4, 4), float(label)), label) for label in range(3)]
    names = ["ant", "bee", "cow"]
    right = make("predictions", class_names=names)(experiment(items, lambda x: torch.eye(3)[x[:, 0, 0, 0].long()] * 20))
    heading, *captions = [text.get_text() for text in drawn(right)]
    assert sorted(captions) == ["ant (100 %)", "bee (100 %)", "cow (100 %)"]
    assert "0 of 3 wrong" in heading
    wrong = make("predictions", class_names=names)(experiment(items, lambda x: torch.tensor([[0.0, 0.0, 20.0]] * 3)))
    heading, *captions = [text.get_text() for text in drawn(wrong)]
    assert sorted(captions) == ["cow (100 %)", "cow (100 %)\nis ant", "cow (100 %)\nis bee"]
    assert "2 of 3 wrong" in heading
    assert len(wrong.axes[0].patches) == 2
    assert "class names" in make("predictions", class_names=names)(experiment(items, classifier))


@needs("first_batch")
def test_first_batch_is_what_the_training_stream_gets() -> None:
    exp = experiment(images(1, 8, 8, num=30), classifier)
    first, _ = next(iter(exp.train_loader))
    drawing = make("first_batch")(exp)
    shown = [np.asarray(image.get_array()).squeeze() for image in drawing.axes[0].images]
    assert len(shown) == len(first) == 8
    assert any("(8, 1, 8, 8) float32" in text.get_text() for text in drawn(drawing))
    assert all(np.array_equal(image, expected[0].numpy()) for image, expected in zip(shown, first, strict=True))
