"""Everything one experiment consists of, built from its config: `Experiment.from_config`, `Experiment.from_path`."""

import contextlib
import os
import shlex
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from dotenv import load_dotenv
from loguru import logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from .config import FETCHING, FORMER_NAMES, PROJECT_ROOT, TRUSTED, Config, RunConfig, upgrade
from .core.batches.loader import Loader, MicroBatch
from .core.batches.resident import keep_on_device
from .core.batches.stream import StreamLoader
from .core.checks.losses import check_run
from .core.checks.monitors import choose_monitors
from .core.clock import Clock
from .core.config.build import build, by_network, interval_of, subnetworks, takes_total
from .core.config.compose import Project, compose_config, lasting, masked, own_words, portable
from .core.config.plugins import import_plugins
from .core.errors import UserError
from .core.faults import FaultsError
from .core.find import find_run
from .core.folder.facts import Facts
from .core.intervals import Intervals, in_steps
from .core.meter import Meter
from .core.optimizers import build_optimizer
from .core.precision import (
    AveragedWeights,
    Scaler,
    arrange,
    begin_pass,
    choose_device,
    compile_network,
    end_pass,
    has_graphs,
)
from .core.preflight.blocks import check_specs
from .core.processes.connect import ONE_PROCESS
from .core.provenance.data import of_datasets, recorded, warn_of_data
from .core.provenance.policy import EPHEMERAL
from .core.provenance.provenance import numerics
from .core.report.card import card
from .core.secrets import hide_secrets
from .core.session.run import NoRun
from .core.state import checkpoint as checkpoints
from .core.state import keys
from .core.state.files import CheckpointFiles, find_checkpoint
from .core.state.finite import FiniteWatch, watched
from .core.state.progress import RunState
from .core.trust.config import read_config
from .schedules import Schedule
from .splits import Split, limit, make_splits, seen_in_training, split_seed

