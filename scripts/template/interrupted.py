"""Sections of torture.py on runs of the real train.py that are killed, stopped, or restored without some state."""

import contextlib
import itertools
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shared import CORES, TESTS, Row, content, parallel, start, tell
from zygote import TRAIN, Started

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import read_status
from scaffolding.core.signals import SAME_REQUEST, STOP_SIGNALS

FOLDER = f"--config-dir={TESTS / 'configs'}"
WORDS = [
    "data=noisy", "data.dataset._target_=subject.Points", "model=tiny", "loss._target_=subject.Loss",
    "optimizer=fatal", "scheduler=cosine", "tracker=none", "plots=none", "+plots.figure._target_=tiny.Figure",
    "+rollout._target_=subject.Rollout", "+metrics.labels._target_=tiny.FinalLabels",
    "mode=prod", "run.device=cpu", "run.budget=60", "run.log_every=1", "run.eval_every=7", "run.rollout_every=21",
    "run.plot_every=14", "run.save_every=5", "run.num_checkpoints=3", "run.clip_grad_norm=1.0", "loader.batch_size=16",
]  # fmt: skip

Kind = tuple[str, ...]  # the words that tell it from other kinds of runs
KINDS: list[Kind] = [
    (f"run.precision={precision}", f"run.accumulate={accumulate}", f"run.ema_decay={decay}")
    for precision, accumulate, decay in itertools.product(("bfloat16", "float16"), (1, 3), ("null", 0.9))
]


def log_of(run: Path) -> Path:
    """What all processes of a run have printed."""
    return run.with_name(f"{run.name}.log")


def begin(run: Path, *more: str, **env: str) -> Started:
    """Start train.py on a new run."""
    words = [FOLDER, *WORDS, *more, f"run.name={run.name}", f"paths.output_root={run.parent}"]
    return start([TRAIN, *words], log_of(run), **env)


def carry_on(run: Path, *more: str, **env: str) -> Started:
    """Start train.py on the rest of a run."""
    words = [f"resume={run.name}", "trust=subject,tiny", *more, f"paths.output_root={run.parent}"]
    return start([TRAIN, *words], log_of(run), **env)


def expect(code: int, process: Started) -> None:
    """Wait for the end of a process, which must have this exit code."""
    found = process.wait()
    assert found == code, f"exit code {found}: see {process.stdout}\n{process.stdout.read_text()[-2000:]}"


def timed(folder: Path, *worker_counts: int) -> dict[int, float]:
    """Seconds that a run takes with so many loader workers, while other runs are at work."""

    def seconds(count: int) -> float:
        before = time.monotonic()
        expect(0, begin(folder / f"timed_{count}", *KINDS[-1], f"loader.num_workers={count}"))
        return time.monotonic() - before

    return dict(zip(worker_counts, parallel(seconds, worker_counts), strict=True))


def uninterrupted(folder: Path, kinds: list[Kind]) -> dict[Kind, Path]:
    """A run that went through for each kind; the points that it passed (tests/tiny.py) are in its .trace."""
    runs = {kind: folder / f"whole_{number}" for number, kind in enumerate(kinds)}
    parallel(lambda kind: expect(0, begin(runs[kind], *kind, TRACE=f"{runs[kind]}.trace")), kinds)
    return runs


def problem(run: Path, whole: Path, saved_more: bool = False) -> str | None:
    """What first differs between a run and the one that went through; None: nothing.

    A run that was asked to stop has `saved_more`: of the older checkpoints that it kept, others may be the newest.
    """
    status = read_status(run)["status"]
    if status != "finished":
        return f"{run.name} is {status}"
    found, names = (sorted(file.name for file in path.glob("checkpoints/*.pt")) for path in (run, whole))
    if saved_more and len(found) == len(names):
        found = names = [name for name in names if name in found or not name.startswith("step_")]
    if found != names:
        return f"{run.name}: it has {found}, not {names}"
    left = [path.name for path in run.rglob(".*.tmp")]
    if left:
        return f"{run.name}: {left[0]} is left"
    pairs = {name: [content(path / "checkpoints" / name) for path in (run, whole)] for name in names}
    pairs["scalars.csv"] = [Facts(path / "facts").values() for path in (run, whole)]
    for name, pair in pairs.items():
        first = first_difference(*pair)
        if first is not None:
            return f"{run.name}: {first} of {name}"
    return None


