"""What every dataset, model and figure of configs/ must hold, a fork's own included: they are found by listing.

The pairs that are trained are those of pairs.py: each model with the smallest data that fits it, each dataset with the
smallest model. Each battery names the fault it finds; tests/template plants most of them.
"""

import copy
import functools
import itertools
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import Train
from omegaconf import OmegaConf
from pairs import build, complete, options, others, partner, refusal, skipped, trainable, tried
from torch import Tensor
from torch.utils.data import default_collate

from scaffolding.core.batches.loader import Loader, MicroBatch
from scaffolding.core.checks.monitors import evaluated
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import AXES, Facts, is_timing
from scaffolding.core.state import checkpoint, keys
from scaffolding.core.tree import leaves, map_parts
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.splits import Split
from scaffolding.train import train_step

MODELS, DATA = complete("model"), complete("data")
OVERFIT_STEPS = 400  # within which the loss on one batch must fall to half
MAX_SHARED = 0.01  # of the items looked at may be in two splits: some data hold the same item twice

for_models = pytest.mark.parametrize("model", MODELS)
for_data = pytest.mark.parametrize("data", DATA)


@functools.cache
def pair(model: str) -> tuple[str, str]:
    data = partner(model)
    return (data, model) if data else pytest.skip("no data here fits")


@pytest.fixture(autouse=True)
def what_a_yaml_file_opts_out_of(request: pytest.FixtureRequest) -> None:
    """Skip a battery that does not apply to a dataset or a model, as its YAML file says."""
    callspec = getattr(request.node, "callspec", None)
    for group, name in getattr(callspec, "params", {}).items():
        if group in ("data", "model") and request.node.originalname in skipped(group, name):
            pytest.skip(f"configs/{group}/{name}.yaml says so")


# data and model together


@pytest.mark.parametrize(("data", "model"), trainable())
def test_dev_mode_walks_every_branch(train: Train, output_root: Path, data: str, model: str) -> None:
    """Dev mode through the real entry point proves that the run resumes exactly.

    The first pair has W&B offline, as dev mode has by default; it takes longer than all the rest.
    """
    is_tracked = (data, model) == trainable()[0] and "wandb_offline" in options("tracker")
    words = (f"data={data}", f"model={model}", "mode=dev", "run.name=smoke")
    done = train(*words, *([] if is_tracked else ["tracker=none"]))
    run = output_root / "dev" / "smoke"
    if is_tracked:
        assert any((run / "wandb").iterdir())
        assert "tracker: stopped" not in done.stderr
    last = done.stdout.splitlines()
    assert any(line.startswith("resume rehearsal: ") and line.endswith(" tensors identical") for line in last)
    assert any(f'from_path("{run}"' in line for line in last)
    assert "mode=prod" in done.stdout
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert {"config.yaml", "overrides.yaml", "provenance.json", "changes.patch"} <= {
        path.name for path in run.iterdir()
    }
    log = (run / "log.txt").read_text()
    assert "parameters on" in log and "batch: " in log and "initial " in log
    events = [json.loads(line)["event"] for line in (run / "facts" / "events.jsonl").read_text().splitlines()]
    assert events[0] == "on_start" and events[-1] == "on_train_end" and "on_save" in events
    rows = Facts(run / "facts").rows()
    assert {row["split"] for row in rows} >= {"train", "val", "test"} and max(row["epoch"] for row in rows) == 1
    config = yaml.safe_load((run / "config.yaml").read_text())
    named = evaluated(config)
    if named is not None:  # else its loss computes the names; to monitor any value that there is must be allowed
        shown = {name for row in rows if row["split"] == "val" for name in row}
        shown = {name for name in shown - {*AXES} if not is_timing(name)}
        assert all(name in named or name.partition("/")[0] in (config["metrics"] or ()) for name in shown)
    weights = checkpoint.load(run / "checkpoints" / "best.pt")["model"]
    assert not any("_orig_mod" in name or name.startswith("module.") for name in weights)


