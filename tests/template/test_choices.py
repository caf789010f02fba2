"""Single options of the template's own configs do what their YAML says."""

import pytest
import torch

from scaffolding.core.config.compose import compose_config
from scaffolding.experiment import PROJECT
from scaffolding.losses import ClassificationLoss


def test_smoothed_labels() -> None:
    """Fails where the loss forgets its setting."""
    logits, labels = torch.randn(6, 3), torch.randint(0, 3, (6,))
    loss, _ = ClassificationLoss(label_smoothing=0.3)(torch.nn.Identity(), (logits, labels))
    targets = 0.7 * torch.nn.functional.one_hot(labels, 3) + 0.3 / 3
    assert float(loss) == pytest.approx(float(-(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()))


@pytest.mark.parametrize(("mode", "online"), [("dev", "offline"), ("prod", "auto")])
def test_runs_report_to_wandb(mode: str, online: str) -> None:
    """A rehearsal on this machine alone; a real run to the server, where there is a key."""
    assert compose_config(PROJECT, ["data=digits", f"mode={mode}"]).tracker.wandb.mode == online
