"""What the loop computes: updates, weights of items, schedules, averages, evaluation; and that observing is neutral."""

import copy
import re
import signal
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import BASE, TESTS, TINY, Train, generators, latest
from tiny import FinalLabels
from torch import Tensor, nn

from scaffolding import plot
from scaffolding.core.batches.loader import MicroBatch
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.clock import training_seconds
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import RunError, UserError
from scaffolding.core.folder.facts import SECONDS, Facts
from scaffolding.core.means import Means, mean
from scaffolding.core.modes import evaluating
from scaffolding.core.precision import MAX_SKIPPED
from scaffolding.core.resume.restore import load_state
from scaffolding.core.state import checkpoint
from scaffolding.core.state.finite import FiniteWatch
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.schedules import Schedule, advance
from scaffolding.train import finish_step, train_step

SEARCH = f"hydra.searchpath=['file://{TESTS / 'configs'}']"
SGD = ("optimizer=sgd", "optimizer.lr=0.0", "optimizer.momentum=0.0", "optimizer.nesterov=false")


def build(*overrides: str, model: str = "tiny") -> Experiment:
    """A small experiment, built in this process."""
    words = [SEARCH, "data=noisy", f"model={model}", "plots=none", "tracker=none", "mode=prod"]
    words += ["run.device=cpu", *overrides]  # where the tensors of tests lie
    exp = Experiment(compose_config(PROJECT, words))
    exp.prepare()
    exp.model.train()
    return exp


def step_of(*batches: Any, position: int = 0) -> list[MicroBatch]:
    """One optimizer step's micro-batches, from (points, labels) pairs."""
    total = sum(len(labels) for _, labels in batches)
    return [MicroBatch(b, len(b[1]) / total, len(b[1]), 0, position + i) for i, b in enumerate(batches)]


def gradients(exp: Experiment) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in exp.model.parameters() if parameter.grad is not None]


