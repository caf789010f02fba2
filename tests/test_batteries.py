"""What every dataset, model and figure of configs/ must hold, a fork's own included: they are found by listing.

The pairs that are trained are those of pairs.py: each model with the smallest data that fits it, each dataset with the
smallest model; the full set trains all pairs that fit.
"""

import copy
import functools
import itertools
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import Train
from omegaconf import OmegaConf
from pairs import build, complete, options, others, partner, refusal, trainable
from torch import Tensor
from torch.utils.data import default_collate

from scaffolding.core.batches.loader import Loader
from scaffolding.core.config.compose import compose_config
from scaffolding.core.state import checkpoint, keys
from scaffolding.core.state.checkpoint import leaves
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.rehearsal import first_difference
from scaffolding.splits import Split
from scaffolding.train import train_step

MODELS, DATA = complete("model"), complete("data")
OVERFIT_STEPS = 400  # within which the loss on one batch must fall to half
MAX_SHARED = 0.01  # of the items looked at may be in two splits: some data hold the same item twice


# data and model together


def rehearse(train: Train, output_root: Path, data: str, model: str, *words: str) -> str:
    """Dev mode through the real entry point, which walks every branch of a run and proves that it resumes exactly."""
    done = train(f"data={data}", f"model={model}", "mode=dev", "run.name=smoke", *words)
    run = output_root / "dev" / "smoke"
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    last = done.stdout.splitlines()
    assert any(line.startswith("resume rehearsal: ") and line.endswith(" tensors identical") for line in last)
    assert any("mode=prod" in line for line in last)
    assert any(f'from_path("{run}"' in line for line in last)
    for name in ("config.yaml", "overrides.yaml", "provenance.json", "changes.patch", "log.txt"):
        assert (run / name).exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["run"]["budget"] == "2epochs"
    events = [json.loads(line)["event"] for line in (run / "facts" / "events.jsonl").read_text().splitlines()]
    assert events[0] == "on_start" and events[-1] == "on_train_end"
    assert events.count("on_epoch_end") == 2 and "on_save" in events
    rows = (run / "facts" / "scalars.csv").read_text()
    assert {line.split(",")[3] for line in rows.splitlines()[1:]} >= {"train", "val", "test"}
    content = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert not any("_orig_mod" in name or name.startswith("module.") for name in content["model"])
    return done.stderr


@pytest.mark.parametrize(("data", "model"), trainable())
def test_dev_mode_walks_every_branch(train: Train, output_root: Path, data: str, model: str) -> None:
    """The first pair with W&B offline, as dev mode is by default; it takes longer than all the rest."""
    is_tracked = (data, model) == trainable()[0] and "wandb_offline" in options("tracker")
    said = rehearse(train, output_root, data, model, *([] if is_tracked else ["tracker=none"]))
    if is_tracked:
        assert any((output_root / "dev" / "smoke" / "wandb").iterdir())
        assert "tracker: stopped" not in said


@pytest.mark.full
def test_all_other_pairs_that_fit(train: Train, tmp_path: Path) -> None:
    for data, model in others()[0]:
        root = tmp_path / f"{data}-{model}"
        rehearse(train, root, data, model, "tracker=none", "plots=none", f"paths.output_root={root}")


def test_every_dataset_and_every_model_fits_another() -> None:
    for model in MODELS:
        assert partner(model), f"model={model} fits no data: " + str({data: refusal(data, model) for data in DATA})
    left = set(DATA) - {data for data, _ in trainable()}
    assert not left, {data: {model: refusal(data, model) for model in MODELS} for data in left}


def test_a_pair_that_does_not_fit_is_refused(train: Train, output_root: Path) -> None:
    refused = others()[1]
    if not refused:
        pytest.skip("every model fits every dataset")
    data, model = refused[0]
    done = train(f"data={data}", f"model={model}", "mode=dev", code=2)
    assert str(refusal(data, model)).splitlines()[0] in done.stderr and len(done.stderr.splitlines()) <= 4, done.stderr
    assert "refers to data." not in done.stderr or f"data={partner(model)}" in done.stderr  # one that has it
    assert "Traceback" not in done.stderr and not output_root.exists()


