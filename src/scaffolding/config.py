"""Types and ranges of what the template itself reads: `run`, `loader`, `paths`. Values live in configs/base.yaml.

Everything else (data, model, loss, optimizer, ...) accepts what its own YAML declares. Add a field here when you add
a key to base.yaml; a key that is in neither is refused at the start.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # relative paths in `paths` are taken from here

# Names this package had before it was renamed, so that runs made under them still load.
FORMER_NAMES: tuple[str, ...] = ()


def setting(**rule: Any) -> Any:
    """A field whose value stands in YAML. Rules: at_least, above, below, one_of, form ("budget" | "interval")."""
    return field(default=MISSING, metadata=rule)


@dataclass
class RunConfig:
    """How to train."""

    name: str | None = setting()
    description: str = setting()
    tags: list[str] = setting()
    seed: int = setting(at_least=0)
    budget: str = setting(form="budget")
    accumulate: int = setting(at_least=1)
    clip_grad_norm: float | None = setting(above=0)
    precision: str = setting(one_of=("auto", "float32", "bfloat16", "float16"))
    compile: bool = setting()
    device: str = setting()
    ema_decay: float | None = setting(above=0, below=1)
    monitor: str | None = setting()
    monitor_mode: str = setting(one_of=("min", "max"))
    log_every: str | None = setting(form="interval")
    eval_every: str | None = setting(form="interval")
    plot_every: str | None = setting(form="interval")
    rollout_every: str | None = setting(form="interval")
    save_every: str | None = setting(form="interval")
    patience: int | None = setting(at_least=1)
    target_loss: float | None = setting()
    rehearse_resume: bool = setting()


@dataclass
class LoaderConfig:
    """How data is read."""

    batch_size: int = setting(at_least=1)
    num_workers: int = setting(at_least=0)
    start_method: str | None = setting(one_of=("fork", "spawn", "forkserver"))
    limit_train: float | None = setting(above=0)
    limit_eval: float | None = setting(above=0)
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
    resume: str | None = None
    fork: str | None = None
