"""Every scheduler in configs/scheduler against its closed form or torch's own, and through a checkpoint."""

import io
import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from scaffolding.core.config.build import build, interval_of, takes_total
from scaffolding.experiment import PROJECT
from scaffolding.schedules import cosine, cosine_multiplier, linear, linear_multiplier, one_cycle

NUM_STEPS = 40


def load(name):
    return OmegaConf.load(PROJECT.configs / f"{name}.yaml")


def make_optimizer(name="adamw", lr=0.5):
    """Two parameter groups, the second at a tenth of the rate, with gradients ready."""
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    groups = [{"params": parameters[:1], "lr": lr}, {"params": parameters[1:], "lr": lr / 10}]
    return build(load(f"optimizer/{name}"), "optimizer", groups)


def make_scheduler(name, optimizer):
    """The scheduler of a YAML file, and when it advances."""
    config = load(f"scheduler/{name}")
    total = {"num_steps": NUM_STEPS} if takes_total(config.schedule._target_) else {}
    return build(config.schedule, "scheduler.schedule", optimizer, **total), interval_of(config)


def advance(optimizer, scheduler, interval, stop, start=0):
    """Make the updates `start` to `stop`, the scheduler after each; returns both groups' rates before each update."""
    rates = []
    for index in range(start, stop):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step(*([1.0 + index // 5] if interval == "metric" else []))
    return rates


def expected_multiplier(kind, step, num_steps, warmup_steps, final):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    height = 1 - progress if kind == "linear" else math.cos(math.pi * progress / 2) ** 2
    return final + (1 - final) * height


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind, schedule", [("linear", linear), ("cosine", cosine)])
def test_rates_follow_the_closed_form(kind, schedule, warmup, final):
    optimizer = make_optimizer()
    scheduler = schedule(optimizer, num_steps=NUM_STEPS, warmup=warmup, final=final)
    rates = advance(optimizer, scheduler, "step", NUM_STEPS)
    for step, (first, second) in enumerate(rates):
        multiplier = expected_multiplier(kind, step, NUM_STEPS, round(warmup * NUM_STEPS), final)
        assert first == pytest.approx(0.5 * multiplier, abs=1e-12)
        assert second == pytest.approx(0.05 * multiplier, abs=1e-12)
    assert rates[0][0] > 0  # no update is wasted on a rate of zero
    assert optimizer.param_groups[0]["lr"] == 0.5 * final  # exactly, after the last step


@pytest.mark.parametrize("multiplier", [linear_multiplier, cosine_multiplier])
def test_multiplier_reaches_peak_and_end_exactly(multiplier):
    for num_steps in (1, 2, 3, 7, 1000, 123_457):
        for warmup in (0.0, 0.05, 1 / 3, 0.9):
            for final in (0.0, 0.1, 0.3):
                arguments = {"num_steps": num_steps, "warmup": warmup, "final": final}
                if round(warmup * num_steps) < num_steps:
                    assert multiplier(round(warmup * num_steps), **arguments) == 1.0
                    assert multiplier(num_steps, **arguments) == final
                    assert multiplier(num_steps + 5, **arguments) == final  # and stays there
                assert all(0 <= multiplier(step, **arguments) <= 1 for step in range(min(num_steps, 50)))
    assert multiplier(3, num_steps=4, warmup=1.0, final=0.0) == 4 / 5  # all warm-up


@pytest.mark.parametrize("warmup", [-0.1, 1.5, 500])
def test_warmup_in_steps_is_refused(warmup):
    for schedule in (linear, cosine):
        with pytest.raises(ValueError, match="fraction of all steps"):
            schedule(make_optimizer(), num_steps=NUM_STEPS, warmup=warmup, final=0.0)


@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd"])
def test_one_cycle_peaks_at_the_optimizers_rates(optimizer_name):
    optimizer = make_optimizer(optimizer_name)
    scheduler, _ = make_scheduler("one_cycle", optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR)
    rates = advance(optimizer, scheduler, "step", NUM_STEPS)  # one step more than this would raise
    assert rates[0] == pytest.approx([0.5 / 25, 0.05 / 25])
    assert max(rates)[0] == pytest.approx(0.5, rel=1e-2)
    assert rates[-1] == pytest.approx([0.5 / 25 / 1e4, 0.05 / 25 / 1e4])


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 5, 10])
def test_one_cycle_fits_short_runs(num_steps):
    optimizer = make_optimizer()
    settings = dict(load("scheduler/one_cycle").schedule)
    del settings["_target_"]
    rates = advance(optimizer, one_cycle(optimizer, num_steps, **settings), "step", num_steps)
    assert all(0 < rate <= 0.5 for rate, _ in rates)


def test_step_and_plateau_drop_the_rate():
    optimizer = make_optimizer()
    scheduler, interval = make_scheduler("step", optimizer)
    rates = [rate for rate, _ in advance(optimizer, scheduler, interval, 21)]
    assert (interval, rates[0], rates[9]) == ("epoch", 0.5, 0.5)
    assert [rates[10], rates[20]] == pytest.approx([0.05, 0.005])

    optimizer = make_optimizer()
    scheduler, interval = make_scheduler("plateau", optimizer)
    rates = [rate for rate, _ in advance(optimizer, scheduler, interval, 5)]  # the metric never improves
    assert (interval, rates[:4]) == ("metric", [0.5] * 4)
    assert rates[4] == pytest.approx(0.05)


@pytest.mark.parametrize("name", ["linear", "cosine", "one_cycle", "plateau", "step"])
@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd"])
def test_resumed_schedule_continues_exactly(name, optimizer_name):
    def new():
        optimizer = make_optimizer(optimizer_name)
        return optimizer, *make_scheduler(name, optimizer)

    whole = advance(*new(), NUM_STEPS)
    optimizer, scheduler, interval = new()
    first_part = advance(optimizer, scheduler, interval, 15)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    states = torch.load(file, weights_only=True)
    optimizer, scheduler, interval = new()
    optimizer.load_state_dict(states["optimizer"])
    scheduler.load_state_dict(states["scheduler"])
    assert first_part + advance(optimizer, scheduler, interval, NUM_STEPS, start=15) == whole


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_longer_budget_takes_effect_on_resume(schedule):
    optimizer = make_optimizer()
    scheduler = schedule(optimizer, NUM_STEPS, warmup=0.1, final=0.0)
    advance(optimizer, scheduler, "step", 20)
    states = optimizer.state_dict(), scheduler.state_dict()

    optimizer = make_optimizer()
    scheduler = schedule(optimizer, 2 * NUM_STEPS, warmup=0.1, final=0.0)
    optimizer.load_state_dict(states[0])
    scheduler.load_state_dict(states[1])
    optimizer.step()
    scheduler.step()
    kind = schedule.__name__
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * expected_multiplier(kind, 21, 80, 8, 0.0))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_update_equals_the_plain_one(name):
    """Fused kernels are the default; they must compute what the plain loop over parameters computes."""
    config = load(f"optimizer/{name}")
    assert config.fused
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        optimizer = build(config, "optimizer", model.parameters(), fused=fused, foreach=False)
        for _ in range(10):
            optimizer.zero_grad()
            model(torch.randn(4, 5)).square().sum().backward()
            optimizer.step()
        results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(results[0], results[1])