def resumed(run: Path, whole: Path, *more: str, saved_more: bool = False, **env: str) -> str | None:
    """Carry a run on to its end; what is wrong then."""
    code = carry_on(run, *more, **env).wait()
    if code != 0:
        return f"{run.name}: exit code {code}"
    return problem(run, whole, saved_more)


# Sections


@dataclass
class Carried:
    """How a run was carried to its end: kills, of these before there was a run to resume, and what went wrong."""

    kills: int = 0
    early: int = 0
    lost: str | None = None
    differs: str | None = None


def carry(run: Path, kind: Kind, whole: Path, seconds: dict[int, float]) -> Carried:
    """Start a run, and until it gets through, kill it at a random moment and resume it with any worker count."""
    done = Carried()
    while True:
        workers = random.choice(tuple(seconds))
        if (run / "config.yaml").exists():
            process = carry_on(run, f"loader.num_workers={workers}")
        else:
            done.early = done.kills
            shutil.rmtree(run, ignore_errors=True)  # a kill may leave a bare folder
            process = begin(run, *kind, f"loader.num_workers={workers}")
        if process.wait(random.uniform(0, seconds[workers])) is None:
            process.send(signal.SIGKILL)
        code = process.wait()
        if code == 0:
            done.differs = problem(run, whole)
            return done
        if code != -signal.SIGKILL:
            done.lost = f"{run.name}: exit code {code}"
            return done
        done.kills += 1


def kills(quick: bool) -> Iterator[Row]:
    folder, wanted = Path("kills").absolute(), 20 if quick else 500
    whole, seconds = uninterrupted(folder, KINDS), timed(folder, 0, 1, 2)
    runs, numbers = list[Carried](), itertools.count()

    def lane(_: int) -> None:
        while sum(run.kills for run in runs) < wanted:
            number = next(numbers)
            kind = KINDS[number % len(KINDS)]
            runs.append(carry(folder / f"run_{number}", kind, whole[kind], seconds))

    parallel(lane, range(CORES))
    total, early = sum(run.kills for run in runs), sum(run.early for run in runs)
    lost, wrong = [run.lost for run in runs if run.lost], [run.lost or run.differs for run in runs]
    yield (
        "SIGKILLs of train.py at random moments, random worker counts",
        f"{total} in {len(runs)} runs ({early} before there was a run): {len(lost)} runs lost{tell(lost)}",
        f">= {wanted}: 0 lost",
        total >= wanted and not lost,
    )
    measured = f"{wrong.count(None)} of {len(runs)}{tell(wrong)}"
    yield "... equal to the uninterrupted run", measured, "all", not any(wrong)


# How runs begin that come from another: `parent` went through, `stopped` was stopped in the midst of it, `fork` is the
# first of these here.
STARTS: dict[str, list[str]] = {
    "fork": ["fork=parent", "run.budget=30"],
    "fork_state": ["fork=stopped", "fork_state=true", "run.monitor_mode=min"],
    "rerun": ["rerun=parent"],
    "rerun_of_fork": ["rerun=fork"],
    "fork_of_rerun": ["fork=rerun", "run.budget=30", "run.seed=3"],
    "changed": ["resume=stopped", "run.clip_grad_norm=0.5", "run.eval_every=9"],
}


