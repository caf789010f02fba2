"""What is refused before a run is made: each loss is called on two items, and nothing can tell that it was."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, Train, generators
from loguru import logger
from test_loop import Several, build
from torch import Tensor, nn
from torch.autograd import grad

from scaffolding.core.checks.monitors import returned_keys, warn_of_direction
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import AXES, TIMINGS, Facts
from scaffolding.experiment import Experiment
from scaffolding.schedules import Schedule


def unprepared(loss: Any = None, *overrides: str, model: str = "tiny") -> Experiment:
    """A small experiment with another loss, before `prepare`."""
    exp = build(*overrides, model=model)
    if loss is not None:
        exp.losses = {"": loss}
    return exp


def refused(exp: Experiment) -> str:
    with pytest.raises(UserError) as caught:
        exp.prepare()
    assert len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def usual(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def named(name: Any, value: Any = None) -> Callable[..., Any]:
    """A loss with one metric; by default, the loss itself under another name."""

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        loss = usual(model, batch)
        return loss, {name: loss.detach() if value is None else value}

    return loss_fn


class Penalty:
    """Needs gradients in evaluations, too; takes care of that, or not."""

    def __init__(self, is_careful: bool) -> None:
        self.is_careful = is_careful

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        with torch.set_grad_enabled(self.is_careful or torch.is_grad_enabled()):
            points = batch[0].clone().requires_grad_()
            (slope,) = grad(model(points).sum(), points, create_graph=True)
        return slope.square().mean(), {}


def broken(model: nn.Module, batch: Any) -> Any:
    return F.cross_entropy(model(batch[0]), batch[2]), {}


BAD_LOSSES: dict[str, tuple[Any, list[str]]] = {
    "the loss alone": (usual, ["returned a tensor of shape ()", "(loss, metrics)"]),
    "a dict": (lambda m, b: {"loss": usual(m, b)}, ["returned a dict", "(loss, metrics)"]),
    "three values": (lambda m, b: (usual(m, b), {}, 1), ["a tuple of 3"]),
    "nothing": (lambda m, b: None, ["a NoneType"]),
    "no dict": (lambda m, b: (usual(m, b), None), ["a NoneType for metrics"]),
    "a number as loss": (lambda m, b: (usual(m, b).item(), {}), ["a float for the loss"]),
    "a loss of each item": (lambda m, b: (F.cross_entropy(m(b[0]), b[1], reduction="none"), {}), ["shape (2,)"]),
    "no gradient": (lambda m, b: (usual(m, b).detach(), {}), ["no gradient", "detach()"]),
    "a vector": (named("rates", torch.zeros(3)), ["metrics['rates']", "(3,)"]),
    "a weight of each item": (named("weight", torch.ones(2)), ["metrics['weight']", "(2,)"]),
    "a text": (named("note", "text"), ["metrics['note'] is a str"]),
    "no name": (named(3), ["3 is a int, not a name"]),
    "gradients in an evaluation": (Penalty(False), ["does not require grad", "torch.enable_grad()", "in __call__"]),
    "an error": (broken, ["IndexError", "test_preflight.py", "batch[2]", "the batch is [(2, 8) float32"]),
}
for name in (*AXES, *TIMINGS, "loss", "grad_norm", "lr"):
    BAD_LOSSES[f"named {name}"] = (named(name), [f"'{name}' is taken"])


@pytest.mark.parametrize("case", BAD_LOSSES)
def test_what_a_loss_may_not_return(case: str) -> None:
    loss, parts = BAD_LOSSES[case]
    said = refused(unprepared(loss))
    assert all(part in said for part in parts), said


GOOD_LOSSES: dict[str, Any] = {
    "weight and output": lambda m, b: (usual(m, b), {"weight": torch.tensor(3.0), "output": {"any": "thing"}}),
    "numbers": named("rate", 0.5),
    "no metrics": lambda m, b: (usual(m, b), {}),
    "integers and flags": lambda m, b: (usual(m, b), {"count": torch.tensor(3), "flag": torch.tensor([True])}),
    "gradients in an evaluation": Penalty(True),
    "gradients in training alone": lambda m, b: (usual(m, b) if m.training else usual(m, b).detach(), {}),
}


@pytest.mark.parametrize("case", GOOD_LOSSES)
def test_what_a_loss_may_return(case: str) -> None:
    unprepared(GOOD_LOSSES[case]).prepare()


def test_names_of_several_losses_stand_below_their_network() -> None:
    exp = build(model="pair")
    loss = exp.losses["generator"]
    exp.losses["generator"] = lambda m, b: (loss(m, b)[0], {"time": torch.tensor(1.0)})
    exp.prepare()
    exp.losses["generator"] = lambda m, b: (loss(m, b)[0], {"loss": torch.tensor(1.0)})
    assert refused(exp).startswith("loss.generator: ")


class Restless(nn.Module):
    """A loss that changes all it can when it is called: its buffer, the model's, generators, a count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, model: nn.Module, batch: Any) -> Any:
        self.calls += 1
        for buffer in model.buffers():
            buffer.add_(1)
        torch.rand(3)
        return usual(model, batch), {}