@pytest.mark.parametrize("name", options("experiment"))
def test_recipes_compose_and_fit(name: str) -> None:
    cfg = compose_config(PROJECT, [f"experiment={name}", "mode=dev"])
    assert "???" not in str(OmegaConf.to_container(cfg, resolve=True)), f"experiment={name} leaves a value open"
    Experiment(cfg, "cpu")


def test_first_step_is_described(dev_run: Path) -> None:
    log = (dev_run / "log.txt").read_text()
    assert "parameters on" in log and "batch: " in log and "initial " in log


# models


def batches_of(exp: Experiment, count: int) -> list[Any]:
    """The windows of the first steps, and the experiment ready to train."""
    exp.prepare()
    exp.model.train()
    return list(itertools.islice(exp.train_loader.windows(copy.copy(exp.state), 1), count))


def losses_of(exp: Experiment, batch: Any, seed: int = 0) -> dict[str, Tensor]:
    """The value of each loss on a batch; what it draws goes by the seed."""
    with keys.keyed(seed, "battery"), exp.autocast:
        return {name: loss_fn(exp.model, batch)[0] for name, loss_fn in exp.losses.items()}


@functools.cache
def _pair(model: str) -> tuple[str, str]:
    data = partner(model)
    return (data, model) if data else pytest.skip("no data here fits")


@pytest.mark.parametrize("model", MODELS)
def test_gradients_reach_every_parameter(model: str) -> None:
    """Each loss reaches all of its own network, in one of the first steps: layers may begin with zeros."""
    exp = build(*_pair(model))
    windows = batches_of(exp, 5)
    waiting = {
        (name, key): parameter
        for name, network in exp.networks.items()
        for key, parameter in network.named_parameters()
        if parameter.requires_grad
    }
    trained = {id(parameter) for parameter in waiting.values()}
    left_out = [n for n, p in exp.model.named_parameters() if p.requires_grad and id(p) not in trained]
    assert not left_out, f"belong to no network that has a loss: {left_out}"
    for step, window in enumerate(windows):
        for name, loss_fn in exp.losses.items():
            exp.model.zero_grad()
            with keys.keyed(step, "battery"), exp.autocast:
                loss_fn(exp.model, window[0][0])[0].backward()
            for place, parameter in list(waiting.items()):
                if place[0] == name and parameter.grad is not None and parameter.grad.any():
                    assert parameter.grad.isfinite().all(), place
                    del waiting[place]
        with keys.keyed(step, "battery"):
            train_step(exp, window)
    assert not waiting, f"no gradient reaches {[f'{name} {key}'.strip() for name, key in waiting]}"


@pytest.mark.parametrize("model", MODELS)
def test_one_batch_can_be_learnt(model: str) -> None:
    """A model that cannot lower its loss on eight items to half has a bug: a wrong target, a missing gradient."""
    exp = build(*_pair(model))
    if len(exp.losses) > 1:
        pytest.skip("its losses work against each other: none of them has to fall")
    (window,) = batches_of(exp, 1)
    losses: list[float] = []
    with keys.keyed(0, "battery"):
        for _ in range(OVERFIT_STEPS):
            losses.append(float(train_step(exp, window)["loss"]))
            recent = losses[-8:]  # a mean, since a loss may draw noise
            if len(recent) == 8 and sum(recent) / 8 < losses[0] / 2:
                return
    pytest.fail(f"from {losses[0]:.3g} to {losses[-1]:.3g} in {OVERFIT_STEPS} steps")