def test_all_other_pairs_that_fit_can_be_trained() -> None:
    """A network that can be built for a dataset, but fails on images of that size."""
    for data, model in others()[0]:
        exp = build(data, model, "loader.limit_eval=3")
        train_step(exp, next(steps_of(exp)))
        assert all(torch.isfinite(torch.as_tensor(value)) for value in evaluate(exp, "val").values()), (data, model)


def test_every_dataset_and_every_model_fits_another() -> None:
    this = "test_every_dataset_and_every_model_fits_another"
    for model in MODELS:
        if this not in skipped("model", model):
            assert partner(model), f"model={model} fits no data: " + str({data: refusal(data, model) for data in DATA})
    left = {data for data in DATA if this not in skipped("data", data)} - {data for data, _ in trainable()}
    assert not left, {data: {model: refusal(data, model) for model in MODELS} for data in left}


def test_a_pair_that_does_not_fit_is_refused(train: Train, output_root: Path) -> None:
    refused = [pair for pair in others()[1] if isinstance(tried(*pair), UserError)]
    if not refused:
        pytest.skip("every model fits every dataset, or says why not")
    data, model = refused[0]
    said = train(f"data={data}", f"model={model}", "mode=dev", code=2).stderr
    assert str(refusal(data, model)).splitlines()[0] in said and "Traceback" not in said, said
    assert "refers to data." not in said or f"data={partner(model)}" in said  # one that has it
    assert not output_root.exists()


@pytest.mark.parametrize("name", options("experiment"))
def test_recipes_compose_and_fit(name: str) -> None:
    cfg = compose_config(PROJECT, [f"experiment={name}", "mode=dev"])
    assert "???" not in str(OmegaConf.to_container(cfg, resolve=True)), f"experiment={name} leaves a value open"
    Experiment(cfg, "cpu")


# models


def steps_of(exp: Experiment) -> Iterator[list[MicroBatch]]:
    """The data of the first steps; makes the experiment ready to train."""
    exp.prepare()
    exp.model.train()
    return exp.train_loader.steps(copy.copy(exp.state), 1)


def losses_of(exp: Experiment, batch: Any) -> dict[str, Tensor]:
    """The value of each loss on a batch, always with the same draws."""
    with keys.keyed(0, "battery"), exp.autocast:
        return {name: loss_fn(exp.model, batch)[0] for name, loss_fn in exp.losses.items()}


@for_models
def test_gradients_reach_every_parameter(model: str) -> None:
    """Each loss reaches all parameters of its network in one of the first steps: layers may begin with zeros."""
    exp = build(*pair(model))
    steps = itertools.islice(steps_of(exp), 5)
    waiting = {(name, key): parameter for name, parts in exp.trained.items() for key, parameter in parts.items()}
    trained = {id(parameter) for parameter in waiting.values()}
    left_out = [n for n, p in exp.model.named_parameters() if p.requires_grad and id(p) not in trained]
    assert not left_out, f"belong to no network that has a loss: {left_out}"
    for micro_batches in steps:
        for name, loss_fn in exp.losses.items():
            exp.model.zero_grad()
            for batch, _ in exp.keyed(name, micro_batches):
                with exp.autocast:
                    loss_fn(exp.model, batch)[0].backward()
            for place, parameter in list(waiting.items()):
                # the bias of a critic cancels where two means are subtracted: a zero is enough for it
                if place[0] == name and parameter.grad is not None and (parameter.grad.any() or parameter.ndim <= 1):
                    assert parameter.grad.isfinite().all(), place
                    del waiting[place]
        train_step(exp, micro_batches)
    assert not waiting, f"no gradient reaches {[f'{name} {key}'.strip() for name, key in waiting]}"


@for_models
def test_one_batch_can_be_learnt(model: str) -> None:
    """A model that cannot lower its loss on eight items to half has a bug: a wrong target, a missing gradient."""
    exp = build(*pair(model))
    if len(exp.losses) > 1:
        pytest.skip("its losses work against each other: none of them has to fall")
    (micro_batch,) = next(steps_of(exp))
    losses: list[float] = []
    for epoch in range(OVERFIT_STEPS):  # another epoch has other noise
        losses.append(float(train_step(exp, [micro_batch._replace(epoch=epoch)])[str(exp.main_loss)]))
        if epoch >= 8 and sum(losses[-8:]) / 8 < losses[0] / 2:
            return
    pytest.fail(f"from {losses[0]:.3g} to {losses[-1]:.3g} in {OVERFIT_STEPS} steps")


