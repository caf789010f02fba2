"""Everything one experiment consists of, built from its config: `Experiment.from_config`, `Experiment.from_path`."""

import inspect
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .config import FORMER_NAMES, PROJECT_ROOT, Config
from .core import checkpoint as checkpoints
from .core import rng
from .core.build import build, check_targets, locate
from .core.checkpoint import RunState
from .core.compose import Project, compose_config, read_config
from .core.errors import RunError
from .core.intervals import Intervals, in_steps
from .core.loading import Loader, View, fingerprint, limit, split_indices
from .core.precision import autocast, choose_device, choose_precision, make_scaler
from .core.run import Run

PROJECT = Project(PROJECT_ROOT, __package__, Config, FORMER_NAMES)


class Experiment:
    """What a config describes, as objects. Building draws from generators keyed by (seed, part), so parts that are
    built when first asked for (data, optimizers) come out the same in any order, and nothing here writes a file.

    Attributes:
        cfg: the config.
        device: where `model` and batches are.
        model: the plain network; in eval mode, with averaged weights if there are any, after `from_path`.
        train_model: what the loop calls; the same weights.
        losses: by key of `loss:`; "" where there is one.
        state: counters.
        run: the run's folder and record while training, else None.
    """

    def __init__(self, cfg: DictConfig, device: str | None = None) -> None:
        settings = cfg.run
        self.cfg = cfg
        check_targets(OmegaConf.to_container(cfg, resolve=True), {"data.dataset": ("split",)})
        self.run: Run  # while training
        self.path: Path | None = None  # the run's folder
        self.device = choose_device(device or settings.device)
        self.precision = choose_precision(settings.precision, self.device)
        self.autocast = autocast(self.precision, self.device)
        self.scaler = make_scaler(self.precision, self.device)
        self.accumulate, self.clip_grad_norm = settings.accumulate, settings.clip_grad_norm
        self.target_loss, self.monitor, self.patience = settings.target_loss, settings.monitor, settings.patience
        self.state = RunState()
        self.loss_watch = torch.zeros((), device=self.device)  # sum of the losses since it was last looked at
        self._optimizer_states: dict[str, Any] = {}
        self._scheduled: list[tuple[Any, dict[str, Any]]] = []
        with rng.keyed(settings.seed, "model"):
            self.model: nn.Module = build(cfg.model, "model").to(self.device)
        self.train_model = self.model
        self.losses = {name: build(spec, _key("loss", name)) for name, spec in _by_network(cfg.loss).items()}
        self.networks = {name: self.model.get_submodule(name) for name in self.losses}
        self.ema = None
        if settings.ema_decay is not None:
            from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

            self.ema = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema_decay))

    @classmethod
    def from_config(cls, *overrides: str, device: str | None = None) -> "Experiment":
        """Build an experiment from overrides as on the command line, e.g. `from_config("data=digits", "mode=dev")`."""
        return cls(compose_config(PROJECT, list(overrides)), device=device)

    @classmethod
    def from_path(cls, path: str | Path, checkpoint: str = "best", device: str = "cpu") -> "Experiment":
        """Load a run: the model in eval mode with the weights of a checkpoint; needs the run's folder alone.

        Args:
            path: run folder, anywhere, also read-only; relative to where you are, else to the project's folder.
            checkpoint: "best", "latest", or the name of another file in checkpoints/.
            device: where to put the model.

        Raises:
            UserError: no run there, no such checkpoint, or a damaged one.
        """
        folder = Path(path).expanduser()
        folder = folder if folder.is_absolute() or folder.is_dir() else PROJECT_ROOT / folder
        cfg = read_config(folder, PROJECT)
        content = checkpoints.load(folder / "checkpoints" / f"{checkpoint}.pt")
        cfg.loader.num_workers = 0
        exp = cls(cfg, device)
        exp.path = folder
        exp.load_weights(content)
        exp.state = RunState(**content["state"])
        exp._optimizer_states = content["optimizers"]
        exp.model.eval()
        return exp

    @cached_property
    def datasets(self) -> dict[str, View]:
        """The splits, by name; "train" and "val" provably disjoint where `data.val_from_train` carves them."""
        cfg, seed = self.cfg, self.cfg.run.seed

        def read(split: str, **changes: Any) -> Any:
            with rng.keyed(seed, "data", split):
                return build(cfg.data.dataset, "data.dataset", split=split, **changes)

        train = read("train")
        fraction = cfg.data.get("val_from_train")
        if fraction is None:
            views = {"train": View(train, None, "train"), "val": View(read("val"), None, "val")}
        else:
            changes = cfg.data.get("val_arguments")  # e.g. no augmentation
            positions = split_indices(len(train), fraction, seed)
            views = {"train": View(train, positions["train"], "train")}
            views["val"] = View(read("train", **changes) if changes else train, positions["val"], "val")
        views["test"] = View(read("test"), None, "test")
        for name, view in views.items():
            setting = cfg.loader.limit_train if name == "train" else cfg.loader.limit_eval
            views[name] = View(view, limit(len(view), setting, seed, name), name)
        return views

    @cached_property
    def loaders(self) -> dict[str, Loader]:
        """A loader for each split; the training one has an order of its own every epoch."""
        cfg = self.cfg.loader
        return {
            name: Loader(
                dataset,
                cfg.batch_size,
                shuffle=name == "train",
                seed=self.cfg.run.seed,
                device=self.device,
                num_workers=cfg.num_workers,
                start_method=cfg.start_method,
            )
            for name, dataset in self.datasets.items()
        }

    train_loader = property(lambda self: self.loaders["train"])
    val_loader = property(lambda self: self.loaders["val"])
    test_loader = property(lambda self: self.loaders["test"])

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last window may be smaller."""
        return -(-len(self.train_loader) // self.cfg.run.accumulate)

    @cached_property
    def num_steps(self) -> int:
        """The budget in optimizer steps."""
        return in_steps(self.cfg.run.budget, self.steps_per_epoch)

    @cached_property
    def intervals(self) -> Intervals:
        """Answers which `*_every` is due."""
        settings = {name: value for name, value in self.cfg.run.items() if name.endswith("_every")}
        return Intervals(settings, self.steps_per_epoch, self.num_steps)

    @cached_property
    def optimizers(self) -> dict[str, Any]:
        """An optimizer for each key of `loss:`, over the parameters of the network of that name."""
        specs = _by_network(self.cfg.optimizer, self.losses)
        optimizers = {
            name: build(specs[name], _key("optimizer", name), list(network.parameters()))
            for name, network in self.networks.items()
        }
        for name, state in self._optimizer_states.items():
            optimizers[name].load_state_dict(state)
        return optimizers

    @cached_property
    def schedulers(self) -> dict[str, Any]:
        """A learning rate schedule for each optimizer that has one."""
        schedulers = {}
        for name, spec in _by_network(self.cfg.scheduler, self.losses, "interval").items():
            if spec.schedule is not None:
                key = _key("scheduler", name) + ".schedule"
                takes = inspect.signature(locate(spec.schedule._target_, key)).parameters
                total = {"num_steps": self.num_steps} if "num_steps" in takes else {}
                schedulers[name] = build(spec.schedule, key, self.optimizers[name], **total)
                self._scheduled.append((schedulers[name], dict(spec)))
        return schedulers

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Metrics that are not means over items: objects with update(model, batch), compute(), reset()."""
        return {name: build(spec, f"metrics.{name}") for name, spec in (self.cfg.metrics or {}).items()}

    @cached_property
    def plots(self) -> dict[str, Any]:
        """Kinds of figures by name: callables of the experiment that return a figure, or why they drew none."""
        return {name: build(spec, f"plots.{name}") for name, spec in (self.cfg.plots or {}).items()}

    @cached_property
    def rollout(self) -> Any:
        """The expensive evaluation, a callable of (model, loader) returning a dict of numbers; None: there is none."""
        return build(self.cfg.rollout, "rollout") if self.cfg.rollout else None

    def prepare(self) -> None:
        """Build what training needs, in the order that correctness needs; compiles in place, so keys stay plain."""
        if self.cfg.run.compile:
            for network in self.networks.values():
                network.compile()
        for part in ("loaders", "optimizers", "schedulers", "intervals", "metrics", "plots", "rollout"):
            getattr(self, part)

    @property
    def finished(self) -> bool:
        """Whether the budget is used, the patience at its end, or the target loss reached."""
        state, patience = self.state, self.patience
        out_of_patience = patience is not None and state.evaluations_since_best >= patience
        return state.step >= self.num_steps or out_of_patience or state.target_reached

    def due(self, name: str) -> bool:
        """Whether the setting `run.<name>` is due after this step."""
        return self.intervals.due(name, self.state.step)

    def judge(self, values: dict[str, float]) -> bool:
        """Count an evaluation; whether its monitored value is the best so far."""
        if self.monitor is None:
            return False
        split, _, name = self.monitor.partition("/")
        if split != "val" or name not in values:
            known = ", ".join(f"val/{key}" for key in values)
            raise RunError(f"run.monitor={self.monitor} is not among the evaluated values\nthere are: {known}, or null")
        return self.state.judge(values[name], self.cfg.run.monitor_mode)

    def advance_schedulers(self, interval: str, values: dict[str, float] | None = None) -> None:
        """Step the schedules that follow `interval`: "step", "epoch", or "metric" with the evaluated values."""
        for scheduler, spec in self._scheduled:
            if spec["interval"] == interval:
                scheduler.step(*([values[spec["monitor"].partition("/")[2]]] if values is not None else []))

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept as best: with averaged weights if EMA is on."""
        return self.ema.module if self.ema is not None else self.model

    def state_dict(self) -> dict[str, Any]:
        """Everything resume needs, as tensors and plain values; "model" holds the raw weights under plain names."""
        return {
            "format": checkpoints.FORMAT,
            "model": self.model.state_dict(),
            "ema": self.ema and {"model": self.ema.module.state_dict(), "count": int(self.ema.n_averaged)},
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedulers": {name: scheduler.state_dict() for name, scheduler in self.schedulers.items()},
            "scaler": self.scaler.state_dict(),
            "state": asdict(self.state),
            "splits": {name: fingerprint(view) for name, view in self.datasets.items()},
            "generators": rng.capture(),  # last: building or reading anything above draws from none of them
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, generators last; nothing may draw between this and the first step."""
        self.model.load_state_dict(content["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"]["model"])
            self.ema.n_averaged.fill_(content["ema"]["count"])
        for kind in ("optimizers", "schedulers"):
            for name, part in getattr(self, kind).items():
                part.load_state_dict(content[kind][name])
        self.scaler.load_state_dict(content["scaler"])
        self.state = RunState(**content["state"])
        rng.restore(content["generators"])

    def load_weights(self, content: dict[str, Any]) -> None:
        """Load the weights of a checkpoint, averaged ones if it has them, and nothing else."""
        weights = content["ema"]["model"] if content["ema"] else content["model"]
        checkpoints.load_strictly(self.model, weights)
        if self.ema is not None:
            self.ema.module.load_state_dict(weights)

    def __repr__(self) -> str:
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        where = self.path.name if self.path else "from config"
        return (
            f"Experiment({where}: {type(self.model).__name__}, {num_parameters:,} parameters on {self.device}, "
            f"{self.precision}, step {self.state.step})"
        )


def _by_network(spec: Any, names: Any = ("",), marker: str = "_target_") -> dict[str, Any]:
    """A config block as a mapping by network: one spec (it has `marker`) serves all of `names`, else it is the mapping."""
    return dict.fromkeys(names, spec) if marker in spec else dict(spec)


def _key(group: str, name: str) -> str:
    return f"{group}.{name}" if name else group
