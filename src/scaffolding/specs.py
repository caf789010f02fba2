"""The parts of a config that build objects: which must be a `_target_` block, and which network each is for."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.data import default_collate

from .core.config.build import check_targets
from .core.errors import UserError, nearest
from .core.state import keys
from .schedules import takes_total

INTERVALS = ("step", "epoch", "metric")


def check_specs(cfg: Mapping[str, Any]) -> None:
    """Check, without building anything, that a plain config has the parts of an experiment and that they fit together.

    Raises:
        UserError: the key, what it holds, and what is wanted there.
    """
    _check_block(cfg["data"], "data", inner="dataset")
    _check_block(cfg["model"], "model")
    for part in ("loss", "optimizer"):
        for name, block in by_network(cfg[part], part).items():
            _check_block(block, _key(part, name))
    for part in ("metrics", "plots", "tracker"):
        for name, block in _mapping(cfg[part] or {}, part).items():
            if block is not None:
                _check_block(block, f"{part}.{name}")
    if cfg["rollout"]:
        _check_block(cfg["rollout"], "rollout")
    names = list(by_network(cfg["loss"], "loss"))
    schedules = by_network(cfg["scheduler"], "scheduler", names, marker="interval")
    for part, mapping in (("optimizer", by_network(cfg["optimizer"], "optimizer", names)), ("scheduler", schedules)):
        if set(mapping) != set(names):
            raise UserError(
                f"{part}: goes by {', '.join(mapping) or 'no network'}, and loss by {', '.join(names)}"
                f"\ngive one {part} for all networks, or one under each of these names"
            )
    if len(names) > 1 and cfg["run"]["target_loss"] is not None:
        raise UserError(
            f"run.target_loss={cfg['run']['target_loss']}: {', '.join(names)} have a loss each, and none has to go"
            "\na model with several losses has no mode=overfit; leave run.target_loss=null"
        )
    check_targets(dict(cfg))
    for name, spec in schedules.items():
        _check_schedule(spec, _key("scheduler", name), cfg["run"]["eval_every"])


def by_network(spec: Any, key: str, names: Iterable[str] = ("",), marker: str = "_target_") -> dict[str, Any]:
    """A config block by network: one spec (it has `marker`) serves all of `names`, else it is a mapping already."""
    spec = _mapping(spec, key)
    return dict.fromkeys(names, spec) if marker in spec else dict(spec)


def subnetworks(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """The parts of a model that have a loss of their own, "" being all of it; UserError: the model has no such part."""
    parts = dict(model.named_modules())
    for name in names:
        if name not in parts:
            near = ", ".join(nearest(name, [part for part in parts if part], 3)) or "it has none"
            raise UserError(f"loss.{name}: {type(model).__name__} has no network {name!r}\nnearest: {near}")
    return {name: parts[name] for name in names}


def check_losses(losses: Mapping[str, Any], model: nn.Module, split: Any, seed: int) -> None:
    """Let every loss that has `check(model, batch)` look at a batch of one item, before a run is made.

    Raises:
        UserError: a loss raised a ValueError: the model or the batches are not what it takes.
    """
    for name, loss in losses.items():
        if not hasattr(loss, "check"):
            continue
        with keys.keyed(seed, "check"):
            one = torch.tensor([0])
            batch = split.get_batch(one) if hasattr(split, "get_batch") else _collated(split)
        try:
            loss.check(model, batch)
        except ValueError as error:
            raise UserError(f"{_key('loss', name)}: {error}") from error


def _collated(split: Any) -> Any:
    return getattr(split, "collate", default_collate)([split[0]])


def _check_block(block: Any, key: str, inner: str = "") -> None:
    block = _mapping(block, key).get(inner) if inner else block
    key = f"{key}.{inner}" if inner else key
    if not isinstance(block, Mapping) or "_target_" not in block:
        raise UserError(f"{key}: {_short(block)} is no block with a _target_\ngive {key}._target_, a dotted name")


def _check_schedule(spec: Any, key: str, eval_every: Any) -> None:
    spec = _mapping(spec, key)
    if (interval := spec.get("interval")) not in INTERVALS:
        raise UserError(f"{key}.interval={interval}: allowed are {', '.join(INTERVALS)}")
    if unknown := [name for name in spec if name not in ("schedule", "interval", "monitor")]:
        raise UserError(f"{key}.{unknown[0]}: not a part of a schedule\nallowed: schedule, interval, monitor")
    if spec.get("schedule") is None:
        return
    _check_block(spec, key, inner="schedule")
    if interval == "metric" and spec.get("monitor") is None:
        raise UserError(f"{key}.monitor=null: interval=metric looks at a logged value\ngive one, e.g. val/loss")
    if interval == "metric" and eval_every is None:
        raise UserError(f"{key}.interval=metric: run.eval_every=null, so there would be nothing to look at")
    if interval != "step" and takes_total(str(spec["schedule"]["_target_"])):
        raise UserError(f"{key}.interval={interval}: this schedule counts optimizer steps\nallowed: step")


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(
            f"{key}: {_short(value)} is not a mapping\ngive a block with a _target_, or one under each name"
        )
    return value


def _key(part: str, name: str) -> str:
    return f"{part}.{name}".rstrip(".")


def _short(value: Any) -> str:
    return f"{value!r:.60}"