# --- one update


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 4, 1)], ids=["even", "odd last micro-batch"])
def test_accumulation_equals_the_big_batch(sizes: tuple[int, ...]) -> None:
    exp = build(*SGD)
    for module in exp.model.modules():  # both couple the items of a batch, or draw per batch
        if isinstance(module, nn.BatchNorm1d | nn.Dropout):
            module.eval()
    points, labels = torch.randn(sum(sizes), 8), torch.randint(0, 3, (sum(sizes),))
    whole = train_step(exp, step_of((points, labels)))
    expected = gradients(exp)
    parts = train_step(exp, step_of(*zip(points.split(sizes), labels.split(sizes), strict=True)))
    for one, other in zip(expected, gradients(exp), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


class TokenLoss:
    """A mean over the items with a label below 2, whose number is its weight; the others are padding."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        points, labels = batch
        counts, logits = labels < 2, model(points)
        loss = nn.functional.cross_entropy(logits[counts], labels[counts])
        return loss, {"weight": counts.sum(), "twice": 2 * loss, "output": logits}


@pytest.mark.parametrize("scaling", ["float32", "float16"])
def test_a_loss_may_say_what_its_mean_counts(scaling: str) -> None:
    """Fails where a mean over tokens is weighted by items: with padding, accumulation and evaluation are wrong."""
    exp = build(*SGD, f"run.precision={scaling}", "run.clip_grad_norm=1000.0")
    exp.losses[""] = TokenLoss()
    for module in exp.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.Dropout):
            module.eval()
    torch.manual_seed(1)  # with other points, gradients may overflow in float16, and the step is skipped
    points, labels = torch.randn(8, 8), torch.tensor([0, 1, 1, 2, 2, 0, 2, 2])
    whole = train_step(exp, step_of((points, labels)))
    expected = gradients(exp)
    parts = train_step(exp, step_of(*zip(points.split((4, 3, 1)), labels.split((4, 3, 1)), strict=True))[:2])
    assert set(parts) == {"loss", "twice", "lr", "grad_norm"}
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if scaling == "float32" else {"rtol": 0.02, "atol": 0.002}
    for one, other in zip(expected, gradients(exp), strict=True):
        torch.testing.assert_close(one, other, **tolerance)
    for name in ("loss", "twice", "grad_norm"):
        torch.testing.assert_close(parts[name], whole[name], **tolerance)


@pytest.mark.parametrize("weight", [0, torch.tensor(0)], ids=["number", "tensor"])
def test_a_step_of_padding_alone_changes_nothing(weight: Any) -> None:
    """Fails where gradients are divided by a total weight of 0, so that all weights become NaN."""
    exp = build(*SGD, "optimizer.lr=0.1", "optimizer.weight_decay=0.0")
    exp.losses[""] = lambda model, batch: (model(batch[0]).sum() * 0, {"weight": weight})  # type: ignore[assignment]
    before = [parameter.clone() for parameter in exp.model.parameters()]
    metrics = train_step(exp, step_of((torch.randn(4, 8), torch.zeros(4)), (torch.randn(2, 8), torch.zeros(2))))
    assert metrics["loss"] == 0 and all(map(torch.equal, before, exp.model.parameters()))


@pytest.mark.parametrize(("size", "num_empty"), [(7, 0), (2, 1)])
def test_evaluation_takes_the_weight_of_a_loss(size: int, num_empty: int) -> None:
    """Fails where a batch of padding alone, whose mean is NaN and whose weight is 0, makes all of it NaN."""
    exp = build(f"loader.batch_size={size}", "loader.drop_last=true")
    exp.losses[""] = TokenLoss()
    batches = list(exp.val_loader)
    assert sum(bool((labels == 2).all()) for _, labels in batches) >= num_empty
    points, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    exp.model.eval()
    kept = labels < 2
    expected = float(nn.functional.cross_entropy(exp.model(points)[kept], labels[kept]).detach())
    assert evaluate(exp, "val")["loss"] == pytest.approx(expected, rel=1e-5)


class Sparse:
    """A loss with a metric that only some batches have."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        loss = model(batch[0]).sum()
        if len(batch[1]) == 7:
            return loss, {}
        return loss, {"rare": torch.tensor(3.0)}


def test_a_metric_of_some_batches_is_a_mean_over_these() -> None:
    exp = build("loader.batch_size=7", "loader.drop_last=true")  # the last of 30 items make a batch of 2
    exp.losses[""] = Sparse()
    assert evaluate(exp, "val")["rare"] == 3


class Several:
    """A metric with several values, which sees what the loss gives."""

    def update(self, model: nn.Module, batch: Any, output: Any) -> None:
        assert not model.training
        self.total, self.num = self.total + float(output.sum()), self.num + len(output)

    def reset(self) -> None:
        self.total, self.num = 0.0, 0

    def compute(self) -> dict[str, float]:
        return {"mean": self.total / self.num, "num": self.num}


def test_metrics_share_the_forward_pass_and_may_have_several_values() -> None:
    words = ("+metrics.m._target_=test_loop.Several", "loss._target_=test_loop.TokenLoss", "loader.batch_size=16")
    exp = build(*words, "run.monitor=val/m/num")
    calls: list[int] = []
    exp.model.register_forward_hook(lambda *_: calls.append(1))
    values = evaluate(exp, "val")
    assert values["m/num"] == 30 and set(values) == {"loss", "twice", "m/mean", "m/num"}
    assert len(calls) == len(exp.val_loader)


class Valued(Several):
    """A metric with one of the names that a loss of the network `discriminator` gives."""

    def update(self, model: nn.Module, batch: Any) -> None:  # type: ignore[override]
        self.total, self.num = 0.0, 1

    def compute(self) -> dict[str, float]:
        return {"value": 7.0}


def test_a_metric_does_not_take_the_place_of_a_value_of_a_loss() -> None:
    exp = build("+metrics.discriminator._target_=test_loop.Valued", model="pair")
    with pytest.raises(RunError, match="a loss and one of metrics both give discriminator/value"):
        evaluate(exp, "val")


class Modular(nn.Module):
    """A metric, a figure and a rollout that is a module, and notes in which mode it was called."""

    moment = "val"

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.devices: list[Any] = []

    def to(self, device: Any) -> "Modular":
        self.devices.append(device)
        return self

    def update(self, model: nn.Module, batch: Any) -> None:
        self.modes.append(self.training)

    def forward(self, *arguments: Any) -> Any:
        self.modes += [self.training, torch.is_grad_enabled()]
        return "nothing to be seen" if len(arguments) == 1 else {"value": 1.0}

    def compute(self) -> float:
        return 0.0

    def reset(self) -> None:
        pass


def test_parts_that_are_modules_are_in_eval_mode_and_on_the_device() -> None:
    """Fails where a metric with a network stays on the CPU, or draws dropout; or where a rollout keeps gradients."""
    words = [f"+{key}._target_=test_loop.Modular" for key in ("metrics.own", "plots.own", "rollout")]
    exp = build(*words, "run.rollout_every=1")
    exp.run, exp.state.looks = Mock(start=Mock(step=0)), ["eval", "rollout", "plot"]
    exp.run.log = lambda split, values, at=None: values
    exp.run.stop.look.return_value = None
    finish_step(exp)
    for part in (exp.metrics["own"], exp.plots["own"], exp.rollout):
        assert part.modes and not any(part.modes) and part.training and part.devices == [exp.device]


def test_looks_leave_each_part_in_its_own_mode() -> None:
    """Fails where they set a frozen trunk that its owner keeps in eval mode back to train mode."""
    exp = build("+plots.own._target_=tiny.Figure", "run.ema_decay=0.5")
    exp.model.train()
    for model in (exp.model, exp.eval_model):
        model[0].eval()
    evaluate(exp, "val")
    exp.model.eval()
    exp.model.train()
    exp.model[0].eval()
    modes = [module.training for module in exp.model.modules()]
    evaluate(exp, "val")
    with evaluating(exp.model, exp.losses[""], None):
        assert not any(module.training for module in exp.model.modules())
    assert modes == [module.training for module in exp.model.modules()]
    assert not any(module.training for module in exp.eval_model[0].modules())  # type: ignore[index]
    assert exp.eval_model.training


class Annealed:
    """A loss that changes as training goes on."""

    progress: Any = None

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Any:
        share = 1 / (1 + self.progress.step + 10 * self.progress.epoch)
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) * share, {"share": torch.tensor(share)}


