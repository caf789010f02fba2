"""What the template costs over bare PyTorch: a row per promise, each beside a floor that does the same work.

    python scripts/template/benchmark.py             # everything, about five minutes on two cores
    python scripts/template/benchmark.py loop eval   # only these sections: startup, loop, data, resume, eval
    python scripts/template/benchmark.py --quick     # few repetitions, to see that all of it works

Ratios are medians over pairs that take turns and swap who goes first, after a turn to warm up; in brackets the middle
half of the pairs. Within this process CPU time is counted, since wall time depends on who else uses the machine;
processes are compared by wall time, with CPU time beside it. Rows without a figure are for information. Exit code 1:
a figure was missed.
"""

import argparse
import contextlib
import copy
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from scaffolding.core.checkpoint import RunState
from scaffolding.core.compose import compose_config, portable
from scaffolding.core.console import setup
from scaffolding.core.loading import Loader
from scaffolding.data.mnist import MNIST
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.train import add_metrics, count_step, start, train, train_step

ROOT = Path(__file__).resolve().parents[2]
TRAIN = ROOT / "src" / "scaffolding" / "train.py"
NUM_TRAIN, NUM_VAL, BATCH = 60_000, 10_000, 64
STEPS = -(-NUM_TRAIN // BATCH)  # an epoch
OVERRIDES = [
    *(f"data.dataset._target_={__name__}.Synthetic", f"data.val_from_train={NUM_VAL / (NUM_TRAIN + NUM_VAL)}"),
    *("model=mlp", "mode=prod", "tracker=none", "plots=none", "run.device=cpu", "run.precision=float32"),
    *("run.eval_every=null", "run.plot_every=null", "run.save_every=null", f"loader.batch_size={BATCH}"),
]
# Runs a program like `python PROGRAM ARGUMENTS`, but prints the time and leaves at its first optimizer step. Imports
# nothing of torch itself, so the program imports it when and how it likes.
UNTIL_FIRST_STEP = """
import os, runpy, sys, time
from importlib.machinery import PathFinder

def leave(*_):
    os.write(1, str(time.monotonic()).encode()), os._exit(0)

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
import torch.nn.functional as F
from torch import nn

with np.load({str(TRAIN.parent / "data" / "mnist_sample.npz")!r}) as arrays:
    images, labels = arrays["train_images"], arrays["train_labels"]
images = torch.from_numpy(images.astype(np.float32)).unsqueeze(1).div_(255).sub_(0.1307).div_(0.3081)
labels = torch.from_numpy(labels.astype(np.int64))
torch.manual_seed(42)
model = nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.0), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
indices = torch.randperm(len(images))[:8]
optimizer.zero_grad()
F.cross_entropy(model(images[indices]), labels[indices]).backward()
optimizer.step()
"""
verdicts: list[bool] = []


class Synthetic(MNIST):
    """As many images as MNIST has, of its shape and type, without its files; read by MNIST's own code."""

    def __init__(self, root: str, split: str, sample: bool = False) -> None:
        generator = torch.Generator().manual_seed(0)
        num_items = NUM_TRAIN + NUM_VAL if split == "train" else BATCH
        self.images = torch.randn(num_items, 1, 28, 28, generator=generator)
        self.labels = torch.randint(10, (num_items,), generator=generator)


def row(what: str, measured: str, figure: str = "", reached: bool = True) -> None:
    verdicts.append(reached)
    verdict = ("ok" if reached else "**miss**") if figure else ""
    print(f"| {what} | {measured} | {figure} | {verdict} |", file=sys.__stdout__, flush=True)


def cpu(function: Callable[[], Any]) -> float:
    before = time.process_time()
    function()
    return time.process_time() - before


def pairs(cycles: int, ours: Callable[[], Any], floor: Callable[[], Any]) -> list[tuple[Any, Any]]:
    """What the two return, in turns."""
    ours(), floor()
    return [(ours(), floor()) if cycle % 2 else (floor(), ours())[::-1] for cycle in range(cycles)]


def cpu_pairs(cycles: int, ours: Callable[[], Any], floor: Callable[[], Any]) -> list[tuple[float, float]]:
    return pairs(cycles, lambda: cpu(ours), lambda: cpu(floor))


def spread(values: list[float], unit: str) -> str:
    low, _, high = statistics.quantiles(values, n=4)
    return f"{statistics.median(values):.2f}{unit} ({low:.2f} to {high:.2f})"


def medians(found: list[tuple[float, float]], scale: float, unit: str) -> str:
    ours, floor = (scale * statistics.median(side) for side in zip(*found, strict=True))
    return f"{ours:.4g} against {floor:.4g} {unit}"


def ratio(what: str, found: list[tuple[float, float]], most: float | None, scale: float, unit: str) -> None:
    """A row of a ratio of paired times, which are also shown, times `scale`."""
    ratios = [ours / floor for ours, floor in found]
    reached = not most or statistics.median(ratios) <= most
    row(what, f"{spread(ratios, 'x')}; {medians(found, scale, unit)}", f"<= {most:.2f}x" if most else "", reached)


def process(*arguments: str | Path) -> tuple[float, float, str]:
    """Run python on `arguments`: wall seconds (to the time it prints, if it prints one), CPU seconds, output."""
    # byte code is cached, as it is everywhere but in some containers
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        begin = time.monotonic()
        child = subprocess.Popen([sys.executable, *arguments], stdout=out, stderr=errors, cwd=ROOT, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        end = time.monotonic()
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), errors.seek(0)
        text = out.read()
        if child.returncode != 0:
            raise RuntimeError(f"{arguments[-1]}: exit code {child.returncode}\n{text[-500:]}{errors.read()[-2000:]}")
    with contextlib.suppress(ValueError):
        end = float(text)
    return end - begin, usage.ru_utime + usage.ru_stime, text


def startup(cycles: int, folder: Path) -> None:
    bare, output = folder / "bare.py", f"paths.output={folder / 'runs'}"
    bare.write_text(BARE_SCRIPT)
    first_step = ("-c", UNTIL_FIRST_STEP)
    train_mlp = (*first_step, TRAIN, "data=mnist", "model=mlp", "mode=dev", "run.budget=20steps", output)
    for what, ours, floor, most in (
        ("first optimizer step / bare script", train_mlp, (*first_step, bare), 1.10),
        ("`train.py --help` / `import torch`", (TRAIN, "--help"), ("-c", "import torch"), 1.3),
    ):
        found = pairs(cycles, lambda one=ours: process(*one), lambda other=floor: process(*other))
        ratio(what, [(one[0], other[0]) for one, other in found], most, 1, "s")
        ratio("... CPU time", [(one[1], other[1]) for one, other in found], None, 1, "s")
    runs = ROOT / "scripts" / "runs.py"
    if runs.exists():
        look = "import atexit, runpy, sys; atexit.register(lambda: print('torch' in sys.modules)); "
        imported = process("-c", look + f"runpy.run_path({str(runs)!r}, run_name='__main__')")[2].split()[-1]
        walls = [process(runs)[0] for _ in range(cycles)]
        reached = imported == "False" and statistics.median(walls) <= 1
        row("`runs.py`; imports torch", f"{spread(walls, ' s')}; {imported}", "<= 1 s; False", reached)
    walls = [process(TRAIN, "data=mnist", "mode=dev", output)[0] for _ in range(cycles)]
    row("`train.py data=mnist mode=dev`", spread(walls, " s"), "<= 15 s", statistics.median(walls) <= 15)


def resident(exp: Experiment) -> Any:
    """The dataset under the views of the training split."""
    dataset: Any = exp.datasets["train"]
    while not isinstance(dataset, MNIST):
        dataset = dataset.dataset
    return dataset


class BareLoop:
    """The floor: tensors in memory, a permutation an epoch, forward, backward, step; a copy of the same network."""

    def __init__(self, exp: Experiment, fused: bool) -> None:
        self.images, self.labels = resident(exp).images[:NUM_TRAIN], resident(exp).labels[:NUM_TRAIN]
        self.model = copy.deepcopy(exp.model).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=fused)
        self.order = itertools.chain.from_iterable(torch.randperm(NUM_TRAIN).split(BATCH) for _ in itertools.count())

    def run(self, steps: int) -> None:
        images, labels, model, optimizer = self.images, self.labels, self.model, self.optimizer
        for indices in itertools.islice(self.order, steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[indices]), labels[indices])
            loss.backward()
            optimizer.step()


