"""Types and ranges of what the template itself reads: `run`, `loader`, `paths`. Values live in configs/base.yaml.

Everything else (data, model, loss, optimizer, ...) accepts what its own YAML declares. Add a field here when you add
a key to base.yaml; a key that is in neither is refused at the start.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from .intervals import is_interval

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # relative paths in `paths` are taken from here

# Names this package had before it was renamed, so that runs made under them still load.
FORMER_NAMES: tuple[str, ...] = ()

# What the `_target_`s of a loaded run (from_path, resume=, fork=) may name: these and everything below them. Add the
# libraries whose classes your configs name, such as "timm". A run is data: what it names is not imported otherwise.
TRUSTED: tuple[str, ...] = (
    *(f"{__package__}.{name}" for name in ("data", "model", "losses", "metrics", "schedules", "plot", "tracker")),
    *("torch.nn", "torch.optim", "torchmetrics", "torchvision.models", "torchvision.ops", "torchvision.transforms"),
    *(f"torchvision.datasets.{name}" for name in ("SVHN", "STL10", "GTSRB", "Food101", "Flowers102", "PCAM", "CelebA")),
)  # of torchvision's datasets only some: others unpickle, or unpack unchecked, what lies in their folder


def setting(allowed: str = "", check: Callable[[Any], Any] = lambda value: True, default: Any = MISSING) -> Any:
    """A field whose value stands in YAML; unless it is null, `check` must hold, and `allowed` says so in words."""
    return field(default=default, metadata={"allowed": allowed, "check": check})


def at_least(low: int) -> Any:
    return setting(f"{low} or more", lambda value: value >= low)


def one_of(*options: str) -> Any:
    return setting(f"one of {', '.join(options)}", lambda value: value in options)


POSITIVE = ("a number above 0", lambda value: value > 0)
BUDGET = ("optimizer steps (500 or 500steps) or epochs (5epochs)", lambda text: is_interval(text, minutes=False))
INTERVAL = ("optimizer steps (500), epochs (1epoch) or minutes (10min)", is_interval)


@dataclass
class RunConfig:
    """How to train."""

    name: str | None = setting()
    description: str = setting()
    tags: list[str] = setting()
    seed: int = at_least(0)
    budget: str = setting(*BUDGET)
    accumulate: int = at_least(1)
    clip_grad_norm: float | None = setting(*POSITIVE)
    precision: str = one_of("auto", "float32", "bfloat16", "float16")
    compile: bool = setting()
    device: str = setting()
    ema_decay: float | None = setting("a number between 0 and 1", lambda value: 0 < value < 1)
    monitor: str | None = setting(default="val/loss")  # not in base.yaml: a model with several losses has none
    monitor_mode: str = one_of("min", "max")
    log_every: str | None = setting(*BUDGET)
    eval_every: str | None = setting(*INTERVAL)
    plot_every: str | None = setting(*INTERVAL)
    rollout_every: str | None = setting(*INTERVAL)
    save_every: str | None = setting(*INTERVAL)
    patience: int | None = at_least(1)
    target_loss: float | None = setting()
    rehearse_resume: bool = setting()
    num_checkpoints: int = at_least(1)
    schedule_budget: str | None = setting(*BUDGET)


@dataclass
class LoaderConfig:
    """How data is read."""

    batch_size: int = at_least(1)
    num_workers: int = at_least(0)
    start_method: str | None = one_of("fork", "spawn", "forkserver")
    timeout: float | None = setting(*POSITIVE)
    limit_train: float | None = setting(*POSITIVE)
    limit_eval: float | None = setting(*POSITIVE)
    sample: bool = setting()


@dataclass
class PathsConfig:
    """Where things lie."""

    data: str = setting()
    output_root: str = setting()
    output: str = setting()


@dataclass
class Config:
    """The whole config; what is `Any` takes whatever the chosen YAML file declares."""

    run: RunConfig = field(default_factory=RunConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    data: Any = MISSING
    model: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    metrics: Any = field(default_factory=dict)
    rollout: Any = None
    plots: Any = field(default_factory=dict)
    tracker: Any = field(default_factory=dict)
    imports: list[str] = field(default_factory=list)
    resume: str | None = None
    fork: str | None = None
    fork_state: bool = False
    rerun: str | None = None
