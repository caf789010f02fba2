"""The blocks of a config against each other and against what they name; nothing is built.

A block is a mapping with a `_target_`, the dotted name of a class or function; its other keys are the arguments.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import MISSING

from ..checks.monitors import monitor_faults
from ..config.build import by_network, interval_of, locate, without_groups
from ..config.explain import named_advice
from ..config.grammar import NAMED
from ..faults import ABSENT, UNKNOWN, Fault, FaultsError, noted
from ..tree import leaves, specs, walk
from .arguments import argument_faults, signature

PARTS_OF_SCHEDULE = ("schedule", "interval", "monitor")


def check_specs(cfg: Mapping[str, Any], is_new: bool = False) -> None:
    """Check that a plain config has the parts of an experiment and that they fit together.

    Args:
        cfg: plain and resolved.
        is_new: it is to be trained with. Else it may be that of a run which is looked at: arguments that are missing or
            of another kind may be of a part that nobody asks for, and show if it is built.

    Raises:
        FaultsError: everything that is wrong.
    """
    faults = spec_faults(cfg, is_new)
    if faults:
        raise FaultsError(faults)


def spec_faults(cfg: Mapping[str, Any], is_new: bool) -> list[Fault]:
    """What is wrong with the blocks of a plain config; what stands as UNKNOWN in it is left alone."""
    faults: list[Fault] = []
    blocks, schedules = _blocks(cfg, faults)
    for key, block in blocks.items():
        if block is not UNKNOWN and (not isinstance(block, Mapping) or "_target_" not in block):
            if key in [f"{part}._target_" for part in NAMED]:
                faults.append(Fault(key, block, "its blocks have names", named_advice(key, block)))
                continue
            wrong = "it is not a block with a _target_"
            faults.append(Fault(key, block, wrong, f"give {key}._target_, a dotted name"))
    plain = dict(cfg)
    plain["optimizer"] = without_groups(cfg["optimizer"])
    faults += target_faults(plain, is_new)
    told = {one.key for one in faults}
    num_losses = len(cfg["loss"]) if isinstance(cfg["loss"], Mapping) and "_target_" not in cfg["loss"] else 1
    if num_losses > 1 and cfg["run"]["target_loss"] not in (None, UNKNOWN):
        wrong = f"{', '.join(cfg['loss'])}: a loss of one network need not fall"
        advice = "a model with several losses has no mode=overfit; leave run.target_loss=null"
        faults.append(Fault("run.target_loss", cfg["run"]["target_loss"], wrong, advice))
    for key, spec in schedules.items():
        if spec.get("schedule") is not None and not {f"{key}.schedule._target_", f"{key}.schedule"} & told:
            with noted(faults):
                _check_schedule(key, spec, cfg["run"])
    if is_new:
        unset = [key for key, value in leaves(cfg) if value == MISSING and "." in key and not key.endswith("._target_")]
        faults += [Fault(key, ABSENT, "not set", f"give {key}=VALUE") for key in unset if key not in told]
        monitors = {f"{key}.monitor": spec.get("monitor") for key, spec in schedules.items()}
        for key, monitor in {"run.monitor": cfg["run"]["monitor"], **monitors}.items():
            if monitor not in (None, UNKNOWN, *(["auto"] if key == "run.monitor" else [])):
                faults += monitor_faults(key, monitor, cfg)
    return faults


def _blocks(cfg: Mapping[str, Any], faults: list[Fault]) -> tuple[dict[str, Any], dict[str, Any]]:
    """By their keys: what must be a block, and the parts of `scheduler:`."""
    blocks: dict[str, Any] = {}
    if cfg["data"] is not UNKNOWN:
        with noted(faults):
            data = _named(cfg, "data", marker="")
            blocks = {f"data.{name}": data[name] for name in ("dataset", "stream") if data.get(name) is not None}
            blocks = blocks or {"data.dataset": None}
    blocks["model"] = cfg["model"]
    names = [""]
    for part in ("loss", "optimizer"):
        with noted(faults):
            named = _named(cfg, part)
            blocks |= {f"{part}.{name}".rstrip("."): block for name, block in named.items()}
            if part == "loss":
                names = list(named)
    for part in NAMED:
        with noted(faults):
            named = _named(cfg, part, marker="") if cfg[part] else {}
            blocks |= {f"{part}.{name}".rstrip("."): block for name, block in named.items() if block is not None}
    if cfg["rollout"]:
        blocks["rollout"] = cfg["rollout"]
    schedules: dict[str, Any] = {}
    for part, marker in (("optimizer", "_target_"), ("scheduler", "schedule")):
        with noted(faults):
            mapping = _named(cfg, part, names, marker)
            if UNKNOWN not in (cfg["loss"], cfg[part]) and set(mapping) != set(names):
                wrong = f"it has blocks for {', '.join(mapping) or 'no network'}, and loss for {', '.join(names)}"
                advice = f"give one {part} for all networks, or one under each of these names"
                faults.append(Fault(part, ABSENT, wrong, advice))
            if part == "scheduler":
                schedules = _schedules(mapping, faults)
    blocks |= {f"{key}.schedule": spec["schedule"] for key, spec in schedules.items() if spec.get("schedule")}
    return blocks, schedules


def _schedules(mapping: Mapping[str, Any], faults: list[Fault]) -> dict[str, Any]:
    """The parts of `scheduler:` by their keys; those that are not mappings are left out."""
    kept = {}
    for name, spec in mapping.items():
        key = f"scheduler.{name}".rstrip(".")
        with noted(faults):
            for part in by_network(spec, key, marker=""):
                if part not in PARTS_OF_SCHEDULE:
                    allowed = f"allowed: {', '.join(PARTS_OF_SCHEDULE)}"
                    faults.append(Fault(f"{key}.{part}", spec[part], "not a part of a schedule", allowed))
            kept[key] = spec
    return kept


def _named(cfg: Mapping[str, Any], part: str, names: Any = ("",), marker: str = "_target_") -> dict[str, Any]:
    """A part of the config by network, as in `by_network`; empty where it has a fault already."""
    return {} if cfg[part] is UNKNOWN else by_network(cfg[part], part, names, marker)


def _check_schedule(key: str, spec: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """FaultsError: it does not say when it advances, or the value that it watches never comes."""
    setting = "eval_every"
    if str(spec.get("monitor")).startswith("rollout/"):
        setting = "rollout_every"
    if UNKNOWN in (spec.get("interval"), spec.get("monitor"), spec["schedule"]):
        return
    if interval_of(spec, key) == "metric" and run[setting] is None:
        wrong = f"run.{setting}=null, so nothing would give that value"
        raise FaultsError([Fault(f"{key}.monitor", spec["monitor"], wrong, f"set run.{setting}")])


def target_faults(plain: Mapping[str, Any], is_new: bool = False) -> Iterator[Fault]:
    """What is wrong with each `_target_` of a plain config, nested ones included, and with its arguments."""
    loose = [f"{key}." for key, node in walk(plain) if isinstance(node, Mapping) and node.get("_recursive_") is False]
    for key, spec in specs(plain):
        try:
            yield from _faults_of(key, spec, plain, is_new, key.startswith(tuple(loose)))
        except FaultsError as error:
            yield from error.faults


def _faults_of(
    key: str, spec: Mapping[str, Any], plain: Mapping[str, Any], is_new: bool, is_loose: bool
) -> Iterator[Fault]:
    """Those of one block; `is_loose`: what is around it builds it itself, perhaps with more arguments."""
    if spec["_target_"] is UNKNOWN:
        return
    target, place = str(spec["_target_"]), f"{key}._target_".lstrip(".")
    if spec["_target_"] in (MISSING, None, ""):
        yield Fault(place, ABSENT, "not set", f"give a dotted name: {place}=package.module.Class")
        return
    found = locate(target, place)
    if not callable(found):
        yield Fault(place, target, f"it is {found!r:.60}, not a class or function")
        return
    takes = signature(found)
    if takes is None:
        return
    num_given, given = _passed(key, plain, takes)
    is_whole = is_new and not is_loose and not spec.get("_partial_")
    yield from argument_faults(key, spec, takes, (num_given, given), is_new, is_whole)
    others = plain.get("data", {}).get("val_arguments") if key == "data.dataset" else None
    if isinstance(others, Mapping):
        yield from argument_faults("data.val_arguments", {**others, "_target_": target}, takes, (0, ()), is_new, False)


def _passed(key: str, plain: Mapping[str, Any], takes: inspect.Signature) -> tuple[int, tuple[str, ...]]:
    """What the template itself passes to a block: how many arguments in order, and which by name."""
    part, _, rest = key.partition(".")
    if key == "data.dataset":
        return 0, ("split",)
    if part == "optimizer" and (rest == "" or "_target_" not in plain["optimizer"]) and "." not in rest:
        return 1, ()
    if part == "scheduler" and rest.rpartition(".")[2] == "schedule" and rest.count(".") <= 1:
        return 1, ("num_steps",) if "num_steps" in takes.parameters else ()
    return 0, ()