def lineage(quick: bool) -> Iterator[Row]:
    """Kill runs that come from another, or that a resume changed, at points between two steps, and carry them on."""
    folder, count = Path("lineage").absolute(), 4 if quick else 40
    expect(0, begin(folder / "parent", *KINDS[-1]))
    expect(128 + signal.SIGTERM, begin(folder / "stopped", *KINDS[-1], KILL_AT="33", KILL_WITH="SIGTERM"))

    def derive(name: str, run: Path, **env: str) -> Started:
        words = [FOLDER, *STARTS[name], "trust=subject,tiny", f"paths.output_root={run.parent}"]
        if name != "changed":
            return start([TRAIN, *words, f"run.name={run.name}"], log_of(run), **env)
        shutil.copytree(folder / "stopped", run, symlinks=True)
        return carry_on(run, *STARTS[name][1:], **env)

    cells = list[tuple[str, int]]()
    for name in STARTS:
        expect(0, derive(name, folder / name, TRACE=f"{folder / name}.trace"))
        points = Path(f"{folder / name}.trace").read_text().splitlines()
        first = points.index("os.replace config.yaml") + 1
        early = range(max(1, first - 3), min(first + 15, len(points) + 1))  # around the run's beginning
        chosen = random.choices(early, k=count // 2) + random.choices(range(first, len(points) + 1), k=count // 2)
        cells += [(name, at) for at in chosen]
    shutil.copytree(folder / "stopped", folder / "unchanged", symlinks=True)
    expect(0, carry_on(folder / "unchanged"))

    def cell(number: int, name: str, at: int) -> str | None:
        run, whole = folder / f"{number}_{name}_at_{at}", folder / name
        expect(-signal.SIGKILL, derive(name, run, STRIKE=str(at)))
        if not (run / "config.yaml").exists():  # killed before there was a run
            shutil.rmtree(run, ignore_errors=True)
            expect(0, derive(name, run))
            return problem(run, whole)
        if name == "changed" and "clip_grad_norm: 0.5" not in (run / "config.yaml").read_text():
            whole = folder / "unchanged"  # killed before the change was the run's
        return resumed(run, whole)

    found = parallel(cell, itertools.count(), *zip(*cells, strict=True))
    what = f"killed and carried on: {', '.join(STARTS)}; equal to the one that went through"
    yield what, f"{found.count(None)} of {len(cells)}{tell(found)}", "all", not any(found)


def matrix(quick: bool) -> Iterator[Row]:
    folder = Path("matrix").absolute()
    whole = uninterrupted(folder, KINDS)
    traces = {  # the points that each run passed, in order
        kind: re.sub(r"step_\d+", "step_N", Path(f"{run}.trace").read_text()).splitlines()
        for kind, run in whole.items()
    }
    first = traces[KINDS[0]].index("os.replace config.yaml") + 1  # from there on there is a run
    names = sorted(set(traces[KINDS[0]][first:]))
    cells = list(itertools.product((0, 1, 2), (0, 1, 2), KINDS))
    random.shuffle(cells)
    if quick:
        cells = cells[:16]

    def cell(before: int, after: int, kind: Kind, name: str) -> str | None:
        points = [number for number, found in enumerate(traces[kind], 1) if found == name and number > first]
        at = random.choice(points)
        run = folder / f"{before}_to_{after}_{whole[kind].name}_at_{at}"
        expect(-signal.SIGKILL, begin(run, *kind, f"loader.num_workers={before}", STRIKE=str(at)))
        return resumed(run, whole[kind], f"loader.num_workers={after}")

    found = parallel(cell, *zip(*cells, strict=True), itertools.cycle(names))
    what = "resume matrix: workers before x after x precision x accumulation x EMA, ids of every step included"
    yield what, f"{found.count(None)} of {len(cells)}{tell(found)}", f"{len(cells)} of {len(cells)}", not any(found)
    yield f"... killed in turn at {', '.join(names)}", f"{len(names)} kinds of points", "", True


# What is left out of a restore, by the run where it shows and the point where that is killed: `skipping` applies no
# update, `reached` ends at its first step and is killed between the last save and the end
ALL = ["run.precision=float16", "run.ema_decay=0.9", "run.monitor_mode=max", "run.patience=100"]
STATES: dict[str, tuple[list[str], str, dict[str, str]]] = {
    "plain": (ALL, "metric 6", {  # in the third evaluation; the first call is that of the checks
        "buffers of the average": "model/0.1.running_mean model/0.1.running_var",
        "model buffers": "ema/raw/0.1.running_mean ema/raw/0.1.running_var ema/raw/0.1.num_batches_tracked",
        "optimizer moments": "optimizers//state", "optimizer settings": "optimizers//param_groups",
        "scheduler": "schedulers", "scaler": "scaler", "EMA weights": "model",
        "weights under EMA": "ema/raw", "EMA count": "ema/count",
        "an object of the user's": "objects/losses",
    } | {name: f"state/{name}" for name in (
        "step", "epoch", "position", "samples", "looks", "best", "best_step", "evaluations_since_best"
    )}),
    "skipping": ([*ALL, "+loss.factor=1e30", "run.budget=16"], "metric 4", {"skipped updates": "scaler/num_skipped"}),
    "reached": ([*ALL, "run.target_loss=100"], "os.replace status.json 2", {"target_reached": "state/target_reached"}),
}  # fmt: skip


def ablation(quick: bool) -> Iterator[Row]:
    folder, controls, missed = Path("ablation").absolute(), [], []
    for name, (words, strike, states) in STATES.items():
        whole, killed = folder / name, folder / f"{name}_killed"
        expect(0, begin(whole, *words))
        expect(-signal.SIGKILL, begin(killed, *words, STRIKE=strike))

        def restored(index: int, left_out: str, killed: Path = killed, whole: Path = whole) -> str | None:
            run = killed.with_name(f"{killed.name}_{index}")
            shutil.copytree(killed, run, symlinks=True)
            return resumed(run, whole, LEAVE_OUT=left_out)

        control, *found = parallel(restored, itertools.count(), ["", *states.values()])
        controls.append(control)
        missed += [state for state, caught in zip(states, found, strict=True) if caught is None]
    equal = f"{controls.count(None)} of {len(STATES)}{tell(controls)}"
    yield "nothing left out of the restore: equal", equal, "all", not any(controls)
    count = sum(len(states) for _, _, states in STATES.values())
    what = "one state left out of the restore: the comparison fails"
    yield what, f"{count - len(missed)} of {count}{tell(missed)}", f"{count} of {count}", not missed


def num_alive(group: int) -> int:
    """The number of living processes of a process group."""
    found = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, _, number = stat.read_text().rpartition(") ")[2].split()[:3]
            found += int(number) == group and state != "Z"
    return found


@dataclass
class Stop:
    """A signal sent to a run: in which phase, seconds to its exit, processes left, and what went wrong."""

    phase: str
    seconds: float
    orphans: int
    problem: str | None


def stop(
    run: Path, number: signal.Signals, to_group: bool, is_twice: bool, workers: int, seconds: float, whole: Path
) -> Stop:
    """Send a signal, or the same one twice, at a random moment of a run; look at how it ends, and resume it."""
    process, phase = begin(run, *KINDS[-1], f"loader.num_workers={workers}"), "start-up"
    is_at_work = process.wait(random.uniform(0, seconds)) is None
    if (run / "status.json").exists():
        phase = read_status(run)["status"]
    before = time.monotonic()
    if is_at_work:
        process.send(number, to_group)
        if is_twice:
            time.sleep(random.uniform(0, SAME_REQUEST / 2))
            process.send(number, to_group)
    code = process.wait()
    took = time.monotonic() - before
    while (orphans := num_alive(process.pid)) and time.monotonic() < before + took + 1:
        time.sleep(0.01)
    if orphans:
        process.send(signal.SIGKILL)
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
        if content(run / "checkpoints" / "latest.pt")["state"]["step"] != status["step"]:
            return f"{said}: stopped after another step than was saved"
    if code == 0 and status["status"] != "finished":
        return f"{said}: {status['status']}"
    return resumed(run, whole, saved_more=True)


def signals(quick: bool) -> Iterator[Row]:
    folder = Path("signals").absolute()
    (whole,) = uninterrupted(folder, KINDS[-1:]).values()
    seconds = timed(folder, 0, 2)
    both = (False, True)
    trials = list(itertools.product(STOP_SIGNALS, both, both, seconds, range(1 if quick else 20)))

    def trial(number: signal.Signals, to_group: bool, is_twice: bool, workers: int, repeat: int) -> Stop:
        run = folder / f"{number.name}_{to_group}_{is_twice}_{workers}_{repeat}"
        return stop(run, number, to_group, is_twice, workers, seconds[workers], whole)

    stops = parallel(trial, *zip(*trials, strict=True))
    for what, running in (
        ("TERM, INT, USR1, HUP to process or group, once or twice: saved, right exit code, resumed equal", True),
        ("... before there is a run or after its end: right exit code or finished, resumed equal", False),
    ):
        found = [stop.problem for stop in stops if (stop.phase == "running") is running]
        yield what, f"{found.count(None)} of {len(found)}{tell(found)}", "all", not any(found)
    orphans = sum(stop.orphans for stop in stops)
    yield "... processes left after the exit", f"{orphans} of {len(stops)} runs", "0", not orphans
    yield "... longest from signal to exit", f"{max(stop.seconds for stop in stops):.2f} s", "", True


SECTIONS = {
    "kills": kills,
    "lineage": lineage,
    "matrix": matrix,
    "ablation": ablation,
    "signals": signals,
}
