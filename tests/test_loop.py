"""What the loop computes: updates, weights of items, schedules, averages, evaluation; and that observing is neutral."""

import copy
from pathlib import Path

import pytest
import torch
from conftest import Train

from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import RunError
from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.state import checkpoint
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.rehearsal import first_difference
from scaffolding.train import MAX_SKIPPED, train_step

TESTS = Path(__file__).parent
ENV = {"PYTHONPATH": str(TESTS)}
BASE = ("--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "plots=none", "tracker=none", "mode=prod")


def build(*overrides: str, model: str = "tiny") -> Experiment:
    """A small experiment, built in this process."""
    search = f"hydra.searchpath=['file://{TESTS / 'configs'}']"
    exp = Experiment(
        compose_config(PROJECT, [search, "data=noisy", f"model={model}", "plots=none", "mode=prod", *overrides])
    )
    exp.prepare()
    exp.model.train()
    return exp


def gradients(exp: Experiment) -> list[torch.Tensor]:
    return [parameter.grad.clone() for parameter in exp.model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 4, 1)], ids=["even", "odd last window"])
def test_accumulation_equals_the_big_batch(sizes: tuple[int, ...]) -> None:
    exp = build("optimizer=sgd", "optimizer.lr=0.0", "optimizer.momentum=0.0", "optimizer.nesterov=false")
    for module in exp.model.modules():  # both couple the items of a batch, or draw per batch
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.Dropout):
            module.eval()
    points, labels = torch.randn(sum(sizes), 8), torch.randint(0, 3, (sum(sizes),))
    big = [((points, labels), len(labels))]
    small = [((p, y), len(y)) for p, y in zip(points.split(sizes), labels.split(sizes), strict=True)]
    whole = train_step(exp, big)
    expected = gradients(exp)
    parts = train_step(exp, small)
    for one, other in zip(expected, gradients(exp), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_windows_end_with_the_epoch() -> None:
    exp = build("run.accumulate=3", "loader.batch_size=25", "run.budget=2epochs")  # 120 items: 5 batches
    assert (exp.steps_per_epoch, exp.num_steps) == (2, 4)
    windows = exp.train_loader.windows(exp.state, 3)
    assert [sum(items for _, items in next(windows)) for _ in range(1)] == [75]
    exp.state.advance(3, 75, len(exp.train_loader))
    assert [items for _, items in next(windows)] == [25, 20]


def test_evaluation_weighs_items_not_batches() -> None:
    exp = build("loader.batch_size=16")  # 30 validation items: the last batch has 14
    exp.model.eval()
    batches = list(exp.val_loader)
    assert [len(labels) for _, labels in batches] == [16, 14]
    points, labels = torch.cat([p for p, _ in batches]), torch.cat([y for _, y in batches])
    logits = exp.model(points).detach()
    values = evaluate(exp, "val")
    assert values["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-6)
    assert values["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()), rel=1e-6)
    assert evaluate(exp, "val") == values


def test_evaluation_leaves_no_trace() -> None:
    exp = build()
    before = copy.deepcopy(exp.state_dict())
    evaluate(exp, "val")
    assert exp.model.training
    assert first_difference(before, exp.state_dict()) is None


def test_metric_that_is_not_a_mean() -> None:
    exp = build("+metrics.labels={_target_:tiny.FinalLabels}")
    assert evaluate(exp, "val")["labels"] == 3
    assert evaluate(exp, "val")["labels"] == 3


def test_schedule_and_averages_follow_applied_updates_only() -> None:
    exp = build("run.precision=float16", "scheduler=cosine", "run.ema_decay=0.5")
    scheduler = exp.schedulers[""].scheduler
    points, labels = torch.randn(8, 8), torch.randint(0, 3, (8,))
    good, bad = [((points, labels), 8)], [((points * 1e30, labels), 8)]
    before = copy.deepcopy(exp.model.state_dict())
    train_step(exp, bad)
    parameters = dict(exp.model.named_parameters())
    assert all(torch.equal(before[name], value) for name, value in parameters.items())
    assert (exp.state.step, exp.state.applied, exp.state.skipped_in_row, scheduler.last_epoch) == (1, 0, 1, 0)
    assert int(exp.ema.n_averaged) == 0
    for module in exp.model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.reset_running_stats()
    train_step(exp, good)
    assert (exp.state.step, exp.state.applied, exp.state.skipped_in_row, scheduler.last_epoch) == (2, 1, 0, 1)
    assert int(exp.ema.n_averaged) == 1
    assert exp.watch.fault() is None
    with pytest.raises(RunError, match="in a row"):
        for _ in range(MAX_SKIPPED + 1):
            train_step(exp, bad)


def test_two_networks_with_a_loss_and_an_optimizer_each() -> None:
    exp = build(model="pair")
    assert list(exp.optimizers) == ["discriminator", "generator"]
    own = {name: {id(p) for group in o.param_groups for p in group["params"]} for name, o in exp.optimizers.items()}
    assert own["discriminator"].isdisjoint(own["generator"])
    before = copy.deepcopy(exp.model.state_dict())
    metrics = train_step(exp, next(exp.train_loader.windows(exp.state, 1)))
    assert set(metrics) == {f"{n}/{k}" for n in ("discriminator", "generator") for k in ("loss", "value")}
    assert all(not torch.equal(before[name], value) for name, value in exp.model.state_dict().items())
    assert set(evaluate(exp, "val")) == set(metrics)


def test_two_networks_train_and_resume_in_dev_mode(train: Train) -> None:
    overrides = ("model=pair", "run.monitor=null", "mode=dev", "loader.num_workers=0")
    assert "tensors identical" in train(*BASE[:3], *overrides, env=ENV).stdout


def test_observing_changes_no_weight(train: Train, output_root: Path) -> None:
    watching = ("run.eval_every=1", "run.log_every=1", "plots=standard", "run.plot_every=5", "tracker=wandb_offline")
    blind = ("run.eval_every=null", "run.log_every=null", "run.monitor=null")
    words = [*(word for word in BASE if not word.startswith(("plots", "tracker"))), "run.ema_decay=0.5"]
    rollout = ("rollout={_target_:tiny.RolloutSpec}", "run.rollout_every=2", "+metrics.m={_target_:tiny.FinalLabels}")
    train(*words, *watching, *rollout, "run.budget=10", "run.name=watched", env=ENV)
    train(*BASE, "run.ema_decay=0.5", *blind, "run.budget=10", "run.name=blind", env=ENV)
    contents = [checkpoint.load(output_root / name / "checkpoints" / "latest.pt") for name in ("watched", "blind")]
    for part in ("model", "ema", "optimizers", "generators"):
        assert first_difference(*(content[part] for content in contents)) is None
    rows = Facts(output_root / "watched" / "facts").rows()
    rollouts = [row for row in rows if row["split"] == "rollout"]
    assert [row["items"] for row in rollouts] == [30.0] * 5
    names = [name for name, _ in build().model.named_parameters()]
    states = (contents[0]["model"], contents[0]["ema"]["model"])
    raw, averaged = (sum(float(state[name].double().sum()) for name in names) for state in states)
    assert rollouts[-1]["weights"] == pytest.approx(averaged) and averaged != pytest.approx(raw)
    assert all(row["m"] == 3 for row in rows if row["split"] == "val")


def test_figure_that_fails_is_told_at_the_end(train: Train, output_root: Path) -> None:
    done = train(*BASE, "+plots.broken={_target_:tiny.BrokenPlot}", "run.budget=4", "run.name=run", env=ENV, code=1)
    assert "error: trained to the end, but figures failed: " in done.stderr and "planted" in done.stderr
    assert checkpoint.load(output_root / "run" / "checkpoints" / "latest.pt")["state"]["step"] == 4


def test_early_stopping_and_best(train: Train, output_root: Path) -> None:
    words = ("run.budget=400", "run.eval_every=2", "run.patience=3", "optimizer.lr=0.3", "loader.batch_size=40")
    train(*BASE, *words, "run.name=run", env=ENV)
    state = checkpoint.load(output_root / "run" / "checkpoints" / "latest.pt")["state"]
    assert state["stopped"] and state["evaluations_since_best"] == 3 and state["step"] == state["best_step"] + 6 < 400
    best = checkpoint.load(output_root / "run" / "checkpoints" / "best.pt")["state"]
    assert best["step"] == state["best_step"]
    losses = {row["step"]: row["loss"] for row in Facts(output_root / "run" / "facts").rows() if row["split"] == "val"}
    assert state["best"] == min(losses.values()) == losses[state["best_step"]]
    assert "is finished" in train("resume=run", env=ENV).stderr


def test_overfit_mode_says_whether_the_loss_went(train: Train) -> None:
    words = ("--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "mode=overfit", "loader.limit_eval=5")
    assert "the loss is gone" in train(*words, "run.target_loss=0.9", env=ENV).stdout
    assert "did NOT go" in train(*words, "run.target_loss=0.0001", "run.budget=12", env=ENV).stdout


def test_compiled_run_saves_plain_names() -> None:
    exp = build("run.compile=true")
    assert exp.model._compiled_call_impl is not None
    assert not any("_orig_mod" in name for name in exp.state_dict()["model"])


@pytest.mark.parametrize("interval", ["step", "epoch", "metric"])
def test_schedule_intervals(train: Train, output_root: Path, interval: str) -> None:
    target = "ReduceLROnPlateau,patience:0,threshold:10.0" if interval == "metric" else "StepLR,step_size:1,gamma:0.5"
    advances = "monitor:val/loss" if interval == "metric" else f"interval:{interval}"
    schedule = f"{{schedule:{{_target_:torch.optim.lr_scheduler.{target}}},{advances}}}"
    words = ("run.budget=6", "loader.batch_size=60", "run.eval_every=3", f"scheduler={schedule}")
    words += ("optimizer.lr=1.0", "optimizer=sgd", "run.name=run")
    train(*BASE, *words, env=ENV)
    group = checkpoint.load(output_root / "run" / "checkpoints" / "latest.pt")["optimizers"][""]["param_groups"][0]
    # 6 steps of 2 an epoch: 6 steps, 3 epochs, 2 evaluations (plateau's factor is 0.1)
    assert group["lr"] == pytest.approx({"step": 0.5**6, "epoch": 0.5**3, "metric": 0.01}[interval])
