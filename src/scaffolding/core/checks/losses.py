"""What can be known of a run before it is made: each loss is called on two items, and nothing keeps a trace of that."""

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from ..batches.move import to_device
from ..errors import UserError, failure
from ..folder.facts import COLUMNS
from ..means import NOT_METRICS
from ..state import keys
from ..tree import describe, tensors
from .monitors import check_monitors, warn_of_direction
from .plan import check_metrics, check_name, check_schedules, warn_of_untrained
from .trial import first_batch, read, without_trace

OWN_KEYS = ("loss", "grad_norm", "lr")  # that train_step adds to what a loss returns


def takes_output(metric: Any) -> bool:
    """Whether a metric wants what the model gave, as the third argument of `update`."""
    return len(inspect.signature(metric.update).parameters) > 2


def check_run(exp: Any, monitors: Mapping[str, str | None]) -> None:
    """Read two items of training and validation, call every loss on the first of them, and look at what it returns.

    A loss is called once where that is enough: it may count its calls.

    Args:
        exp: the experiment.
        monitors: what each config key monitors, e.g. {"run.monitor": "val/loss"}; None: nothing.

    Raises:
        UserError: an item cannot be read, a loss fails or returns something else than (loss, metrics), nothing gives
            the value that is monitored, or a schedule ends before the run.
    """
    check_schedules(exp)
    check_metrics(exp)
    warn_of_untrained(exp)
    names: list[str] = []
    is_called = False
    if "train" in exp.datasets:  # a stream would lose what is read here
        names, is_called = _check_training(exp)
    if "val" in exp.datasets:
        batch = to_device(first_batch(exp, "val"), exp.device)
        if not is_called:
            names = _check_evaluation(exp, batch)
        try:
            _check_metrics(exp, batch)
        except UserError:  # two items may be too few, as for recall at 10
            whole = read(exp, "val", next(iter(exp.loaders["val"].indices(0))))
            _check_metrics(exp, to_device(whole, exp.device))
        for name in exp.metrics:
            check_name(f"metrics.{name}, next to what a loss gives", name, tuple(names))
        names += exp.metrics
    if "val" in exp.datasets or "val" not in exp.loaders:
        check_monitors(exp, monitors, names)
    if {"train", "val"} <= exp.datasets.keys():
        _warn_of_random_validation(exp)
    warn_of_direction(monitors.get("run.monitor"), exp.settings.monitor_mode)


def _check_training(exp: Any) -> tuple[list[str], bool]:
    """Call every loss on two items, and on an epoch's last batch where that holds one item.

    Returns:
        The names of the values that an evaluation gives; whether an evaluation does the same as this call: no
        derivatives were computed, and an evaluation computes none.
    """
    names: list[str] = []
    batch = first_batch(exp, "train")
    _check_inputs(exp, batch)
    batch = to_device(batch, exp.device)
    with without_trace(exp, exp.train_model), _derivatives_noted() as noted:
        for name, loss in exp.losses.items():
            value, metrics = _call(exp, name, loss, exp.train_model, batch)
            names += [f"{name}/{key}".lstrip("/") for key in ("loss", *metrics) if key not in NOT_METRICS]
            if not value.requires_grad:  # a network may compute no gradients in eval mode
                exp.train_model.train()
                value, _ = _call(exp, name, loss, exp.train_model, batch)
                exp.train_model.eval()
            if not value.requires_grad:
                raise UserError(
                    f"{_key(name)}: the loss has no gradient: it depends on no parameter that is trained"
                    "\nlook for detach(), .item(), no_grad() or requires_grad=False on the way from the model to it"
                )
    _check_last_batch(exp)
    return names, not noted


@contextlib.contextmanager
def _derivatives_noted() -> Iterator[list[int]]:
    """While active, a list that grows when somebody computes derivatives, as a loss with a gradient penalty does."""
    noted: list[int] = []
    engine: Any = torch.autograd
    run = engine._engine_run_backward  # of torch.autograd.grad, under whatever name a loss has imported it

    def noting(*arguments: Any, **more: Any) -> Any:
        noted.append(1)
        return run(*arguments, **more)

    engine._engine_run_backward = noting
    try:
        yield noted
    finally:
        engine._engine_run_backward = run


def _check_inputs(exp: Any, batch: Any) -> None:
    """Let every loss that has `check(model, batch)` look at a batch; it raises a ValueError where they do not fit."""
    for name, loss in exp.losses.items():
        if hasattr(loss, "check"):
            try:
                loss.check(exp.model, batch)
            except ValueError as error:
                raise UserError(f"{_key(name)}: {error}") from error


def _check_evaluation(exp: Any, batch: Any) -> list[str]:
    """The names of the values that an evaluation gives, from one of two items."""
    names = []
    with without_trace(exp, exp.eval_model):
        for name, loss in exp.losses.items():
            with torch.no_grad():
                try:
                    _, values = _call(exp, name, loss, exp.eval_model, batch)
                except UserError as error:
                    if "does not require grad" not in str(error):
                        raise
                    raise _advised(
                        error,
                        "an evaluation computes no gradients: put the part of the loss that needs them under "
                        "`with torch.enable_grad():`",
                    ) from error
            names += [f"{name}/{key}".lstrip("/") for key in ("loss", *values) if key not in NOT_METRICS]
    return names


