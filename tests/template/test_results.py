"""What the examples promise, through the real entry point: each alone can be right in every part and still not learn.

Budgets are shorter than those of the recipes where that shows the same; scripts/template/examples.py trains all of them
in full. Tests on full data sets need SCAFFOLDING_TEST_DATA: a folder with mnist/*.gz and tinyshakespeare/input.txt.
"""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train

from scaffolding.core.folder.facts import Facts
from scaffolding.experiment import Experiment

TEST_DATA = os.environ.get("SCAFFOLDING_TEST_DATA", "")
needs_published_files = pytest.mark.skipif(not TEST_DATA, reason="SCAFFOLDING_TEST_DATA is not set")
pytestmark = pytest.mark.full


@pytest.fixture
def rows_of(train: Train, output_root: Path, tmp_path: Path) -> Any:
    """Train a recipe: `rows_of("digits_mlp", "run.seed=1")` gives the logged rows, oldest first."""
    data = tmp_path / "data"
    (data / "MNIST").mkdir(parents=True)
    (data / "MNIST" / "raw").symlink_to(Path(TEST_DATA, "mnist"))
    (data / "tinyshakespeare").symlink_to(Path(TEST_DATA, "tinyshakespeare"))

    def run(recipe: str, *words: str, name: str = "run") -> list[dict[str, Any]]:
        common = ("mode=prod", "tracker=none", "plots=none", f"paths.data={data}", f"run.name={name}")
        train(f"experiment={recipe}", *common, *words)
        return Facts(output_root / name / "facts").rows()

    return run


def labels_of_nearest(exp: Experiment, images: torch.Tensor, num_known: int) -> torch.Tensor:
    """The label of the training image that is nearest to each of the images."""
    known, labels = exp.datasets["train"].get_batch(torch.arange(num_known))
    return labels[torch.cdist(images.flatten(1), known.flatten(1)).argmin(dim=1)]


def test_digits_mlp(rows_of: Any) -> None:
    rows = [rows_of("digits_mlp", f"run.seed={seed}", name=f"seed{seed}")[-1] for seed in (1, 2, 3)]
    assert statistics.mean(row["accuracy"] for row in rows) >= 0.97


@needs_published_files
def test_mnist_convnet(rows_of: Any) -> None:
    """Finds an epoch that leaves items out, too: that the full set is read is in no other test."""
    *_, last, test = rows_of("mnist_convnet", "run.budget=2epochs")
    assert test["split"] == "test" and test["accuracy"] >= 0.985
    assert (last["epoch"], last["samples"]) == (1, 2 * 54_000)


@needs_published_files
def test_mnist_autoencoder(rows_of: Any, output_root: Path) -> None:
    """The error and the codes in use; and that a reconstruction is still nearest to images of its class."""
    test = rows_of("mnist_autoencoder", "run.budget=1epoch")[-1]
    assert test["split"] == "test" and test["reconstruction"] < 0.07
    assert test["codes_used"] > 0.7  # 0.81 to 0.96 after one epoch, with three seeds; a collapsed codebook has 0.1
    exp = Experiment.from_path(output_root / "run")
    images, truth = exp.datasets["test"].get_batch(torch.arange(1000))
    with torch.no_grad():
        nearest = [labels_of_nearest(exp, x, 20_000) for x in (images, exp.model(images))]
    of_images, of_reconstructions = (float((labels == truth).float().mean()) for labels in nearest)
    assert of_images > 0.93 and of_reconstructions > of_images - 0.02


@pytest.mark.parametrize(
    ("recipe", "budget", "mmd2", "coverage"),
    [("digits_gan", "2000", 0.01, 0.8), ("digits_diffusion", "60epochs", 0.005, 0.9)],
)
def test_samples_are_like_the_data(
    rows_of: Any, output_root: Path, recipe: str, budget: str, mmd2: float, coverage: float
) -> None:
    """By the last rollout; and all ten classes are drawn, as far as the nearest training image tells."""
    row = [row for row in rows_of(recipe, f"run.budget={budget}") if row["split"] == "rollout"][-1]
    assert row["mmd2"] < mmd2 and row["coverage"] > coverage
    exp = Experiment.from_path(output_root / "run")
    samples = exp.model.sample(500, torch.Generator().manual_seed(1))
    drawn = labels_of_nearest(exp, samples, len(exp.datasets["train"]))
    assert int(torch.bincount(drawn, minlength=10).min()) >= 15


@needs_published_files
def test_shakespeare_gpt(rows_of: Any) -> None:
    """In full: the loss that nanoGPT publishes for these sizes is the one outside reference there is."""
    rows = rows_of("shakespeare_gpt")
    assert min(row["loss"] for row in rows if row["split"] == "val") <= 1.88
    assert max(row["known_words"] for row in rows if row["split"] == "rollout") > 0.7
    assert rows[-1]["samples"] == 2000 * 12


def test_third_party_network_without_a_file(train: Train) -> None:
    """Finds buffers of a foreign network (batch normalisation) that do not survive a resume."""
    words = ("data=cifar10", "model=module", "model._target_=torchvision.models.resnet18", "+model.num_classes=10")
    assert "tensors identical" in train(*words, "mode=dev", "tracker=none").stdout


def test_metric_of_torchmetrics(rows_of: Any) -> None:
    """Finds a metric that is not reset, or misses the last, smaller batch."""
    target = "torchmetrics.classification.MulticlassAccuracy"
    metric = f"{{_target_:scaffolding.metrics.TorchMetric,metric:{{_target_:{target},num_classes:10,average:micro}}}}"
    rows = [row for row in rows_of("digits_mlp", "run.budget=44", f"+metrics.micro={metric}") if row["split"] == "val"]
    assert rows and all(row["micro"] == pytest.approx(row["accuracy"], abs=1e-6) for row in rows)
