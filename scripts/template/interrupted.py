"""Sections of torture.py on runs of the real train.py that are killed, stopped, or restored without some state."""

import functools
import itertools
import operator
import os
import random
import runpy
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from processes import CORES, LIMIT, group, launcher, parallel, send
from scaffolding.core.folder.run_folder import TIMINGS, Facts, read_status
from scaffolding.rehearsal import first_difference
from torch import Tensor, nn

from scaffolding import train as program
from scaffolding.core.state import checkpoint
from scaffolding.experiment import Experiment

Row = tuple[str, str, str, bool]  # what, measured, figure to reach, whether it is reached

TRAIN = str(program.__file__)
WORDS = f"""data=digits data.dataset._target_={__name__}.Points data.val_from_train=0.2 model=mlp model.dropout=0.2
    model._target_={__name__}.Net loss._target_={__name__}.Loss scheduler=cosine plots=none tracker=none mode=prod
    run.device=cpu run.budget=60 run.log_every=1 run.eval_every=7 run.save_every=5 run.num_checkpoints=3
    run.clip_grad_norm=1.0 loader.batch_size=16""".split()


class Points:
    """Noisy images around class centres with their ids; noise drawn in `__getitem__` from all three generators."""

    def __init__(self, split: str) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.labels = torch.arange(150) % 10
        centres = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        self.images = centres[self.labels] + 0.5 * torch.randn(150, 1, 8, 8, generator=generator)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        scale = 1 + 0.1 * float(np.random.rand()) + 0.1 * random.random()
        return self.images[index] * scale + 0.1 * torch.randn(1, 8, 8), self.labels[index], index


class Net(nn.Sequential):
    """Batch norm (buffers) and dropout (torch's generator)."""

    def __init__(self, image_shape: list[int], num_classes: int, hidden_sizes: list[int], dropout: float) -> None:
        norm = nn.BatchNorm1d(16)
        super().__init__(nn.Flatten(), nn.Linear(64, 16), norm, nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10))


class Loss:
    """Cross-entropy that draws from numpy's and python's generators, and grows with the training batches it has seen.

    Logs a hash of the ids, their order included.
    """

    def __init__(self, label_smoothing: float, factor: float = 1) -> None:
        self.factor, self.seen = factor, 0

    def state_dict(self) -> dict[str, int]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.seen = state["seen"]

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images, labels, ids = batch
        self.seen += model.training
        logits = model(images * (1 + 0.1 * float(np.random.rand()) + 0.1 * random.random() + 0.001 * self.seen))
        places = torch.arange(1, len(ids) + 1, dtype=torch.float64)
        return self.factor * F.cross_entropy(logits, labels), {"ids": (places * (ids + 2).double().sqrt()).sum()}


def train(words: list[str], die_at: int = 0, left_out: list[list[str]] | None = None) -> None:
    """Become `python train.py WORDS`; dies at optimizer step `die_at`, leaves some of the saved state unrestored."""
    sys.argv = [TRAIN, *words]
    step, load = torch.amp.GradScaler.step, Experiment.load_state_dict
    steps = itertools.count(1)

    def fatal_step(scaler: Any, *arguments: Any) -> Any:
        if next(steps) == die_at:
            os.killpg(0, signal.SIGKILL)
        return step(scaler, *arguments)

    def load_the_rest(exp: Experiment, content: dict[str, Any]) -> None:
        fresh = deepcopy(exp.state_dict())
        for *parents, last in left_out or ():
            saved, unsaved = (functools.reduce(operator.getitem, parents, whole) for whole in (content, fresh))
            saved[last] = unsaved[last]
        load(exp, content)

    with (
        patch.object(torch.amp.GradScaler, "step", fatal_step),
        patch.object(Experiment, "load_state_dict", load_the_rest),
    ):
        runpy.run_path(TRAIN, run_name="__main__")


Kind = tuple[str, int, bool]  # precision, accumulate, EMA
KINDS: list[Kind] = list(itertools.product(("bfloat16", "float16"), (1, 3), (False, True)))


def kind_words(kind: Kind) -> list[str]:
    precision, accumulate, ema = kind
    decay = 0.9 if ema else "null"
    return [f"run.precision={precision}", f"run.accumulate={accumulate}", f"run.ema_decay={decay}"]


def begin(run: Path, *more: str) -> list[str]:
    """The words that start a run."""
    return [*WORDS, *more, f"run.name={run.name}", f"paths.output_root={run.parent}"]


def carry_on(run: Path, *more: str) -> list[str]:
    """The words that resume a run."""
    return [f"resume={run.name}", f"trust={__name__}", *more, f"paths.output_root={run.parent}"]


def log_of(run: Path) -> Path:
    """What all processes of a run have printed."""
    return run.parent / f"{run.name}.log"


