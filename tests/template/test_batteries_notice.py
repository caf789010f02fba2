"""The tests that a fork inherits notice what is wrong with a model or a dataset: faults are planted in a copy."""

import re
from pathlib import Path

import pytest
from test_rename import copy_repository, run

MODEL = """
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, image_shape: list[int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], num_classes)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))
        EXTRA

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.flatten(1))
        BODY
        return logits
"""
MODEL_YAML = """# @package _global_
model:
  _target_: scaffolding.model.NAME.Net
  image_shape: ${data.image_shape}
  num_classes: ${data.num_classes}
loss:
  _target_: scaffolding.losses.ClassificationLoss
  label_smoothing: 0.0
"""
MODELS = {  # name: (in the constructor, in forward, the test that must notice)
    "sound": ("self.sample = lambda num, generator: torch.randn(num, 2, generator=generator)", "pass", None),
    "unused": ("self.unused = nn.Linear(2, 2)", "pass", "test_gradients_reach_every_parameter"),
    "opted": ("self.unused = nn.Linear(2, 2)", "pass", "test_gradients_reach_every_parameter"),  # and its YAML says so
    "cut": ("pass", "logits = logits.detach() + self.layer.bias", "test_gradients_reach_every_parameter"),
    "squashed": ("pass", "logits = logits.softmax(dim=1)", "test_one_batch_can_be_learnt"),
    "noisy": ("pass", "logits = F.dropout(logits, 0.1)", "test_evaluation_is_deterministic_and_changes_nothing"),
    "counting": ("pass", "self.calls += 1", "test_evaluation_is_deterministic_and_changes_nothing"),
    "forgetful": ("self.shift = torch.rand(1)", "logits = logits + self.shift * images.flatten(1)[:, :10]",
                  "test_state_makes_the_round_trip"),
    "straying": ("self.sample = lambda num, generator: torch.randn(num, 2)", "pass",
                 "test_samples_depend_on_their_generator_alone"),
    "watched": ("self.looks = 0", "self.looks += not self.training; logits = logits * (1 + self.looks)",
                "test_watching_changes_no_weight"),
}  # fmt: skip

DATA = """
import torch
from torch import Tensor


class Items:
    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(SEED)
        self.images = torch.randn(60, 1, 9, 9, generator=generator)
        self.labels = torch.arange(60) % 10
        EXTRA

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return BATCH
"""
DATA_YAML = """dataset:
  _target_: scaffolding.data.NAME.Items
num_classes: 10
image_shape: [1, 9, 9]
"""
SEED, BATCH = "len(split) + ord(split[1])", "self.images[indices], self.labels[indices]"
SETS = {  # name: (seed, at the end of the constructor, batch, the test that must notice)
    "whole": (SEED, "pass", BATCH, None),
    "same": ("0", "pass", BATCH, "test_splits_are_disjoint"),
    "shifted": (SEED, "pass", "self.images[indices], self.labels[indices - 1]", "test_a_batch_is_its_items_collated"),
    "narrow": (SEED, "pass", "self.images[indices], self.labels[indices].int()", "test_a_batch_is_its_items_collated"),
    "clock": ("__import__('time').time_ns() % 2**31", "pass", BATCH, "test_the_same_seed_gives_the_same_items"),
    "locked": (SEED, "self.read = lambda: split", BATCH, "test_a_copy_in_another_process_reads_the_same"),
}


@pytest.mark.full
def test_faults_are_noticed(tmp_path: Path) -> None:
    """Each of the faults above makes its test fail, and what is sound passes all of them."""
    copy = copy_repository(tmp_path / "copy")
    for name, (extra, body, _) in MODELS.items():
        code = MODEL.replace("EXTRA", extra).replace("BODY", body)
        (copy / f"src/scaffolding/model/bad_{name}.py").write_text(code)
        text = MODEL_YAML.replace("NAME", f"bad_{name}")
        if name == "opted":
            text += "# tests: skip test_gradients_reach_every_parameter, test_one_batch_can_be_learnt (a reason)\n"
        (copy / f"configs/model/bad_{name}.yaml").write_text(text)
    for name, (seed, extra, batch, _) in SETS.items():
        code = DATA.replace("SEED", seed).replace("EXTRA", extra).replace("BATCH", batch)
        (copy / f"src/scaffolding/data/bad_{name}.py").write_text(code)
        (copy / f"configs/data/bad_{name}.yaml").write_text(DATA_YAML.replace("NAME", f"bad_{name}"))
    wanted = set()
    for faults, sound in ((MODELS, "sound"), (SETS, "whole")):
        for name, (*_, test) in faults.items():
            if test:
                wanted |= {f"{test}[bad_{name}]", f"{test}[bad_{sound}]"}
    tests = [f"tests/test_batteries.py::{test}" for test in sorted(wanted)]
    said = run(copy, "pytest", "-n", "2", "-p", "no:cacheprovider", "-rA", *tests, code=1)
    found = {(test, outcome) for outcome, test in re.findall(r"^(PASSED|FAILED) \S+::(\w+\[\w+\])", said, re.M)}
    wanted = {test for test in wanted if "opted" not in test}  # skipped
    expected = {(test, "PASSED" if "sound" in test or "whole" in test else "FAILED") for test in wanted}
    assert found == expected, f"{found ^ expected}\n{said[-3000:]}"