def test_a_loss_may_know_how_far_training_is(train: Train, output_root: Path) -> None:
    """Also after a resume, which must not leave it with the state of before."""
    words = (*TINY, "loss._target_=test_loop.Annealed", "mode=dev", "run.budget=4", "run.log_every=1", "run.name=run")
    loader = ("loader.batch_size=60", "loader.limit_train=null", "loader.num_workers=0")
    assert "tensors identical" in train(*words, *loader).stdout
    rows = Facts(output_root / "dev" / "run" / "facts").rows()
    shares = [row["share"] for row in rows if row["split"] == "train"]
    assert shares == pytest.approx([1, 1 / 2, 1 / 13, 1 / 14])


def test_the_test_row_is_of_the_progress_of_its_weights(train: Train, output_root: Path) -> None:
    """Fails where the best weights are tested with a loss that is at the last step, as from_path never has it."""
    words = (*TINY, "loss._target_=test_loop.Annealed", "run.monitor_mode=max", "run.eval_every=2", "run.budget=6")
    train(*words, "loader.batch_size=60", "run.name=run")
    exp = Experiment.from_path(output_root / "run", device="auto", trust=("test_loop", "tiny"))
    row = exp.history()[-1]
    assert (row["split"], row["step"]) == ("test", 2) and evaluate(exp, "test")["share"] == row["share"]


def test_dropout_is_a_function_of_seed_network_epoch_and_position() -> None:
    """Fails where noise comes from a stream: it would depend on accumulation, evaluations and what was drawn before."""
    masks: list[Tensor] = []
    exp = build(*SGD, "run.accumulate=2", "loader.batch_size=25", "run.budget=2epochs")  # 120 items: 5 batches
    assert (exp.steps_per_epoch, exp.num_steps) == (3, 6)
    dropout = next(module for module in exp.model.modules() if isinstance(module, nn.Dropout))
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    first, second = (part.batch for part in next(exp.train_loader.steps(exp.state, 2)))
    train_step(exp, step_of(first, second))
    together = masks.copy()
    masks.clear()
    train_step(exp, step_of(second, position=1))
    evaluate(exp, "val")
    torch.rand(7)
    train_step(exp, step_of(first))
    alone = [masks[-1], masks[0]]
    train_step(exp, step_of(second))  # another position
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other) and not torch.equal(one, masks[-1])
    assert not any("generator" in name for name in exp.state_dict())
    draws = set()
    for network, epoch, position in (("", 0, 0), ("", 0, 1), ("", 1, 0), ("other", 0, 0)):
        for _ in exp.keyed(network, [part._replace(epoch=epoch) for part in step_of(first, position=position)]):
            draws.add(float(torch.rand(())))
    assert len(draws) == 4


def test_the_first_weights_are_a_function_of_the_seed() -> None:
    one, two, other = (build(f"run.seed={seed}").model.state_dict() for seed in (0, 0, 1))
    assert first_difference(one, two) is None and first_difference(one, other) is not None


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gradients_are_clipped_to_the_norm(precision: str) -> None:
    """Fails where they are measured only, or where the scale of float16 is still in them."""
    exp = build(*SGD, f"run.precision={precision}", "run.clip_grad_norm=0.01")
    metrics = train_step(exp, next(exp.train_loader.steps(exp.state, 1)))
    norm = torch.stack([gradient.norm() for gradient in gradients(exp)]).norm()
    assert float(norm) == pytest.approx(0.01, rel=0.01) and 0.1 < float(metrics["grad_norm"]) < 100


def test_schedule_and_averages_follow_applied_updates_only() -> None:
    """And the scale of float16, which a skipped update lowers, is restored with the rest."""
    exp, other = (build("run.precision=float16", "scheduler=cosine", "run.ema_decay=0.5") for _ in range(2))
    scheduler = exp.schedulers[""].scheduler
    points, labels = torch.randn(8, 8), torch.randint(0, 3, (8,))
    good, bad = step_of((points, labels)), step_of((points * 1e30, labels))
    before = copy.deepcopy(exp.model.state_dict())
    train_step(exp, bad)
    assert all(torch.equal(before[name], value) for name, value in exp.model.named_parameters())
    assert exp.ema is not None
    assert (exp.scaler.num_skipped, scheduler.last_epoch, int(exp.ema.n_averaged)) == (1, 0, 0)
    for module in exp.model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.reset_running_stats()
    train_step(exp, good)
    assert (exp.scaler.num_skipped, scheduler.last_epoch, int(exp.ema.n_averaged)) == (0, 1, 1)
    exp.check_finite()
    other.load_state_dict(copy.deepcopy(exp.state_dict()))
    assert first_difference(exp.state_dict(), other.state_dict()) is None
    with pytest.raises(RunError, match="in a row"):
        for _ in range(MAX_SKIPPED):
            train_step(exp, bad)