def finish(run: Path, words: list[str], *arguments: Any) -> int | None:
    """Run train.py to its end; returns the exit code."""
    launcher().start(log_of(run), train, words, *arguments)
    return launcher().wait()


def go_through(run: Path, *more: str) -> float:
    """An uninterrupted run; returns how long it took, in seconds."""
    before = time.monotonic()
    code = finish(run, begin(run, *more))
    assert code == 0, f"exit code {code}: see {log_of(run)}\n{log_of(run).read_text()[-2000:]}"
    return time.monotonic() - before


def timed(folder: Path, num_workers: int) -> float:
    """Seconds that a run takes with so many loader workers, beside another one."""
    return go_through(folder / f"timed_{num_workers}", *kind_words(KINDS[-1]), f"loader.num_workers={num_workers}")


def uninterrupted(folder: Path, kinds: list[Kind]) -> dict[Kind, Path]:
    """A run that went through for each kind."""
    runs = {kind: folder / "whole_{}_{}_{}".format(*kind) for kind in kinds}
    parallel(lambda kind: go_through(runs[kind], *kind_words(kind)), kinds)
    return runs


def rows(run: Path) -> list[dict[str, Any]]:
    """The logged values, without what measures the machine."""
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in Facts(run / "facts").rows()]


def difference(run: Path, whole: Path, saved_more: bool = False) -> str | None:
    """What first differs between a run and the one that went through; None: nothing.

    A run that was asked to stop has `saved_more`: of the older checkpoints it kept, others may be the newest.
    """
    if (status := read_status(run)["status"]) != "finished":
        return f"{run.name} is {status}"
    folders = [path / "checkpoints" for path in (run, whole)]
    found, names = ([file.name for file in sorted(folder.glob("*.pt"))] for folder in folders)
    if saved_more and len(found) == len(names):
        found = names = [name for name in names if name in found or not name.startswith("step_")]
    if found != names:
        return f"{run.name}: it has {found}, not {names}"
    for name in names:
        first = first_difference(*(checkpoint.load(folder / name) for folder in folders))
        if first is not None:
            return f"{run.name}: {first} of {name}"
    if (first := first_difference(rows(run), rows(whole))) is not None:  # NaN equals itself here
        return f"{run.name}: {first} of scalars.csv"
    left = [path.name for path in run.rglob(".*.tmp")]
    return f"{run.name}: {left[0]} is left" if left else None


def wrong_ids(run: Path, whole: Path) -> int:
    """Steps that read other items than in the run that went through, or that were logged never or twice."""
    found, expected = (
        [(row["step"], row["ids"]) for row in rows(path) if row["split"] == "train"] for path in (run, whole)
    )
    return len(set(found) ^ set(expected)) + len(found) - len(set(found))


def tell(differences: Iterable[str | None]) -> str:
    """What differs, for the table: the first few."""
    named = Counter(found for found in differences if found is not None)
    said = [f"; {found}" + (f" ({count} times)" if count > 1 else "") for found, count in named.items()]
    return "".join(said[:3]) + ("; ..." if len(said) > 3 else "")


# Sections


@dataclass
class Carried:
    """How a run was carried to its end: kills, of these before there was a run to resume, and what differs."""

    kills: int
    early: int
    lost: str | None
    differs: str | None


def carry(first: Path, kind: Kind, whole: Path, seconds: dict[int, float], most: int) -> Carried:
    """Start a run, kill it at random moments up to `most` times, resume it each time with any worker count."""
    run, kills, early = first, 0, 0
    while True:
        exists = (run / "config.yaml").exists()
        if not exists and kills:
            run, early = first.with_name(f"{first.name}_{kills}"), early + 1  # what is there may be a bare folder
        workers = random.choice(tuple(seconds))
        words = carry_on(run) if exists else begin(run, *kind_words(kind))
        pid = launcher().start(log_of(run), train, [*words, f"loader.num_workers={workers}"])
        code = launcher().wait(random.uniform(0, seconds[workers]) if kills < most else LIMIT)
        if code is None:
            send(pid, signal.SIGKILL)
            code = launcher().wait()
        if code == 0:
            return Carried(kills, early, None, difference(run, whole))
        if code != -signal.SIGKILL or kills == most:
            return Carried(kills, early, f"{run.name}: exit code {code}", None)
        kills += 1


