"""What the template costs over bare PyTorch: each row compares it with a floor that does the same work.

    python scripts/template/benchmark.py             # everything, about seven minutes on two cores
    python scripts/template/benchmark.py loop eval   # only these: startup, see, loop, data, resume, eval
    python scripts/template/benchmark.py --quick     # few repetitions, to see that all of it works

Ratios are medians over cycles in which the sides take turns, after one to warm up; in brackets the middle half of them.
Processes are compared by wall time. In this process CPU time is counted, which depends less on who else uses the
machine, with one thread unless the row says otherwise: threads that wait count, too. Rows without a figure inform. A
figure that is missed is printed and never an error: times depend on the machine.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from itertools import chain, count, islice, product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from loguru import logger
from measure import CYCLES, at_most, cpu, process, ratio, turns
from see import see
from shared import Row, run_sections

from scaffolding import train as program
from scaffolding.core.output import LOG
from scaffolding.core.session.run import Run
from scaffolding.core.state.progress import RunState
from scaffolding.data.mnist import MNIST
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment

SOURCE = PROJECT.sources
NUM_TRAIN, NUM_VAL, BATCH, THREADS = 60_000, 10_000, 64, torch.get_num_threads()
torch.set_num_threads(1)  # but for some rows of the loop
STEPS = -(-NUM_TRAIN // BATCH)  # an epoch
IMAGES = torch.randn(NUM_TRAIN + NUM_VAL, 1, 28, 28, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(NUM_TRAIN + NUM_VAL) % 10
OVERRIDES = f"""data.dataset._target_={__name__}.Synthetic data.val_from_train={NUM_VAL / (NUM_TRAIN + NUM_VAL)}
    model=mlp mode=prod tracker=none plots=none run.device=cpu run.precision=float32 loader.batch_size={BATCH}
    run.eval_every=null run.plot_every=null run.save_every=null""".split()
# A run with default settings, but for a dataset that needs no download.
MNIST_RUN = f"""data=mnist data.dataset._target_={__name__}.Synthetic mode=prod tracker=none run.device=cpu
    data.val_from_train={NUM_VAL / (NUM_TRAIN + NUM_VAL)} run.budget=1epochs""".split()
# Runs `python PROGRAM ARGUMENTS` until its first optimizer step and prints the time; leaves importing torch to PROGRAM.
UNTIL_FIRST_STEP = """
import os, posix, runpy, sys, time
from importlib.machinery import PathFinder
def leave(*_): os.write(1, str(time.monotonic()).encode()), posix._exit(0)  # a run guards os._exit
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


def startup(quick: bool) -> Iterator[Row]:
    folder, cycles = Path("startup").absolute(), CYCLES[quick]
    bare, train, output = folder / "bare.py", str(SOURCE / "train.py"), folder / "runs"
    bare.write_text(BARE_SCRIPT)
    first, words = ("-c", UNTIL_FIRST_STEP), ("data=mnist", "mode=dev", f"paths.output={output}")
    mlp = (*first, train, *words, "model=mlp", "run.budget=20steps")
    for what, most, ours, floor in (
        ("first step / bare script", 1.1, mlp, (*first, str(bare))),
        ("`train.py --help` / `import torch`", 1.3, (train, "--help"), ("-c", "import torch")),
    ):
        yield ratio(what, *turns(cycles, partial(process, *ours), partial(process, *floor)), most, 1, "s")
    yield at_most("`train.py data=mnist mode=dev`", [process(train, *words) for _ in range(cycles)], "s", 15)


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