@pytest.mark.parametrize("model", MODELS)
def test_evaluation_is_deterministic_and_changes_nothing(model: str) -> None:
    """A loss may draw noise, by the seed; a network in eval mode draws nothing, as dropout without `training` would."""
    exp = build(*_pair(model))
    ((batch, _),) = batches_of(exp, 1)[0]
    exp.model.eval()
    before = copy.deepcopy(exp.state_dict())
    states: list[Tensor] = []
    drawing: list[str] = []
    for name, module in exp.model.named_modules():
        module.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
        module.register_forward_hook(
            lambda *_, name=name: None if torch.equal(states.pop(), torch.get_rng_state()) else drawing.append(name)
        )
    with torch.no_grad():
        first, second = losses_of(exp, batch), losses_of(exp, batch)
    assert not drawing, f"draws random numbers in eval mode: {drawing[0] or 'the model'}"
    assert first_difference(first, second) is None
    assert all(value.isfinite() and value.ndim == 0 for value in first.values())
    assert first_difference(before, exp.state_dict()) is None


@pytest.mark.parametrize("model", MODELS)
def test_state_makes_the_round_trip(model: str, tmp_path: Path) -> None:
    """A checkpoint, read without running anything, gives another experiment the same weights and the same loss."""
    exp, other = build(*_pair(model)), build(*_pair(model), "run.seed=1")
    window = batches_of(exp, 1)[0]
    with keys.keyed(0, "battery"):
        train_step(exp, window)
    other.prepare()
    content = exp.state_dict()
    checkpoint.check_plain(content)
    torch.save(content["model"], tmp_path / "model.pt")
    other.model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert first_difference(content["model"], other.model.state_dict()) is None
    ours, theirs = exp.model.eval(), other.model.eval()
    assert ours is not theirs
    with torch.no_grad():
        assert first_difference(losses_of(exp, window[0][0]), losses_of(other, window[0][0])) is None


@pytest.mark.parametrize("model", MODELS)
def test_samples_depend_on_their_generator_alone(model: str) -> None:
    """Where a model can draw samples: `sample(num, generator)`."""
    network = build(*_pair(model)).model.eval()
    if not hasattr(network, "sample"):
        pytest.skip("it draws no samples")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(drawn))
        before = torch.get_rng_state()
        drawn.append(network.sample(3, torch.Generator().manual_seed(seed)))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(drawn[0]) == 3 and drawn[0].isfinite().all()
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.full
@pytest.mark.parametrize("model", MODELS)
def test_watching_changes_no_weight(train: Train, output_root: Path, model: str) -> None:
    """Evaluations, rollouts and figures, or none of them: training cannot tell."""
    data, model = _pair(model)
    words = (f"data={data}", f"model={model}", "mode=dev", "tracker=none", "run.rehearse_resume=false", "run.budget=4")
    watching = ("run.eval_every=2", "run.rollout_every=2", "run.plot_every=2")
    blind = ("run.eval_every=null", "run.rollout_every=null", "run.plot_every=null", "run.monitor=null")
    states = []
    for name, own in {"watched": watching, "blind": blind}.items():
        train(*words, *own, f"run.name={name}")
        states.append(checkpoint.load(output_root / "dev" / name / "checkpoints" / "latest.pt"))
    for part in ("model", "optimizers", "objects", "generators"):
        assert first_difference(*(state[part] for state in states)) is None, part


# data


def splits_of(data: str, *overrides: str) -> dict[str, Split]:
    """The three splits at their full size (of the sample, where the data have one)."""
    model = next((model for used, model in trainable() if used == data), None)
    if model is None:
        pytest.skip("no model here fits")
    return build(data, model, "loader.limit_train=null", "loader.limit_eval=null", *overrides).datasets


def positions(split: Any, count: int = 100) -> list[int]:
    """The first and the last items."""
    return sorted({*range(min(count, len(split))), *range(max(0, len(split) - count), len(split))})


def item(split: Any, index: int) -> Any:
    with keys.keyed(0, "battery", index):
        return split[index]


