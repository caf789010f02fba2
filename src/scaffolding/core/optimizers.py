"""Optimizers with parameter groups, chosen by the names of parameters; their rates; averages of gradients."""

import copy
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from .config.build import build, locate
from .errors import UserError, nearest

WAYS = ("fused", "foreach", "capturable", "differentiable")  # arguments of an optimizer: how it computes an update
FUSED = (torch.optim.Adam, torch.optim.AdamW)
FUSED_ON = "cuda"  # a kind of device; on the others an optimizer's own default decides
SELECTORS = ("match", "max_ndim", "name")  # the other keys of a group are settings of the optimizer


def build_optimizer(spec: Any, key: str, parameters: Mapping[str, nn.Parameter]) -> Any:
    """An optimizer over parameters by name; `groups:` of its config gives some of them other settings.

    A group holds what `match` finds (a regular expression, or a list of them, searched for in the names) and what has
    at most `max_ndim` dimensions (1: norms and biases); where it has both keys, what meets both. A parameter belongs to
    the first group that it meets. What no group takes has the optimizer's settings, and comes first in `param_groups`.
    A group has a `name`, which rows of the log use: by default its number.

    Args:
        spec: the optimizer's config.
        key: where it stands, for messages.
        parameters: what is to be trained.

    Raises:
        UserError: a group takes nothing, or is not written as it must be.
    """
    plain: Any = dict(spec)
    if OmegaConf.is_config(spec):  # not a copy of it, which would not know what its ${...} refer to
        plain = OmegaConf.to_container(spec, resolve=True)
    groups = plain.pop("groups", None)
    _check_numbers(plain, key, str(plain["_target_"]))
    if not groups:
        return _build(plain, key, list(parameters.values()))
    members: list[list[nn.Parameter]] = [[] for _ in groups]
    rest: list[nn.Parameter] = []
    checked = [_check(group, f"{key}.groups.{index}", index) for index, group in enumerate(groups)]
    for place, group in enumerate(checked):
        _check_numbers(group, f"{key}.groups.{place}", str(plain["_target_"]))
    for name, parameter in parameters.items():
        found = (index for index, group in enumerate(checked) if _meets(group, name, parameter))
        index = next(found, None)
        (rest if index is None else members[index]).append(parameter)
    names = [group["name"] for group in checked]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UserError(f"{key}.groups.{index}.name={name}: another group has it\ngive each a name, or none")
    param_groups: list[dict[str, Any]] = []
    if rest:
        param_groups.append({"params": rest})
    for index, (group, chosen) in enumerate(zip(checked, members, strict=True)):
        if not chosen:
            raise UserError(
                f"{key}.groups.{index}: takes none of the {len(parameters)} parameters"
                f"\nnearest: {', '.join(nearest(str(group.get('match')), parameters, 3))}; a parameter belongs to the "
                "first group that it meets"
            )
        settings = {name: value for name, value in group.items() if name not in SELECTORS}
        param_groups.append({"params": chosen, "name": group["name"], **settings})
    optimizer = _build(plain, key, param_groups)
    for index, group in enumerate(checked):
        for name in group.keys() - {*SELECTORS, *optimizer.defaults}:  # torch takes any key, and ignores it
            raise UserError(
                f"{key}.groups.{index}.{name}: {plain['_target_']} has no such setting of a group"
                f"\nnearest: {nearest(name, optimizer.defaults)[0]}; it has {', '.join(optimizer.defaults)}"
            )
    return optimizer


def _build(spec: dict[str, Any], key: str, parameters: list[Any]) -> Any:
    """An optimizer; UserError: it evaluates the loss itself, as often as it likes."""
    if _can_be_fused(spec, key, parameters):
        spec = {**spec, "fused": True}
    if spec.get("fused") and _is_sharded(parameters) and locate(str(spec["_target_"]), f"{key}._target_") not in FUSED:
        spec = {name: value for name, value in spec.items() if name != "fused"}  # torch cannot do that with parts
    optimizer = build(spec, key, parameters)
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise UserError(
            f"{key}._target_: {spec['_target_']} wants a closure that evaluates the loss, and train_step makes one "
            "backward pass for each update\nchoose another, or rewrite train_step in train.py and this check"
        )
    return optimizer


