"""Sections of torture.py on runs of the real train.py that are killed, stopped, or restored without some state."""

import itertools
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shared import CORES, TESTS, Row, content, difference, group, parallel, start, tell
from zygote import TRAIN

from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import read_status

WORDS = f"""--config-dir {TESTS / "configs"} data=noisy data.dataset._target_=subject.Points model=tiny
    loss._target_=subject.Loss optimizer=fatal scheduler=cosine tracker=none plots=none
    +plots.figure._target_=tiny.Figure +rollout._target_=subject.Rollout +metrics.labels._target_=tiny.FinalLabels
    mode=prod run.device=cpu run.budget=60 run.log_every=1 run.eval_every=7 run.rollout_every=21 run.plot_every=14
    run.save_every=5 run.num_checkpoints=3 run.clip_grad_norm=1.0 loader.batch_size=16""".split()

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
    return [f"resume={run.name}", "trust=subject,tiny", *more, f"paths.output_root={run.parent}"]


def log_of(run: Path) -> Path:
    """What all processes of a run have printed."""
    return run.parent / f"{run.name}.log"


def finish(run: Path, words: list[str], **env: str) -> int | None:
    """Run train.py to its end; returns the exit code."""
    return start([TRAIN, *words], log_of(run), **env).wait()


def go_through(run: Path, *more: str, **env: str) -> float:
    """An uninterrupted run; returns how long it took, in seconds."""
    before = time.monotonic()
    code = finish(run, begin(run, *more), **env)
    assert code == 0, f"exit code {code}: see {log_of(run)}\n{log_of(run).read_text()[-2000:]}"
    return time.monotonic() - before


def timed(folder: Path, num_workers: int) -> float:
    """Seconds that a run takes with so many loader workers, while another one is at work."""
    return go_through(folder / f"timed_{num_workers}", *kind_words(KINDS[-1]), f"loader.num_workers={num_workers}")


def uninterrupted(folder: Path, kinds: list[Kind]) -> dict[Kind, Path]:
    """A run that went through for each kind; the points that it passed (tests/tiny.py) are in its .trace."""
    runs = {kind: folder / "whole_{}_{}_{}".format(*kind) for kind in kinds}
    parallel(lambda kind: go_through(runs[kind], *kind_words(kind), TRACE=f"{runs[kind]}.trace"), kinds)
    return runs


def points_of(run: Path) -> list[str]:
    """The points that an uninterrupted run passed, in order."""
    return re.sub(r"step_\d+", "step_N", Path(f"{run}.trace").read_text()).splitlines()


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
    return difference(run, whole, names)


def wrong_ids(run: Path, whole: Path) -> int:
    """Steps that read other items than in the run that went through, or that were logged never or twice."""
    found, expected = (
        [(row["step"], row["ids"]) for row in Facts(path / "facts").rows() if row["split"] == "train"]
        for path in (run, whole)
    )
    return len(set(found) ^ set(expected)) + len(found) - len(set(found))


# Sections


@dataclass
class Carried:
    """How a run was carried to its end: kills, of these before there was a run to resume, and what went wrong."""

    kills: int
    early: int
    lost: str | None = None
    differs: str | None = None


def carry(run: Path, kind: Kind, whole: Path, seconds: dict[int, float], most: int) -> Carried:
    """Start a run, kill it at random moments up to `most` times, resume it each time with any worker count."""
    name, done = run.name, Carried(0, 0)
    while True:
        words = carry_on(run)
        if not (run / "config.yaml").exists():
            if done.kills:  # what is there may be a bare folder
                run = run.with_name(f"{name}_{done.kills}")
                done.early += 1
            words = begin(run, *kind_words(kind))
        workers = random.choice(tuple(seconds))
        process, code = start([TRAIN, *words, f"loader.num_workers={workers}"], log_of(run)), None
        if done.kills < most:
            code = process.wait(random.uniform(0, seconds[workers]))
            if code is None:
                process.send(signal.SIGKILL)
        code = process.wait()
        if code == 0:
            done.differs = problem(run, whole)
            return done
        if code != -signal.SIGKILL or done.kills == most:
            done.lost = f"{run.name}: exit code {code}"
            return done
        done.kills += 1