PROJECT = Project(PROJECT_ROOT, __package__, Config, FORMER_NAMES, TRUSTED, upgrade, FETCHING)
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Experiment:
    """What a config describes, as objects; builds, and writes nothing.

    Building draws from generators keyed by (seed, part), so what is built when first asked for (data, optimizers) comes
    out the same in any order. `model` is the plain network, `train_model` what the loop calls; `losses`, `networks` and
    `optimizers` have the keys of `loss:` ("" where it is one loss of the whole model). `settings` is `run:` of the
    config, `path` the run's folder, if there is one, and `run` its record while training.
    """

    project = PROJECT

    def __init__(self, cfg: DictConfig, device: str | None = None, processes: Any = ONE_PROCESS) -> None:
        if cfg.imports:
            import_plugins(cfg.imports, PROJECT_ROOT)
        plain: Any = OmegaConf.to_container(cfg, resolve=True)
        check_specs(plain)
        self.cfg = cfg
        self.settings = RunConfig(**plain["run"])
        self.state = RunState()
        self.path: Path | None = None
        self.run: Any = NoRun()
        self.words = own_words()  # of the command line that made it, for overrides.yaml
        self.processes = processes
        if self.settings.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
        wanted = device or str(processes.device or self.settings.device)
        self.device, self.precision = choose_device(wanted, self.settings.precision)
        cfg.run.precision = self.precision  # a run keeps what `auto` meant
        self.autocast: Any = contextlib.nullcontext()  # what forward passes run in
        if self.precision != "float32":
            self.autocast = torch.autocast(self.device.type, DTYPES[self.precision])
        self.scaler = Scaler(self.device.type, enabled=self.precision == "float16")
        self.has_graphs = has_graphs(self.settings.compile, self.device)
        with keys.keyed(self.settings.seed, "model"):
            self.model: nn.Module = build(cfg.model, "model").to(self.device)
        self.memory_format = MEMORY_FORMATS[self.settings.memory_format]
        if self.memory_format != torch.contiguous_format:
            arrange(self.model, self.memory_format)
        self.train_model = self.model  # what losses call in training; yours to wrap
        specs = by_network(cfg.loss, "loss")
        with keys.keyed(self.settings.seed, "loss"):
            self.losses = {name: build(spec, f"loss.{name}".rstrip(".")) for name, spec in specs.items()}
        for loss in self.losses.values():
            if isinstance(loss, nn.Module):  # with parameters, which are trained with those of its network
                loss.to(self.device)
        self._tell_progress(self.state)
        self.networks = subnetworks(self.model, self.losses)
        self.monitor = self.settings.monitor  # the logged value that decides what is best; None: the latest is
        self.main_loss: str | None = None  # the name in rows of the only loss; of several, none says what is best
        if len(self.losses) == 1:
            self.main_loss = "/".join([*filter(None, self.losses), "loss"])
        if self.monitor == "auto":
            self.monitor = None
            if self.main_loss is not None:
                self.monitor = f"val/{self.main_loss}"
        self.ema: AveragedWeights | None = None
        if self.settings.ema_decay is not None:
            self.ema = AveragedWeights(self.model, self.settings.ema_decay)
        self.clock = Clock()  # where the time goes
        self.meter = Meter(processes, is_on=self.settings.log_every is not None)  # means of a training row
        self.failed_figures: dict[str, str] = {}
        self.restored_numerics: dict[str, Any] = {}
        self.unclaimed: dict[str, Any] = {}  # states of objects that a checkpoint has and the experiment lacks
        self.saved: dict[str, Any] = {"optimizers": {}, "objects": {}}  # of a checkpoint: for what is not built yet

    @classmethod
    def from_config(cls, *overrides: str, device: str | None = None) -> "Experiment":
        """Build an experiment from the words of a command line: `from_config("data=digits", "mode=dev")`.

        UserError: a word is wrong, or is one of those that go on from another run, which the command line alone does.
        """
        load_dotenv(PROJECT_ROOT / ".env")  # as `launch` does
        cfg = compose_config(PROJECT, list(overrides))
        for verb in ("resume", "fork", "rerun"):
            if cfg[verb]:
                raise UserError(
                    f"{verb}={cfg[verb]}: a run is carried on by the command line: train.py {verb}={cfg[verb]}"
                    "\nExperiment.from_path loads a run, and Experiment.from_config describes a new one"
                )
        try:
            import_plugins(cfg.imports, PROJECT_ROOT)
            check_specs(OmegaConf.to_container(cfg, resolve=True), is_new=True)  # type: ignore[arg-type]
        except FaultsError as error:
            from .core.preflight.gather import refusal  # only where something is wrong

            raise refusal(error, PROJECT, list(overrides)) from error
        exp = cls(cfg, device)
        exp.words = [masked(word) for word in overrides if not word.startswith("hydra.")]
        return exp

    @classmethod
    def from_path(
        cls, path: str | Path, checkpoint: str = "best", device: str = "cpu", trust: Iterable[str] = ()
    ) -> "Experiment":
        """Load a run: the model in eval mode with the weights of a checkpoint; needs only the run's folder.

        A relative `path` starts where you are, else at the project's folder; it may also be a name, as `resume=` takes
        it. UserError: `checkpoint` ("best", "latest", ...) is missing or damaged, or the config names what neither this
        checkout nor `trust` lists.
        """
        folder = Path(path).expanduser()
        if not folder.is_dir():
            folder = PROJECT_ROOT / folder
        if not folder.is_dir():
            folder = find_run(str(path), PROJECT.output_root)
        cfg = read_config(folder, PROJECT, trust, needs_imports=False)
        content = checkpoints.load(find_checkpoint(folder, checkpoint))
        cfg.loader.num_workers = 0
        exp = cls(cfg, device)
        exp.path, exp.saved = folder, content
        exp.state.restore(content["state"])
        exp.load_weights(content)
        for name, part in exp.objects().items():  # losses with a state
            if not isinstance(part, nn.Module):  # these came with the weights
                exp._restored(name, part)
        for part in (exp.model, exp.ema, *exp.losses.values()):
            if isinstance(part, nn.Module):
                part.eval()
        return exp

    @classmethod
    def best(
        cls, where: str | None = None, output: str | Path | None = None, checkpoint: str = "best", **options: Any
    ) -> "Experiment":
        """Load the best of the finished runs, as `from_path` does: `Experiment.best("data=digits")`.

        `where` is an expression over their columns (scripts/runs.py --help), `output` the folder of the runs, by
        default paths.output_root. UserError: no run fits, or they monitor different values.
        """
        from .core.table.best import best  # a training run does not need it

        root = PROJECT.output_root
        if output is not None:
            root = Path(output).expanduser()
        return cls.from_path(best(root.resolve(), where)["path"], checkpoint, **options)

    def _tell_progress(self, state: RunState) -> None:
        """Give a state to the losses that change as training goes on: they have `progress.step` and `.epoch`."""
        for loss in self.losses.values():
            if hasattr(loss, "progress"):
                loss.progress = state

    # --- what is built when it is first asked for

    def prepare(self) -> None:
        """Build all that training needs; whatever is wrong is a UserError before a run is made."""
        _ = self.metrics, self.plots, self.rollout, self.trackers, self.loaders, self.optimizers, self.schedulers
        check_run(self, choose_monitors(self))
        if self.processes.count > 1:
            _ = self.train_losses  # may shard networks; then the next two are made anew
            _ = self.optimizers, self.schedulers
        torch.set_float32_matmul_precision(self.settings.matmul)
        if self.settings.deterministic:
            torch.use_deterministic_algorithms(True)
        if self.settings.compile:
            for network in self.networks.values():
                compile_network(network, self.settings.compile, self.device)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The config as config.yaml holds it: plain values, paths that may be moved, no secrets."""
        config: dict[str, Any] = hide_secrets(portable(self.cfg, PROJECT))
        return config

    @cached_property
    def datasets(self) -> dict[str, Split]:
        """The splits, by name."""
        loader = self.cfg.loader

        def read(split: str, **changes: Any) -> Any:
            with keys.keyed(split_seed(self.cfg.data), "data", split):
                return build(self.cfg.data.dataset, "data.dataset", split=split, **changes)

        limits = (loader.limit_train, loader.limit_eval)
        splits = self.processes.in_turn(lambda: make_splits(read, self.cfg.data, *limits))  # downloaded once
        if self.path is not None:  # of a loaded run, whose files may be others now
            warn_of_data(self.path.name, recorded(self.path), of_datasets(self, splits))
        return {name: self._restored(f"datasets.{name}", split) for name, split in splits.items()}

    def num_seen(self, config: dict[str, Any]) -> int:
        """How many validation items a run with another config was trained on."""
        return seen_in_training(self.datasets, self.config["data"], config)

    @cached_property
    def loaders(self) -> dict[str, Any]:
        """A loader for each split; the training one has another order every epoch, or reads `data.stream`.

        "rollout" reads what `loader.limit_rollout` keeps of the validation split.
        """
        settings: Any = OmegaConf.to_container(self.cfg.loader, resolve=True)
        names = ("batch_size", "num_workers", "start_method", "timeout")
        common = {"seed": self.settings.seed, "device": self.device, **{name: settings[name] for name in names}}
        common |= {"rank": self.processes.rank, "num_processes": self.processes.count}
        common |= {"memory_format": self.memory_format}
        loaders: dict[str, Any] = {}
        if self.cfg.data.get("stream"):
            with keys.keyed(self.settings.seed, "stream"):
                stream = build(self.cfg.data.stream, "data.stream")
            if hasattr(stream, "model"):  # it acts, as in reinforcement learning
                stream.model = self.train_model
            limits = (self.cfg.data.get("num_items"), settings["limit_train"], settings["batch_size"])
            more = (self.processes.rank, self.processes.count, self.memory_format)
            loader = StreamLoader(stream, *limits, self.settings.seed, self.device, *more)
            loaders["train"] = self._restored("loaders.train", loader)
        for name, split in self.datasets.items():
            is_train = name == "train"
            loaders[name] = Loader(
                split, name, shuffle=is_train, drop_last=is_train and settings["drop_last"], **common
            )
        if "val" in loaders:
            loaders["rollout"] = loaders["val"]
        if settings["limit_rollout"] is not None and "val" in self.datasets:
            part = limit(self.datasets["val"], settings["limit_rollout"], split_seed(self.cfg.data))
            loaders["rollout"] = Loader(part, "val", shuffle=False, **common)
        if self.device.type != "cpu" and settings["on_device"] is not False:
            self._keep_on_device(loaders.values(), settings["on_device"])
        return loaders

    def _keep_on_device(self, loaders: Iterable[Any], setting: Any) -> None:
        """Let loaders read from copies of their datasets on the device, where that changes no value."""
        kept: dict[int, Any] = {}  # by dataset: splits may share one
        for loader in loaders:
            if not hasattr(getattr(loader, "dataset", None), "get_batch"):  # streams have none
                continue
            dataset, positions = loader.dataset.dataset, next(iter(loader.indices(0)))
            if loader.dataset.indices is not None:
                positions = loader.dataset.indices.index_select(0, positions)
            if id(dataset) not in kept:
                kept[id(dataset)] = keep_on_device(dataset, positions, self.device, setting, "loader.on_device")
            loader.resident = kept[id(dataset)]

    train_loader = property(lambda self: self.loaders["train"])
    val_loader = property(lambda self: self.loaders["val"])
    test_loader = property(lambda self: self.loaders["test"])
    rollout_loader = property(lambda self: self.loaders.get("rollout"))

    def start_workers(self) -> None:
        """Start the worker processes of all loaders where late ones would run code that was edited since."""
        all_workers = [loader.workers for loader in self.loaders.values() if loader.workers is not None]
        for workers in all_workers:  # side by side
            workers.start()
        for workers in all_workers:
            workers.await_start()

    def close(self) -> None:
        """End the worker processes of the loaders; they start again when a loader is read."""
        for loader in self.loaders.values():
            loader.close()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch; the last one may be smaller."""
        return -(-len(self.train_loader) // self.settings.accumulate)

    @cached_property
    def num_steps(self) -> int:
        """The budget in optimizer steps."""
        return in_steps(self.settings.budget, self.steps_per_epoch)

    @cached_property
    def schedule_steps(self) -> int:
        """The optimizer steps that schedules are made for: the budget, unless the run says otherwise."""
        return in_steps(self.settings.schedule_budget or self.settings.budget, self.steps_per_epoch)

    @cached_property
    def intervals(self) -> Intervals:
        """Answers which `*_every` is due."""
        settings = dict(vars(self.settings))
        if "val" not in self.loaders:
            settings["eval_every"] = None
        return Intervals(settings, self.steps_per_epoch, self.num_steps, self.processes.agree)

    @property
    def train_losses(self) -> dict[str, Any]:
        """The losses as the loop calls them: where several processes train together, their gradients meet."""
        if self.processes.count == 1:
            return self.losses
        return self._distributed

    @cached_property
    def _distributed(self) -> dict[str, Any]:
        from .parallel import distribute  # only where there are several processes: it imports torch.distributed

        return distribute(self)

    @cached_property
    def trained(self) -> dict[str, dict[str, nn.Parameter]]:
        """For each key of `loss:`, the parameters by name that want gradients: of that network, and of the loss."""
        trained: dict[str, dict[str, nn.Parameter]] = {}
        for name, network in self.networks.items():
            parts = dict(network.named_parameters())
            loss = self.losses[name]
            if isinstance(loss, nn.Module):
                known = {id(parameter) for parameter in self.model.parameters()}
                parts |= {f"loss.{key}": part for key, part in loss.named_parameters() if id(part) not in known}
            trained[name] = {key: parameter for key, parameter in parts.items() if parameter.requires_grad}
        return trained

    @cached_property
    def optimizers(self) -> dict[str, Any]:
        """An optimizer for each key of `loss:`, over the parameters in `trained`."""
        specs = by_network(self.cfg.optimizer, "optimizer", self.losses)
        optimizers = {}
        for name, parameters in self.trained.items():
            optimizers[name] = build_optimizer(specs[name], f"optimizer.{name}".rstrip("."), parameters)
        for name, state in self.saved["optimizers"].items():
            checkpoints.load_optimizer(optimizers[name], state)
        return optimizers

    @cached_property
    def schedulers(self) -> dict[str, Schedule]:
        """A learning rate schedule for each optimizer that has one."""
        specs = by_network(self.cfg.scheduler, "scheduler", self.losses, "schedule")
        chosen = [name for name, spec in specs.items() if spec.schedule is not None]
        return {name: self.make_schedule(name, self.schedule_steps, self.optimizers[name]) for name in chosen}

    def make_schedule(self, network: str, num_steps: int, optimizer: Any) -> Schedule:
        """The schedule of a network, made for so many steps, which sets the rates of an optimizer."""
        spec, total = by_network(self.cfg.scheduler, "scheduler", self.losses, "schedule")[network], {}
        if takes_total(spec.schedule._target_):
            total["num_steps"] = num_steps
        scheduler = build(spec.schedule, "scheduler.schedule", optimizer, **total)
        return Schedule(scheduler, interval_of(spec), spec.get("monitor"))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Metrics that are not means over items: objects with update(model, batch[, output]), compute(), reset()."""
        metrics = self._group("metrics")
        for metric in metrics.values():
            self.processes.leave_alone(metric)
        return metrics

    @cached_property
    def plots(self) -> dict[str, Any]:
        """Kinds of figures by name (plot/__init__.py)."""
        return self._group("plots")

    @cached_property
    def trackers(self) -> dict[str, Any]:
        """The blocks of the trackers, by name; what is wrong with one shows here, before its process builds it."""
        specs: Any = OmegaConf.to_container(self.cfg.tracker, resolve=True)
        return {name: specs[name] for name in self._group("tracker")}

    @cached_property
    def rollout(self) -> Any:
        """The expensive evaluation, a callable of (model, loader) giving a dict of numbers; None: there is none."""
        if not self.cfg.rollout:
            return None
        return self._part("rollout", self.cfg.rollout)

    def _group(self, group: str) -> dict[str, Any]:
        """The objects of a group of the config, by name."""
        return {name: self._part(f"{group}.{name}", spec) for name, spec in (self.cfg[group] or {}).items() if spec}

    def _part(self, key: str, spec: Any) -> Any:
        """An object of the config, drawn by (seed, key), with the state that a loaded checkpoint has of it."""
        with keys.keyed(self.settings.seed, "build", key):
            part = build(spec, key)
        if isinstance(part, nn.Module):
            part.to(self.device)
        return self._restored(key, part)

    def _restored(self, name: str, part: Any) -> Any:
        """An object with the state that a loaded checkpoint has of it, if it has one."""
        state = self.saved["objects"].get(name)
        if state is not None and hasattr(part, "load_state_dict"):
            part.load_state_dict(state)
        return part

    @cached_property
    def watch(self) -> FiniteWatch:
        """The sum of all losses, which shows that one was not finite; made before the first step."""
        return FiniteWatch(self.device, watched(self))

    # --- questions that the loop asks

    def due(self, name: str) -> bool:
        """Whether log, eval, rollout, plot or save is due after this step."""
        return self.intervals.due(name, self.state.step)

    def is_done(self) -> bool:
        """Whether the budget is used, the patience is at its end, or the target loss is reached."""
        state, patience = self.state, self.settings.patience
        is_out_of_patience = patience is not None and state.evaluations_since_best >= patience
        return state.step >= self.num_steps or state.target_reached or is_out_of_patience

    def is_below_target(self) -> bool:
        """Whether the loss of the last step, at a logged row, is below `run.target_loss`."""
        target = self.settings.target_loss
        return target is not None and self.main_loss is not None and self.meter.last[self.main_loss] < target

    def logs_next(self) -> bool:
        """Whether the step that is being taken will be logged."""
        return self.intervals.due("log", self.state.step + 1)

    def keyed(self, network: str, micro_batches: list[MicroBatch]) -> Iterator[tuple[Any, float]]:
        """(batch, weight) of each micro-batch; torch's generators are seeded by (seed, network, epoch, position).

        Gradients of several processes meet in the backward pass of the last one. Afterwards generators are seeded by
        (seed, network, step): what an optimizer draws is the same in all processes.

        Raises:
            RunError: gradients of this process did not meet those of the others.
        """
        is_shared = self.processes.count > 1
        for index, (batch, weight, _, epoch, position) in enumerate(micro_batches, 1):
            if self.has_graphs:
                begin_pass(self.model)
            keys.seed_torch(self.device, keys.key(self.settings.seed, network, epoch, position))
            if is_shared:
                self.train_losses[network].meet(index == len(micro_batches))
            yield batch, weight
        if is_shared:
            self.train_losses[network].check_met()
        if self.has_graphs:
            end_pass()
        keys.seed_torch(self.device, keys.key(self.settings.seed, network, "update", self.state.step))

    def check_finite(self) -> None:
        """RunError if a loss since the last look, a weight, a buffer or an optimizer's state is not finite any more."""
        run = "RUN"
        if self.settings.provenance == EPHEMERAL:
            run = ""
        elif self.path is not None:
            run = shlex.quote(str(self.path))
        self.processes.check(self.watch.check, watched(self), self.state.step, run)

    def share_buffers(self) -> None:
        """Give all processes the buffers of the first one: each has seen other batches."""
        for part in (self.model, *self.losses.values()):
            if isinstance(part, nn.Module):
                self.processes.share_buffers(part)
        if self.ema is not None:
            self.processes.share_buffers(self.ema.module)

    def check_weights(self) -> None:
        """RunError if processes have other weights: something trains them outside of `train_losses`."""
        self.processes.check_same(self.model)

    @property
    def eval_model(self) -> nn.Module:
        """The network that is evaluated and kept as best: with averaged weights if EMA is on."""
        if self.ema is None:
            return self.model
        return self.ema.module

    def history(self) -> list[dict[str, Any]]:
        """The run's logged rows, oldest first: step, epoch, samples, split, values, time; empty without a run."""
        if self.path is None:
            return []
        return Facts(self.path / "facts").rows()

    # --- what a checkpoint holds

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: every state that makes a resumed run the same run, in tensors and plain values."""
        self.share_buffers()  # whoever looks at the state next, sees what is saved
        ema = None
        if self.ema is not None:
            ema = {"raw": self.model.state_dict(), "count": int(self.ema.n_averaged)}
        content = {
            "format": checkpoints.FORMAT,
            "model": self.eval_model.state_dict(),  # the weights that are evaluated, under plain names
            "ema": ema,  # of averaged weights: how many were averaged, and the raw ones, which training goes on with
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "schedulers": {name: schedule.scheduler.state_dict() for name, schedule in self.schedulers.items()},
            "scaler": self.scaler.state_dict(),
            "meter": self.meter.state_dict(),
            "objects": {name: part.state_dict() for name, part in self.objects().items()},
            "state": vars(self.state) | {"looks": list(self.state.looks)},
            "splits": {name: split.fingerprint() for name, split in self.datasets.items()},
            "numerics": numerics(self.device, self.processes.count),
            "config": lasting(self.config, PROJECT),  # so that a setting changed since is applied to what is restored
        }
        whole: dict[str, Any] = self.processes.full(content)
        return whole

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restore exactly what `state_dict` returned.

        Raises:
            UserError: the weights do not fit, or the checkpoint lacks an object's state; the message names them.
        """
        parts, saved = self.objects(), content["objects"]
        missing = [name for name in parts if name not in saved and not name.startswith("plots.")]  # figures may change
        if missing:
            raise UserError(
                f"the checkpoint has no state of {', '.join(missing)}"
                "\nleave out what was added since, or start a new run with fork="
            )
        self.unclaimed = {name: saved[name] for name in saved.keys() - parts.keys() if not name.startswith("plots.")}
        if self.unclaimed:
            logger.warning(
                f"the checkpoint has the state of {', '.join(self.unclaimed)}, which the experiment does not have yet; "
                "where you make it, restore it from exp.unclaimed"
            )
        checkpoints.load_model(self.eval_model, content["model"])
        if self.ema is not None:
            checkpoints.load_model(self.model, content["ema"]["raw"])
            self.ema.n_averaged.fill_(content["ema"]["count"])
        for name, optimizer in self.optimizers.items():
            checkpoints.load_optimizer(optimizer, content["optimizers"][name])
        for name, schedule in self.schedulers.items():
            schedule.scheduler.load_state_dict(content["schedulers"][name])
        if content["scaler"]:
            self.scaler.load_state_dict(content["scaler"])
        if "meter" in content:  # earlier versions logged the last step alone
            self.meter.load_state_dict(content["meter"])
        for name, part in parts.items():
            if name in saved and isinstance(part, nn.Module):  # it may be sharded
                checkpoints.load_model(part, saved[name])
            elif name in saved:
                part.load_state_dict(saved[name])
        self.state.restore(content["state"])
        self.restored_numerics = content["numerics"]  # compared with this machine's after the first step

    def objects(self) -> dict[str, Any]:
        """Whatever else has state_dict and load_state_dict: your losses, metrics, figures, and attributes that you add,
        alone or in a dict, list or tuple.
        """
        found: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name in (
                "model",
                "train_model",
                "_distributed",
                "networks",
                "ema",
                "optimizers",
                "schedulers",
                "scaler",
                "meter",
            ):
                continue  # they stand in the list above
            parts = {"": value}
            if isinstance(value, dict):
                parts = value
            elif isinstance(value, list | tuple):
                parts = {str(index): part for index, part in enumerate(value)}
            for key, part in parts.items():
                if hasattr(part, "load_state_dict"):
                    found[f"{name}.{key}".rstrip(".")] = part
        return found

    def load_weights(self, content: dict[str, Any], is_partial: bool = False) -> None:
        """Load the weights of a checkpoint, averaged ones if it has them, those of losses too, and nothing else.

        Args:
            content: the checkpoint.
            is_partial: take over what fits by name and shape, and log what does not.

        Raises:
            UserError: the weights do not fit; of a partial load, none does.
        """
        load = checkpoints.load_fitting if is_partial else checkpoints.load_model
        load(self.model, content["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(self.model.state_dict())
        for name, loss in self.losses.items():
            state = content["objects"].get(f"losses.{name}".rstrip("."))
            if isinstance(loss, nn.Module) and state:
                load(loss, state)

    def load_best_weights(self) -> RunState:
        """Load the weights of the best checkpoint; if it is damaged, warn and load the newest whole one.

        Returns:
            Where the run stood when they were saved.
        """
        assert self.path is not None
        files = CheckpointFiles(self.path)
        file = self.processes.first(files.keep_whole_best, self.state.best_step)
        content = files.loaded.pop(file, None) or checkpoints.load(file)
        self.load_weights(content)
        for name, part in self.objects().items():  # the state of a loss changes its value
            if name.partition(".")[0] == "losses" and not isinstance(part, nn.Module):
                part.load_state_dict(content["objects"][name])
        state = RunState(**content["state"])
        self._tell_progress(state)
        return state

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return card(self.path, type(self.model).__name__, sum(part.numel() for part in self.model.parameters()))

    def __repr__(self) -> str:
        num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        where = "not run"
        if self.path is not None:
            where = self.path.name
        what = f"{type(self.model).__name__}, {num_parameters:,} parameters on {self.device}, {self.precision}"
        return f"Experiment({where}: {what}, step {self.state.step})"
