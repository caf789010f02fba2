"""Types, ranges and rules of what the template itself reads: `run`, `loader`, `paths`. Values: configs/base.yaml.

Everything else (data, model, loss, optimizer, ...) accepts what its own YAML declares. Add a field here when you add
a key to base.yaml; a key that is in neither is refused at the start.
"""

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from .core.intervals import is_limit, parse

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # relative paths in `paths` are taken from here

# Names this package had before it was renamed, so that runs made under them still load.
FORMER_NAMES: tuple[str, ...] = ()

# What a loaded run (from_path, resume=, fork=) may name, besides what the YAML files of this checkout name: these and
# everything below them. Add the libraries whose classes you name on the command line, such as "timm". List nothing
# that fetches, imports or executes what its arguments say (URLs, names on a hub, files).
TRUSTED: tuple[str, ...] = (
    *(f"{__package__}.{name}" for name in ("model", "losses", "metrics", "schedules", "plot")),
    *("torch.nn", "torch.optim", "torchvision.models", "torchvision.ops", "torchvision.transforms"),
    *(f"torchmetrics.{name}" for name in ("aggregation", "classification", "clustering", "regression", "segmentation")),
    *(f"torchvision.datasets.{name}" for name in ("SVHN", "STL10", "GTSRB", "Food101", "Flowers102", "PCAM", "CelebA")),
)  # of torchvision's datasets only some: others unpickle, or unpack unchecked, what lies in their folder

# Named by YAML files here or part of what is listed above, and yet a loaded run needs trust= for it: it downloads or
# compiles what its arguments say.
FETCHING: tuple[str, ...] = (f"{__package__}.data.hf_text", "torchvision.models.feature_extraction")

# What a changed setting does when a run is resumed. FREE: nothing to the run. COURSE: it changes how the run goes on.
# IDENTITY (also of a field without a word): refused, it is part of what the run is. A fork may change all of them, a
# rerun only what is free. MACHINE, of a path: a run does not keep it, and finds that of the machine it is on.
FREE, COURSE, IDENTITY, MACHINE = "free", "course", "identity", "machine"


def setting(
    change: str = IDENTITY, allowed: str = "", check: Callable[[Any], Any] | None = None, words: tuple[str, ...] = ()
) -> Any:
    """A field whose value stands in YAML; unless it is null, `check` must accept it; `allowed` says that in words.

    Of `words`, which it may be, an error names the nearest.
    """
    return field(default=MISSING, metadata={"change": change, "allowed": allowed, "check": check, "words": words})


def at_least(low: int, change: str = IDENTITY) -> Any:
    """A whole number that must be at least `low`."""
    return setting(change, f"{low} or more", partial(operator.le, low))


def one_of(*options: str, change: str = IDENTITY) -> Any:
    """A text that must be one of `options`."""
    return setting(change, f"one of {', '.join(options)}", options.__contains__, options)


def flag_or(*options: str, change: str = IDENTITY) -> Any:
    """True, false or a text that must be one of `options`; such a field has the type Any."""
    words = ("true", "false", *options)
    return setting(
        change, f"one of {', '.join(words)}", lambda value: isinstance(value, bool) or value in options, words
    )


POSITIVE = ("a number above 0", partial(operator.lt, 0))
LIMIT = ("a number of items (500) or a fraction of them (0.1; 1.0 is all)", is_limit)
FRACTION = ("a number between 0 and 1", lambda value: 0 < value < 1)
BUDGET = ("optimizer steps (500 or 500steps) or epochs (5epochs)", partial(parse, units=("step", "epoch")))
INTERVAL = ("optimizer steps (500), epochs (1epoch) or minutes (10min)", parse)


@dataclass
class RunConfig:
    """How to train."""

    name: str | None = setting(IDENTITY)
    description: str = setting(FREE)
    tags: list[str] = setting(FREE)
    loop: str = setting(IDENTITY)
    seed: int = at_least(0, IDENTITY)
    budget: str = setting(COURSE, *BUDGET)
    schedule_budget: str | None = setting(COURSE, *BUDGET)
    accumulate: int = at_least(1, IDENTITY)
    parallel: str = one_of("ddp", "fsdp", change=FREE)
    clip_grad_norm: float | None = setting(COURSE, *POSITIVE)
    precision: str = one_of("auto", "float32", "bfloat16", "float16", change=IDENTITY)
    compile: Any = flag_or("reduce-overhead", "max-autotune", change=COURSE)
    matmul: str = one_of("highest", "high", change=COURSE)
    memory_format: str = one_of("contiguous", "channels_last", change=COURSE)
    deterministic: bool = setting(COURSE)
    device: str = setting(COURSE)
    ema_decay: float | None = setting(IDENTITY, *FRACTION)
    monitor: str | None = setting(COURSE)
    monitor_mode: str = one_of("min", "max", change=COURSE)
    log_every: str | None = setting(COURSE, *BUDGET)
    eval_every: str | None = setting(COURSE, *INTERVAL)
    plot_every: str | None = setting(FREE, *INTERVAL)
    rollout_every: str | None = setting(COURSE, *INTERVAL)
    save_every: str | None = setting(FREE, *INTERVAL)
    num_checkpoints: int = at_least(1, FREE)
    patience: int | None = at_least(1, COURSE)
    target_loss: float | None = setting(COURSE)
    rehearse_resume: bool = setting(FREE)
    provenance: str = one_of("allow", "warn", "refuse", "ephemeral", change=FREE)
    console_level: str = one_of("debug", "info", "warning", "error", change=FREE)
    report: bool = setting(FREE)