def interleaved(windows: Iterator[Any], cycles: int, floors: list[BareLoop], found: list[list[float]]) -> Iterator[Any]:
    """Hands the training loop its windows, and after every seventh of an epoch makes it wait while the floors go as far.

    The template's clock runs from when it asks for the first of these windows to when it asks for the one after them:
    all that the loop does, without the first step of the run and the checkpoint at its end. One sum for each epoch.
    """
    yield from itertools.islice(windows, STEPS)
    for floor in floors:
        floor.run(STEPS)
    for _ in range(cycles):
        sums = [0.0] * (1 + len(floors))
        for _ in range(7):
            before = time.process_time()
            yield from itertools.islice(windows, STEPS // 7)
            sums[0] += time.process_time() - before
            for index, floor in enumerate(floors, 1):
                sums[index] += cpu(lambda floor=floor: floor.run(STEPS // 7))
        found.append(sums)
    yield from windows


def loop(cycles: int, folder: Path) -> None:
    threads = torch.get_num_threads()
    for count in sorted({1, threads}):
        torch.set_num_threads(count)
        words = [f"run.budget={(1 + cycles) * STEPS + 1}steps", f"paths.output={folder}"]
        exp = start(compose_config(PROJECT, [*OVERRIDES, *words]))  # as train.py does
        floors, found = [BareLoop(exp, fused=False), BareLoop(exp, fused=True)], []
        windows = exp.train_loader.windows(exp.state, exp.accumulate)
        exp.train_loader.windows = lambda *_, w=windows, f=floors, to=found: interleaved(w, cycles, f, to)
        with exp.run.session(exp.state, portable(exp.cfg, PROJECT)):
            train(exp)
            for index, (name, most) in enumerate([("AdamW", 1.08), ("AdamW(fused=True)", None)], 1):
                times = [(epoch[0], epoch[index]) for epoch in found]
                ratio(f"default loop / bare, {name}, threads: {count}", times, most, 1e6 / STEPS, "us of CPU a step")
            if count == 1:
                breakdown(cycles, exp, floors[0])
    torch.set_num_threads(threads)


def breakdown(cycles: int, exp: Experiment, bare: BareLoop) -> None:
    """Where a step's time goes: the pieces of the loop, with their counterparts in the bare one where it has any."""
    exp.state.batch = 0
    windows = Loader.windows(exp.train_loader, exp.state, 1)
    window = next(Loader.windows(exp.train_loader, exp.state, 1))
    batch, items = window[0]
    metrics = train_step(exp, window)
    optimizer, scaler, run, state = exp.optimizers[""], exp.scaler, exp.run, exp.state

    def bare_batches() -> Iterator[Any]:
        return ((bare.images[i], bare.labels[i]) for i in itertools.islice(bare.order, STEPS))

    def passes() -> None:
        optimizer.zero_grad()
        exp.losses[""](exp.train_model, batch)[0].backward()

    def bare_passes() -> None:
        bare.optimizer.zero_grad()
        F.cross_entropy(bare.model(batch[0]), batch[1]).backward()

    def contexts() -> None:
        with exp.autocast:
            scaler.get_scale(), scaler.scale(metrics["loss"]), scaler.unscale_(optimizer), scaler.update()
        scaler.get_scale()

    def checks() -> None:
        exp.due("log_every"), exp.due("eval_every"), exp.due("plot_every"), exp.due("save_every")
        exp.finished, exp.finished, exp.rollout, run.stop.received, run.stop_if_asked(state)

    bare_passes()
    for name, steps, ours, floor in (  # `steps`: how many a call stands for
        ("next batch", STEPS, lambda: deque(itertools.islice(windows, STEPS), 0), lambda: deque(bare_batches(), 0)),
        ("zero_grad, loss (ours with accuracy), backward", 1, passes, bare_passes),
        ("optimizer (ours fused)", 1, lambda: scaler.step(optimizer), bare.optimizer.step),
        ("autocast and scaler, off", 1, contexts, int),
        ("add_metrics", 1, lambda: add_metrics({}, "", metrics, 1), int),
        ("count_step", 1, lambda: count_step(exp, window, items, True, metrics), int),
        ("due, finished, stop", 1, checks, int),
        ("log, every 50 steps", 50, lambda: run.log(state, "train", metrics, exp.loss_watch), int),
    ):
        calls = range(max(1, 500 // steps))
        repeat = lambda one, calls=calls: lambda: [one() for _ in calls]
        row(f"... {name}", medians(cpu_pairs(cycles, repeat(ours), repeat(floor)), 1e6 / len(calls) / steps, "us"))


def data(cycles: int, folder: Path) -> None:
    exp, epochs = Experiment.from_config(*OVERRIDES), itertools.count()
    images, labels = resident(exp).images[:NUM_TRAIN], resident(exp).labels[:NUM_TRAIN]
    read = {"indexing": lambda at: (images[at], labels[at])}
    read["index_select"] = lambda at: (images.index_select(0, at), labels.index_select(0, at))
    for name, function in read.items():
        ours = lambda: deque(exp.train_loader.batches(next(epochs)), 0)
        floor = lambda function=function: deque(map(function, torch.randperm(NUM_TRAIN).split(BATCH)), 0)
        found = cpu_pairs(2 * cycles, ours, floor)
        rates = [other / one for one, other in found]
        measured = f"{spread(rates, 'x')}; {medians(found, 1e9 / NUM_TRAIN, 'ns of CPU an item')}"
        wanted = {"figure": ">= 0.80x", "reached": statistics.median(rates) >= 0.8} if name == "indexing" else {}
        row(f"samples/s in memory / bare {name}", measured, **wanted)


def resume(cycles: int, folder: Path) -> None:
    exp, epoch = Experiment.from_config(*OVERRIDES), 3
    positions = [round(STEPS * part) for part in (0.01, 0.50, 0.99)]
    expected = {at: batch for at, batch in enumerate(exp.train_loader.batches(epoch)) if at in positions}
    found: dict[int, list[float]] = {position: [] for position in positions}
    for _, position in itertools.product(range(3 * cycles), positions):
        del exp.__dict__["loaders"]  # a new loader each time, as after a restart
        state, loader = RunState(epoch=epoch, batch=position), exp.train_loader
        before = time.perf_counter()
        ((batch, _),) = next(loader.windows(state, 1))
        found[position].append(1e3 * (time.perf_counter() - before))
        if not all(torch.equal(one, other) for one, other in zip(batch, expected[position], strict=True)):
            raise RuntimeError(f"batch {position} is another one than in the uninterrupted epoch")
    middle = {position: statistics.median(times) for position, times in found.items()}
    for position, times in found.items():
        row(
            f"loader to the right batch, {position} of {STEPS}",
            spread(times, " ms"),
            "<= 15 ms",
            middle[position] <= 15,
        )
    slope = max(middle.values()) - min(middle.values())
    row("... flat", f"{slope:.2f} ms from the fastest to the slowest position", "<= 1 ms", slope <= 1)


def evaluation(cycles: int, folder: Path) -> None:
    exp = Experiment.from_config(*OVERRIDES)
    positions = exp.datasets["val"].dataset.indices
    images, labels, model = resident(exp).images[positions], resident(exp).labels[positions], exp.model

    @torch.no_grad()
    def bare(batches: Any) -> list[float]:
        model.eval()
        totals = torch.zeros(2)
        for at in batches:
            logits, targets = model(images[at]), labels[at]
            totals[0] += F.cross_entropy(logits, targets) * len(targets)
            totals[1] += (logits.argmax(dim=1) == targets).sum()
        return [float(total) / NUM_VAL for total in totals]

    slices = [slice(begin, begin + BATCH) for begin in range(0, NUM_VAL, BATCH)]
    same = zip(evaluate(exp, "val").values(), bare(slices), strict=True)
    assert all(abs(one - other) < 1e-5 for one, other in same), "the two sides compute different values"
    for name, batches, most in (("indexing", torch.arange(NUM_VAL).split(BATCH), 1.3), ("slices", slices, None)):
        found = cpu_pairs(2 * cycles, lambda: evaluate(exp, "val"), lambda batches=batches: bare(batches))
        ratio(f"evaluation of {NUM_VAL:,} items / bare, {name}", found, most, 1e3, "ms of CPU")


SECTIONS = {"startup": startup, "loop": loop, "data": data, "resume": resume, "eval": evaluation}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which; none: all of them")
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    arguments = parser.parse_args()
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "?"
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {torch.__version__}"
    )
    print(f"{date.today()}, commit {commit}, {machine}, load at the start {os.getloadavg()[0]:.1f}\n")
    print("| what | measured | figure to reach | |\n| --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark_") as name, open(Path(name, "console.txt"), "w") as console:
        # the console's lines are part of what the loop does, but not of this table
        with contextlib.redirect_stderr(console), contextlib.redirect_stdout(console):
            setup()
            for section in arguments.sections or SECTIONS:
                SECTIONS[section](3 if arguments.quick else 11, Path(name))
    return int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())
