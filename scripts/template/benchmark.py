"""What the template costs over bare PyTorch: each row compares it with a floor that does the same work.

    python scripts/template/benchmark.py             # everything, about seven minutes on two cores
    python scripts/template/benchmark.py loop eval   # only these: startup, loop, keys, data, resume, eval, save
    python scripts/template/benchmark.py --quick     # few repetitions, to see that all of it works

Ratios are medians over cycles in which the sides take turns, after one to warm up; in brackets the middle half of them.
Processes are compared by wall time. In this process CPU time is counted, which depends less on who else uses the
machine, with one thread, since threads that wait count too. Rows without a figure inform. A figure that is missed is
printed and never an error: times depend on the machine.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from functools import partial
from itertools import chain, count, islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from loguru import logger
from shared import table_head, table_row

from scaffolding import train as program
from scaffolding.core.session.console import LOG
from scaffolding.core.session.run import Run
from scaffolding.core.state import checkpoint, keys
from scaffolding.core.state.checkpoint import CheckpointFiles
from scaffolding.core.state.progress import RunState
from scaffolding.data.mnist import MNIST
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment

SOURCE = PROJECT.sources
NUM_TRAIN, NUM_VAL, BATCH, THREADS = 60_000, 10_000, 64, torch.get_num_threads()
STEPS = -(-NUM_TRAIN // BATCH)  # an epoch
IMAGES = torch.randn(NUM_TRAIN + NUM_VAL, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_TRAIN + NUM_VAL) % 10
OVERRIDES = f"""data.dataset._target_={__name__}.Synthetic data.val_from_train={NUM_VAL / (NUM_TRAIN + NUM_VAL)}
    model=mlp mode=prod tracker=none plots=none run.device=cpu run.precision=float32 loader.batch_size={BATCH}
    run.eval_every=null run.plot_every=null run.save_every=null""".split()
# Runs `python PROGRAM ARGUMENTS` until its first optimizer step and prints the time; leaves importing torch to PROGRAM.
UNTIL_FIRST_STEP = """
import os, runpy, sys, time
from importlib.machinery import PathFinder
def leave(*_): os.write(1, str(time.monotonic()).encode()), os._exit(0)
def find_spec(name, path=None, target=None):
    if name == "torch.optim.optimizer":
        spec = PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), module.register_optimizer_step_post_hook(leave))
        return spec
sys.meta_path.insert(0, type("Watch", (), {"find_spec": find_spec}))
sys.argv, sys.path[0] = sys.argv[1:], os.path.dirname(sys.argv[1])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BARE_SCRIPT = f"""
import numpy as np
import torch
from torch import nn
with np.load({str(SOURCE / "data" / "mnist_sample.npz")!r}) as arrays:
    images = torch.from_numpy(arrays["train_images"].astype(np.float32)).unsqueeze(1)
    labels = torch.from_numpy(arrays["train_labels"].astype(np.int64))
images.div_(255).sub_(0.1307).div_(0.3081)
torch.manual_seed(42)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.0), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
indices = torch.randperm(len(images))[:8]
optimizer.zero_grad()
nn.functional.cross_entropy(model(images[indices]), labels[indices]).backward()
optimizer.step()
"""


class Synthetic(MNIST):  # as many images as MNIST has, of its shapes and types; read by its own code
    def __init__(self, root: str, split: str, sample: bool = False) -> None:
        self.images, self.labels = IMAGES, LABELS


def row(*cells: Any) -> None:
    print(table_row(*cells), file=sys.__stdout__, flush=True)


def spread(values: list[float], unit: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.2f}{unit} ({low:.2f} to {high:.2f})"


def at_most(what: str, values: list[float], unit: str, most: float) -> None:
    row(what, spread(values, f" {unit}"), f"<= {most:g} {unit}", statistics.median(values) <= most)


def ratios(what: str, times: list[Any], floors: dict[str, float | None], scale: float, unit: str) -> None:
    """A row for each floor: its name, the largest ratio allowed; `times` are tuples of ours and of each floor."""
    ours, *others = zip(*times, strict=True)
    for (name, most), floor in zip(floors.items(), others, strict=True):
        found = [one / other for one, other in zip(ours, floor, strict=True)]
        seconds = " against ".join(f"{scale * statistics.median(side):.4g}" for side in (ours, floor))
        figure = [f"<= {most:.2f}x", statistics.median(found) <= most] if most else []
        row(f"{what} / {name}", f"{spread(found, 'x')}; {seconds} {unit}", *figure)


