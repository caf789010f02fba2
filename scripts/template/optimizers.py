"""Does every optimizer and schedule of torch resume exactly? A table of those that do and those that are refused.

    python scripts/template/optimizers.py           # half a minute
    python scripts/template/optimizers.py --write   # and put the table into README.md

Each trains a small network for six steps; from the state at step 3, saved to a file, another takes the other three
steps. Both must end in the same bits. torch.optim is listed, so that a newer torch shows what it adds.
"""

import functools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler, swa_utils

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "tests")]

from tables import write_table

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.config.compose import compose_config
from scaffolding.core.errors import RunError, UserError
from scaffolding.core.state import checkpoint, keys
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.schedules import advance
from scaffolding.train import train_step

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
STEPS, SAVED = 6, 3
WORDS = (
    f"hydra.searchpath=['file://{HERE.parents[1] / 'tests' / 'configs'}']", "data=noisy", "model=tiny",
    "model._target_=optimizers.Net", "plots=none", "tracker=none", "mode=prod", "run.device=cpu", "run.budget=6",
    "loader.batch_size=16",
)  # fmt: skip

ARGUMENTS: dict[str, Callable[[Optimizer], dict[str, Any]]] = {  # those that a schedule cannot do without
    "LambdaLR": lambda optimizer: {"lr_lambda": halving},
    "MultiplicativeLR": lambda optimizer: {"lr_lambda": halving},
    "StepLR": lambda optimizer: {"step_size": 2},
    "MultiStepLR": lambda optimizer: {"milestones": [2, 4]},
    "ExponentialLR": lambda optimizer: {"gamma": 0.9},
    "CosineAnnealingLR": lambda optimizer: {"T_max": STEPS},
    "CosineAnnealingWarmRestarts": lambda optimizer: {"T_0": 2},
    "CyclicLR": lambda optimizer: {"base_lr": 1e-3, "max_lr": 1e-2, "step_size_up": 2},
    "OneCycleLR": lambda optimizer: {"max_lr": 1e-2, "total_steps": STEPS},
    "SWALR": lambda optimizer: {"swa_lr": 1e-3, "anneal_epochs": 4},
    "SequentialLR": lambda optimizer: {"schedulers": parts(optimizer), "milestones": [2]},
    "ChainedScheduler": lambda optimizer: {"schedulers": parts(optimizer)},
    "ReduceLROnPlateau": lambda optimizer: {"patience": 0},
}


class Net(nn.Module):
    """A network with weights of any type; where they are sparse, an embedding learns alone."""

    def __init__(self, num_features: int, num_classes: int, dtype: str = "float32", kind: str = "dense") -> None:
        super().__init__()
        self.kind = kind
        if kind == "sparse":
            self.table = nn.Embedding(64, num_classes, sparse=True, dtype=DTYPES[dtype])
        else:
            self.first = nn.Linear(num_features, 16, bias=kind == "dense", dtype=DTYPES[dtype])
            self.last = nn.Linear(16, num_classes, bias=False, dtype=DTYPES[dtype])

    def forward(self, points: Tensor) -> Tensor:
        if self.kind == "sparse":
            return self.table((points * 8).long() % 64).sum(1).float()
        points = points.to(self.last.weight.dtype)
        return self.last(self.first(points).relu()).float()


def halving(step: int) -> float:
    return 0.5 ** (step / STEPS)


def parts(optimizer: Optimizer) -> list[Any]:
    return [lr_scheduler.ConstantLR(optimizer, 0.5, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]


def schedule(optimizer: Optimizer, name: str) -> Any:
    """One of torch's schedules by name."""
    made = {**vars(swa_utils), **vars(lr_scheduler)}[name]
    arguments = ARGUMENTS.get(name, lambda _: {})(optimizer)
    if name == "ChainedScheduler":
        return made(**arguments)
    return made(optimizer, **arguments)


def listed(modules: list[Any], base: type) -> list[str]:
    """The names of torch's classes of a kind."""
    names = {
        name for module in modules for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, base) and value is not base and not name.startswith("_")
    }  # fmt: skip
    return sorted(names)


def outcome(words: list[str], folder: Path) -> str:
    """What a resume gives with some settings: "exact", the first difference, or the words of the refusal."""
    try:
        whole = experiment(words)
        steps(whole, SAVED)
        saved = whole.state_dict()
        checkpoint.save(folder / "latest.pt", saved)
        steps(whole, STEPS)
        again = experiment(words)
        again.load_state_dict(checkpoint.load(folder / "latest.pt"))
        steps(again, STEPS)
    except (UserError, RunError) as error:
        return f"refused: {str(error).splitlines()[0].partition(': ')[2]}"
    difference = first_difference(whole.state_dict(), again.state_dict())
    return "exact" if difference is None else f"**{difference} differs**"


def experiment(words: list[str]) -> Experiment:
    """A small experiment, ready to train."""
    exp = Experiment(composed(tuple(words)).copy())
    exp.prepare()
    keys.seed_all(0)
    exp.model.train()
    return exp


@functools.cache
def composed(words: tuple[str, ...]) -> DictConfig:
    return compose_config(PROJECT, [*WORDS, *words])


def steps(exp: Experiment, until: int) -> None:
    """Train up to a step; each is followed by an evaluation with the same result."""
    batches = exp.train_loader.steps(exp.state, 1)
    while exp.state.step < until:
        micro_batches = next(batches)
        train_step(exp, micro_batches)
        exp.state.advance(len(micro_batches), sum(part.num_items for part in micro_batches), len(exp.train_loader))
        advance(exp.schedulers, "metric", {"loss": 1.0}, "val")


def optimizer_words(name: str, dtype: str) -> list[str]:
    """The settings of a run with one of torch's optimizers, on weights that it takes."""
    kind = {"SparseAdam": "sparse", "Muon": "matrices"}.get(name, "dense")
    return [
        f"+model.dtype={dtype}", f"+model.kind={kind}", "~optimizer", f"+optimizer._target_=torch.optim.{name}",
        "+optimizer.lr=0.01",
    ]  # fmt: skip


def schedule_words(name: str) -> list[str]:
    """The settings of a run with one of torch's schedules."""
    words = ["optimizer=sgd", "+scheduler.schedule._target_=optimizers.schedule", f"+scheduler.schedule.name={name}"]
    if name == "ReduceLROnPlateau":
        return [*words, "+scheduler.monitor=val/loss"]
    return [*words, "+scheduler.interval=step"]


def table() -> str:
    """The outcomes: of every optimizer with each type of weights, and of every schedule."""
    lines = [f"With torch {torch.__version__}:", "", "| weights | " + " | ".join(DTYPES) + " |", "| --- " * 4 + "|"]
    with tempfile.TemporaryDirectory() as folder:
        for name in OPTIMIZERS:
            found = [outcome(optimizer_words(name, dtype), Path(folder)) for dtype in DTYPES]
            lines.append(f"| `{name}` | {' | '.join(found)} |")
        lines += ["", "| schedule | resumed |", "| --- | --- |"]
        for name in SCHEDULES:
            lines.append(f"| `{name}` | {outcome(schedule_words(name), Path(folder))} |")
    return "\n".join(lines) + "\n"


OPTIMIZERS = listed([torch.optim], Optimizer)
SCHEDULES = listed([lr_scheduler, swa_utils], lr_scheduler.LRScheduler)

if __name__ == "__main__":
    text = table()
    print(text, end="")
    if "--write" in sys.argv[1:]:
        write_table(HERE / "README.md", "optimizers", text.splitlines())
    sys.exit("**" in text)
