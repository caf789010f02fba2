"""Figures: every kind is built from its YAML, draws what it can, and says why it cannot draw the rest."""

import contextlib
import itertools
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from omegaconf import OmegaConf
from torch import nn

from scaffolding.core.batches.loader import Loader
from scaffolding.core.config.build import build
from scaffolding.experiment import PROJECT

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
    return SimpleNamespace(
        datasets={"train": items, "val": items},
        train_loader=Loader(items, "train", 8, shuffle=True, seed=0, device=torch.device("cpu")),
        device=torch.device("cpu"),
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
    texts = list(figure.texts) + [text for legend in figure.legends for text in legend.get_texts()]
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
    one_each = [{"step": 5, "split": split, "loss": 2.0, "time": 0.0} for split in ("train", "val", "test")]
    axes = draw(experiment(ITEMS["rows"], classifier, rows=one_each)).axes[0]
    assert [line.get_marker() for line in axes.lines if len(line.get_xdata()) == 1] == ["o", "o", "D"]
    falling = [{"step": step, "split": "train", "loss": 10.0**-step, "accuracy": step / 9} for step in range(9)]
    figure = draw(experiment(ITEMS["rows"], classifier, rows=falling))
    scales = {panel.get_title("left"): panel.get_yscale() for panel in figure.axes}
    assert scales == {"loss": "log", "accuracy": "linear"}
    many = [{"step": n, "split": "val"} | {f"part/metric_{k}": k * n for k in range(7)} for n in (9000, 1000000)]
    assert_legible(draw(experiment(ITEMS["rows"], classifier, rows=many)))
    broken = [{"step": step, "split": "train", "loss": float("nan")} for step in (1, 2)]
    pixels(draw(experiment(ITEMS["rows"], classifier, rows=broken)))


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