def kills(quick: bool) -> Iterator[Row]:
    folder, wanted = Path("kills").absolute(), 20 if quick else 500
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
    traces = {kind: points_of(run) for kind, run in whole.items()}
    first = traces[KINDS[0]].index("os.replace config.yaml") + 1  # from there on there is a run
    names = sorted(set(traces[KINDS[0]][first:]))
    pairs = list(itertools.product((0, 1, 2), repeat=2))
    cells = list(itertools.product(pairs, KINDS))
    random.shuffle(cells)
    if quick:
        cells = cells[:16]

    def cell(pair: tuple[int, int], kind: Kind, name: str) -> tuple[str | None, int]:
        points = [number for number, found in enumerate(traces[kind]) if found == name and number >= first]
        at = str(1 + random.choice(points))
        run = folder / "{}_to_{}_{}_{}_{}_at_{}".format(*pair, *kind, at)
        code = finish(run, [*begin(run, *kind_words(kind)), f"loader.num_workers={pair[0]}"], STRIKE=at)
        assert code == -signal.SIGKILL, f"{run.name}, {name}: exit code {code}"
        code = finish(run, [*carry_on(run), f"loader.num_workers={pair[1]}"])
        if code != 0:
            return f"{run.name}, killed at {name}: exit code {code}", 0
        return problem(run, whole[kind]), wrong_ids(run, whole[kind])

    results = parallel(cell, *zip(*cells, strict=True), itertools.cycle(names))
    equal, wrong = sum(found is None for found, _ in results), sum(count for _, count in results)
    measured = f"{equal} of {len(cells)}, {wrong} steps with wrong ids{tell(found for found, _ in results)}"
    what = "resume matrix: workers before x after x precision x accumulation x EMA"
    yield what, measured, f"{len(cells)} of {len(cells)}, 0", equal == len(cells) and not wrong
    yield f"... killed in turn at {', '.join(names)}", f"{len(names)} kinds of points", "", True


# What is left out of a restore, by the run where it shows and the point where that is killed: `skipping` applies no
# update, `reached` ends at its first step
ALL = ["run.precision=float16", "run.ema_decay=0.9", "run.monitor_mode=max", "run.patience=100"]
STATES: dict[str, tuple[list[str], str, dict[str, str]]] = {
    "plain": (ALL, "metric 5", {  # in the third evaluation
        "model buffers": "model/0.1.running_mean model/0.1.running_var model/0.1.num_batches_tracked",
        "optimizer moments": "optimizers//state", "optimizer settings": "optimizers//param_groups",
        "scheduler": "schedulers", "scaler": "scaler", "EMA weights": "ema/model", "EMA count": "ema/count",
        "an object of the user's": "objects/losses",
    } | {name: f"state/{name}" for name in (
        "step", "epoch", "position", "samples", "looks", "best", "best_step", "evaluations_since_best"
    )}),
    "skipping": ([*ALL, "+loss.factor=1e30", "run.budget=16"], "metric 3", {"skipped updates": "scaler/num_skipped"}),
    "reached": ([*ALL, "run.target_loss=100"], "", {"target_reached": "state/target_reached"}),
}  # fmt: skip


def ablation(quick: bool) -> Iterator[Row]:
    folder, controls, missed = Path("ablation").absolute(), [], []
    count = sum(len(states) for _, _, states in STATES.values())
    for name, (words, strike, states) in STATES.items():
        whole, killed = folder / name, folder / f"{name}_killed"
        go_through(whole, *words)
        if strike:
            code = finish(killed, begin(killed, *words), STRIKE=strike)
            assert code == -signal.SIGKILL, f"{killed.name}: exit code {code}"
        else:  # as a kill between the last save and the end leaves it
            shutil.copytree(whole, killed, symlinks=True)
            (killed / "status.json").unlink()

        def resumed(index: int, left_out: str, killed: Path = killed, whole: Path = whole) -> str | None:
            run = killed.with_name(f"{killed.name}_{index}")
            shutil.copytree(killed, run, symlinks=True)
            code = finish(run, carry_on(run), LEAVE_OUT=left_out)
            return problem(run, whole) if code == 0 else f"{run.name}: exit code {code}"

        control, *found = parallel(resumed, itertools.count(), ["", *states.values()])
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
    words = begin(run, *kind_words(KINDS[-1]), f"loader.num_workers={workers}")
    process = start([TRAIN, *words], log_of(run))
    ended, phase = process.wait(random.uniform(0, seconds)) is not None, "start-up"
    if (run / "status.json").exists():
        phase = read_status(run)["status"]
    before = time.monotonic()
    if ended or not process.send(number, to_group):  # over before the signal: again, under another name
        process.wait()
        return stop(run.with_name(f"{run.name}_"), number, to_group, workers, seconds, whole)
    code = process.wait()
    took = time.monotonic() - before
    while (orphans := len(group(process.pid))) and time.monotonic() < before + took + 1:
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
    code = finish(run, carry_on(run))
    return problem(run, whole, saved_more=True) if code == 0 else f"{said}, resumed: exit code {code}"


def signals(quick: bool) -> Iterator[Row]:
    folder, repeats = Path("signals").absolute(), 20
    whole = uninterrupted(folder, KINDS[-1:])[KINDS[-1]]
    seconds = dict(zip((0, 2), parallel(lambda count: timed(folder, count), (0, 2)), strict=True))
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    trials = list(itertools.product(numbers, (False, True), (0, 2), range(repeats)))
    random.shuffle(trials)
    if quick:
        trials = trials[:8]

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
    orphans = sum(stop.orphans for stop in stops)
    yield "... processes left after the exit", f"{orphans} of {len(stops)} runs", "0", not orphans
    yield "... longest from signal to exit", f"{max(stop.seconds for stop in stops):.2f} s", "", True


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "kills": kills,
    "matrix": matrix,
    "ablation": ablation,
    "signals": signals,
}
