"""The schedules against their closed forms; runs resumed with them are in test_resume.py and test_verbs.py."""

import math

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from scaffolding.core.config.build import build
from scaffolding.experiment import PROJECT
from scaffolding.schedules import cosine, cosine_multiplier, linear, linear_multiplier

NUM_STEPS = 40


def make_optimizer(name="adamw"):
    """Two parameter groups, the second at a tenth of the rate, with gradients ready."""
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    groups = [{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:], "lr": 0.05}]
    return build(OmegaConf.load(PROJECT.configs / f"optimizer/{name}.yaml"), "optimizer", groups)


def advance(optimizer, scheduler, num_steps):
    """Make updates, the scheduler after each; returns both groups' rates before each update."""
    rates = []
    for _ in range(num_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return rates


def expected_multiplier(schedule, step, num_steps, warmup_steps, final):
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    height = 1 - progress if schedule is linear else math.cos(math.pi * progress / 2) ** 2
    return final + (1 - final) * height


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_rates_follow_the_closed_form(schedule, warmup, final):
    optimizer = make_optimizer()
    rates = advance(optimizer, schedule(optimizer, num_steps=NUM_STEPS, warmup=warmup, final=final), NUM_STEPS)
    for step, found in enumerate(rates):
        multiplier = expected_multiplier(schedule, step, NUM_STEPS, round(warmup * NUM_STEPS), final)
        assert found == pytest.approx([0.5 * multiplier, 0.05 * multiplier], abs=1e-12)
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


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_longer_budget_takes_effect_on_resume(schedule):
    first, second = make_optimizer(), make_optimizer()
    short, long = schedule(first, NUM_STEPS, warmup=0.1, final=0.0), schedule(second, 80, warmup=0.1, final=0.0)
    advance(first, short, 20)
    second.load_state_dict(first.state_dict())
    long.load_state_dict(short.state_dict())
    advance(second, long, 1)
    assert second.param_groups[0]["lr"] == pytest.approx(0.5 * expected_multiplier(schedule, 21, 80, 8, 0.0))


@pytest.mark.parametrize("optimizer_name", ["adamw", "sgd"])
def test_one_cycle_peaks_at_the_optimizers_rates(optimizer_name):
    optimizer = make_optimizer(optimizer_name)
    spec = OmegaConf.load(PROJECT.configs / "scheduler/one_cycle.yaml").schedule
    scheduler = build(spec, "scheduler.schedule", optimizer, num_steps=NUM_STEPS)
    rates = advance(optimizer, scheduler, NUM_STEPS)  # one step more than this would raise
    assert rates[0] == pytest.approx([0.5 / 25, 0.05 / 25])
    assert max(rates)[0] == pytest.approx(0.5, rel=1e-2)
    assert rates[-1] == pytest.approx([0.5 / 25 / 1e4, 0.05 / 25 / 1e4])