@pytest.mark.parametrize("size", [16, 17])  # of 120 items: 17 leaves a last batch of one
def test_the_calls_leave_no_trace(size: int) -> None:
    exp = unprepared(Restless(), f"loader.batch_size={size}", model="pair")
    norm = nn.BatchNorm1d(2)  # over (B, 2, 4): more than one value per channel, even in a batch of one
    exp.model = exp.train_model = nn.Sequential(nn.Unflatten(1, (2, 4)), norm, nn.Flatten(), nn.Linear(8, 3))
    norm.eval()
    before, drawn = copy.deepcopy([exp.model.state_dict(), exp.losses[""].state_dict()]), generators()
    exp.prepare()
    assert first_difference(before, [exp.model.state_dict(), exp.losses[""].state_dict()]) is None
    assert generators() == drawn
    assert [module.training for module in exp.model] == [True, False, True, True]


def test_a_last_batch_of_one_item() -> None:
    """Refused where the losses fail on it, as batch norm does; 120 items are left of 150."""
    said = refused_at_build("loader.batch_size=17")
    assert "of 120 items the last batch has one" in said and "more than 1 value per channel" in said
    assert "loader.drop_last=true" in said
    assert "give a larger loader.batch_size" in refused_at_build("loader.batch_size=1")
    build("loader.batch_size=17", model="pair")  # without batch norm
    build("loader.batch_size=17", "model._target_=tiny.TinyNet", "+model.is_frozen=true", "loader.limit_train=119")


