"""What may be monitored: told from a config before data are read, as far as losses show it, and after a first batch."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from loguru import logger
from torch import nn

from ..config.build import by_network, locate
from ..errors import UserError, nearest
from ..faults import UNKNOWN, Fault, FaultsError
from ..means import NOT_METRICS

HIGHER = (  # words in the name of a value of which higher is better
    "accuracy", "acc", "auc", "auroc", "auprc", "f1", "iou", "miou", "dice", "map", "ap", "bleu", "rouge", "reward",
    "return", "returns", "precision", "recall", "r2", "psnr", "ssim", "score", "coverage",
)  # fmt: skip
LOWER = (
    "loss", "error", "err", "mse", "rmse", "mae", "nll", "perplexity", "ppl", "bpb", "bpc", "fid", "wer", "cer", "ece",
)  # fmt: skip


def warn_of_direction(monitor: str | None, mode: str) -> None:
    """Warn where the name of the monitored value says that the worst one would be kept."""
    words = set(re.split(r"[^a-z0-9]+", (monitor or "").lower()))
    kept, better, other = "lowest", "higher", "max"
    if mode == "max":
        kept, better, other = "highest", "lower", "min"
    says = {"higher": bool(words.intersection(HIGHER)), "lower": bool(words.intersection(LOWER))}
    if says.pop(better) and not any(says.values()):  # "error of the score" says both
        logger.warning(
            f"run.monitor={monitor} with run.monitor_mode={mode}: the {kept} value is the best one"
            f"\nif {better} is better, set run.monitor_mode={other}"
        )


def monitor_faults(key: str, monitor: Any, cfg: Mapping[str, Any]) -> Iterator[Fault]:
    """A monitored value that no evaluation can give, as far as that shows before data are read."""
    split, _, name = str(monitor).partition("/")
    run = cfg["run"]
    if split not in ("val", "rollout") or not name:
        near = f"val/{name or split}"
        advice = f"nearest: {near}; allowed: val/KEY or rollout/KEY"
        yield Fault(key, monitor, "an evaluation gives no such value", advice)
    elif split == "rollout" and UNKNOWN not in (cfg["rollout"], run["rollout_every"]):
        if not cfg["rollout"] or (key == "run.monitor" and run["rollout_every"] is None):
            yield Fault(key, monitor, "the run has no rollouts", "set rollout and run.rollout_every")
    elif split == "val" and run["eval_every"] is None and key == "run.monitor":
        advice = "set run.eval_every, or monitor nothing (null)"
        yield Fault(key, monitor, "run.eval_every=null, so nothing would give that value", advice)
    elif split == "val":
        allowed = evaluated(cfg)
        if allowed is not None and name not in allowed and name.partition("/")[0] not in (cfg["metrics"] or ()):
            yield _no_such_value(key, monitor, allowed)


def evaluated(cfg: Mapping[str, Any]) -> list[str] | None:
    """The values that an evaluation gives, e.g. "loss" or "generator/loss"; None: the sources of losses do not say."""
    if not (cfg["loss"] and all(isinstance(part, Mapping) for part in (cfg["loss"], cfg["metrics"] or {}))):
        return None  # which is a fault already
    names = []
    for network, spec in by_network(cfg["loss"], "loss").items():
        returned = returned_keys(spec)
        if returned is None:
            return None
        names += [f"{network}/{key}".lstrip("/") for key in ("loss", *returned) if key not in NOT_METRICS]
    return [*names, *(name for name, block in (cfg["metrics"] or {}).items() if block is not None)]


def returned_keys(spec: Any) -> list[str] | None:
    """The keys of the dict that a loss returns; None: its source does not say.

    It says so where each `return` of the function, of `__call__` or, of an nn.Module, of `forward` is a loss and a dict
    whose keys are all written out.
    """
    try:
        found = locate(str(spec["_target_"]), "")
        function = found
        if inspect.isclass(found):
            name = "forward" if found.__call__ is nn.Module.__call__ else "__call__"
            function = getattr(found, name)
        elif not spec.get("_partial_"):
            return None  # a function that makes the loss
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    except (FaultsError, KeyError, TypeError, OSError, SyntaxError):
        return None
    if not isinstance(tree, ast.FunctionDef) or tree.decorator_list or hasattr(function, "__wrapped__"):
        return None
    keys: dict[str, None] = {}
    for node in _own_nodes(tree):
        match node:
            case ast.Return(value=ast.Tuple(elts=[_, ast.Dict(keys=names)])):
                for written in names:
                    if not isinstance(written, ast.Constant) or not isinstance(written.value, str):
                        return None
                    keys[written.value] = None
            case ast.Return() | ast.Yield() | ast.YieldFrom():
                return None
    return list(keys)


def _own_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions and classes within it."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            yield node
            yield from _own_nodes(node)


def _no_such_value(key: str, monitor: str, allowed: list[str]) -> Fault:
    named = [f"val/{name}" for name in allowed]
    advice = f"nearest: {nearest(monitor, named)[0]}; allowed: {', '.join(named)}"
    return Fault(key, monitor, "an evaluation gives no such value", advice)


def choose_monitors(exp: Any) -> dict[str, str | None]:
    """What each config key monitors, e.g. {"run.monitor": "val/loss"}; None: nothing.

    `run.monitor=auto` becomes nothing where nothing is evaluated.

    Raises:
        UserError: `run.patience` waits for nothing; of a run that is carried on or repeated, a warning.
    """
    settings = exp.settings
    if settings.monitor == "auto" and ("val" not in exp.loaders or settings.eval_every is None):
        exp.monitor = None
    if exp.monitor is None and settings.patience is not None:
        problem = f"run.patience={settings.patience}: nothing is monitored"
        if not (exp.cfg.resume or exp.cfg.rerun):
            raise UserError(f"{problem}\nset run.monitor to the value that is to get better, or run.patience=null")
        logger.warning(f"{problem}: it has no effect")
    monitors = {f"scheduler.{name}.monitor": schedule.monitor for name, schedule in exp.schedulers.items()}
    return {"run.monitor": exp.monitor, **monitors}


def check_monitors(exp: Any, monitors: Mapping[str, str | None], names: list[str]) -> None:
    """FaultsError: nothing gives a monitored value; those that an evaluation gives (`names`) are named."""
    keys = {name.replace("..", "."): monitor for name, monitor in monitors.items() if monitor is not None}
    faults = [fault for key, monitor in keys.items() for fault in _late_faults(exp, key, monitor, names)]
    if faults:
        raise FaultsError(faults)


def _late_faults(exp: Any, key: str, monitor: str, names: list[str]) -> Iterator[Fault]:
    """What is wrong with a monitored value, once the values of an evaluation are known."""
    split, _, name = monitor.partition("/")
    if split == "rollout":  # its names show when it runs
        if exp.rollout is None or exp.settings.rollout_every is None:
            yield Fault(key, monitor, "the run has no rollouts", "set rollout and run.rollout_every")
    elif split == "val" and names and exp.settings.eval_every is None:
        advice = "set run.eval_every, or monitor nothing (null)"
        yield Fault(key, monitor, "run.eval_every=null, so nothing would give that value", advice)
    elif split == "val" and (name in names or name.partition("/")[0] in exp.metrics):
        return
    elif not names:
        yield Fault(key, monitor, "the run has no validation split", "set it to null or rollout/KEY")
    else:
        yield _no_such_value(key, monitor, names)