def turns(cycles: int, *sides: Callable[[], Any]) -> list[list[Any]]:
    """What the sides return, cycle by cycle after one to warm up; every other cycle backwards."""
    orders = (1 - 2 * (cycle % 2) for cycle in range(cycles + 1))
    return [[side() for side in sides[::order]][::order] for order in orders][1:]


def seconds(clock: Callable[[], float], function: Callable[..., Any], *arguments: Any) -> float:
    before = clock()
    function(*arguments)
    return clock() - before


cpu, wall = partial(seconds, time.process_time), partial(seconds, time.perf_counter)


def process(*arguments: str) -> float:
    """Run python on `arguments`: seconds to its end, or to the time that it prints."""
    before = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    after = time.monotonic()
    assert done.returncode == 0, f"{arguments[-1]} failed\n{done.stderr[-2000:]}"
    if done.stdout.replace(".", "", 1).isdigit():
        after = float(done.stdout)
    return after - before


def begin(*words: str) -> Experiment:
    """An experiment with a run folder, as main of train.py makes it."""
    exp = Experiment.from_config(*OVERRIDES, *words)
    exp.prepare()
    exp.run = Run.begin(exp)
    return exp


def startup(cycles: int, folder: Path) -> None:
    bare, train, output = folder / "bare.py", str(SOURCE / "train.py"), folder / "runs"
    bare.write_text(BARE_SCRIPT)
    first, words = ("-c", UNTIL_FIRST_STEP), ("data=mnist", "mode=dev", f"paths.output={output}")
    mlp = (*first, train, *words, "model=mlp", "run.budget=20steps")
    for what, name, most, ours, floor in (
        ("first step", "bare script", 1.1, mlp, (*first, str(bare))),
        ("`train.py --help`", "`import torch`", 1.3, (train, "--help"), ("-c", "import torch")),
    ):
        ratios(what, turns(cycles, partial(process, *ours), partial(process, *floor)), {name: most}, 1, "s")
    at_most("`train.py data=mnist mode=dev`", [process(train, *words) for _ in range(cycles)], "s", 15)
    for index in range(200):
        leave_out = shutil.ignore_patterns("*.pt", "wandb")
        shutil.copytree(next(output.glob("*_*")), folder / "many" / f"run{index}", ignore=leave_out)
    runs = (str(PROJECT.root / "scripts" / "runs.py"), "--output", str(folder / "many"))
    at_most("`runs.py` of 200 runs", [process(*runs) for _ in range(cycles)], "s", 1)


class BareLoop:
    """The floor: tensors in memory, a permutation an epoch, forward, backward, step; a copy of the same network."""

    def __init__(self, exp: Experiment, fused: bool) -> None:
        self.model = deepcopy(exp.model).train()
        self.order = chain.from_iterable(torch.randperm(NUM_TRAIN).split(BATCH) for _ in count())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=fused)

    def run(self, steps: int) -> None:
        for indices in islice(self.order, steps):
            images, labels = IMAGES[indices], LABELS[indices]
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(images), labels).backward()
            self.optimizer.step()