def test_two_networks_with_a_loss_and_an_optimizer_each() -> None:
    exp = build(model="pair")
    assert list(exp.optimizers) == ["discriminator", "generator"]
    own = {name: {id(p) for group in o.param_groups for p in group["params"]} for name, o in exp.optimizers.items()}
    assert own["discriminator"].isdisjoint(own["generator"])
    before = copy.deepcopy(exp.model.state_dict())
    metrics = train_step(exp, next(exp.train_loader.steps(exp.state, 1)))
    assert set(metrics) == {f"{n}/{k}" for n in ("discriminator", "generator") for k in ("loss", "value", "lr")}
    assert all(not torch.equal(before[name], value) for name, value in exp.model.state_dict().items())
    assert set(evaluate(exp, "val")) == {name for name in metrics if not name.endswith("lr")}


def test_frozen_parameters_are_not_handed_to_the_optimizer() -> None:
    """Fails where weight decay would shrink what the owner froze."""
    exp = build("+model.is_frozen=true", "optimizer.weight_decay=0.5", "optimizer.lr=0.1")
    frozen = {name: value.clone() for name, value in exp.model.named_parameters() if not value.requires_grad}
    handed = [p for group in exp.optimizers[""].param_groups for p in group["params"]]
    assert frozen and all(p.requires_grad for p in handed)
    train_step(exp, next(exp.train_loader.steps(exp.state, 1)))
    assert all(torch.equal(value, exp.model.get_parameter(name)) for name, value in frozen.items())


def test_an_optimizer_gets_its_state_back_in_its_own_types() -> None:
    """Fails where torch casts float32 state to the type of bfloat16 weights, as Optimizer.load_state_dict does."""
    words = ("model._target_=tiny.HalfNet", "optimizer._target_=torch.optim.NAdam", "~optimizer.fused")
    exp, other = build(*words), build(*words)
    steps = exp.train_loader.steps(exp.state, 1)
    for _ in range(3):
        train_step(exp, next(steps))
    saved = copy.deepcopy(exp.state_dict())
    state = saved["optimizers"][""]["state"][0]
    assert next(exp.model.parameters()).dtype == torch.bfloat16
    assert torch.float32 in {value.dtype for value in state.values()}, "nothing here could be cast"
    other.load_state_dict(saved)
    assert first_difference(saved, other.state_dict()) is None


@pytest.mark.parametrize(("index", "says"), [(0, "items, now 120"), (1, "items, now 120"), (2, "other values now")])
def test_other_data_are_refused(index: int, says: str) -> None:
    """Fails where a run goes on with another number of items, other items, or the same ones with other values."""
    exp = build()
    saved = copy.deepcopy(exp.state_dict())
    saved["splits"]["train"][index] = 7
    with pytest.raises(UserError, match=f"data: the train split is not the one of parent: .*{says}"):
        load_state(exp, saved, "parent", {})


# --- evaluation


