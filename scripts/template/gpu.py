"""What the template promises on a GPU: exact runs, no waiting in a step, the speed of a bare loop, and what helps.

    python scripts/template/gpu.py                    # everything, about 9 minutes on one GPU with 16 cores
    python scripts/template/gpu.py exactness sync     # only these sections: exactness, sync, speed, means
    python scripts/template/gpu.py --quick            # fewer of each: two minutes; without a GPU, to see that it runs

It needs no network and no optional package: what lacks one is left out, in words. Without a GPU, rows say "open".
Equal means equal bit for bit, as in torture.py. The sides of a comparison take turns in this process, after one turn to
warm up; ratios are medians over the turns. Compilation is not part of any time.
"""

import copy
import gc
import importlib.util
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from shared import CORES, ON_PATH, Row, content, run_sections
from torch import Tensor

from scaffolding import train as program
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder.facts import Facts
from scaffolding.core.session.run import Run
from scaffolding.data.digits import Digits
from scaffolding.experiment import PROJECT, Experiment

HAS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
OPEN = "open: no GPU here"
TRAIN = str(PROJECT.sources / "train.py")
TEXT = str(PROJECT.root / "configs" / "README.md")
PLAIN = ("plots=none", "tracker=none", "loader.start_method=fork")
DIGITS = ("data=digits", "loader.batch_size=64")
RECIPES = {  # small, with dropout where there is any
    "mlp": (*DIGITS, "model=mlp", "model.dropout=0.2"),
    "convnet": (*DIGITS, "model=convnet", "model.dropout=0.2"),
    "gpt": ("data=text", f"data.path={TEXT}", "data.tokenizer=characters", "data.seq_len=64", "model=transformer",
            "model.dropout=0.2", "loader.batch_size=16"),
    "gan": (*DIGITS, "model=gan", "rollout=null"),
}  # fmt: skip
WORKERS = (f"data.dataset._target_={__name__ if __name__ != '__main__' else 'gpu'}.Items", "loader.num_workers=2")
DETERMINISTIC = {"DETERMINISTIC": "1", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
NEEDED = {"text": "tokenizers"}  # packages of kinds of data

if "DETERMINISTIC" in os.environ:  # in a run, which imports this file for what stands below
    torch.use_deterministic_algorithms(True)


class OneByOne:
    """A dataset without `get_batch`: it is read item by item, through workers."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.dataset[index]


class Items(OneByOne):
    """Digits, one by one."""

    def __init__(self, split: str) -> None:
        super().__init__(Digits(split))


class Killed(torch.optim.AdamW):
    """AdamW that kills its process before update KILL_AT of all optimizers in it."""

    updates = 0

    def step(self, closure: Any = None) -> Any:
        Killed.updates += 1
        if str(Killed.updates) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().step(closure)


@dataclass
class Config:
    """A recipe as it is trained."""

    recipe: str
    precision: str
    more: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In words."""
        more = [word.partition("=")[2] if "compile" in word else word for word in self.more]
        if self.more == WORKERS:
            more = ["workers"]
        return ", ".join([self.recipe, self.precision, *more]).replace(", true", ", compiled")

    @property
    def words(self) -> list[str]:
        """For a command line."""
        return [*RECIPES[self.recipe], *PLAIN, f"run.precision={self.precision}", *self.more]


def configs(quick: bool) -> list[Config]:
    """What is trained; without a GPU only what its CPU has kernels for, and can compute in time."""
    if not HAS_GPU:
        return [Config("mlp", "float32"), Config("mlp", "float32", WORKERS)][: 1 if quick else 2]
    found = [Config(recipe, precision) for recipe in RECIPES for precision in ("float32", "bfloat16", "float16")]
    found += [Config(recipe, "bfloat16", ("run.compile=true",)) for recipe in ("mlp", "gpt")]
    found += [Config("convnet", "float32", ("run.compile=true",)), Config("mlp", "float32", WORKERS)]
    found += [Config(recipe, "bfloat16", ("run.compile=reduce-overhead",)) for recipe in ("mlp", "gan")]
    found += [Config("mlp", "bfloat16", ("run.compile=reduce-overhead", "run.accumulate=2"))]
    found += [Config("convnet", "bfloat16", ("run.memory_format=channels_last",))]
    return found[::3] if quick else found


def lacks(recipe: str) -> str:
    """The package that a recipe needs and that is not here; "": none."""
    kind = RECIPES[recipe][0].partition("=")[2]
    package = NEEDED.get(kind, "")
    return package if package and importlib.util.find_spec(package) is None else ""


# --- exactness


def run_train(folder: Path, *words: str, code: int | None = 0, **env: str) -> str:
    """Run train.py and give what it printed; AssertionError: another exit code."""
    environment = os.environ | ON_PATH | {"OMP_NUM_THREADS": "1"} | env
    command = [sys.executable, TRAIN, *words, f"paths.output_root={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400, check=False)
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
    assert code is None or done.returncode == code, f"exit code {done.returncode}: {' '.join(last):.300}"
    return done.stdout + done.stderr


def differs(one: Path, other: Path) -> str | None:
    """The name of the first value that differs in the last checkpoints, or in the rows, of two runs."""
    difference = first_difference(*(content(run / "checkpoints" / "latest.pt") for run in (one, other)))
    rows = [Facts(run / "facts").values() for run in (one, other)]
    if difference is None and repr(rows[0]) != repr(rows[1]):
        difference = "a logged value"
    return difference


def check(config: Config, folder: Path, **env: str) -> list[str]:
    """Train, kill and resume, run again, rehearse; what was not identical. AssertionError: something failed."""
    kill_at = str(2 * 27 + 1 if config.recipe == "gan" else 27)
    target = ("optimizer=adamw", "optimizer._target_=gpu.Killed")
    intervals = ("run.budget=40", "run.log_every=1", "run.save_every=10", "run.eval_every=20")
    words, trust = (*config.words, *target, *intervals, "mode=prod", "tracker=none"), "trust=gpu"
    failed = []
    run_train(folder, *words, "run.name=whole", **env)
    run_train(folder, *words, "run.name=run", code=-9, KILL_AT=kill_at, **env)
    run_train(folder, "resume=run", trust, **env)
    difference = differs(folder / "whole", folder / "run")
    if difference is not None:
        failed.append(f"killed and resumed: {difference}")
    again = run_train(folder, "rerun=whole", "run.name=again", trust, code=None, **env)
    if "rows identical" not in again:
        failed.append("run again: " + next((line for line in again.splitlines() if "first difference" in line), again))
    dev = run_train(folder, *config.words, *target, "mode=dev", "tracker=none", "run.name=dev", code=None, **env)
    if "tensors identical" not in dev:
        named = "says that kernels may be the cause" if "no fixed order" in dev else "does NOT speak of kernels"
        failed.append(f"rehearsed: {next((line for line in dev.splitlines() if 'error: ' in line), dev)} ({named})")
    return [text[:200] for text in failed]


def exact(config: Config) -> Row:
    """Whether a config is exact as it is, and if not, whether it is with deterministic kernels."""
    what = f"{config.name}: killed and resumed, run again, rehearsed"
    package = lacks(config.recipe)
    if package:
        return what, f"left out: {package} is not installed", "", True
    folder = Path("exactness", config.name.replace(", ", "_").replace("=", "_")).absolute()
    try:
        failed = check(config, folder)
        if not failed:
            return what, "identical", "identical", True
        still = check(config, folder / "deterministic", **DETERMINISTIC)
    except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
        return what, f"failed: {error!s:.400}", "identical", False
    measured = f"not identical ({'; '.join(failed)}); with deterministic kernels: {'; '.join(still) or 'identical'}"
    return what, measured.replace("|", "/"), "identical, some with deterministic kernels", not still


def opens_on_a_cpu(run: Path) -> Row:
    """A GPU run in a process without a GPU: loaded, evaluated, resumed."""
    code = (
        "import sys; from scaffolding.experiment import Experiment; from scaffolding.evaluate import evaluate\n"
        "exp = Experiment.from_path(sys.argv[1], checkpoint='latest', trust=['gpu'])\n"
        "logged = [row for row in exp.history() if row['split'] == 'val'][-1]['loss']\n"
        "print(abs(evaluate(exp, 'val')['loss'] - logged))"
    )
    what, env = "a run of a GPU opens on a CPU: distance of the validation loss; resumed", {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, env=os.environ | ON_PATH | env,
        check=False,
    )  # fmt: skip
    if done.returncode != 0:
        return what, f"failed: {done.stderr.strip().splitlines()[-1]:.200}", "<= 0.01; yes", False
    distance, resumed = float(done.stdout.split()[-1]), "yes"
    try:
        run_train(run.parent, f"resume={run.name}", "trust=gpu", "run.budget=45", "run.device=cpu", **env)
    except AssertionError as error:
        resumed = f"no, {error}"
    if aside := list(run.glob("checkpoints/*.damaged")):
        resumed = f"no, {aside[0].name}"
    return what, f"{distance:.1e}; {resumed}", "<= 0.01; yes", distance <= 0.01 and resumed == "yes"


def exactness(quick: bool) -> Iterator[Row]:
    with ThreadPoolExecutor(max(1, min(8, CORES // 2))) as pool:
        yield from pool.map(exact, configs(quick))
    if not HAS_GPU:
        yield "the other recipes, in bfloat16, float16 and compiled", OPEN, "", True
    yield opens_on_a_cpu(Path("exactness", "mlp_float32", "whole").absolute())


# --- no waiting between two rows of the log


def make(*words: str) -> Experiment:
    """An experiment that is ready to train, in this process."""
    exp = Experiment.from_config(*words, *PLAIN, "mode=prod", "tracker=none", f"run.device={DEVICE}")
    exp.prepare()
    exp.model.train()
    return exp


class Ours:
    """The step of train.py with what stands around it between two rows of the log."""

    def __init__(self, *words: str) -> None:
        self.exp = make(*words)
        self.steps = self.exp.train_loader.steps(self.exp.state, self.exp.settings.accumulate)

    def run(self, count: int) -> None:
        """Take some steps."""
        exp = self.exp
        torch.set_float32_matmul_precision(exp.settings.matmul)
        for micro_batches in itertools.islice(self.steps, count):
            program.train_step(exp, micro_batches)
            exp.state.advance(micro_batches.num_batches, micro_batches.num_items, len(exp.train_loader))


def sync(quick: bool) -> Iterator[Row]:
    for config in configs(quick):
        if config.more and config.recipe == "gpt":  # compiling takes a while
            continue
        what = f"{config.name}: 50 steps in which nothing waits for the GPU"
        if lacks(config.recipe):
            yield what, f"left out: {lacks(config.recipe)} is not installed", "", True
            continue
        try:
            ours = Ours(*config.words)
            ours.run(3)
        except RuntimeError as error:  # a machine that cannot compile
            yield what, f"failed: {error!s:.200}", "nothing", False
            continue
        if not HAS_GPU:
            yield what, OPEN, "", True
            continue
        figure = "nothing" if config.precision != "float16" else ""  # its scale is compared with the one before
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours.run(50)
            found = "nothing"
        except RuntimeError as error:
            frames = [frame for frame in _frames(error) if "site-packages" not in frame]
            found = f"{error!s:.80} at {frames[-1]}"
        finally:
            torch.cuda.set_sync_debug_mode("default")
        ours.exp.close()
        yield what, found, figure, found == "nothing"


def _frames(error: BaseException) -> list[str]:
    frame, found = error.__traceback__, []
    while frame is not None:
        found.append(f"{frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}")
        frame = frame.tb_next
    return found


# --- speed


class Pictures:
    """As many images as CIFAR-10 has, of its shape, held in memory."""

    def __init__(self, split: str, num_items: int) -> None:
        generator = torch.Generator().manual_seed(len(split))
        self.images = torch.randn(num_items, 3, 32, 32, generator=generator)
        self.labels = torch.arange(num_items) % 10

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)


class PicturesOneByOne(OneByOne):
    """The same, one by one."""

    def __init__(self, split: str, num_items: int) -> None:
        super().__init__(Pictures(split, num_items))


class Tokens(Pictures):
    """Windows of random tokens, held in memory."""

    def __init__(self, split: str, num_items: int) -> None:
        generator = torch.Generator().manual_seed(len(split))
        tokens = torch.randint(1024, (num_items, 257), generator=generator)
        self.images, self.labels = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def busy(quick: bool) -> dict[str, tuple[str, ...]]:
    """Recipes as large as they must be for a GPU to be at work; without one, as small as they may be."""
    num_items, small = 20_000, ("model.channels=[32,64]", "model.hidden_size=128")
    wide = ("model.channels=[256,512]", "model.hidden_size=1024", "loader.batch_size=512")
    deep = ("model.num_layers=8", "model.d_model=512", "model.d_ff=1376", "model.num_heads=8", "loader.batch_size=32")
    if not HAS_GPU:
        num_items, wide = 200, (*small, "loader.batch_size=8")
        deep = ("model.num_layers=1", "model.d_model=16", "model.num_heads=2", "loader.batch_size=2")
    images = (
        "data.dataset._target_=gpu.Pictures",
        f"+data.dataset.num_items={num_items}",
        "data.image_shape=[3,32,32]",
    )
    images = ("data=digits", *images, "+data.test=null")
    tokens = ("data.dataset._target_=gpu.Tokens", f"+data.dataset.num_items={num_items // 2}")
    text = ("data=digits", *tokens, "+data.seq_len=256", "+data.vocab_size=1024", "+data.test=null")
    return {
        "mlp": (*images, "model=mlp", "loader.batch_size=64"),
        "convnet": (*images, "model=convnet", *wide),
        "gpt": (*text, "model=transformer", "rollout=null", *deep),
    }


class Bare:
    """A loop with nothing around it: batches of tensors on the device, or of a DataLoader, forward, backward, step."""

    def __init__(self, exp: Experiment) -> None:
        self.model = copy.deepcopy(exp.model).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)
        self.autocast, self.size = exp.autocast, exp.train_loader.batch_size
        if exp.settings.compile:
            self.model.compile(dynamic=False)
        split = exp.datasets["train"]
        self.batches = self.in_memory(split)
        if exp.train_loader.workers is not None:
            self.batches = self.by_workers(split)

    def in_memory(self, split: Any) -> Iterator[Any]:
        images, labels = split.dataset.images.to(DEVICE), split.dataset.labels.to(DEVICE)
        while True:
            for indices in split.indices[torch.randperm(len(split))].to(DEVICE).split(self.size):
                yield images.index_select(0, indices), labels.index_select(0, indices)

    def by_workers(self, split: Any) -> Iterator[Any]:
        loader = torch.utils.data.DataLoader(
            split, self.size, shuffle=True, num_workers=2, pin_memory=HAS_GPU, persistent_workers=True
        )
        while True:
            for images, labels in loader:
                yield images.to(DEVICE, non_blocking=True), labels.to(DEVICE, non_blocking=True)

    def run(self, count: int) -> None:
        """Take some steps."""
        for inputs, targets in itertools.islice(self.batches, count):
            self.optimizer.zero_grad()
            with self.autocast:
                logits = self.model(inputs)
                loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
            loss.backward()
            self.optimizer.step()


def wait() -> None:
    """Until the GPU is done."""
    if HAS_GPU:
        torch.cuda.synchronize()


def timed(run: Callable[[int], None], count: int) -> tuple[float, float]:
    """Seconds a step: until the GPU is done, and until the host has said all that is to be done."""
    wait()
    before = time.perf_counter()
    run(count)
    said = time.perf_counter()
    wait()
    return (time.perf_counter() - before) / count, (said - before) / count


def interleaved(steps: Iterator[Any], turns: int, count: int, bare: Bare, times: list[Any]) -> Iterator[Any]:
    """Hands the training loop its steps, and lets the bare loop go as far after each turn."""
    for _ in range(turns + 1):
        wait()
        before = time.perf_counter()
        yield from itertools.islice(steps, count)
        said = time.perf_counter()
        wait()
        ours = ((time.perf_counter() - before) / count, (said - before) / count)
        times.append((ours, timed(bare.run, count)))


def race(words: tuple[str, ...], turns: int, count: int, folder: Path) -> list[Any]:
    """Times of the real loop, with a run folder and a row of the log every 50 steps, and of the bare one, in turns."""
    words = (*words, f"run.budget={(turns + 1) * count}steps", "run.eval_every=null", "run.save_every=null")
    exp = make(*words, f"paths.output={folder}", f"paths.output_root={folder}")
    bare, times = Bare(exp), list[Any]()
    exp.run = Run.begin(exp)
    steps = exp.train_loader.steps(exp.state, 1)
    given = itertools.chain(interleaved(steps, turns, count, bare, times), steps)
    exp.train_loader.steps = lambda *_: given
    with exp.run.session():
        program.train(exp)
    return times[1:]  # the first warms up


def peak(make_side: Callable[[], Any]) -> float:
    """Bytes of the GPU that a side takes at most in five steps."""
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    side = make_side()
    side.run(5)
    torch.cuda.reset_peak_memory_stats()
    side.run(5)
    wait()
    return torch.cuda.max_memory_allocated() - before


def idle(run: Callable[[int], None], seconds: float) -> float:
    """The share of a step's seconds in which no kernel runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run(20)
        wait()
    kernels = sum(event.self_device_time_total for event in profile.key_averages())
    return max(0.0, 1 - kernels / 20e6 / seconds)


def speed(quick: bool) -> Iterator[Row]:
    turns, count = (3, 20) if quick else (7, 100)
    if not HAS_GPU:
        turns, count = 1, 2
    ways: list[tuple[str, str, tuple[str, ...]]] = [(name, "bfloat16", ()) for name in ("mlp", "convnet", "gpt")]
    ways += [(name, "bfloat16", ("run.compile=true",)) for name in ("convnet", "gpt") if HAS_GPU]
    one_by_one = ("data.dataset._target_=gpu.PicturesOneByOne", "loader.num_workers=2")
    ways += [("mlp", "float32", ()), ("convnet", "bfloat16", one_by_one)]
    for name, precision, more in ways:
        how = "compiled" if "run.compile=true" in more else "through workers" if more else "in memory"
        words, what = (*busy(quick)[name], f"run.precision={precision}", *more), f"{name}, {precision}, {how}"
        try:
            times = race(words, turns, count, Path("speed", f"{name}_{precision}_{len(more)}").absolute())
        except RuntimeError as error:  # a machine that cannot compile
            yield f"{what}: steps/s, ours / bare", f"failed: {error!s:.200}", ">= 0.98", False
            continue
        if not HAS_GPU:
            yield f"{what}: steps/s, ours / bare", OPEN, "", True
            continue
        whole, host = (statistics.median(bare[i] / ours[i] for ours, bare in times) for i in (0, 1))
        seconds = statistics.median(ours[0] for ours, _ in times)
        exp_side = Ours(*words)
        exp_side.run(5)
        share = idle(exp_side.run, seconds)
        is_busy = share < 0.2
        texts = f"{whole:.3f} ({1e3 * seconds:.3f} ms a step; the GPU idles {share:.0%} of it)"
        yield f"{what}: steps/s, ours / bare", texts, ">= 0.98" if is_busy else "", whole >= 0.98
        figure = "" if is_busy or how == "through workers" else "<= 1.10"
        yield f"{what}: host time of a step, ours / bare", f"{1 / host:.3f}", figure, 1 / host <= 1.1
        exp = exp_side.exp
        exp.close()
        floor = peak(lambda exp=exp: Bare(exp))
        del exp, exp_side
        ratio = peak(lambda words=words: Ours(*words)) / floor
        yield f"{what}: peak memory, ours / bare", f"{ratio:.3f}", "<= 1.02", ratio <= 1.02


# --- what each setting is good for


def ways_to_compare(quick: bool) -> list[tuple[str, str, str, str]]:
    """Recipe, precision, and the settings that are compared."""
    compiled = [("mlp", "true"), ("mlp", "reduce-overhead"), ("gpt", "true"), ("gpt", "reduce-overhead")]
    compiled += [("convnet", "true"), ("mlp", "max-autotune")]
    if quick or not HAS_GPU:
        compiled = compiled[1:2] if HAS_GPU else []
    ways = [(name, "bfloat16", f"run.compile={mode}", "run.compile=false") for name, mode in compiled]
    ways += [("gpt", "float32", "run.matmul=high", "run.matmul=highest")]
    for precision in ("bfloat16", "float32"):
        ways += [("convnet", precision, "run.memory_format=channels_last", "run.memory_format=contiguous")]
    for name in ("mlp", "convnet"):
        ways += [(name, "bfloat16", "loader.on_device=auto", "loader.on_device=false")]
    for name in ("mlp", "gpt"):
        ways += [(name, "bfloat16", "optimizer.fused=true", "optimizer.fused=false")]
    return ways


def means(quick: bool) -> Iterator[Row]:
    turns, count = (3, 20) if quick else (5, 40)
    if not HAS_GPU:
        turns, count = 1, 2
    for name, precision, on, off in ways_to_compare(quick):
        what = f"{name}, {precision}: time of a step, {on} / {off.rpartition('=')[2]}"
        try:
            sides = [Ours(*busy(quick)[name], f"run.precision={precision}", word) for word in (on, off)]
            for side in sides:
                side.run(5)
            times = [[timed(side.run, count)[0] for side in sides] for _ in range(turns + 1)][1:]
        except RuntimeError as error:
            yield what, f"failed: {error!s:.300}".replace("\n", " "), "runs", False
            continue
        if not HAS_GPU:
            yield what, OPEN, "", True
            continue
        found = statistics.median(one / other for one, other in times)
        ours, theirs = (1e3 * statistics.median(side) for side in zip(*times, strict=True))
        yield what, f"{found:.3f} ({ours:.3f} against {theirs:.3f} ms)", "", True
        if "on_device" in on:
            is_there = sides[0].exp.train_loader.resident is not None
            yield f"{name}: data on the device", "there" if is_there else "NOT there", "there", is_there
        if "on_device" in on and name == "mlp":  # convolutions may add up in another order each time
            difference = first_difference(*(side.exp.model.state_dict() for side in sides))
            yield f"{name}: weights with data on the device", difference or "identical", "identical", not difference
    yield from graphs()


def graphs() -> Iterator[Row]:
    """Whether replayed graphs compute what the same kernels compute one by one: nothing that is kept is overwritten."""
    for recipe, *more in (("mlp",), ("mlp", "run.accumulate=2"), ("gan",), ("gan", "run.ema_decay=0.9")):
        what = f"{', '.join([recipe, *more])}: weights after 20 steps, graphs against none, largest distance"
        if not HAS_GPU:
            yield what, OPEN, "", True
            continue
        try:
            words = (*RECIPES[recipe], *more, "run.precision=float32", "model.dropout=0.0" if recipe == "mlp" else "")
            sides = [Ours(*filter(None, words), f"run.compile={mode}") for mode in ("reduce-overhead", "true")]
            for side in sides:
                side.run(20)
        except RuntimeError as error:
            yield what, f"failed: {error!s:.300}".replace("\n", " "), "<= 1e-3", False
            continue
        weights = [side.exp.eval_model.state_dict().values() for side in sides]
        distance = max(float((one - other).abs().max()) for one, other in zip(*weights, strict=True))
        yield what, f"{distance:.1e}", "<= 1e-3", distance <= 1e-3


SECTIONS = {"exactness": exactness, "sync": sync, "speed": speed, "means": means}

if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # byte code is cached, as it is everywhere but in some containers
    sys.modules.setdefault("gpu", sys.modules["__main__"])  # configs name what stands here by gpu.NAME
    if HAS_GPU:
        print(f"{torch.cuda.get_device_name(0)}, CUDA {torch.version.cuda}")
    sys.exit(not run_sections(__doc__, SECTIONS))
