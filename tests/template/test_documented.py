"""What configs/README.md says of order, collate, annealing and metrics: its code is run as it stands there."""

import importlib
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from conftest import TESTS, run_train
from test_streams import BLOCKS, DOCUMENT

from scaffolding.core.state.progress import RunState
from scaffolding.experiment import PROJECT, Experiment

COMMANDS = [line.replace("\\\n", "") for line in DOCUMENT.split("```") if line.startswith("bash\n")]
BARE = ("tracker=none", "plots=none", "loader.num_workers=0", "run.name=run")  # the README's test runs them whole
PLACES = (f"{PROJECT.package}.data.", f"{PROJECT.package}.")


def documented(folder: Path, name: str) -> tuple[list[str], dict[str, str]]:
    """Write the documented files whose names are `name`; the documented command's words, and its environment."""
    for path, body in BLOCKS.items():
        if Path(path).stem == name:
            file = folder / Path(path).relative_to(Path(path).parts[0])
            if path.endswith(".py"):
                file = folder / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(moved(body, name))
    (command,) = [text for text in COMMANDS if f".{name}." in text or f"={name} " in text]
    words = shlex.split(moved(command, name).partition("pdm run train ")[2])
    return ["--config-dir", str(folder), *words], {"PYTHONPATH": f"{folder}:{TESTS.parent / 'src'}"}


def moved(text: str, name: str) -> str:
    for place in PLACES:
        text = text.replace(f"{place}{name}.", f"{name}.")
    return text


@pytest.mark.parametrize("name", ["balanced", "mixup", "annealed"])
def test_it_trains_and_resumes(output_root: Path, tmp_path: Path, name: str) -> None:
    words, env = documented(tmp_path / "documented", name)
    more = [*BARE, f"paths.output_root={output_root}"]
    assert "tensors identical" in run_train(*words, *more, env=env).stdout
    config = yaml.safe_load((output_root / "dev/run/config.yaml").read_text())
    assert f"_target_: {name}." in yaml.safe_dump(config)


def test_a_network_may_be_layers_in_yaml(output_root: Path, tmp_path: Path) -> None:
    words, env = documented(tmp_path / "documented", "layers")
    more = [*BARE, f"paths.output_root={output_root}"]
    assert "tensors identical" in run_train(*words, *more, env=env).stdout
    model = Experiment.from_path(output_root / "dev/run").model
    kinds = [type(layer).__name__ for layer in model.children()]
    assert kinds == ["Conv2d", "ReLU", "AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """The module that the document shows."""
    documented(tmp_path, request.param)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, request.param, raising=False)
    return importlib.import_module(request.param)


@pytest.mark.parametrize("module", ["balanced"], indirect=True)
def test_every_class_is_drawn_equally_often(module: Any) -> None:
    dataset = module.Balanced("train")
    counts = dataset.labels.bincount()
    positions = torch.cat([(dataset.labels == 0).nonzero()[:, 0], (dataset.labels == 1).nonzero()[:9, 0]])
    order = dataset.order(positions, torch.Generator().manual_seed(0))
    drawn = dataset.labels[positions[order]].bincount()
    assert len(order) == len(positions) == counts[0] + 9
    assert abs(drawn[0] - drawn[1]) < 0.3 * len(order)  # where one class has 9 of them


@pytest.mark.parametrize("module", ["mixup"], indirect=True)
def test_only_training_batches_are_mixed(module: Any) -> None:
    made = {"train": ("train", True), "val": ("train", False), "test": ("test", True)}
    shares = {}
    for name, (split, is_mixed) in made.items():
        dataset = module.Mixup(split, alpha=2.0, is_mixed=is_mixed)
        shares[name] = dataset.collate([dataset[index] for index in range(8)])[1]
    assert all(torch.allclose(part.sum(dim=1), torch.ones(8)) for part in shares.values())
    assert {name: float(part.max(dim=1).values.min()) == 1 for name, part in shares.items()} == {
        "train": False,
        "val": True,
        "test": True,
    }


@pytest.mark.parametrize("module", ["annealed"], indirect=True)
def test_smoothing_falls_to_zero(module: Any) -> None:
    loss = module.AnnealedLoss(0.2, 8)
    loss.progress = RunState()
    found = []
    for loss.progress.step in (0, 4, 8, 12):
        loss(torch.nn.Identity(), (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)))
        found.append(loss.label_smoothing)
    assert found == [0.2, 0.1, 0.0, 0.0]


@pytest.mark.parametrize("recipe", ["digits_mlp", "digits_module", "mnist_convnet"])
def test_the_metric_works_for_the_models_that_are_named(output_root: Path, tmp_path: Path, recipe: str) -> None:
    pytest.importorskip("torchmetrics")
    model = yaml.safe_load((TESTS.parent / f"configs/experiment/{recipe}.yaml").read_text())["defaults"]
    (named,) = [part["override /model"] for part in model if "override /model" in part]
    said = DOCUMENT.partition("A metric of torchmetrics")[2].partition("```")[0]
    assert f"`{named}`" in said
    block = next(body for path, body in BLOCKS.items() if path == "configs/base.yaml")
    (name,) = yaml.safe_load(block)["metrics"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/measured.yaml").write_text(f"# @package _global_\n{block}")
    words = ["--config-dir", str(tmp_path), "mode=dev", f"experiment=[{recipe},measured]", "tracker=none", "plots=none"]
    done = run_train(*words, "run.rehearse_resume=false", f"paths.output_root={output_root}")
    assert f"  {name} " in done.stderr
