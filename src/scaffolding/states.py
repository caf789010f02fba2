"""What a checkpoint holds: every state without which a resumed run would not be the same run."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from loguru import logger

from .core.errors import UserError
from .core.folder import provenance
from .core.state import checkpoint, keys
from .core.state.checkpoint import RunState

if TYPE_CHECKING:
    from .experiment import Experiment

# attributes of the experiment that are saved under a name of their own
STANDARD = {"model", "train_model", "networks", "ema", "optimizers", "schedulers", "scaler"}


def capture(exp: "Experiment") -> dict[str, Any]:
    """The experiment's state in tensors and plain values; "model" holds the raw weights under plain names."""
    return {
        "format": checkpoint.FORMAT,
        "model": exp.model.state_dict(),
        "ema": exp.ema and {"model": exp.ema.module.state_dict(), "count": int(exp.ema.n_averaged)},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in exp.optimizers.items()},
        "schedulers": {name: schedule.scheduler.state_dict() for name, schedule in exp.schedulers.items()},
        "scaler": exp.scaler.state_dict(),
        "objects": {name: part.state_dict() for name, part in objects(exp).items()},
        "state": asdict(exp.state),
        "splits": {name: split.fingerprint() for name, split in exp.datasets.items()},
        "numerics": provenance.numerics(exp.device),
        "generators": keys.capture(),
    }


def objects(exp: "Experiment") -> dict[str, Any]:
    """Whatever else has state_dict and load_state_dict: attributes that you add, your losses, metrics, figures."""
    found: dict[str, Any] = {}
    for name, value in vars(exp).items():
        if name not in STANDARD:
            parts = value.items() if isinstance(value, dict) else [("", value)]
            found |= {f"{name}.{key}".rstrip("."): part for key, part in parts if hasattr(part, "load_state_dict")}
    return found


def restore(exp: "Experiment", content: dict[str, Any]) -> None:
    """Restore what `capture` returned, generators last; says so where this machine may round otherwise.

    Raises:
        UserError: weights or objects are not those of the checkpoint; the first names are given.
    """
    parts = objects(exp)
    if parts.keys() != content["objects"].keys():
        raise UserError(
            f"the checkpoint has the states of {', '.join(content['objects']) or 'no objects'}"
            f"\nthe experiment has {', '.join(parts) or 'no objects with a state'}"
        )
    checkpoint.load_strictly(exp.model, content["model"])
    if exp.ema is not None:
        exp.ema.module.load_state_dict(content["ema"]["model"])
        exp.ema.n_averaged.fill_(content["ema"]["count"])
    for name in exp.optimizers:
        exp.optimizers[name].load_state_dict(content["optimizers"][name])
    for name in exp.schedulers:
        exp.schedulers[name].scheduler.load_state_dict(content["schedulers"][name])
    exp.scaler.load_state_dict(content["scaler"])
    for name, part in parts.items():
        part.load_state_dict(content["objects"][name])
    exp.state = RunState(**content["state"])
    for name, value in provenance.numerics(exp.device).items():
        if value != (before := content["numerics"].get(name)):
            logger.warning(f"{name} is {value}, was {before}: from here on the last bits may differ")
    keys.restore(content["generators"])