class FinalCount(FinalLabels):
    """A metric with a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def test_a_state_that_a_checkpoint_lacks_is_named() -> None:
    exp = build("+metrics.kept._target_=test_loop.FinalCount")
    content = exp.state_dict()
    for added, name in ((exp.metrics["kept"], "added"), ([1, exp.metrics["kept"]], r"added\.1")):
        exp.added = added  # type: ignore[attr-defined]
        with pytest.raises(UserError, match=rf"the checkpoint has no state of {name}\n"):
            exp.load_state_dict(content)


def test_evaluation_weighs_items_not_batches() -> None:
    exp = build("+metrics.labels._target_=tiny.FinalLabels", "loader.batch_size=16")
    exp.model.eval()
    batches = list(exp.val_loader)
    assert [len(labels) for _, labels in batches] == [16, 14]  # the last batch is smaller
    points, labels = torch.cat([p for p, _ in batches]), torch.cat([y for _, y in batches])
    logits = exp.model(points).detach()
    exp.metrics["labels"].seen.add(-1)  # left by whoever used it before
    values = evaluate(exp, "val")
    assert values["loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert values["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), rel=1e-6)
    assert values["labels"] == 3  # a metric that is not a mean
    exp.model.train()
    before = copy.deepcopy(exp.state_dict())
    assert evaluate(exp, "val") == values
    assert exp.model.training and first_difference(before, exp.state_dict()) is None, "evaluation leaves a trace"


def test_looking_leaves_the_generators_alone() -> None:
    """Fails where what an evaluation or a figure draws changes what the loop draws next; or where a part of the model
    that is kept in eval mode learns from then on."""
    exp, before = build("+plots.figure._target_=tiny.Figure"), generators()
    part = next(module for module in exp.model.modules() if isinstance(module, nn.BatchNorm1d)).eval()
    evaluate(exp, "val")
    plot.draw(exp, "val")
    assert generators() == before
    assert exp.model.training and not part.training


def test_loaders_read_what_the_config_says() -> None:
    exp = build("loader.batch_size=50", "loader.drop_last=true", "loader.limit_rollout=7")
    sizes = [[len(labels) for _, labels in exp.loaders[name]] for name in ("train", "val", "rollout")]
    assert sizes == [[50, 50], [30], [7]]


def test_means_of_values_in_half_precision() -> None:
    """Fails where they are added up as they come: in bfloat16 a sum of 120 such values stops at 32."""
    exp = build("loader.batch_size=1", "model._target_=tiny.HalfNet")  # no batch norm
    exp.losses[""] = lambda model, batch: (torch.zeros(()), {"half": torch.tensor(0.37, dtype=torch.bfloat16)})
    assert evaluate(exp, "train")["half"] == pytest.approx(0.37, abs=0.002)
    micro_batches = step_of(*[(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))] * 200)
    exp.losses[""] = lambda model, batch: (model(batch[0]).sum(), {"half": torch.tensor(0.37, dtype=torch.bfloat16)})
    assert float(train_step(exp, micro_batches)["half"]) == pytest.approx(0.37, abs=0.002)
    halves = [(torch.tensor(value, dtype=torch.bfloat16), 1) for value in (1.0, 1.0078125)]
    assert float(mean(halves)) == 1.00390625


def test_augmented_validation_items_are_named(train: Train) -> None:
    """Fails where validation items that come from the training split are augmented without a word."""
    said = "validation items are drawn at random"
    words = (*TINY, "run.budget=1")
    assert said in train(*words).stderr
    assert said not in train(*words, "data.val_from_train=null").stderr  # a split of the author's own
    assert said not in train(*words, "data.dataset._target_=tiny.StillPoints").stderr


def test_a_misspelt_monitor_is_refused(train: Train, output_root: Path) -> None:
    """Fails where it shows only at the first evaluation, with an epoch lost."""
    with pytest.raises(UserError, match=r"(?s)scheduler\.monitor=val/acc: .*nearest: val/accuracy; allowed: val/loss"):
        build("scheduler=plateau", "scheduler.monitor=val/acc")
    with pytest.raises(UserError, match=r"run\.monitor=val/loss: .*\n.*allowed: val/discriminator/loss"):
        build("run.monitor=val/loss", model="pair")  # with several losses, that is none of the values
    for loss in ("TinyLoss", "HiddenLoss"):  # the second one shows what it returns when it is called
        done = train(*TINY, "run.monitor=val/acc", f"loss._target_=tiny.{loss}", code=2)
        assert "run.monitor=val/acc: an evaluation gives no such value (command line)" in done.stderr
        assert "nearest: val/accuracy; allowed: val/loss" in done.stderr
        assert not output_root.exists()
    words = ("loss._target_=tiny.HiddenLoss", "run.monitor=val/acc", "scheduler=plateau", "scheduler.monitor=val/los")
    done = train(*TINY, *words, code=2)
    assert "run.monitor=val/acc: " in done.stderr and "scheduler.monitor=val/los: " in done.stderr
    done = train(*TINY, "run.monitor=val/acc", "optimizer.lr=fast", code=2)  # together with what else is wrong
    assert "run.monitor=val/acc: an evaluation gives no such value" in done.stderr and "optimizer.lr" in done.stderr


# --- whole runs


@pytest.mark.full
def test_observing_changes_no_weight(train: Train, output_root: Path) -> None:
    """Validation, rollouts, figures, tracker, log and checkpoints, on or off: one set of weights."""
    watching = ("run.eval_every=1", "run.log_every=1", "run.save_every=2", "run.plot_every=5")
    blind = ("run.eval_every=null", "run.log_every=null", "run.save_every=null", "run.monitor=null")
    rollout = ("rollout={_target_:tiny.Rollout}", "run.rollout_every=2", "+metrics.m={_target_:tiny.FinalLabels}")
    words = (*TINY, "run.ema_decay=0.5", "run.budget=10")
    train(*words, *watching, *rollout, "plots=standard", "tracker=wandb_offline", "run.name=watched")
    assert all(list((output_root / "watched" / folder).iterdir()) for folder in ("wandb", "figures"))
    train(*words, *blind, "run.name=blind")
    contents = [latest(output_root / name) for name in ("watched", "blind")]
    for part in ("model", "ema", "optimizers"):
        assert first_difference(*(content[part] for content in contents)) is None
    rows = Facts(output_root / "watched" / "facts").rows()
    rollouts = [row for row in rows if row["split"] == "rollout"]
    assert [row["items"] for row in rollouts] == [30.0] * 5
    names = [name for name, _ in build().model.named_parameters()]
    states = (contents[0]["ema"]["raw"], contents[0]["model"])
    raw, averaged = (sum(float(state[name].double().sum()) for name in names) for state in states)
    assert rollouts[-1]["weights"] == pytest.approx(averaged) and averaged != pytest.approx(raw)
    assert all(row["m"] == 3 for row in rows if row["split"] == "val")


def test_early_stopping_and_best(train: Train, output_root: Path) -> None:
    words = ("run.budget=400", "run.eval_every=2", "run.patience=3", "optimizer.lr=0.3", "loader.batch_size=40")
    train(*TINY, *words, "run.name=run")
    status, state = train("resume=run").stderr, latest(output_root / "run")["state"]
    assert "is finished" in status
    best = checkpoint.load(output_root / "run" / "checkpoints" / "best.pt")["state"]["step"]
    losses = {row["step"]: row["loss"] for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "val"}
    assert losses[best] == min(losses.values())
    tested = evaluate(Experiment.from_path(output_root / "run", device="auto"), "test")
    row = Facts(output_root / "run" / "facts").rows()[-1]
    assert (row["split"], row["step"], row["loss"]) == ("test", best, tested["loss"]), "not the best weights"
    assert state["step"] == best + 6 < 400  # three evaluations later
    assert "takes effect" in train("resume=run", "run.patience=5", f"run.budget={best + 8}").stderr
    assert latest(output_root / "run")["state"]["step"] == best + 8


def seconds_of(row: dict[str, Any]) -> dict[str, float]:
    return {name.removeprefix(SECONDS): value for name, value in row.items() if name.startswith(SECONDS)}


def test_rows_count_items_and_measure_the_machine(whole_run: Path) -> None:
    """Fails where speed or memory is in another unit, or items are counted twice."""
    rows = [row for row in Facts(whole_run / "facts").rows() if row["split"] == "train"]
    items = [16, 16, 16, 16, 16, 16, 16, 8] * 3  # 120 items an epoch
    assert [row["samples"] for row in rows] == [sum(items[: index + 1]) for index in range(24)]
    for row, num_items in zip(rows, items, strict=True):
        assert row["items_per_second"] == pytest.approx(num_items / training_seconds(seconds_of(row)), rel=0.01)
    seconds = sum(sum(seconds_of(row).values()) for row in rows[1:])
    assert seconds == pytest.approx(rows[-1]["time"] - rows[0]["time"], rel=0.02)
    epochs = [row["epoch_seconds"] for row in rows if "epoch_seconds" in row]
    assert len(epochs) == 2 and 0 < epochs[1] < seconds, "the second epoch; the first one has the start in it"
    assert all(50 < row["peak_memory_mb"] < 50_000 for row in rows)


def test_kernels_that_give_the_same_bits_each_time_can_be_asked_for(train: Train, output_root: Path) -> None:
    for name, asked in (("other", False), ("same", True)):
        train(*BASE, f"run.name={name}", f"run.deterministic={asked}")
        assert latest(output_root / name)["numerics"]["deterministic_algorithms"] is asked


def test_dev_mode_is_set_to_take_every_branch() -> None:
    """Fails where dev mode has no second epoch, no odd last batch, no workers, or leaves out a look or the proof."""
    exp = Experiment(compose_config(PROJECT, [SEARCH, "data=noisy", "model=tiny", "mode=dev"]))
    for loader in (exp.train_loader, exp.val_loader):
        assert len(loader) > 2 and len(loader.dataset) % loader.batch_size > 1, loader.name
    assert exp.num_steps == 2 * exp.steps_per_epoch
    for name in ("log", "eval", "rollout", "plot", "save"):
        assert exp.intervals.due(name, exp.steps_per_epoch), name
    assert exp.intervals.due("save", 1) and exp.settings.rehearse_resume
    assert exp.cfg.loader.num_workers > 0 and exp.cfg.loader.start_method == "spawn"
    assert Path(exp.cfg.paths.output) == Path(exp.cfg.paths.output_root) / "dev"


def test_a_row_says_where_its_weights_stand(train: Train, output_root: Path) -> None:
    """Fails where an epoch's last step is logged under the next, or a test under the last step and not the best."""
    words = ("run.log_every=1", "run.budget=6", "loader.batch_size=60", "run.monitor_mode=max", "run.eval_every=1")
    train(*TINY, *words, "run.name=run")  # the loss falls: the first evaluation is the best
    rows = Facts(output_root / "run" / "facts").rows()
    assert [row["epoch"] for row in rows if row["split"] == "train"] == [0, 0, 1, 1, 2, 2]
    best = latest(output_root / "run")["state"]["best_step"]
    (test,) = [row for row in rows if row["split"] == "test"]
    assert best < 6 and (test["step"], test["samples"]) == (best, 60 * best)


