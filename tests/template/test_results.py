"""The results that the examples promise, through the real entry point."""

import os
import shutil
import statistics
from pathlib import Path

import pytest
from conftest import Train

from scaffolding.core.folder.run_folder import Facts

TEST_DATA = os.environ.get("SCAFFOLDING_TEST_DATA")


def accuracy_of(run: Path) -> float:
    return float(next(row["accuracy"] for row in Facts(run / "facts").rows() if row["split"] == "test"))


@pytest.mark.full
def test_digits_mlp(train: Train, output_root: Path) -> None:
    accuracies = []
    for seed in (1, 2, 3):
        train("experiment=digits_mlp", "mode=prod", "tracker=none", f"run.seed={seed}", f"run.name=seed{seed}")
        accuracies.append(accuracy_of(output_root / f"seed{seed}"))
    assert statistics.mean(accuracies) >= 0.97


@pytest.mark.full
@pytest.mark.skipif(TEST_DATA is None, reason="SCAFFOLDING_TEST_DATA does not say where the full MNIST is")
def test_mnist_convnet(train: Train, output_root: Path, tmp_path: Path) -> None:
    assert TEST_DATA is not None
    shutil.copytree(Path(TEST_DATA, "mnist"), tmp_path / "data" / "MNIST" / "raw")
    words = ("mode=prod", "tracker=none", "plots=none", f"paths.data={tmp_path / 'data'}", "run.name=run")
    train("experiment=mnist_convnet", *words)
    rows = Facts(output_root / "run" / "facts").rows()
    assert accuracy_of(output_root / "run") >= 0.99
    assert max(row["epoch"] for row in rows) == 5
    assert rows[-1]["samples"] == 5 * 54_000


@pytest.mark.full
@pytest.mark.skipif(TEST_DATA is None, reason="SCAFFOLDING_TEST_DATA does not say where Tiny Shakespeare is")
def test_shakespeare_gpt(train: Train, output_root: Path) -> None:
    train("experiment=shakespeare_gpt", "mode=prod", "tracker=none", f"paths.data={TEST_DATA}", "run.name=run")
    rows = Facts(output_root / "run" / "facts").rows()
    assert min(row["loss"] for row in rows if row["split"] == "val") <= 1.88
    assert max(row["known_words"] for row in rows if row["split"] == "rollout") > 0.7
    assert rows[-1]["samples"] == 2000 * 12


@pytest.mark.full
def test_third_party_network_without_a_file(train: Train) -> None:
    words = ("data=cifar10", "model=module", "model._target_=torchvision.models.resnet18", "+model.num_classes=10")
    done = train(*words, "mode=dev", "tracker=none")
    assert "tensors identical" in done.stdout


@pytest.mark.full
def test_metric_of_torchmetrics(train: Train, output_root: Path) -> None:
    target = "torchmetrics.classification.MulticlassAccuracy"
    metric = f"{{_target_:scaffolding.metrics.TorchMetric,metric:{{_target_:{target},num_classes:10,average:micro}}}}"
    words = ("data=digits", "model=mlp", "mode=prod", "tracker=none", "plots=none", "run.budget=44", "run.name=run")
    train(*words, f"+metrics.micro={metric}")
    rows = [row for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "val"]
    assert rows and all(row["micro"] == pytest.approx(row["accuracy"], abs=1e-6) for row in rows)
