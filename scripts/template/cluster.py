"""One run on several processes: equal to one process, killed, stopped, resumed on other numbers; a row per promise.

    python scripts/template/cluster.py                   # everything, about an hour on two cores
    python scripts/template/cluster.py kills signals     # only these sections
    python scripts/template/cluster.py --quick           # fewer of each, about four minutes
    python scripts/template/cluster.py --folder WORK     # keep runs and logs in the empty folder WORK

Processes speak through gloo, so this runs on any machine. Equal means equal bit for bit: everything in a checkpoint
except the machine's numerics, and every logged value. Exit code 1: a promise was missed.
"""

import contextlib
import importlib.util
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # processes share the cores
from shared import ON_PATH, TESTS, Row, content, run_sections, start, tell  # isort: skip  (puts tests/ on the path)
import condor as htcondor
import together
import torch
from torch import Tensor
from zygote import TRAIN

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import read_status
from scaffolding.core.tree import leaves

WORDS = f"""mode=prod run.device=cpu tracker=none plots=none run.budget=20 run.log_every=1 run.eval_every=10
    run.save_every=5 run.rollout_every=null loader.batch_size=16 loader.sample=true run.monitor=null
    paths.data={Path("_data").resolve()}"""
COMMON = WORDS.split()
TINY = f"""--config-dir {TESTS / "configs"} data=noisy model=tiny loss._target_=tiny.TinyLoss optimizer=fatal
    scheduler=cosine run.ema_decay=0.9 run.clip_grad_norm=1.0 loader.num_workers=1""".split()
RECIPES = {
    "MLP with dropout, averaged weights, clipping": (
        "experiment=digits_mlp model.dropout=0.2 run.precision=float32 run.ema_decay=0.9 run.clip_grad_norm=1.0"
    ),
    "convnet": "data=digits model=convnet run.precision=float32",
    "GAN, two losses": "experiment=digits_gan run.precision=float32",
    "VQ autoencoder": "data=digits model=autoencoder run.precision=float32",
    "diffusion": "experiment=digits_diffusion run.precision=float32",
    "GPT, clipping": "experiment=shakespeare_gpt run.precision=float32",
    "MLP in float16": "experiment=digits_mlp model.dropout=0.2 run.precision=float16",
    "GPT in bfloat16": "experiment=shakespeare_gpt run.precision=bfloat16",
}
NUM_ROWS = 20


# --- running


def command(run: Path, words: list[str], num: int = 1, **env: str) -> list[Any]:
    """Start train.py as so many processes; what they print is in <run>.log.N."""
    argv = [str(TRAIN), *words, f"paths.output_root={run.parent.resolve()}"]
    if num == 1:
        return [start(argv, run.with_name(f"{run.name}.log.0"), **env)]
    return together.start(argv, num, run.with_name(f"{run.name}.log"), ON_PATH | env)


def train(run: Path, words: list[str], num: int = 1) -> Path:
    """A run that went through on so many processes."""
    codes = together.wait(command(run, [*COMMON, *words, f"run.name={run.name}"], num), 600)
    assert codes == [0] * num, f"{run}: exit codes {codes}"
    return run


def carry_on(run: Path, num: int, *words: str, **env: str) -> list[Any]:
    """Start the rest of a run."""
    return command(run, [f"resume={run.name}", "trust=tiny", *words], num, **env)


# --- comparing


def difference(run: Path, other: Path) -> str | None:
    """The first thing in which two runs differ; None: nothing."""
    ours, theirs = (content(path / "checkpoints" / "latest.pt") for path in (run, other))
    for state in (ours, theirs):
        del state["numerics"]
    rows, others = (Facts(path / "facts").values() for path in (run, other))
    return first_difference(ours, theirs) or first_difference(rows, others)


def largest(run: Path, other: Path) -> tuple[float, float]:
    """The largest relative difference of logged training losses in the first rows, and that of weights."""
    pairs = zip(*(losses(path)[:NUM_ROWS] for path in (run, other)), strict=True)
    of_losses = max(abs(left - right) / max(abs(left), 1e-12) for left, right in pairs)
    states = [dict(leaves(content(path / "checkpoints" / "latest.pt")["model"])) for path in (run, other)]
    of_weights = 0.0
    for name, value in states[0].items():
        if isinstance(value, Tensor) and value.is_floating_point() and "running_" not in name:
            scale = float(value.abs().max()) or 1.0
            of_weights = max(of_weights, float((value - states[1][name]).abs().max()) / scale)
    return of_losses, of_weights


