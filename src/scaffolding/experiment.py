"""Everything one experiment consists of, built from its config: `Experiment.from_config`, `Experiment.from_path`."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from . import states
from .config import FETCHING, FORMER_NAMES, PROJECT_ROOT, TRUSTED, Config, upgrade
from .core.batches.loader import Loader
from .core.config.build import build, by_network, check_losses, check_specs, interval_of, subnetworks
from .core.config.compose import Project, compose_config
from .core.config.plugins import import_plugins
from .core.config.trust import read_config
from .core.folder.run_folder import Facts
from .core.session.run import Run
from .core.state import checkpoint as checkpoints
from .core.state import keys
from .core.state.checkpoint import RunState
from .core.state.finite import FiniteWatch
from .intervals import Intervals, in_steps
from .precision import autocast, choose_device, choose_precision, make_ema, make_scaler
from .schedules import Schedule, takes_total
from .splits import Split, make_splits

PROJECT = Project(PROJECT_ROOT, __package__, Config, FORMER_NAMES, TRUSTED, upgrade, FETCHING)


class Experiment:
    """What a config describes, as objects; builds, and writes nothing.

    Building draws from generators keyed by (seed, part), so what is built when first asked for (data, optimizers) comes
    out the same in any order, and the global generators stay as they were. `model` is the plain network, `train_model`
    what the loop calls; `losses`, `networks` and `optimizers` go by the keys of `loss:` ("" where it is one loss of the
    whole model); `path` is the run's folder, if there is one, and `run` its record while training.
    """

    def __init__(self, cfg: DictConfig, device: str | None = None) -> None:
        if cfg.imports:
            import_plugins(cfg.imports, PROJECT_ROOT)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        check_specs(plain)
        settings = cfg.run
        self.cfg, self.state = cfg, RunState()
        self.path: Path | None = None
        self.run: Run
        self.accumulate, self.clip_grad_norm = settings.accumulate, settings.clip_grad_norm
        self.target_loss, self.monitor, self.patience = settings.target_loss, settings.monitor, settings.patience
        self.device = choose_device(device or settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.autocast, self.scaler = autocast(self.precision, self.device), make_scaler(self.precision, self.device)
        self.failed_figures: dict[str, str] = {}
        self._optimizer_states: dict[str, Any] = {}
        with keys.keyed(settings.seed, "model"):
            self.model: nn.Module = build(cfg.model, "model").to(self.device)
        self.train_model = self.model
        self.watch = FiniteWatch(self.model, self.device)
        losses = by_network(cfg.loss, "loss")
        self.losses = {name: build(spec, f"loss.{name}".rstrip(".")) for name, spec in losses.items()}
        if self.monitor == "auto":
            self.monitor = "val/loss" if list(self.losses) == [""] else None
        self.networks = subnetworks(self.model, self.losses)
        self.ema = make_ema(self.model, settings.ema_decay)

    @classmethod
    def from_config(cls, *overrides: str, device: str | None = None) -> "Experiment":
        """Build an experiment from overrides as on the command line, e.g. `from_config("data=digits", "mode=dev")`."""
        return cls(compose_config(PROJECT, list(overrides)), device)

    @classmethod
    def from_path(
        cls, path: str | Path, checkpoint: str = "best", device: str = "cpu", trust: Iterable[str] = ()
    ) -> "Experiment":
        """Load a run: the model in eval mode with the weights of a checkpoint; needs the run's folder alone.

        A relative `path` starts where you are, else at the project's folder. UserError: `checkpoint` ("best", "latest",
        ...) is missing or damaged, or the config names what neither TRUSTED (config.py) nor `trust` lists.
        """
        folder = given if (given := Path(path).expanduser()).is_dir() else PROJECT_ROOT / given
        from .core.folder.find import find_checkpoint

        cfg = read_config(folder, PROJECT, trust)
        content = checkpoints.load(find_checkpoint(folder, checkpoint))
        cfg.loader.num_workers = 0
        exp = cls(cfg, device)
        exp.path, exp.state, exp._optimizer_states = folder, RunState(**content["state"]), content["optimizers"]
        exp.load_weights(content)
        exp.model.eval()
        return exp

    def prepare(self) -> None:
        """Build what training needs, in the order that correctness needs; compiles in place, so keys stay plain."""
        check_losses(self.losses, self.model, self.datasets["train"], self.cfg.run.seed)
        if self.cfg.run.compile:
            for network in self.networks.values():
                network.compile()
        _ = self.optimizers, self.schedulers, self.intervals, self.metrics, self.plots, self.rollout
        checkpoints.check_plain(self.state_dict())

    @cached_property
    def datasets(self) -> dict[str, Split]:
        """The splits, by name."""
        data, loader, seed = self.cfg.data, self.cfg.loader, self.cfg.run.seed

        def read(split: str, **changes: Any) -> Any:
            with keys.keyed(seed, "data", split):
                return build(self.cfg.data.dataset, "data.dataset", split=split, **changes)

        return make_splits(read, data, loader.limit_train, loader.limit_eval, seed)

    @cached_property
    def loaders(self) -> dict[str, Loader]:
        """A loader for each split; the training one has an order of its own every epoch."""
        common = {name: self.cfg.loader[name] for name in ("batch_size", "num_workers", "start_method", "timeout")}
        common |= {"seed": self.cfg.run.seed, "device": self.device}
        return {name: Loader(split, name, shuffle=name == "train", **common) for name, split in self.datasets.items()}

    train_loader = property(lambda self: self.loaders["train"])
    val_loader = property(lambda self: self.loaders["val"])
    test_loader = property(lambda self: self.loaders["test"])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last window may be smaller."""
        return -(-len(self.loaders["train"]) // int(self.accumulate))

    @cached_property
    def num_steps(self) -> int:
        """The budget in optimizer steps."""
        return in_steps(str(self.cfg.run.budget), self.steps_per_epoch)

    @cached_property
    def schedule_steps(self) -> int:
        """The total number of optimizer steps that schedules go by: the budget, unless the run says otherwise."""
        budget = self.cfg.run.schedule_budget
        return self.num_steps if budget is None else in_steps(str(budget), self.steps_per_epoch)

    @cached_property
    def intervals(self) -> Intervals:
        """Answers which `*_every` is due."""
        return Intervals(dict(self.cfg.run), self.steps_per_epoch, self.num_steps)

    @cached_property
    def optimizers(self) -> dict[str, Any]:
        """An optimizer for each key of `loss:`, over the parameters of the network of that name."""
        specs = by_network(self.cfg.optimizer, "optimizer", self.losses)
        optimizers = {}
        for name, network in self.networks.items():
            optimizers[name] = build(specs[name], f"optimizer.{name}".rstrip("."), list(network.parameters()))
        for name, state in self._optimizer_states.items():
            optimizers[name].load_state_dict(state)
        return optimizers

    @cached_property
    def schedulers(self) -> dict[str, Schedule]:
        """A learning rate schedule for each optimizer that has one."""
        schedules = {}
        for name, spec in by_network(self.cfg.scheduler, "scheduler", self.losses, "schedule").items():
            if spec.schedule is not None:
                total = {"num_steps": self.schedule_steps} if takes_total(spec.schedule._target_) else {}
                scheduler = build(spec.schedule, "scheduler.schedule", self.optimizers[name], **total)
                schedules[name] = Schedule(scheduler, interval_of(spec), spec.get("monitor"))
        return schedules

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Metrics that are not means over items: objects with update(model, batch), compute(), reset()."""
        return {name: build(spec, f"metrics.{name}") for name, spec in (self.cfg.metrics or {}).items() if spec}

    @cached_property
    def plots(self) -> dict[str, Any]:
        """Kinds of figures by name (plot/__init__.py)."""
        return {name: build(spec, f"plots.{name}") for name, spec in (self.cfg.plots or {}).items() if spec}

    @cached_property
    def rollout(self) -> Any:
        """The expensive evaluation, a callable of (model, loader) giving a dict of numbers; None: there is none."""
        return build(self.cfg.rollout, "rollout") if self.cfg.rollout else None

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept as best: with averaged weights if EMA is on."""
        return self.ema.module if self.ema is not None else self.model

    def history(self) -> list[dict[str, Any]]:
        """The run's logged rows, oldest first: step, epoch, samples, split, values, time; empty without a run."""
        return Facts(self.path / "facts").rows() if self.path else []

    def state_dict(self) -> dict[str, Any]:
        """Everything resume needs, as tensors and plain values (states.py)."""
        return states.capture(self)

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, generators last; nothing may draw between this and the first step."""
        states.restore(self, content)

    def load_weights(self, content: dict[str, Any]) -> None:
        """Load the weights of a checkpoint, averaged ones if it has them, and nothing else."""
        weights = content["ema"]["model"] if content["ema"] else content["model"]
        checkpoints.load_strictly(self.model, weights)
        if self.ema is not None:
            self.ema.module.load_state_dict(weights)

    def __repr__(self) -> str:
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        what = f"{type(self.model).__name__}, {num_parameters:,} parameters on {self.device}, {self.precision}"
        return f"Experiment({self.path.name if self.path else 'not run'}: {what}, step {self.state.step})"