def interleaved(steps: Iterator[Any], cycles: int, floors: list[BareLoop], times: list[list[float]]) -> Iterator[Any]:
    """Hands the training loop its steps; makes it wait after each seventh of an epoch while the floors go as far."""
    for _ in range(cycles + 1):
        spent = [0.0] * len(times)
        for _ in range(7):
            before = time.process_time()  # runs until the next step is asked for: all that the loop does
            yield from islice(steps, STEPS // 7)
            spent[0] += time.process_time() - before
            for index, floor in enumerate(floors, 1):
                spent[index] += cpu(floor.run, STEPS // 7)
        for side, seconds in zip(times, spent, strict=True):
            side.append(seconds)


def loop(quick: bool) -> Iterator[Row]:
    cycles, output = CYCLES[quick], f"paths.output={Path('loop').absolute()}"
    logger.add(sys.stderr, **LOG)  # console lines are part of the loop
    for num_threads in sorted({1, THREADS}):
        torch.set_num_threads(num_threads)
        exp = Experiment.from_config(*OVERRIDES, f"run.budget={(cycles + 1) * STEPS}steps", output)
        exp.prepare()
        exp.run = Run.begin(exp)
        floors, steps = [BareLoop(exp, False), BareLoop(exp, True)], exp.train_loader.steps(exp.state, 1)
        ours, default, fused = times = list[float](), list[float](), list[float]()
        parts = interleaved(steps, cycles, floors, times), steps
        exp.train_loader.steps = lambda *_, parts=parts: chain(*parts)
        with exp.run.session():
            program.train(exp)
        for name, floor, most in (("AdamW", default, 1.08), ("AdamW(fused=True)", fused, None)):
            what = f"default loop / bare, {name}, threads: {num_threads}"
            yield ratio(what, ours[1:], floor[1:], most, 1e6 / STEPS, "us of CPU a step")  # the first warms up
    torch.set_num_threads(1)


def data(quick: bool) -> Iterator[Row]:
    loader, epochs = Experiment.from_config(*OVERRIDES).train_loader, count()

    def ours() -> None:
        deque(loader.batches(next(epochs)), 0)  # reads to the end and keeps nothing

    def bare() -> None:
        deque(((IMAGES[at], LABELS[at]) for at in torch.randperm(NUM_TRAIN).split(BATCH)), 0)

    times = turns(2 * CYCLES[quick], partial(cpu, ours), partial(cpu, bare))
    yield ratio("time of an item in memory / bare indexing", *times, 1 / 0.8, 1e9 / NUM_TRAIN, "ns of CPU")


def resume(quick: bool) -> Iterator[Row]:
    exp, epoch = Experiment.from_config(*OVERRIDES), 3
    found: dict[int, list[float]] = {round(STEPS * part): [] for part in (0.01, 0.50, 0.99)}
    expected = {at: batch for at, batch in enumerate(exp.train_loader.batches(epoch)) if at in found}
    for _, position in product(range(3 * CYCLES[quick]), found):
        del exp.__dict__["loaders"]  # a new loader each time, as after a restart
        state, loader = RunState(epoch=epoch, position=position), exp.train_loader
        before = time.perf_counter()
        (micro_batch,) = next(loader.steps(state, 1))
        found[position].append(1e3 * (time.perf_counter() - before))
        is_same = map(torch.equal, micro_batch.batch, expected[position])
        assert all(is_same), f"{position}: not the batch of the whole epoch"
    for position, times in found.items():
        yield at_most(f"resume at batch {position} of {STEPS}", times, "ms", 15)


def evaluation(quick: bool) -> Iterator[Row]:
    exp = Experiment.from_config(*OVERRIDES)
    images, labels = (tensor[exp.datasets["val"].indices] for tensor in (IMAGES, LABELS))
    batches = torch.arange(NUM_VAL).split(BATCH)

    @torch.no_grad()
    def bare() -> list[float]:
        model = exp.model.eval()
        loss_sum = num_correct = torch.zeros(())
        for at in batches:
            logits, targets = model(images[at]), labels[at]
            loss_sum = loss_sum + F.cross_entropy(logits, targets) * len(targets)
            num_correct = num_correct + (logits.argmax(dim=1) == targets).sum()
        return [float(loss_sum) / NUM_VAL, float(num_correct) / NUM_VAL]

    assert torch.allclose(torch.tensor([*evaluate(exp, "val").values()]), torch.tensor(bare()), atol=1e-5)
    times = turns(2 * CYCLES[quick], partial(cpu, evaluate, exp, "val"), partial(cpu, bare))
    yield ratio(f"evaluation of {NUM_VAL:,} items / bare, indexing", *times, 1.3, 1e3, "ms of CPU")


SECTIONS = {
    "startup": startup,
    "see": partial(see, mnist=MNIST_RUN),
    "loop": loop,
    "data": data,
    "resume": resume,
    "eval": evaluation,
}

if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is cached, as it is everywhere but in some containers
    run_sections(__doc__, SECTIONS)