def losses(run: Path) -> list[float]:
    """All training losses that were logged."""
    rows = [row for row in Facts(run / "facts").rows() if row["split"] == "train"]
    return [value for row in rows for key, value in row.items() if key.rpartition("/")[2] == "loss"]


# --- sections


def equal(quick: bool) -> Iterator[Row]:
    """The same words on one process, on two (both engines) and on three."""
    folder = Path("equal")
    for number, (what, words) in enumerate(list(RECIPES.items())[:: 3 if quick else 1]):
        given, names = words.split(), [folder / f"{number}_{name}" for name in ("one", "ddp", "fsdp", "six", "three")]
        one = train(names[0], [*given, "run.accumulate=2"])
        ddp = train(names[1], [*given, "run.accumulate=2"], 2)
        found = difference(one, ddp)
        is_stated = "running_" in (found or "")  # batch norm's statistics are those of the first process
        shown = "identical" if found is None else f"first difference {found}"
        yield f"{what}: DDP, 2 processes, accumulate 2", shown, "identical", found is None or is_stated
        limit = 1e-4 if "GAN" in what else 1e-6
        for name, engine, expected in ((names[2], "fsdp", one), (names[4], "ddp", None)):
            more = ["run.accumulate=2", f"run.parallel={engine}"]
            num = 2
            if expected is None:
                more, num = ["run.accumulate=4"], 3
                expected = train(names[3], [*given, *more])
            of_losses, of_weights = largest(expected, train(name, [*given, *more], num))
            label = f"{what}: {'FSDP2, 2 processes' if num == 2 else 'DDP, 3 processes, accumulate 4'}"
            figure, is_met = f"losses of {NUM_ROWS} rows <= {limit:g}", of_losses <= limit
            if "float16" in words or "bfloat16" in words:
                figure, is_met = "", True
            yield label, f"losses {of_losses:.1e}, weights {of_weights:.1e}", figure, is_met


def evaluation(quick: bool) -> Iterator[Row]:
    """Rows of an evaluation of weights that never change."""
    folder = Path("evaluation")
    words = [*TINY, "model._target_=tiny.PlainNet", "optimizer.lr=0.0", "run.accumulate=3", "run.ema_decay=null"]
    for size in (7, 16) if quick else (3, 7, 10, 16, 30, 100):
        runs = [train(folder / f"{size}_{num}", [*words, f"loader.batch_size={size}"], num) for num in (1, 2, 3)]
        rows = [[row for row in Facts(run / "facts").values() if row["split"] != "train"] for run in runs]
        is_met = rows[0] == rows[1] == rows[2]
        yield (
            f"evaluation on 1, 2, 3 processes, batches of {size}",
            "equal" if is_met else "differ",
            "equal bits",
            is_met,
        )


def begin(run: Path, words: list[str], **env: str) -> list[Any]:
    """Start a run on two processes, or the rest of it, where a kill has left one."""
    if (run / "config.yaml").exists():
        return carry_on(run, 2, **env)
    return command(run, [*COMMON, *words, f"run.name={run.name}"], 2, **env)