def test_the_best_may_be_that_of_a_rollout(train: Train, output_root: Path) -> None:
    words = ("run.budget=6", "loader.batch_size=60", "run.eval_every=2", "run.rollout_every=3")
    rollout = ("rollout={_target_:tiny.Rollout}", "run.monitor=rollout/drawn", "loader.limit_rollout=7")
    train(*TINY, *words, *rollout, "run.name=run")
    rows = [row for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "rollout"]
    assert [row["step"] for row in rows] == [3, 6] and [row["items"] for row in rows] == [7, 7]
    best = min(rows, key=lambda row: row["drawn"])
    assert checkpoint.load(output_root / "run" / "checkpoints" / "best.pt")["state"]["step"] == best["step"]
    done = train(*TINY, *words, *rollout[1:], "rollout=null", code=2)
    assert "run.monitor=rollout/drawn: the run has no rollouts" in done.stderr


def test_rollouts_count_for_patience_and_schedules_where_nothing_is_evaluated(train: Train, output_root: Path) -> None:
    words = ("run.budget=4", "loader.batch_size=60", "run.eval_every=null", "rollout={_target_:tiny.Rollout}")
    plateau = (
        "+scheduler.schedule={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, patience: 0, factor: 0.5}",
        "+scheduler.monitor=rollout/weights", "run.monitor=rollout/drawn",
    )  # fmt: skip
    train(*TINY, *words, *plateau, "run.rollout_every=1", "run.name=run")
    done = train("resume=run", "run.budget=5", "run.patience=5")
    assert "run.patience=5 takes effect" in done.stderr
    done = train(*TINY, *words, *plateau, "run.monitor=null", code=2)
    assert "scheduler.monitor=rollout/weights: run.rollout_every=null, so nothing would give that value" in done.stderr


