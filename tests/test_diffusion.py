"""Diffusion: the way to noise and the way back, against closed forms; the sampler draws from its generator alone."""

import math
from pathlib import Path

import pytest
import torch
from conftest import Train
from pairs import options
from torch import Tensor

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.state import checkpoint
from scaffolding.experiment import Experiment

diffusion = pytest.importorskip("scaffolding.model.diffusion")

SHAPE = (1, 8, 8)


def make(num_timesteps: int = 100, num_sampling_steps: int = 100, shape: tuple[int, ...] = SHAPE) -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusion.Diffusion(shape, num_timesteps, num_sampling_steps, channels=[8, 16], num_blocks=1)


class Oracle(torch.nn.Module):
    """The noise in x_t for data that are normal, N(mean, variance) in every pixel: its expectation given x_t."""

    def __init__(self, alpha_bar: Tensor, mean: Tensor, variance: float) -> None:
        super().__init__()
        self.alpha_bar, self.mean, self.variance = alpha_bar, mean, variance

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        total = alpha_bar * self.variance + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * (x_t - alpha_bar.sqrt() * self.mean) / total


@pytest.mark.parametrize("num_timesteps", [25, 200, 1000])
def test_the_way_to_noise(num_timesteps: int) -> None:
    """Little noise at first, nothing but noise at last, in any number of steps; at 1,000 the betas of the paper."""
    alpha_bar = make(num_timesteps, 25).forward_process.alpha_bar
    assert alpha_bar.shape == (num_timesteps,) and bool((alpha_bar.diff() < 0).all())
    assert 0.99 < alpha_bar[0] < 1 and 0 < alpha_bar[-1] < 1e-4
    if num_timesteps == 1000:
        beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
        torch.testing.assert_close(beta, torch.linspace(1e-4, 0.02, 1000)[1:], rtol=0, atol=1e-6)


def test_each_image_gets_the_noise_of_its_own_time() -> None:
    model, t = make(shape=(3, 12, 20)), torch.tensor([0, 50, 99])
    x_0, epsilon = torch.randn(2, 3, 3, 12, 20)
    x_t = model.forward_process(x_0, t, epsilon)
    for k, alpha_bar in enumerate(model.forward_process.alpha_bar[t].tolist()):
        torch.testing.assert_close(x_t[k], math.sqrt(alpha_bar) * x_0[k] + math.sqrt(1 - alpha_bar) * epsilon[k])
    predicted = model(x_t, t)
    assert predicted.shape == x_0.shape
    torch.testing.assert_close(predicted, torch.cat([model(x_t[k : k + 1], t[k : k + 1]) for k in range(3)]))
    assert not torch.allclose(predicted, model(x_t, t.flip(0)), atol=1e-3)


def test_mean_of_the_step_before_is_that_of_bayes() -> None:
    """q(x_{t-1} | x_t, x_0), the product of two normal densities, for the noise that was really added."""
    alpha_bars = make().forward_process.alpha_bar.double()
    x_0, epsilon = torch.randn(2, 1, 4, 4).double()
    for t, before in ((1, 0), (50, 49), (99, 98), (90, 30)):
        x_t = alpha_bars[t].sqrt() * x_0 + (1 - alpha_bars[t]).sqrt() * epsilon
        mean, std = diffusion.posterior(x_t, epsilon, alpha_bars[t], alpha_bars[before])
        alpha = alpha_bars[t] / alpha_bars[before]
        precision = 1 / (1 - alpha_bars[before]) + alpha / (1 - alpha)  # of x_{t-1} from x_0, and from x_t
        weighted = alpha_bars[before].sqrt() * x_0 / (1 - alpha_bars[before]) + alpha.sqrt() * x_t / (1 - alpha)
        torch.testing.assert_close(mean, weighted / precision)
        torch.testing.assert_close(std, precision**-0.5)


@pytest.mark.parametrize("num_sampling_steps", [1, 10, 100])
def test_knowing_the_noise_the_sampler_finds_the_image(num_sampling_steps: int) -> None:
    model = make(100, num_sampling_steps)
    x_0 = torch.linspace(-1, 2, 64).view(1, *SHAPE)
    model.network = Oracle(model.forward_process.alpha_bar, x_0, variance=0)
    found = model.sample(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found, x_0.expand(5, *SHAPE), rtol=0, atol=1e-4)


def test_knowing_the_noise_the_sampler_finds_the_distribution() -> None:
    """Of normal data with half the variance of the noise; 1,000 steps of the paper, as fewer leave a bias."""
    model = make(1000, 1000)
    model.network = Oracle(model.forward_process.alpha_bar, torch.full((1,), 0.7), variance=0.5)
    found = model.sample(400, torch.Generator().manual_seed(0))
    assert float(found.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(found.var()) == pytest.approx(0.5, abs=0.03)


def test_loss_is_that_of_the_predicted_noise() -> None:
    """A network that predicts nothing has the variance of the noise; one that knows the image, nothing to learn."""
    loss_fn, model = diffusion.DiffusionLoss(), make()
    x_0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).expand(500, *SHAPE)
    oracle = Oracle(model.forward_process.alpha_bar, x_0[:1], variance=0)
    model.network = oracle
    assert float(loss_fn(model, (x_0,))[0]) == pytest.approx(0, abs=1e-5)
    oracle.forward = lambda x_t, t: torch.zeros_like(x_t)  # type: ignore[method-assign]
    assert float(loss_fn(model, (x_0,))[0]) == pytest.approx(1, abs=0.03)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="9x8 cannot be halved 1 times"):
        make(shape=(1, 9, 8))
    with pytest.raises(ValueError, match="num_sampling_steps=101"):
        make(num_sampling_steps=101)
    with pytest.raises(ValueError, match="num_timesteps=20"):
        make(num_timesteps=20, num_sampling_steps=20)


@pytest.mark.skipif("digits" not in options("data"), reason="the dataset has been deleted")
def test_averaged_weights_are_loaded_and_drawn_from(train: Train, output_root: Path) -> None:
    """Finds a rollout or a load that takes the raw weights."""
    words = ("data=digits", "model=diffusion", "mode=dev", "tracker=none", "plots=none", "run.rehearse_resume=false")
    small = ("run.budget=4", "model.num_sampling_steps=4", "rollout.num_samples=8", "run.rollout_every=1")
    train(*words, *small, "run.ema_decay=0.5", "run.name=run")
    content = checkpoint.load(output_root / "dev" / "run" / "checkpoints" / "latest.pt")
    exp = Experiment.from_path(output_root / "dev" / "run", checkpoint="latest", device="auto")
    assert first_difference(exp.eval_model.state_dict(), content["model"]) is None
    assert first_difference(content["model"], content["ema"]["raw"]) is not None
    rows = [row for row in exp.history() if row["split"] == "rollout"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with exp.autocast:
        assert rows[-1]["mmd2"] == pytest.approx(exp.rollout(exp.eval_model, exp.val_loader)["mmd2"])