def kills(quick: bool) -> Iterator[Row]:
    """SIGKILL of a random process at a random point, twice, then carried on."""
    folder, draw = Path("kills"), random.Random(0)
    num_runs = 4 if quick else 30
    problems: list[str | None] = []
    slowest, named, struck = 0.0, 0, 0
    for engine in ("ddp", "fsdp"):
        words = [*TINY, "run.accumulate=2", f"run.parallel={engine}"]
        whole = train(folder / f"whole_{engine}", words, 2)
        for number in range(num_runs // 2):
            run = folder / f"{engine}_{number}"
            for _ in range(2):
                rank = str(draw.randrange(2))
                processes = begin(run, words, STRIKE=str(draw.randrange(1, 60)), KILL_RANK=rank, TRACE=os.devnull)
                processes[int(rank)].wait()
                since = time.monotonic()
                together.wait(processes)
                slowest = max(slowest, time.monotonic() - since)
                reason = str(read_status(run).get("reason"))
                named += rank == "0" or processes[1].code == 0 or "rank_1: process" in reason
                struck += processes[int(rank)].code == -signal.SIGKILL
            codes = together.wait(begin(run, words))
            problems.append(difference(whole, run) if codes == [0, 0] else f"{run.name}: exit codes {codes}")
    good = sum(problem is None for problem in problems)
    yield (
        "SIGKILL of any process, twice, resume 2 -> 2",
        f"{good} of {num_runs}, {struck} kills{tell(problems)}",
        "all",
        good == num_runs,
    )
    yield "... the others end within", f"{slowest:.1f} s", "10 s", slowest <= 10
    yield "... the cause is in status.json", f"{named} of {2 * num_runs}", "all", named == 2 * num_runs


def changes(quick: bool) -> Iterator[Row]:
    """Killed on some processes, carried on by others."""
    folder = Path("changes")
    words = [*TINY, "data.dataset._target_=tiny.Ids", "loss._target_=tiny.IdLoss", "run.accumulate=3"]
    whole = train(folder / "whole", words)
    steps = [(2, "ddp", 1, "ddp"), (1, "ddp", 2, "ddp"), (2, "ddp", 3, "ddp"), (2, "ddp", 2, "fsdp")]
    steps += [(2, "fsdp", 2, "ddp"), (2, "fsdp", 3, "fsdp"), (3, "fsdp", 1, "ddp")]
    for before, first, after, second in steps[: 3 if quick else None]:
        run = folder / f"{first}_{before}_{second}_{after}"
        more = [*COMMON, *words, f"run.name={run.name}", f"run.parallel={first}"]
        together.wait(command(run, more, before, KILL_AT="13", KILL_RANK=str(before - 1)))
        codes = together.wait(carry_on(run, after, f"run.parallel={second}"))
        of_losses, _ = largest(whole, run)
        ids = [
            [(row["ids"], row["other_ids"]) for row in Facts(path / "facts").rows() if "ids" in row]
            for path in (whole, run)
        ]
        same = len(ids[0]) == len(ids[1]) and all(
            math.isclose(left, right, abs_tol=1e-12)
            for row, other in zip(*ids, strict=False)
            for left, right in zip(row, other, strict=True)
        )
        is_met = codes == [0] * after and same and of_losses <= 1e-6
        shown = f"{'same' if same else 'other'} ids, losses {of_losses:.1e}"
        yield f"{before} ({first}) -> {after} ({second})", shown, "same ids, losses <= 1e-6", is_met


def signals(quick: bool) -> Iterator[Row]:
    """TERM, USR1, INT to one process, to all, or to torchrun, once or twice, at a random moment."""
    folder, draw = Path("signals"), random.Random(1)
    num_runs, problems = (6 if quick else 40), list[str | None]()
    words = [*TINY, "run.accumulate=2", "run.budget=600", "run.save_every=50", "run.eval_every=20", "run.log_every=10"]
    whole = train(folder / "whole", words, 2)
    for number in range(num_runs):
        run = folder / f"run_{number}"
        problems.append(_signalled(run, words, draw) or difference(whole, run))
    good = sum(problem is None for problem in problems)
    shown = f"{good} of {num_runs}{tell(problems)}"
    figure = "same step, one checkpoint, no process left, resumed identical"
    yield "signals to one, all, the launcher; once or twice", shown, figure, good == num_runs


def _signalled(run: Path, words: list[str], draw: random.Random) -> str | None:
    """Run under torchrun, signal, look, carry on; what went wrong."""
    number = draw.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    target, twice = draw.choice(["0", "1", "all", "launcher"]), draw.random() < 0.5
    if target == "launcher" and number == signal.SIGUSR1:
        number = signal.SIGTERM  # without --signals-to-handle it ends torchrun alone
    argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(TRAIN), *COMMON, *words]
    argv += [f"run.name={run.name}", f"paths.output_root={run.parent.resolve()}"]
    with open(run.with_name(f"{run.name}.log"), "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=os.environ | ON_PATH, start_new_session=True)
    file = run / "facts" / "scalars.csv"
    while not file.exists() and process.poll() is None:
        time.sleep(0.05)
    time.sleep(draw.random())
    workers = [int(pid) for pid in subprocess.getoutput(f"pgrep -P {process.pid}").split()]
    chosen = {"all": workers, "launcher": [process.pid]}.get(target) or workers[int(target) : int(target) + 1]
    for _ in range(1 + twice):
        for pid in chosen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.05)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return f"{run.name}: {number.name} to {target}: it hangs"
    time.sleep(0.2)
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    status = read_status(run)
    what = f"{number.name} to {target}{' twice' if twice else ''}"
    if left:
        return f"{run.name}: {what}: {len(left)} processes are left"
    if status["status"] == "finished":
        return None
    if status["status"] not in ("preempted", "interrupted"):
        return f"{run.name}: {what}: {status['status']}: {status.get('reason')}"
    if content(run / "checkpoints" / "latest.pt")["state"]["step"] != status["step"]:
        return f"{run.name}: {what}: the checkpoint is not of the last step"
    codes = together.wait(carry_on(run, 2))
    return None if codes == [0, 0] else f"{run.name}: exit codes {codes}"