def test_the_model_of_a_checkpoint_is_what_was_evaluated(train: Train, output_root: Path) -> None:
    """Fails where a reader of model.pt finds the raw weights, and the best ones are the averaged."""
    train(*TINY, "run.budget=4", "run.ema_decay=0.5", "run.name=run")
    content = torch.load(output_root / "run" / "model.pt", weights_only=True)
    exp = Experiment.from_path(output_root / "run", device="auto")
    assert first_difference(content["model"], exp.model.state_dict()) is None
    assert first_difference(content["model"], content["ema"]["raw"]) is not None
    (row,) = [row for row in exp.history() if row["split"] == "val" and row["step"] == exp.state.step]
    assert evaluate(exp, "val")["loss"] == row["loss"]


def test_overfit_mode_says_whether_the_loss_fell(train: Train) -> None:
    exp = Experiment(compose_config(PROJECT, [SEARCH, "data=noisy", "model=tiny", "mode=overfit"]))
    assert len(exp.train_loader) == 1 and exp.cfg.scheduler.schedule is None
    words = (*TINY[:3], "model=tiny", "mode=overfit", "loader.limit_eval=5")
    assert "the loss fell below 0.9 at step" in train(*words, "run.target_loss=0.9").stdout
    assert "did NOT fall below 0.0001 in 12 steps" in train(*words, "run.target_loss=0.0001", "run.budget=12").stdout


def test_a_figure_with_a_state_can_be_rehearsed(train: Train) -> None:
    """Fails where the rehearsal, which draws nothing, is expected to have the state of figures."""
    words = (*TINY, "mode=dev", "tracker=none", "loader.num_workers=0", "+plots.figure._target_=tiny.CountingFigure")
    done = train(*words, "+plots.first._target_=tiny.StartFigure")
    assert "tensors identical" in done.stdout
    assert done.stderr.count("figure first skipped: ") == 1 and "(ln 3 = 1.0986)" in done.stderr


def test_the_last_figures_follow_the_test_once(train: Train) -> None:
    """Fails where a run that was killed while it drew them never draws them, or one that has ended draws them again."""
    words = (*TINY, "run.budget=4", "run.name=run", "+plots.last._target_=tiny.EndFigure")
    train(*words, env={"STRIKE": "figure 1"}, code=-signal.SIGKILL)
    assert train("resume=run").stderr.count("figure last skipped: test rows: 1\n") == 1
    again = train("resume=run").stderr
    assert "is finished" in again and "figure last" not in again
    assert train("resume=run", "run.budget=6").stderr.count("figure last skipped: test rows: 1\n") == 1


def test_a_state_that_is_not_restored_fails_the_rehearsal(train: Train) -> None:
    """Fails where the rehearsal goes through and compares nothing."""
    words = (*TINY, "mode=dev", "loader.num_workers=0", "run.plot_every=null", "loss._target_=tiny.HiddenLoss")
    assert "differs from the run that went through" in train(*words, code=1).stderr


def test_the_estimate_is_of_prod_mode(train: Train) -> None:
    """Fails where it speaks of the steps of dev mode, or its parts do not fit together."""
    done = train(*TINY[:-1], "experiment=long", "mode=dev", "loader.num_workers=0")
    found = re.search(r"in prod mode: about ([\d.]+) (\w+) \(100,000 steps of ([\d.]+) ms\)", done.stdout)
    assert found, done.stdout
    seconds = float(found[1]) * {"s": 1, "min": 60, "h": 3600}[found[2]]
    assert 0.9 < seconds / (100 * float(found[3])) < 2  # evaluations take some, too


@pytest.mark.full
def test_the_estimate_is_not_that_of_a_slow_moment(train: Train) -> None:
    """Fails where it scales up the steps of the run, which a tracker's start has slowed down, and times none."""
    words = (*TINY[:-1], "optimizer=fatal", "loss._target_=tiny.SlowAtFirstLoss", "mode=dev", "loader.num_workers=0")
    found = re.search(r"in prod mode: .* steps of ([\d.,]+) ms", train(*words).stdout)
    assert found and float(found[1].replace(",", "")) < 300, found