def _is_sharded(parameters: list[Any]) -> bool:
    """Whether several processes have a part each of the parameters, or of those of groups."""
    first = parameters[0]["params"][0] if isinstance(parameters[0], dict) else parameters[0]
    return hasattr(first, "full_tensor")


def _can_be_fused(spec: dict[str, Any], key: str, parameters: list[Any]) -> bool:
    """Whether a kernel of torch can do all updates at once on a CUDA device, and the config leaves it open."""
    groups = [part for part in parameters if isinstance(part, dict)]
    if any(name in settings for name in WAYS for settings in (spec, *groups)):
        return False
    if groups:
        parameters = [parameter for group in groups for parameter in group["params"]]
    if not all(part.device.type == FUSED_ON and part.is_floating_point() for part in parameters):
        return False
    return locate(str(spec["_target_"]), f"{key}._target_") in FUSED  # the others may have to take sparse gradients


def _check_numbers(settings: dict[str, Any], key: str, target: str) -> None:
    """UserError: a text is given where the optimizer's own default is a number."""
    try:
        parameters = inspect.signature(locate(target, f"{key}._target_")).parameters
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        return  # some built-in classes tell nothing of their arguments
    for name, value in settings.items():
        default = parameters[name].default if name in parameters else None
        if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
            raise UserError(f"{key}.{name}={value}: not a number")


def _check(group: Any, key: str, index: int) -> dict[str, Any]:
    """A group with a name and a list of patterns; UserError if it is not one."""
    if not isinstance(group, dict) or not {"match", "max_ndim"} & group.keys():
        raise UserError(
            f"{key}: {group!r:.80} does not say which parameters it takes"
            "\ngive match (a regular expression, or a list of them) or max_ndim, and settings, e.g. "
            "{match: bias$, weight_decay: 0.0}"
        )
    max_ndim = group.get("max_ndim", 0)
    if not isinstance(max_ndim, int) or max_ndim < 0:
        raise UserError(f"{key}.max_ndim={max_ndim}: not a number of dimensions\nnorms and biases have 1")
    patterns = group.get("match", "")
    if isinstance(patterns, str):
        patterns = [patterns]
    try:
        compiled = [re.compile(pattern) for pattern in patterns]
    except (re.error, TypeError) as error:
        raise UserError(f"{key}.match={group['match']}: not a regular expression ({error})") from error
    return {**group, "match": compiled, "name": str(group.get("name", index))}


def _meets(group: dict[str, Any], name: str, parameter: nn.Parameter) -> bool:
    """Whether a group takes a parameter."""
    is_small = parameter.ndim <= group.get("max_ndim", parameter.ndim)
    return is_small and any(pattern.search(name) for pattern in group["match"])


def average_gradients(parameters: Iterable[nn.Parameter], total: Any) -> None:
    """Divide gradients that were added up over micro-batches by the micro-batches' total weight.

    Args:
        parameters: those with gradients are changed.
        total: a number or, where the loss says what its mean counts, a scalar tensor; 0 leaves gradients as they are.
    """
    if isinstance(total, Tensor):  # not compared here: that would wait for the device
        total = torch.where(total == 0, 1, total)
    elif total == 0:
        return
    if isinstance(total, Tensor) or abs(total - 1) > 1e-6:  # shares of a step's items add up to 1
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= total


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float | None) -> Tensor:
    """Scale gradients so that their norm is at most `max_norm`; None: only measure it.

    Returns:
        The 2-norm of all gradients together, before.
    """
    parameters = list(parameters)
    if max_norm is not None:
        return nn.utils.clip_grad_norm_(parameters, max_norm)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm([grad.coalesce().values() if grad.is_sparse else grad for grad in gradients])


def learning_rates(optimizer: Any, network: str) -> dict[str, float]:
    """The rate of each parameter group: "lr" or, of a group with a name, "lr/<group>"; "<network>/lr" of a network."""
    prefix = f"{network}/lr".lstrip("/")
    return {f"{prefix}/{group.get('name', '')}".rstrip("/"): group["lr"] for group in optimizer.param_groups}


def spare(optimizer: Any) -> Any:
    """A copy of an optimizer: a schedule may set its rates without changing those of the original."""
    other = copy.copy(optimizer)
    other.param_groups = [
        {name: value.clone() if isinstance(value, Tensor) else value for name, value in group.items()}
        for group in optimizer.param_groups
    ]
    return other