def launcher(quick: bool) -> Iterator[Row]:
    """mode=dev under torchrun, which rehearses the resume."""
    for what, words in list(RECIPES.items())[:: 3 if quick else 1]:
        for engine in ("ddp", "fsdp"):
            argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(TRAIN), *words.split()]
            argv += ["mode=dev", "run.accumulate=2", "run.device=cpu", "loader.sample=true", f"run.parallel={engine}"]
            argv += [f"paths.output_root={Path('launcher').resolve()}"]
            done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | ON_PATH, timeout=600)
            found = [line for line in done.stdout.splitlines() if line.startswith("resume rehearsal")]
            shown = found[0].partition(": ")[2] if found else done.stderr.strip().splitlines()[-1][:80]
            is_met = done.returncode == 0 and "identical" in shown
            yield f"{what}: torchrun, 2 processes, {engine}, mode=dev", shown, "tensors identical", is_met


def slurm(quick: bool) -> Iterator[Row]:
    """tests/test_slurm.py, all of it, on a Slurm that it sets up on this machine."""
    argv = [sys.executable, "-m", "pytest", "-n", "0", "-o", "addopts=", "-rA", "-q", str(TESTS / "test_slurm.py")]
    if quick:
        argv += ["-k", "two_processes"]
    environment = os.environ | {"SLURM_TESTS": "all"}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=TESTS.parent)
    for line in done.stdout.splitlines():
        verdict, _, rest = line.partition(" ")
        if verdict in ("PASSED", "FAILED", "ERROR", "SKIPPED"):
            name = rest.partition("::")[2].partition(" - ")[0] or rest
            what = f"Slurm: {name.removeprefix('test_').replace('_', ' ')}"
            yield what, verdict.lower(), "passed", verdict == "PASSED"


def ray(quick: bool) -> Iterator[Row]:
    """scripts/jobs/ray.py with two processes against two that were started by hand."""
    folder, words = Path("ray"), [*TINY, "run.accumulate=2"]
    if importlib.util.find_spec("ray") is None:
        yield "Ray, 2 processes", "not tried: ray is not installed", "identical", False
        return
    whole = train(folder / "whole", words, 2)
    argv = [sys.executable, str(TESTS.parent / "scripts/jobs/ray.py"), "2", "--", *COMMON, *words, "job=run"]
    argv.append(f"paths.output_root={folder.resolve()}")
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | ON_PATH, timeout=300)
    found: str | None = f"exit code {done.returncode}"
    if done.returncode == 0:
        found = difference(whole, folder / "run")
    yield "Ray, 2 processes", found or "identical", "identical", found is None


def condor(quick: bool) -> Iterator[Row]:
    """scripts/jobs/condor.sub on a real HTCondor."""
    if shutil.which("mmdebstrap") is None or os.getuid() != 0:
        yield "HTCondor", "not tried: needs root and mmdebstrap", "identical", False
        return
    whole = train(Path("condor/whole"), [*htcondor.WORDS, htcondor.SLOW])
    yield from htcondor.evictions(COMMON, whole, difference)


SECTIONS = {
    "equal": equal,
    "evaluation": evaluation,
    "kills": kills,
    "changes": changes,
    "signals": signals,
    "launcher": launcher,
    "slurm": slurm,
    "condor": condor,
    "ray": ray,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(not run_sections(__doc__, SECTIONS))