@for_models
def test_evaluation_is_deterministic_and_changes_nothing(model: str) -> None:
    """A loss may draw noise; a network in eval mode draws nothing, as dropout without `training` would."""
    exp = build(*pair(model))
    (micro_batch,) = next(steps_of(exp))
    exp.model.eval()
    before = copy.deepcopy(exp.state_dict())
    states: list[Tensor] = []
    drawing: list[str] = []

    def look(name: str) -> None:
        if not torch.equal(states.pop(), torch.get_rng_state()):
            drawing.append(name)

    for name, module in exp.model.named_modules():
        module.register_forward_pre_hook(lambda *_: states.append(torch.get_rng_state()))
        module.register_forward_hook(lambda *_, name=name: look(name))
    with torch.no_grad():
        first, second = losses_of(exp, micro_batch.batch), losses_of(exp, micro_batch.batch)
    assert not drawing, f"draws random numbers in eval mode: {drawing[0] or 'the model'}"
    assert first_difference(first, second) is None
    assert all(value.isfinite() and value.ndim == 0 for value in first.values())
    assert first_difference(before, exp.state_dict()) is None


@for_models
def test_state_makes_the_round_trip(model: str, tmp_path: Path) -> None:
    """A checkpoint file gives another experiment the same state and the same loss."""
    exp, other = build(*pair(model)), build(*pair(model), "run.seed=1")
    micro_batches = next(steps_of(exp))
    other.prepare()
    train_step(exp, micro_batches)
    checkpoint.save(tmp_path / "state.pt", exp.state_dict())
    other.load_state_dict(checkpoint.load(tmp_path / "state.pt"))
    for part, content in exp.state_dict().items():
        if part not in ("config", "splits"):  # they name the seed
            assert first_difference(content, other.state_dict()[part]) is None, part
    exp.model.eval()
    other.model.eval()
    with torch.no_grad():
        assert first_difference(*(losses_of(one, micro_batches[0].batch) for one in (exp, other))) is None


@for_models
def test_samples_depend_on_their_generator_alone(model: str) -> None:
    """Where a model can draw samples: `sample(num, generator)`."""
    network = build(*pair(model)).model.eval()
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
@for_models
def test_watching_changes_no_weight(train: Train, output_root: Path, model: str) -> None:
    """Training cannot tell evaluations, rollouts and figures from none: finds a network that counts its evaluations."""
    data, model = pair(model)
    words = (f"data={data}", f"model={model}", "mode=dev", "tracker=none", "run.rehearse_resume=false", "run.budget=4")
    states = []
    for name, every in {"watched": "2", "blind": "null"}.items():
        looks = [f"run.{look}_every={every}" for look in ("eval", "rollout", "plot")]
        train(*words, *looks, "run.monitor=null", f"run.name={name}")
        states.append(checkpoint.load(output_root / "dev" / name / "checkpoints" / "latest.pt"))
    for part in ("model", "optimizers", "objects"):
        assert first_difference(*(state[part] for state in states)) is None, part


# data


def splits_of(data: str, *overrides: str) -> dict[str, Split]:
    """The three splits at their full size (of the sample, where the data have one)."""
    words = ("loader.limit_train=null", "loader.limit_eval=null", *overrides)
    fitting = [model for used, model in trainable() if used == data]
    for model in fitting or complete("model"):  # one that cannot be trained on them will do, too
        try:
            return build(data, model, *words).datasets
        except UserError:
            if model in fitting:
                raise
    pytest.skip("no model here goes with them")


def positions(split: Any, count: int = 100) -> list[int]:
    """The first and the last items."""
    return sorted({*range(min(count, len(split))), *range(max(0, len(split) - count), len(split))})


def item(split: Any, index: int) -> Any:
    with keys.keyed(0, "battery", index):
        return split[index]