def refused_at_build(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        build(*overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["run.monitor=val/acc"], ["run.monitor=val/acc", "nearest: val/accuracy", "val/loss"]),
        (["run.monitor=accuracy"], ["nearest: val/accuracy"]),
        (["scheduler=plateau", "scheduler.monitor=val/los"], ["scheduler.monitor=val/los", "nearest: val/loss"]),
        (["+metrics.time._target_=tiny.FinalLabels"], ["metrics.time", "'time' is taken"]),
        (["+metrics.loss._target_=tiny.FinalLabels"], ["metrics.loss", "'loss' is taken"]),
        (["+metrics.labels._target_=tiny.TinyLoss"], ["metrics.labels: TinyLoss has no update, compute, reset"]),
        (["data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=raises", "loader.limit_train=[77]"], ["77"]),
        (["scheduler=one_cycle", "run.schedule_budget=5", "run.budget=6"], ["OneCycleLR ends after 5 steps", "has 6"]),
        (["scheduler=step", "scheduler.schedule.step_size=0"], ["scheduler.schedule, at its first step: ZeroDivision"]),
        (["+metrics.labels={_target_:test_preflight.Wrong}"], ["metrics.labels: TypeError", "the batch is [(30, 8)"]),
        (
            ["+metrics.accuracy._target_=tiny.FinalLabels"],
            ["metrics.accuracy, next to what a loss gives", "loss, accuracy"],
        ),
        (["run.eval_every=null", "run.patience=3"], ["run.patience=3: nothing is monitored", "run.patience=null"]),
        (["run.eval_every=null", "run.monitor=val/accuracy"], ["run.monitor=val/accuracy: run.eval_every=null, so"]),
        (["run.monitor=null", "run.patience=3"], ["run.patience=3: nothing is monitored", "run.patience=null"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast: not a number"]),
        (["+optimizer.groups=[{max_ndim: one}]"], ["optimizer.groups.0.max_ndim=one: not a number"]),
        (["+optimizer.groups=[{match: '0', name: a}, {match: '1', name: a}]"], ["groups.1.name=a: another group"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_names_items_schedules_and_metrics(words: list[str], parts: list[str]) -> None:
    said = refused_at_build(*words)
    assert all(part in said for part in parts), said


def test_a_schedule_that_fails_at_its_end() -> None:
    exp = build()
    scheduler = torch.optim.lr_scheduler.LambdaLR(exp.optimizers[""], lambda step: 1 / (exp.num_steps - step))
    exp.schedulers = {"": Schedule(scheduler, "step", None)}
    said = refused(exp)
    assert "ZeroDivisionError" in said and "test_preflight.py" in said


@pytest.mark.parametrize(
    ("monitor", "mode", "advice"),
    [
        ("val/accuracy", "min", "run.monitor_mode=max"),
        ("rollout/mean_return", "min", "run.monitor_mode=max"),
        ("val/loss", "max", "run.monitor_mode=min"),
        ("val/coordinates/RMSE", "max", "run.monitor_mode=min"),
        ("val/accuracy", "max", None),
        ("val/loss", "min", None),
        ("val/score_error", "min", None),
        ("val/birds", "max", None),
        (None, "max", None),
    ],
)
def test_a_monitor_whose_worst_value_would_be_kept(monitor: str | None, mode: str, advice: str | None) -> None:
    said: list[str] = []
    sink = logger.add(said.append, format="{message}")
    warn_of_direction(monitor, mode)
    logger.remove(sink)
    assert [line for line in said if advice is None or advice not in line] == []
    assert len(said) == (advice is not None)


@pytest.mark.parametrize(("words", "num"), [([], 0), (["~loss.generator"], 1)])
def test_parameters_that_no_loss_trains_are_named(words: list[str], num: int) -> None:
    exp, said = build(*words, model="pair"), list[str]()
    sink = logger.add(said.append, format="{message}")
    exp.prepare()
    logger.remove(sink)
    found = [line for line in said if "2 of 4 parameters belong to none of its keys" in line]
    assert len(found) == num and all("generator.weight, generator.bias\n" in line for line in found)


def test_several_losses_may_not_all_give_an_output() -> None:
    """Fails where a metric is given that of the last one, without a word."""
    exp = build(model="pair")
    exp.metrics["m"] = Several()
    for name, loss in dict(exp.losses).items():
        exp.losses[name] = lambda m, b, loss=loss: (loss(m, b)[0], {"output": m(b[0])})
    assert refused(exp).startswith("loss.discriminator, loss.generator: each gives an output")


def test_nothing_is_made(train: Train, output_root: Path) -> None:
    said = train(*TINY, "run.monitor=val/acc", code=2).stderr
    assert "nearest: val/accuracy" in said and len(said.splitlines()) == 2
    assert not output_root.exists()


def test_a_value_named_like_a_column_ends_the_run(train: Train, output_root: Path) -> None:
    """Where it shows only when it is logged: a rollout's. Fails where it takes the place of the row's own step."""
    words = ("run.budget=4", "run.rollout_every=2", "+rollout={_target_:tiny.Rollout,name:step}", "run.name=run")
    said = train(*TINY, *words, code=1).stderr
    assert "error: a value of the rollout row is named step, which is a column" in said and "Traceback" not in said
    assert [row["split"] for row in Facts(output_root / "run/facts").rows()].count("rollout") == 0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["run.monitor=val/loss"], "run.monitor=val/loss: the run has no validation split"),
        (["run.monitor=rollout/return"], "run.monitor=rollout/return: the run has no rollouts"),
        (["data.val_from_train=0.2"], "no items can be kept of data.stream"),
        (["data.num_items=null"], "data.num_items"),
        (["data.stream._target_=tiny.TinyLoss"], "TinyLoss has no __iter__, state_dict, load_state_dict"),
    ],
)
def test_a_stream_that_does_not_fit(train: Train, output_root: Path, words: list[str], wanted: str) -> None:
    stream = ("+data.stream._target_=tiny.Draws", "+data.num_items=20", "data.dataset=null", "data.val_from_train=null")
    said = train(*TINY, *stream, *words, code=2).stderr
    assert wanted in said and len(said.splitlines()) <= 3 and not output_root.exists()


class Wrong:
    """A metric that takes the batch for its first part."""

    def update(self, model: nn.Module, batch: Any) -> None:
        model(batch)

    def compute(self) -> float:
        return 0.0

    def reset(self) -> None:
        pass


@pytest.mark.parametrize(("value", "error"), [("[8]", ""), ("-8", "RuntimeError: ")])
def test_an_argument_that_a_constructor_cannot_take_is_told_with_its_line(value: str, error: str) -> None:
    """Fails where it is a traceback, or names a line of a library: the class is the owner's own."""
    said = refused_at_build(f"model.num_features={value}")
    assert f"model: tiny.TinyNet: {error}" in said and "tiny.py:" in said and "given: " in said


# --- what a loss returns, as its source shows it


def of_each_kind(model: nn.Module, batch: Any, factor: float = 1.0) -> Any:
    def helper() -> Any:
        return None

    if helper() is None:
        return usual(model, batch) * factor, {"one": torch.ones(()), "output": batch}
    return usual(model, batch), {"other": torch.ones(())}


def whose_keys_are_computed(model: nn.Module, batch: Any) -> Any:
    if factor_of(model):
        return usual(model, batch), {f"accuracy_{k}": torch.ones(()) for k in (1, 5)}
    return usual(model, batch), {"accuracy": torch.ones(())}


def with_more_keys(model: nn.Module, batch: Any) -> Any:
    return usual(model, batch), {"one": torch.ones(()), **batch}


@torch.enable_grad()  # type: ignore[untyped-decorator]
def that_is_decorated(model: nn.Module, batch: Any) -> Any:
    return usual(model, batch), {"one": torch.ones(())}


def factor_of(model: nn.Module) -> bool:
    return model.training


class ModuleLoss(nn.Module):
    def forward(self, model: nn.Module, batch: Any) -> Any:
        return usual(model, batch), {"of_forward": torch.ones(())}


class CalledModuleLoss(ModuleLoss):
    def __call__(self, *parts: Any) -> Any:
        loss, values = super().__call__(*parts)
        return loss, {"of_call": values["of_forward"]}


@pytest.mark.parametrize(
    ("name", "is_partial", "keys"),
    [
        ("of_each_kind", True, ["one", "other", "output"]),
        ("of_each_kind", False, None),
        ("whose_keys_are_computed", True, None),
        ("with_more_keys", True, None),
        ("that_is_decorated", True, None),
        ("ModuleLoss", False, ["of_forward"]),
        ("CalledModuleLoss", False, ["of_call"]),
    ],
)
def test_what_a_loss_returns_shows_before_it_is_called(name: str, is_partial: bool, keys: list[str] | None) -> None:
    """Fails where a monitor is refused that there is: in doubt, the first call tells."""
    found = returned_keys({"_target_": f"test_preflight.{name}", "_partial_": is_partial})
    assert (None if found is None else sorted(found)) == keys