def _check_metrics(exp: Any, batch: Any) -> None:
    """UserError: a metric fails on a batch."""
    with without_trace(exp, exp.eval_model), torch.no_grad(), keys.keyed(exp.settings.seed, "check"):
        for name, metric in exp.metrics.items():
            arguments = [exp.eval_model, batch]
            if takes_output(metric):
                arguments.append(_output(exp, batch))
            metric.reset()
            try:
                with exp.autocast:
                    metric.update(*arguments)
            except Exception as error:
                raise UserError(f"{failure(error, f'metrics.{name}')}\nthe batch is {describe(batch)}") from error
            metric.reset()


def _output(exp: Any, batch: Any) -> Any:
    """What a loss says that the model gave, if one does; UserError: several do."""
    found: dict[str, Any] = {}
    for name, loss in exp.losses.items():
        _, values = _call(exp, name, loss, exp.eval_model, batch)
        if "output" in values:
            found[_key(name)] = values["output"]
    if len(found) > 1:
        raise UserError(
            f"{', '.join(found)}: each gives an output, and metrics can be given only one"
            "\nleave it out of the dicts of all but one of these losses"
        )
    return next(iter(found.values()), None)


def _check_last_batch(exp: Any) -> None:
    """UserError: the last batch of an epoch holds one item, and the losses fail on one, as batch norm does."""
    loader = exp.loaders["train"]
    if loader.size(len(loader) - 1) > 1:
        return
    batch = to_device(read(exp, "train", next(iter(loader.indices(0, len(loader) - 1)))), exp.device)
    with without_trace(exp, exp.train_model):
        exp.train_model.train()
        for name, loss in exp.losses.items():
            try:
                _call(exp, name, loss, exp.train_model, batch)
            except UserError as error:
                advice = "give loader.drop_last=true, or another loader.batch_size"
                if loader.batch_size == 1:
                    advice = "give a larger loader.batch_size"
                cause = f"loader.batch_size={loader.batch_size}: of {loader.num_items} items the last batch has one: "
                raise _advised(error, advice, cause) from error


def _warn_of_random_validation(exp: Any) -> None:
    """Warn if validation items that come from the training split are augmented as training items are."""
    train, val = exp.datasets["train"], exp.datasets["val"]
    if val.dataset is not train.dataset:  # the author's own split, or one read with other arguments
        return
    indices = next(iter(exp.loaders["val"].indices(0)))[:1]
    one, other = (read(exp, "val", indices, epoch) for epoch in (0, 1))
    pairs = zip(tensors(one), tensors(other), strict=False)
    if not all(torch.equal(left.nan_to_num(), right.nan_to_num()) for (_, left), (_, right) in pairs):
        logger.warning(
            "data: validation items are drawn at random, as training items are; if they are augmented, turn it off "
            "for them: data.val_arguments names arguments of the dataset that they are read with"
        )


def _call(exp: Any, name: str, loss_fn: Any, model: nn.Module, batch: Any) -> tuple[Tensor, Mapping[str, Any]]:
    """What a loss returns for a batch; UserError: it fails, or returns something else than (loss, metrics)."""
    key = _key(name)
    with keys.keyed(exp.settings.seed, "check", name), exp.autocast:
        try:
            returned = loss_fn(model, batch)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{failure(error, key)}\nthe batch is {describe(batch)}") from error
    wanted = "\na loss returns (loss, metrics): the scalar tensor to minimise, and a dict of scalars to log"
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        raise UserError(f"{key}: {type(loss_fn).__name__} returned {_words(returned)}{wanted}")
    loss, metrics = returned
    if not isinstance(metrics, Mapping):
        raise UserError(f"{key}: {type(loss_fn).__name__} returned {_words(metrics)} for metrics{wanted}")
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        raise UserError(f"{key}: {type(loss_fn).__name__} returned {_words(loss)} for the loss{wanted}")
    for metric, value in metrics.items():
        if metric == "output":
            continue
        place = f"{key}: {type(loss_fn).__name__}: metrics[{metric!r}]"
        check_name(place, metric, OWN_KEYS if name else (*OWN_KEYS, *COLUMNS))
        if not isinstance(value, float | int) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise UserError(f"{place} is {_words(value)}{wanted}")
    return loss, metrics


def _advised(error: UserError, advice: str, cause: str = "") -> UserError:
    """The error of a loss with better advice in the place of its last line."""
    lines = str(error).splitlines()
    return UserError("\n".join([cause + lines[0], *lines[1:-1], advice]))


def _words(value: Any) -> str:
    """A value's kind in words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _key(name: str) -> str:
    return f"loss.{name}".rstrip(".")