def kills(quick: bool) -> Iterator[Row]:
    folder, wanted = Path("kills").absolute(), 40 if quick else 500
    whole = uninterrupted(folder, KINDS)
    seconds = dict(zip((0, 1, 2), parallel(lambda count: timed(folder, count), (0, 1, 2)), strict=True))

    def lane(index: int) -> list[Carried]:
        done: list[Carried] = []
        while (left := -(-wanted // CORES) - sum(run.kills for run in done)) > 0:
            kind = KINDS[len(done) % len(KINDS)]
            done.append(carry(folder / f"run_{index}_{len(done)}", kind, whole[kind], seconds, left))
        return done

    runs = list(itertools.chain(*parallel(lane, range(CORES))))
    total, early = sum(run.kills for run in runs), sum(run.early for run in runs)
    lost = [run.lost for run in runs if run.lost]
    equal = sum(run.differs is None and run.lost is None for run in runs)
    yield (
        "SIGKILLs of train.py at random moments, random worker counts",
        f"{total} in {len(runs)} runs ({early} before there was a run): {len(lost)} runs lost{tell(lost)}",
        f">= {wanted}: 0 lost",
        total >= wanted and not lost,
    )
    measured = f"{equal} of {len(runs)}{tell(run.differs for run in runs)}"
    yield "... equal to the uninterrupted run", measured, "all", equal == len(runs)


def matrix(quick: bool) -> Iterator[Row]:
    folder = Path("matrix").absolute()
    whole = uninterrupted(folder, KINDS)
    pairs = list(itertools.product((0, 1, 2), repeat=2))
    cells = [(pair, kind) for pair in pairs for kind in KINDS if not quick or kind[2] == bool(pairs.index(pair) % 2)]

    def cell(pair: tuple[int, int], kind: Kind) -> tuple[str | None, int]:
        run = folder / "{}_to_{}_{}_{}_{}".format(*pair, *kind)
        at = random.randint(2, 59)
        code = finish(run, [*begin(run, *kind_words(kind)), f"loader.num_workers={pair[0]}"], at)
        assert code == -signal.SIGKILL, f"{run.name}: exit code {code}"
        code = finish(run, [*carry_on(run), f"loader.num_workers={pair[1]}"])
        if code != 0:
            return f"{run.name}: exit code {code}", 0
        return difference(run, whole[kind]), wrong_ids(run, whole[kind])

    results = parallel(cell, *zip(*cells, strict=True))
    equal, wrong = sum(found is None for found, _ in results), sum(count for _, count in results)
    what = "resume matrix: workers before x after x precision x accumulation" + (", EMA in turn" if quick else " x EMA")
    measured = f"{equal} of {len(cells)}, {wrong} steps with wrong ids{tell(found for found, _ in results)}"
    yield what, measured, f"{len(cells)} of {len(cells)}, 0", equal == len(cells) and not wrong


# What is left out of a restore, by the run it shows in: `skipping` applies no update, `stopped` ends at its first step
ALL = ["run.precision=float16", "run.ema_decay=0.9", "run.monitor_mode=max", "run.patience=100"]
STATES: dict[str, tuple[list[str], int, dict[str, list[str]]]] = {
    "plain": (ALL, 24, {
        "model buffers": ["model/2.running_mean", "model/2.running_var", "model/2.num_batches_tracked"],
        "optimizer moments": ["optimizers//state"], "optimizer settings": ["optimizers//param_groups"],
        "scheduler": ["schedulers"], "scaler": ["scaler"], "EMA weights": ["ema/model"], "EMA count": ["ema/count"],
        "an object of the user's": ["objects/losses"],
        "torch generator": ["generators/torch"], "numpy generator": ["generators/numpy"],
        "python generator": ["generators/python"],
    } | {name: [f"state/{name}"] for name in (
        "step", "applied", "epoch", "batch", "samples", "best", "best_step", "evaluations_since_best"
    )}),
    "skipping": ([*ALL, "+loss.factor=1e30", "run.budget=16"], 12, {"skipped_in_row": ["state/skipped_in_row"]}),
    "stopped": ([*ALL, "run.target_loss=100"], 0, {"stopped": ["state/stopped"]}),
}  # fmt: skip


def ablation(quick: bool) -> Iterator[Row]:
    folder, controls, missed = Path("ablation").absolute(), [], []
    count = sum(len(states) for _, _, states in STATES.values())
    for name, (words, die_at, states) in STATES.items():
        whole, killed = folder / name, folder / f"{name}_killed"
        go_through(whole, *words)
        if die_at:
            code = finish(killed, begin(killed, *words), die_at)
            assert code == -signal.SIGKILL, f"{killed.name}: exit code {code}"
        else:  # as a kill between the last save and the end leaves it
            shutil.copytree(whole, killed, symlinks=True)
            (killed / "status.json").unlink()

        def resumed(index: int, left_out: list[str], killed: Path = killed, whole: Path = whole) -> str | None:
            run = killed.with_name(f"{killed.name}_{index}")
            shutil.copytree(killed, run, symlinks=True)
            code = finish(run, carry_on(run), 0, [path.split("/") for path in left_out])
            return difference(run, whole) if code == 0 else f"{run.name}: exit code {code}"

        control, *found = parallel(resumed, itertools.count(), [[], *states.values()])
        controls.append(control)
        missed += [state for state, caught in zip(states, found, strict=True) if caught is None]
    equal = f"{controls.count(None)} of {len(STATES)}{tell(controls)}"
    yield "nothing left out of the restore: equal", equal, "all", not any(controls)
    what = "one state left out of the restore: the comparison fails"
    yield what, f"{count - len(missed)} of {count}{tell(missed)}", f"{count} of {count}", not missed


@dataclass
class Stop:
    """One signal sent to a run: in which phase, seconds to its exit, processes left, and what went wrong."""

    phase: str
    seconds: float
    orphans: int
    problem: str | None


def stop(run: Path, number: signal.Signals, to_group: bool, workers: int, seconds: float, whole: Path) -> Stop:
    """Send a signal at a random moment of a run, look at how it ends, and resume it."""
    pid = launcher().start(log_of(run), train, begin(run, *kind_words(KINDS[-1]), f"loader.num_workers={workers}"))
    ended = launcher().wait(random.uniform(0, seconds)) is not None
    phase = read_status(run)["status"] if (run / "status.json").exists() else "start-up"
    before = time.monotonic()
    if ended or not send(pid, number, to_group):  # over before the signal: again, under another name
        if not ended:
            launcher().wait()
        return stop(run.with_name(f"{run.name}_"), number, to_group, workers, seconds, whole)
    code = launcher().wait()
    took = time.monotonic() - before
    while (orphans := len(group(pid))) and time.monotonic() < before + took + 1:
        time.sleep(0.01)
    if orphans:
        send(pid, signal.SIGKILL)
    return Stop(phase, took, orphans, problem_of_stop(run, number, code, phase, whole))


def problem_of_stop(run: Path, number: signal.Signals, code: int | None, phase: str, whole: Path) -> str | None:
    """What is wrong with how a run ended after a signal, or with how it goes on; None: nothing."""
    said = f"{run.name} ({phase}, exit code {code})"
    if "Traceback" in log_of(run).read_text():
        return f"{said}: traceback"
    by_system = phase != "running" and code == -number  # which a shell shows as 128 + number
    if code not in (0, 128 + number) and not by_system:
        return f"{said}: not {128 + number}"
    if not (run / "config.yaml").exists():
        return None if phase == "start-up" and code != 0 else f"{said}: no config"
    status = read_status(run)
    if code == 128 + number and phase == "running":
        if status["status"] not in ("interrupted", "preempted"):
            return f"{said}: {status['status']}"
        if checkpoint.load(run / "checkpoints" / "latest.pt")["state"]["step"] != status["step"]:
            return f"{said}: stopped after another step than was saved"
    if code == 0 and status["status"] != "finished":
        return f"{said}: {status['status']}"
    code = finish(run, carry_on(run))
    return difference(run, whole, saved_more=True) if code == 0 else f"{said}, resumed: exit code {code}"


def signals(quick: bool) -> Iterator[Row]:
    folder, repeats = Path("signals").absolute(), 2 if quick else 20
    whole = uninterrupted(folder, KINDS[-1:])[KINDS[-1]]
    seconds = dict(zip((0, 2), parallel(lambda count: timed(folder, count), (0, 2)), strict=True))
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    trials = list(itertools.product(numbers, (False, True), (0, 2), range(repeats)))

    def trial(number: signal.Signals, to_group: bool, workers: int, repeat: int) -> list[Stop]:
        """Signals at random moments, each to another run, until one of them has met a run at work."""
        stops: list[Stop] = []
        while not stops or stops[-1].phase != "running":
            run = folder / f"{number.name}_{'group' if to_group else 'process'}_{workers}_{repeat}_{len(stops)}"
            stops.append(stop(run, number, to_group, workers, seconds[workers], whole))
        return stops

    stops = list(itertools.chain(*parallel(trial, *zip(*trials, strict=True))))
    for what, running in (
        ("TERM, INT, USR1 to process or group: saved at a step boundary, right exit code, resumed equal", True),
        ("... before there is a run or after its end: right exit code or finished, resumed equal", False),
    ):
        found = [stop for stop in stops if (stop.phase == "running") is running]
        good = sum(stop.problem is None for stop in found)
        yield what, f"{good} of {len(found)}{tell(stop.problem for stop in found)}", "all", good == len(found)
    worst, orphans = max(stop.seconds for stop in stops), sum(stop.orphans for stop in stops)
    limit = 3 + max(seconds.values()) / 60  # 60 steps
    yield "... longest from signal to exit", f"{worst:.2f} s", "<= one step + 3 s", worst <= limit
    yield "... processes left after the exit", f"{orphans} of {len(stops)} runs", "0", not orphans


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "kills": kills,
    "matrix": matrix,
    "ablation": ablation,
    "signals": signals,
}