def interleaved(steps: Iterator[Any], cycles: int, floors: list[BareLoop], found: list[list[float]]) -> Iterator[Any]:
    """Hands the training loop its steps; makes it wait after each seventh of an epoch while the floors go as far."""
    for _ in range(cycles + 1):
        found.append([0.0] * (1 + len(floors)))
        for _ in range(7):
            before = time.process_time()  # runs until the next step is asked for: all that the loop does
            yield from islice(steps, STEPS // 7)
            found[-1][0] += time.process_time() - before
            for index, floor in enumerate(floors, 1):
                found[-1][index] += cpu(floor.run, STEPS // 7)
    del found[0]  # to warm up; holds the first step, too


def loop(cycles: int, folder: Path) -> None:
    for num_threads in sorted({1, THREADS}):
        torch.set_num_threads(num_threads)
        exp = begin(f"run.budget={(cycles + 1) * STEPS}steps", f"paths.output={folder}")
        floors = [BareLoop(exp, False), BareLoop(exp, True)]
        found, steps = list[list[float]](), exp.train_loader.steps(exp.state, 1)
        parts = interleaved(steps, cycles, floors, found), steps
        exp.train_loader.steps = lambda *_, parts=parts: chain(*parts)
        with exp.run.session():
            program.train(exp)
        names = {f"bare, AdamW, threads: {num_threads}": 1.08, f"bare, AdamW(fused=True), threads: {num_threads}": None}
        ratios("default loop", found, names, 1e6 / STEPS, "us of CPU a step")


def keyed(cycles: int, folder: Path) -> None:
    """What a step draws from, seeded as the loop does it."""
    device = torch.device("cpu")

    def step() -> None:
        for number in range(1000):
            keys.seed_host(keys.key(42, "step", number))
            keys.seed_torch(device, keys.key(42, "", 3, number))

    at_most("keyed randomness of a step", [1e3 * cpu(step) for _ in range(cycles)], "us", 25)


def data(cycles: int, folder: Path) -> None:
    loader, epochs = Experiment.from_config(*OVERRIDES).train_loader, count()

    def ours() -> None:
        deque(loader.batches(next(epochs)), 0)  # reads to the end and keeps nothing

    def bare() -> None:
        deque(((IMAGES[at], LABELS[at]) for at in torch.randperm(NUM_TRAIN).split(BATCH)), 0)

    found = turns(2 * cycles, partial(cpu, ours), partial(cpu, bare))
    ratios("time of an item in memory", found, {"bare indexing": 1 / 0.8}, 1e9 / NUM_TRAIN, "ns of CPU")


def resume(cycles: int, folder: Path) -> None:
    exp, epoch = Experiment.from_config(*OVERRIDES), 3
    found: dict[int, list[float]] = {round(STEPS * part): [] for part in (0.01, 0.50, 0.99)}
    expected = {at: batch for at, batch in enumerate(exp.train_loader.batches(epoch)) if at in found}
    for _, position in product(range(3 * cycles), found):
        del exp.__dict__["loaders"]  # a new loader each time, as after a restart
        state, loader = RunState(epoch=epoch, position=position), exp.train_loader
        before = time.perf_counter()
        (micro_batch,) = next(loader.steps(state, 1))
        found[position].append(1e3 * (time.perf_counter() - before))
        is_same = map(torch.equal, micro_batch.batch, expected[position])
        assert all(is_same), f"{position}: not the batch of the whole epoch"
    for position, times in found.items():
        at_most(f"resume at batch {position} of {STEPS}", times, "ms", 15)


def evaluation(cycles: int, folder: Path) -> None:
    exp = Experiment.from_config(*OVERRIDES)
    images, labels = (tensor[exp.datasets["val"].indices] for tensor in (IMAGES, LABELS))

    @torch.no_grad()
    def bare(batches: Any) -> list[float]:
        model = exp.model.eval()
        loss_sum = num_correct = torch.zeros(())
        for at in batches:
            logits, targets = model(images[at]), labels[at]
            loss_sum = loss_sum + F.cross_entropy(logits, targets) * len(targets)
            num_correct = num_correct + (logits.argmax(dim=1) == targets).sum()
        return [float(loss_sum) / NUM_VAL, float(num_correct) / NUM_VAL]

    batches = torch.arange(NUM_VAL).split(BATCH)
    assert torch.allclose(torch.tensor([*evaluate(exp, "val").values()]), torch.tensor(bare(batches)), atol=1e-5)
    found = turns(2 * cycles, partial(cpu, evaluate, exp, "val"), partial(cpu, bare, batches))
    ratios(f"evaluation of {NUM_VAL:,} items", found, {"bare, indexing": 1.3}, 1e3, "ms of CPU")


def saves(cycles: int, folder: Path) -> None:
    exp = begin("model.hidden_sizes=[1024,1024]", "run.name=saves", f"paths.output={folder}")
    program.train_step(exp, next(exp.train_loader.steps(exp.state, 1)))  # so that the optimizer has moments

    def ours() -> None:
        exp.state.step += 1
        exp.run.save(exp.state_dict())

    latest, bare = CheckpointFiles(exp.run.path).latest, folder / "bare.pt"
    found = turns(cycles, partial(wall, ours), lambda: wall(lambda: torch.save(exp.state_dict(), bare)))
    size = f"{latest.stat().st_size / 1e6:.0f} MB"
    ratios(f"save of {size}, flushed", found, {"torch.save, not flushed": None}, 1e3, "ms")
    found = turns(cycles, partial(wall, checkpoint.load, latest), partial(wall, torch.load, bare))
    ratios(f"load of {size}, checked", found, {"torch.load, unchecked": None}, 1e3, "ms")


SECTIONS = {
    "startup": startup, "loop": loop, "keys": keyed, "data": data, "resume": resume, "eval": evaluation, "save": saves
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which; none: all of them")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is cached, as it is everywhere but in some containers
    print(table_head(), flush=True)
    # console lines are part of the loop, not of the table
    with TemporaryDirectory() as folder, open(os.devnull, "w") as off, redirect_stdout(off), redirect_stderr(off):
        logger.remove()
        logger.add(lambda text: sys.stderr.write(text), **LOG)
        for section in arguments.sections or SECTIONS:
            torch.set_num_threads(1)
            SECTIONS[section](3 if arguments.quick else 11, Path(folder))


if __name__ == "__main__":
    main()
