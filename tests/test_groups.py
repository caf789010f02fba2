"""Which parameters an optimizer trains, in which groups, and what a resumed run makes of them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, Train, latest
from test_loop import build, step_of
from torch import nn

from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import Facts
from scaffolding.core.optimizers import build_optimizer
from scaffolding.experiment import Experiment
from scaffolding.train import train_step

ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.1, "weight_decay": 0.01}
GROUPS = "+optimizer.groups=[{max_ndim:1,weight_decay:0.0,name:small},{match:'^1[.]weight',lr:0.5}]"


def groups_of(*groups: dict[str, Any]) -> list[tuple[list[str], Any, dict[str, Any]]]:
    """(names of parameters, name, settings) of each group of an optimizer over a small network."""
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    parameters = dict(network.named_parameters())
    optimizer = build_optimizer({**ADAMW, "groups": list(groups)}, "optimizer", parameters)
    names = {id(parameter): name for name, parameter in parameters.items()}
    return [
        (
            [names[id(part)] for part in group["params"]],
            group.get("name"),
            {n: group[n] for n in ("lr", "weight_decay")},
        )
        for group in optimizer.param_groups
    ]


def test_the_first_group_that_meets_a_parameter_takes_it() -> None:
    """Fails where weight decay reaches norms and biases that a group takes out of it."""
    found = groups_of({"max_ndim": 1, "weight_decay": 0.0, "name": "small"}, {"match": ["^2", "none"], "lr": 0.5})
    assert found == [
        (["0.weight"], None, {"lr": 0.1, "weight_decay": 0.01}),
        (["0.bias", "1.weight", "1.bias", "2.bias"], "small", {"lr": 0.1, "weight_decay": 0.0}),
        (["2.weight"], "1", {"lr": 0.5, "weight_decay": 0.01}),
    ]
    assert [names for names, *_ in groups_of({"match": "bias$", "max_ndim": 1})][1] == ["0.bias", "1.bias", "2.bias"]
    assert len(groups_of({"match": ""})) == 1  # nothing is left for the optimizer's own settings


@pytest.mark.parametrize(
    ("group", "message"),
    [({"match": "head"}, "groups.0: takes none of the 6 parameters\nnearest: "),
     ({"lr": 0.1}, "does not say which parameters it takes"),
     ({"match": "("}, "not a regular expression"),
     ({"match": "bias", "weight_decy": 0.0}, "has no such setting of a group\nnearest: weight_decay"),
     ({"match": "bias", "lr": "fast"}, "optimizer.groups.0.lr=fast: not a number"),
     ("bias", "does not say which parameters")],
    ids=str,
)  # fmt: skip
def test_a_group_that_cannot_be_meant_is_refused(group: Any, message: str) -> None:
    """Fails where torch takes a misspelt setting of a group and ignores it."""
    with pytest.raises(UserError) as raised:
        groups_of(group)
    assert message in str(raised.value)


def test_every_group_has_its_rate_in_the_rows(train: Train, output_root: Path) -> None:
    """Also with a schedule, of which a row has the rate that its step used."""
    words = (*TINY, "run.log_every=1", "run.budget=4", "loader.batch_size=60", GROUPS, "scheduler=linear")
    train(*words, "scheduler.schedule.warmup=0.0", "run.name=run")
    rows = [row for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "train"]
    assert [row["lr/1"] for row in rows] == pytest.approx([0.5, 0.375, 0.25, 0.125])
    assert [row["lr/small"] for row in rows] == pytest.approx([row["lr"] for row in rows])
    assert len(latest(output_root / "run")["optimizers"][""]["param_groups"]) == 3
    refused = train(*TINY, "+optimizer.groups=[{match:nowhere,lr:0.1}]", "run.name=none", code=2).stderr
    assert "optimizer.groups.0: takes none" in refused and not (output_root / "none").exists()


class Scaled(nn.Module):
    """A loss with parameters: a temperature and one centre for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature, self.centres = nn.Parameter(torch.ones(())), nn.Parameter(torch.randn(3, 3))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        points, labels = batch
        logits = model(points) * self.temperature
        return nn.functional.cross_entropy(logits, labels) + (logits - self.centres[labels]).square().mean(), {}


def test_the_parameters_of_a_loss_are_trained(train: Train, output_root: Path) -> None:
    """Fails where a temperature or the centres of a loss stay where they began."""
    exp = build("loss._target_=test_groups.Scaled", "run.ema_decay=0.9", "run.clip_grad_norm=1.0")
    assert list(exp.trained[""])[-2:] == ["loss.temperature", "loss.centres"]
    before = {name: value.clone() for name, value in exp.losses[""].state_dict().items()}
    train_step(exp, step_of((torch.randn(4, 8), torch.tensor([0, 1, 2, 0]))))
    assert all(not torch.equal(before[name], value) for name, value in exp.losses[""].state_dict().items())
    words = (*TINY, "loss._target_=test_groups.Scaled", "run.budget=4", "mode=dev", "run.name=run")
    done = train(*words, "loader.num_workers=0")
    assert "tensors identical" in done.stdout  # they are in the checkpoint, and so is what the optimizer knows
    run = output_root / "dev" / "run"
    loaded = Experiment.from_path(run, checkpoint="latest", trust=("test_groups",))
    assert torch.equal(loaded.losses[""].centres, latest(run)["objects"]["losses"]["centres"])
