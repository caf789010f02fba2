"""Which datasets and models of configs/ can be trained together, found by composing and building them.

Nothing is named here: a new YAML file is found by listing its folder. One with a `???` to be filled in is left out.
A comment `# tests: skip test_NAME, test_OTHER` at the start of a line of such a file leaves out batteries.
"""

import functools
import math
import re

import yaml
from omegaconf import DictConfig, open_dict

from scaffolding.core.config.compose import checked, compose_config, compose_unchecked
from scaffolding.experiment import PROJECT, Experiment

Pair = tuple[str, str]  # data, model


def options(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(file.stem for file in (PROJECT.configs / group).glob("*.yaml"))


@functools.cache
def complete(group: str) -> list[str]:
    """The options of a group that can run as they stand; data with the smallest items first."""
    facts = {name: yaml.safe_load((PROJECT.configs / group / f"{name}.yaml").read_text()) for name in options(group)}
    sizes = {name: _item_size(content or {}) for name, content in facts.items() if "???" not in str(content)}
    return sorted(sizes, key=lambda name: (sizes[name], name))


def _item_size(facts: dict[str, object]) -> int:
    """Values in an item, as far as the facts tell: the product of the largest list of whole numbers."""
    shapes = [value for value in facts.values() if isinstance(value, list) and all(type(n) is int for n in value)]
    return max((math.prod(shape) for shape in shapes), default=0)


@functools.cache
def _composed(data: str, model: str) -> DictConfig:
    return compose_unchecked(PROJECT, [f"data={data}", f"model={model}", "mode=dev", "tracker=none"])


@functools.cache
def tried(data: str, model: str) -> int | Exception:
    """The number of parameters of the network for a dataset, ready to be trained on it, or why they do not fit.

    Composes each file once, not each pair: the facts of one dataset are put in the place of another's.
    """
    try:
        cfg = _composed(complete("data")[0], model).copy()
        with open_dict(cfg):
            cfg.data = _composed(data, complete("model")[0]).data
            cfg.loader.num_workers = 0
        exp = Experiment(checked(cfg, PROJECT), "cpu")
        exp.prepare()
    except Exception as error:  # a constructor or a loss may raise anything where facts or batches are not its own
        return error
    return sum(parameter.numel() for parameter in exp.model.parameters())


def refusal(data: str, model: str) -> str | None:
    """Why a model cannot be trained on a dataset; None: it can."""
    found = tried(data, model)
    return str(found) if isinstance(found, Exception) else None


def skipped(group: str, name: str) -> set[str]:
    """The batteries that a YAML file says do not apply to it."""
    text = (PROJECT.configs / group / f"{name}.yaml").read_text()
    return {word for line in re.findall(r"(?m)^# tests: skip ([\w, ]+)", text) for word in re.findall(r"\w+", line)}


def has_one_loss(data: str, model: str) -> bool:
    """Whether one loss trains the whole model; else several train a network each."""
    return "_target_" in _composed(data, model).loss


@functools.cache
def partner(model: str) -> str | None:
    """The data with the smallest items that a model can be trained on."""
    return next((data for data in complete("data") if refusal(data, model) is None), None)


@functools.cache
def trainable() -> list[Pair]:
    """(data, model): each model with its partner, then each dataset that is left with the smallest model for it.

    The first is the smallest pair with one loss of the whole model, if there is one.
    """
    pairs = [(data, model) for model in complete("model") if (data := partner(model)) is not None]
    pairs.sort(key=lambda pair: (not has_one_loss(*pair), tried(*pair)))
    models = [model for _, model in pairs]
    for data in complete("data"):
        if data not in [used for used, _ in pairs]:
            pairs += [(data, model) for model in models if refusal(data, model) is None][:1]
    return pairs


def others() -> tuple[list[Pair], list[Pair]]:
    """The pairs that `trainable` leaves out: those that fit, those that do not."""
    every = [(data, model) for data in complete("data") for model in complete("model")]
    left = [pair for pair in every if pair not in trainable()]
    return [pair for pair in left if refusal(*pair) is None], [pair for pair in left if refusal(*pair) is not None]


def build(data: str, model: str, *overrides: str) -> Experiment:
    """An experiment in dev mode, without a run, in this process."""
    words = [f"data={data}", f"model={model}", "mode=dev", "tracker=none", "loader.num_workers=0", *overrides]
    return Experiment(compose_config(PROJECT, words), "cpu")