@dataclass
class LoaderConfig:
    """How data is read."""

    batch_size: int = at_least(1, IDENTITY)
    num_workers: int = at_least(0, FREE)
    start_method: str | None = one_of("fork", "spawn", "forkserver", change=FREE)
    timeout: float | None = setting(FREE, *POSITIVE)
    on_device: Any = flag_or("auto", change=FREE)
    limit_train: Any = setting(IDENTITY, *LIMIT)
    limit_eval: Any = setting(IDENTITY, *LIMIT)
    limit_rollout: Any = setting(COURSE, *LIMIT)
    drop_last: bool = setting(IDENTITY)
    sample: bool = setting(IDENTITY)


@dataclass
class PathsConfig:
    """Where things lie."""

    data: str = setting(FREE)
    scratch: str | None = setting(MACHINE)
    output_root: str = setting(FREE)
    output: str = setting(FREE)


def part(change: str, default: Callable[[], Any]) -> Any:
    """A block that a YAML file of a group may leave out."""
    return field(default_factory=default, metadata={"change": change})


@dataclass
class Config:
    """The whole config; what is `Any` takes whatever the chosen YAML file declares."""

    run: RunConfig = field(default_factory=RunConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: Any = setting(IDENTITY)
    model: Any = setting(IDENTITY)
    loss: Any = setting(IDENTITY)
    optimizer: Any = setting(COURSE)
    scheduler: Any = setting(IDENTITY)
    metrics: Any = part(IDENTITY, dict)
    rollout: Any = part(IDENTITY, type(None))
    plots: Any = part(FREE, dict)
    tracker: Any = part(FREE, dict)
    imports: list[str] = part(FREE, list)
    resume: str | None = None
    fork: str | None = None
    fork_state: bool = False
    fork_weights: str = "all"
    rerun: str | None = None
    replace: Any = None
    append: Any = field(default_factory=dict)


# Arguments that losses had in runs of format 1 and read from the model now, by their names below the package.
DROPPED = {
    "model.gan.DiscriminatorLoss": "noise_size",
    "model.gan.GeneratorLoss": "noise_size",
    "model.diffusion.DiffusionLoss": "num_timesteps",
    "model.autoencoder.AutoencoderLoss": "num_codes",
}
PARTS_OF_AUTOENCODER = ("image_shape", "channels", "num_residual_blocks")  # its arguments, before it had parts
PER_STEP = ("schedules.linear", "schedules.cosine", "schedules.one_cycle")


def upgrade(config: dict[str, Any], version: int = 1) -> dict[str, Any]:
    """The config of a run (or a part of one) in today's form. Add your own moves.

    Args:
        config: as an earlier version wrote it.
        version: the one that wrote it; VERSION in core/config/compose.py says what they differ in.
    """
    config = copy.deepcopy(config)
    data, run = config.get("data"), config.get("run")
    if version < 3 and isinstance(data, dict) and isinstance(run, dict):  # splits were drawn by the run's seed
        data.setdefault("split_seed", run.get("seed"))
    loader: Any = config.get("loader")
    if version < 4 and isinstance(loader, dict):
        for name, value in loader.items():  # 1.0 was one item
            if str(name).startswith("limit_") and isinstance(value, float) and value >= 1 and value.is_integer():
                loader[name] = int(value)
    tracker, loss, scheduler = (config.get(name) for name in ("tracker", "loss", "scheduler"))
    if version < 2 and isinstance(tracker, dict) and not all(isinstance(block, dict) for block in tracker.values()):
        module = str(tracker.get("_target_", "wandb.Wandb")).rpartition(".")[0]
        config["tracker"] = {module.rpartition(".")[2]: tracker}  # it was a single block
    for block in [loss, *loss.values()] if isinstance(loss, dict) else ():
        if isinstance(block, dict) and "_target_" in block:
            package, _, name = str(block["_target_"]).partition(".")
            block.pop(DROPPED.get(name), None)
            if name == "losses.MappedLoss":
                block["_target_"] = f"{package}.model.module.MappedLoss"
    model = config.get("model")
    if isinstance(model, dict) and "channels" in model and "encoder" not in model:
        package, _, name = str(model.get("_target_")).partition(".")
        if name == "model.autoencoder.Autoencoder":
            shared = {part: model.pop(part) for part in PARTS_OF_AUTOENCODER if part in model}
            for part in ("Encoder", "Decoder"):
                model[part.lower()] = {"_target_": f"{package}.model.autoencoder.Conv{part}", **shared}
    if isinstance(scheduler, dict):
        for block in [scheduler] if "schedule" in scheduler else scheduler.values():
            if isinstance(block, dict) and "schedule" in block:
                target = str((block["schedule"] or {}).get("_target_", ""))
                interval = block.pop("interval", None)
                if interval is not None and interval != "metric":
                    block.pop("monitor", None)
                    if target and target.partition(".")[2] not in PER_STEP:
                        block["interval"] = interval
    return config