def test_compiled_run_saves_plain_names() -> None:
    exp = build("run.compile=true")
    assert exp.model._compiled_call_impl is not None
    assert not any("_orig_mod" in name for name in exp.state_dict()["model"])


def test_a_schedule_may_look_at_rollouts() -> None:
    """Fails where it is shown the values of an evaluation, in which that of the rollout is missing."""
    scheduler = Mock()
    schedules = {"": Schedule(scheduler, "metric", "rollout/items")}
    advance(schedules, "metric", {"loss": 1.0}, "val")
    advance(schedules, "metric", {"items": 3.0}, "rollout")
    scheduler.step.assert_called_once_with(3.0)


@pytest.mark.parametrize(("interval", "rate"), [("step", 0.5**6), ("epoch", 0.5**3), ("metric", 0.01)])
def test_schedule_intervals(train: Train, output_root: Path, interval: str, rate: float) -> None:
    """6 steps of 2 an epoch: 6 steps, 3 epochs, 2 evaluations before the last checkpoint (plateau's factor is 0.1)."""
    words = ["scheduler=step", f"scheduler.interval={interval}"]
    words += ["scheduler.schedule.step_size=1", "scheduler.schedule.gamma=0.5"]
    if interval == "metric":
        words = ["scheduler=plateau", "scheduler.schedule.patience=0", "scheduler.schedule.threshold=10.0"]
        words += ["run.eval_every=3", "run.budget=7"]
    train(*TINY, "run.budget=6", "loader.batch_size=60", "optimizer.lr=1.0", "optimizer=sgd", "run.name=run", *words)
    group = latest(output_root / "run")["optimizers"][""]["param_groups"][0]
    assert group["lr"] == pytest.approx(rate)


def test_a_run_without_a_test_split(train: Train, output_root: Path) -> None:
    """It trains, validates, resumes exactly, and says that nothing is tested."""
    words = (*TINY[:-1], "mode=dev", "+data.test=null", "loader.num_workers=0", "run.name=run")
    done = train(*words)
    assert "no test split: nothing is tested" in done.stderr and "tensors identical" in done.stdout
    assert {row["split"] for row in Facts(output_root / "dev/run/facts").rows()} == {"train", "val"}


def test_one_loss_with_a_name(train: Train, output_root: Path) -> None:
    """`loss: {query: ...}` decides what is best and what mode=overfit waits for, as one without a name does."""
    words = (*TINY[:3], "model=pair", "~loss.generator", *TINY[4:-1], "mode=overfit", "run.eval_every=100")
    done = train(*words, "optimizer.lr=0.1", "run.target_loss=0.2", "run.monitor=auto", "run.name=run")
    assert "the loss fell below 0.2 at step" in done.stdout
    exp = build("~loss.generator", model="pair")
    assert exp.main_loss == "discriminator/loss" and exp.monitor == "val/discriminator/loss"


def test_a_network_without_sizes_is_refused() -> None:
    with pytest.raises(UserError, match=r"model: weight of LazyLinear has no size .*Lazy"):
        build(
            "model._target_=torch.nn.LazyLinear", "+model.out_features=3", "~model.num_features", "~model.num_classes"
        )


@pytest.mark.parametrize("network", ["", "query"])
def test_values_of_one_item_are_means_like_any_other(network: str) -> None:
    """Fails where a tensor of shape (1,) is multiplied with the weights of all batches."""
    means = Means()
    for value, weight in ((1.0, 10.0), (2.0, 10.0), (3.0, 5.0)):
        one, counts = torch.tensor([value], requires_grad=True), torch.tensor([weight])
        assert means.add(network, one, {"rate": one, "share": value, "weight": counts}, 99.0).shape == ()
    assert means.values() == {f"{network}/{key}".lstrip("/"): pytest.approx(1.8) for key in ("loss", "rate", "share")}


def test_rollouts_are_in_eval_mode_and_leave_the_modes(tmp_path: Path) -> None:
    """Fails where a rollout that calls the model draws dropout, or batch norm learns from it."""
    exp = build("run.rollout_every=1", "+rollout._target_=tiny.Rollout", "run.eval_every=null", "run.save_every=null")
    modes: list[bool] = []
    exp.rollout = lambda model, loader: {"training": float(modes.append(model.training) or 0)}  # type: ignore[func-returns-value]
    exp.run, exp.state.looks = Mock(start=Mock(step=0)), ["rollout"]
    exp.run.stop.look.return_value = None
    finish_step(exp)
    assert modes == [False] and exp.model.training


def test_a_loss_under_a_name_of_its_own_is_watched_as_a_number() -> None:
    """Fails where a metric called loss is a float, and the watch wants a tensor."""
    watch = FiniteWatch(torch.device("cpu"), {})
    watch.add({"kl/loss": 0.5, "loss": torch.tensor(1.0)})  # type: ignore[dict-item]
    watch.check({}, 1)
    watch.add({"kl/loss": float("nan")})  # type: ignore[dict-item]
    with pytest.raises(RunError, match="the training loss"):
        watch.check({}, 2)