def as_bytes(sample: Any) -> bytes:
    return repr(
        [(name, v.numpy().tobytes() if isinstance(v, Tensor) else v) for name, v in leaves({"item": sample})]
    ).encode()


@pytest.mark.parametrize("data", DATA)
def test_splits_are_disjoint(data: str) -> None:
    splits = splits_of(data)
    seen = {name: {as_bytes(item(split, index)) for index in positions(split)} for name, split in splits.items()}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = len(seen[one] & seen[other])
        assert shared <= MAX_SHARED * min(len(seen[one]), len(seen[other])), f"{shared} items are in {one} and {other}"
        positions_of = [splits[name].indices for name in (one, other)]
        if splits[one].dataset is splits[other].dataset:
            assert not torch.isin(*positions_of).any()


@pytest.mark.parametrize("data", DATA)
def test_a_batch_is_its_items_collated(data: str) -> None:
    split = splits_of(data)["val"]
    if not hasattr(split, "get_batch"):
        pytest.skip("read item by item")
    indices = torch.tensor(positions(split, 4))
    with keys.keyed(0, "battery"):
        before = torch.get_rng_state()
        batch = split.get_batch(indices)
        drew = not torch.equal(torch.get_rng_state(), before)  # then the two draw in another order
    expected = default_collate([item(split, index) for index in indices.tolist()])
    ours, theirs = dict(leaves({"batch": batch})), dict(leaves({"batch": expected}))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype), name
        assert drew or torch.equal(ours[name], theirs[name]), f"{name}: get_batch and __getitem__ differ"


@pytest.mark.parametrize("data", DATA)
def test_the_same_seed_gives_the_same_items(data: str) -> None:
    one, two, other = splits_of(data), splits_of(data), splits_of(data, "run.seed=1")
    assert {name: split.fingerprint() for name, split in one.items()} == {n: s.fingerprint() for n, s in two.items()}
    first, second, third = (
        next(iter(loader(splits["train"], seed))) for splits, seed in ((one, 0), (two, 0), (other, 1))
    )
    assert first_difference({"batch": first}, {"batch": second}) is None
    assert len(one["train"]) < 20 or first_difference({"batch": first}, {"batch": third}) is not None


def loader(split: Any, seed: int = 0, **settings: Any) -> Loader:
    return Loader(split, "train", 8, shuffle=True, seed=seed, device=torch.device("cpu"), **settings)


@pytest.mark.parametrize("data", DATA)
def test_a_copy_in_another_process_reads_the_same(data: str) -> None:
    """What worker processes get is a pickled copy."""
    split = splits_of(data)["train"]
    there = pickle.loads(pickle.dumps(split.dataset))
    for index in positions(split, 2):
        index = index if split.indices is None else int(split.indices[index])
        assert first_difference({"item": item(split.dataset, index)}, {"item": item(there, index)}) is None


@pytest.mark.full
@pytest.mark.parametrize("data", DATA)
def test_workers_give_the_batches_of_this_process(data: str) -> None:
    split = splits_of(data)["train"]
    if hasattr(split, "get_batch"):
        pytest.skip("read a batch at a time, without workers")
    ours, theirs = loader(split), loader(split, num_workers=2, start_method="spawn", timeout=100)
    for _, one, other in zip(range(4), ours, theirs, strict=False):
        assert first_difference({"batch": one}, {"batch": other}) is None
    theirs.close()


# figures


@pytest.mark.parametrize("name", options("plots"))
def test_figures_are_drawn_or_say_why_not(name: str) -> None:
    from matplotlib.figure import Figure

    exp = build(*trainable()[0], f"plots={name}")
    exp.prepare()
    exp.model.eval()
    for kind, plot in exp.plots.items():
        assert plot.moment in ("start", "val")
        with torch.no_grad():
            figure = plot(exp)
        assert isinstance(figure, Figure | str), kind