def opened(content: Any) -> Any:
    """An item or a batch in values that can be compared: objects such as graphs are pickled."""
    if isinstance(content, np.ndarray):
        return torch.from_numpy(content)
    if isinstance(content, Tensor | str | bytes | int | float | complex | None):
        return content
    if isinstance(content, Mapping | list | tuple):
        return map_parts(content, opened)
    return pickle.dumps(content)


def as_bytes(sample: Any) -> bytes:
    values = leaves(opened(sample))
    return repr([(name, v.numpy().tobytes() if isinstance(v, Tensor) else v) for name, v in values]).encode()


def loader(split: Any, seed: int = 0, **settings: Any) -> Loader:
    return Loader(split, "train", 8, shuffle=True, seed=seed, device=torch.device("cpu"), **settings)


@for_data
def test_splits_are_disjoint(data: str) -> None:
    splits = splits_of(data)
    seen = {name: {as_bytes(item(split, index)) for index in positions(split)} for name, split in splits.items()}
    for one, other in itertools.combinations(splits, 2):
        shared = len(seen[one] & seen[other])
        assert shared <= MAX_SHARED * min(len(seen[one]), len(seen[other])), f"{shared} items are in {one} and {other}"
        if splits[one].dataset is splits[other].dataset:
            assert not torch.isin(splits[one].indices, splits[other].indices).any()


@for_data
def test_a_batch_is_its_items_collated(data: str) -> None:
    split = splits_of(data)["val"]
    if not hasattr(split, "get_batch"):
        pytest.skip("read item by item")
    indices = torch.tensor(positions(split, 4))
    with keys.keyed(0, "battery"):
        before = torch.get_rng_state()
        batch = split.get_batch(indices)
        drew = not torch.equal(torch.get_rng_state(), before)  # then the two draw in another order
    collate = getattr(split, "collate", default_collate)
    ours, theirs = dict(leaves(batch)), dict(leaves(collate([item(split, int(index)) for index in indices])))
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].shape, ours[name].dtype) == (theirs[name].shape, theirs[name].dtype), name
        assert drew or torch.equal(ours[name], theirs[name]), f"{name}: get_batch and __getitem__ differ"


@for_data
def test_the_same_seed_gives_the_same_items(data: str) -> None:
    one, two, other = splits_of(data), splits_of(data), splits_of(data, "run.seed=1")
    assert [split.fingerprint() for split in one.values()] == [split.fingerprint() for split in two.values()]
    first, second, third = (
        opened(next(iter(loader(splits["train"], seed)))) for splits, seed in ((one, 0), (two, 0), (other, 1))
    )
    assert first_difference(first, second) is None
    assert len(one["train"]) < 20 or first_difference(first, third) is not None


@for_data
def test_a_copy_in_another_process_reads_the_same(data: str) -> None:
    """What worker processes get is a pickled copy."""
    dataset = splits_of(data)["train"].dataset
    there = pickle.loads(pickle.dumps(dataset))
    for index in positions(dataset, 2):
        assert first_difference(opened(item(dataset, index)), opened(item(there, index))) is None


@pytest.mark.full
@for_data
def test_workers_give_the_batches_of_this_process(data: str) -> None:
    """Finds an item that depends on the process that reads it."""
    split = splits_of(data)["train"]
    if hasattr(split, "get_batch"):
        pytest.skip("read a batch at a time, without workers")
    ours, theirs = loader(split), loader(split, num_workers=2, start_method="spawn", timeout=100)
    for _, one, other in zip(range(4), ours, theirs, strict=False):
        assert first_difference(opened(one), opened(other)) is None
    theirs.close()


# figures


@pytest.mark.parametrize("name", options("plots"))
def test_figures_are_drawn_or_say_why_not(name: str) -> None:
    from matplotlib.figure import Figure

    exp = build(*trainable()[0], f"plots={name}")
    exp.prepare()
    exp.model.eval()
    for kind, plot in exp.plots.items():
        assert plot.moment in ("start", "val", "end")
        with torch.no_grad():
            figure = plot(exp)
        assert isinstance(figure, Figure | str), kind
