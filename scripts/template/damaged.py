"""Sections of torture.py on checkpoint files: killed while written, after a power cut, and damaged on the disk."""

import itertools
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from interrupted import KINDS, WORDS, begin, expect
from loguru import logger
from shared import TESTS, Row, content, parallel, start, tell

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.errors import UserError
from scaffolding.core.folder.folder import claim
from scaffolding.core.session.run import Run
from scaffolding.core.state import checkpoint
from scaffolding.core.state.files import CheckpointFiles
from scaffolding.experiment import Experiment

Steps = dict[str, int]  # of checkpoints, by name


def open_run(path: Path, step: int, halfway: bool = False) -> Run:
    """The real record of a run that stands at a step; its experiment does not train."""
    words = [f"hydra.searchpath=[file://{TESTS / 'configs'}]", *WORDS, "run.budget=1_000_000", "run.report=false"]
    exp = Experiment.from_config(*words, f"run.rehearse_resume={halfway}", f"paths.output_root={path.parent}")
    exp.state.step = step
    return Run(exp, path)


def saves(run: Run, step: int, size: int) -> Iterator[str]:
    """Save a checkpoint of `size` bytes, all of which tell its step; names what is safe by then. Even ones are best."""
    run.state.step = step
    weights = {name: torch.full((size // 8,), float(step)) for name in ("one", "other")}
    run.save({"format": checkpoint.FORMAT, "model": weights, "optimizers": {}, "state": vars(run.state)})
    yield "latest"
    if step % 2 == 0:
        run.keep_best()
        yield "best"


def step_of(path: Path) -> int:
    """The step of a checkpoint that `saves` made. UserError: it is damaged; ValueError: it is torn."""
    found = content(path)
    step: int = found["state"]["step"]
    if not all(bool((tensor == step).all()) for tensor in found["model"].values()):
        raise ValueError(f"{path.name} is torn at step {step}")
    return step


def look_at(run: Path) -> tuple[Steps, list[str]]:
    """The steps of a run's whole checkpoints, and what is wrong with the others."""
    steps, damaged = Steps(), list[str]()
    for path in (run / "checkpoints").glob("*.pt"):
        try:
            steps[path.stem] = step_of(path)
        except (UserError, ValueError) as error:
            damaged.append(str(error).partition("\n")[0])
    return steps, damaged


def write_saves(folder: str, size: str, first: str) -> None:
    """Carry a run on and save for ever; report each save once it has returned."""
    latest = CheckpointFiles(Path(folder)).latest
    run = open_run(Path(folder), step_of(latest) if latest.exists() else 0)
    logger.remove()
    with run.session():
        for step in itertools.count(int(first)):
            for name in saves(run, step, int(size)):
                os.write(1, f"{name} {step}\n".encode())


def kill_saves(size: int, count: int) -> tuple[list[str], list[int], int]:
    """Kill a process that saves checkpoints of `size` bytes so many times, each time in the same folder.

    Returns what was wrong, how many files each kill left aside, and how many are left after the next start.
    """
    run = Path("save_kills", str(size)).absolute()
    run.mkdir(parents=True)
    wrong, asides, acknowledged = list[str](), list[int](), {"latest": 0, "best": 0}
    for index in range(count):
        log = run.with_name(f"{run.name}_{index}.log")
        process = start([__file__, run, size, acknowledged["latest"] + 2], log)
        while not (log.exists() and "\n" in log.read_text()):
            assert process.wait(0.003) is None, log.read_text()
        time.sleep(random.uniform(0, size / 2**25))
        process.send(signal.SIGKILL)
        expect(-signal.SIGKILL, process)
        told = log.read_text()
        assert "Traceback" not in told, told
        for line in told.splitlines():
            acknowledged[line.split()[0]] = int(line.split()[1])
        steps, damaged = look_at(run)
        late = [name for name, step in acknowledged.items() if steps.get(name, 0) < step]
        wrong += damaged + [f"{name}.pt is not of the step that was saved" for name in late]
        asides.append(len(list(run.rglob(".*.tmp"))))
    open_run(run, 0)
    return wrong, asides, len(list(run.rglob(".*.tmp")))


def save_kills(quick: bool) -> Iterator[Row]:
    count, sizes = 50 if quick else 500, (2**18, 2**23)
    for size, (wrong, asides, stay) in zip(sizes, parallel(kill_saves, sizes, [count] * 2), strict=True):
        what = f"SIGKILLs inside saves of {size // 1024:,} KiB: unreadable, torn or older than acknowledged"
        yield what, f"{len(wrong)} of {count}{tell(wrong)}", "0", not wrong
        measured = f"{max(asides)} at most, some after {sum(map(bool, asides))} of {count}; {stay} after the next start"
        yield "... files left aside by a kill", measured, "<= 2; 0", max(asides) <= 2 and not stay


# Crash states: what a power cut may leave of the real file operations of several saves.


MOST_STATES = 5_000  # looked at; only a protocol that leaves much to chance has more


@dataclass
class Moment:
    """The run's folders and checkpoint files after an operation, and what it made durable, if it was an fsync."""

    names: dict[Path, int]  # inodes by path
    contents: dict[int, bytes]
    synced: int | None = None  # inode
    saved: Steps = field(default_factory=dict)  # what is safe once a save, or keeping the best, has returned


class Recorder:
    """Records a moment before every operation on files and after every fsync, while `active`."""

    EVENTS = ("open", "os.rename", "os.link", "os.symlink", "os.remove", "os.mkdir", "os.truncate")

    def __init__(self, folder: Path) -> None:
        self.folder, self.active, self.moments = folder, False, list[Moment]()
        self.held: dict[int, int] = {}  # open handles by inode: what is open keeps its inode number to itself
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: Any) -> None:
        if self.active and event in self.EVENTS:
            self.record()

    def record(self, **values: Any) -> None:
        self.active, names = False, {}
        for path in (self.folder, *self.folder.rglob("*")):
            inode = path.lstat().st_ino
            if path.parent.name == "checkpoints" and inode not in self.held:
                self.held[inode] = os.open(path, os.O_RDONLY)
            if path.is_dir() or (path.parent.name == "checkpoints" and not path.name.startswith(".")):
                names[path] = inode
        contents = {inode: os.pread(handle, 2**20, 0) for inode, handle in self.held.items()}
        self.moments.append(Moment(names, contents, **values))
        self.active = True

    def fsync(self, handle: int, real: Callable[[int], None] = os.fsync) -> None:
        real(handle)
        self.record(synced=os.fstat(handle).st_ino)


def record_saves(root: Path, first: int, count: int, before: int) -> list[Moment]:
    """Saves of the steps from `first` by the run root/run, new or carried on from step `before`; half are the best."""
    recorder, path = Recorder(root), root / "run"
    with patch.object(os, "fsync", recorder.fsync):
        recorder.record()
        if not path.exists():
            claim(root, "run")
        run = open_run(path, before, halfway=True)
        with run.session():
            for step in range(first, first + count):
                for name in saves(run, step, 2**13):
                    recorder.record(saved={name: step})
    recorder.active = False
    for handle in recorder.held.values():
        os.close(handle)
    return recorder.moments


def possible_contents(now: bytes, synced: bytes) -> list[bytes]:
    """What may be on the disk of a file: all, what was flushed, less than was written, or blocks never filled."""
    return [now] if now == synced else [now, synced, now[:4096], now[: len(now) // 2], now[:-1], bytes(len(now)), b""]


def crash_states(moments: list[Moment], first: Steps) -> Iterator[tuple[Steps, dict[str, bytes]]]:
    """(steps that are safe by then, files in checkpoints/) of every state that a power cut may leave.

    What changed in a folder since its last fsync is there or not, each change by itself; so is data.
    """
    safe, before, synced = first, moments[0].names, dict(moments[0].contents)
    durable, pending = dict[Path, int | None](before), list[tuple[Path, int | None]]()
    for moment in moments:
        safe = safe | moment.saved
        changed = {path for path, _ in before.items() ^ moment.names.items()}
        assert len(changed) <= 1, f"operations that were not recorded: {changed}"
        pending += [(path, moment.names.get(path)) for path in changed]
        before = moment.names
        if moment.synced in moment.contents:
            synced[moment.synced] = moment.contents[moment.synced]
        elif moment.synced is not None:
            flushed = [change for change in pending if before.get(change[0].parent) == moment.synced]
            durable |= dict(flushed)
            pending = [change for change in pending if change not in flushed]
        for chosen in itertools.chain(*(itertools.combinations(pending, n) for n in range(len(pending) + 1))):
            names = durable | dict(chosen)
            files = {
                path.name: inode for path, inode in names.items()
                if inode in moment.contents and names.get(path.parent) and names.get(path.parent.parent)
            }  # fmt: skip
            inodes = sorted(set(files.values()))
            possible = [possible_contents(moment.contents[inode], synced.get(inode, b"")) for inode in inodes]
            for contents in itertools.product(*possible):
                by_inode = dict(zip(inodes, contents, strict=True))
                yield safe, {name: by_inode[inode] for name, inode in files.items()}


def restart(run: Path, files: dict[str, bytes]) -> tuple[Steps, bool]:
    """Lay out the checkpoints of a run as a crash left them.

    Returns the steps of the one that a resume takes and of the best, and whether all of them load.
    """
    (run / "checkpoints").mkdir(parents=True)
    for name, data in files.items():
        (run / "checkpoints" / name).write_bytes(data)
    found, damaged = look_at(run)
    steps = {name: step for name, step in found.items() if name == "best"}
    with suppress(UserError, ValueError):
        newest = CheckpointFiles(run).newest()
        if newest is not None:
            steps["latest"] = step_of(newest[0])
    return steps, not damaged


def cut_power(root: Path, first: int, count: int, before: Steps) -> tuple[Counter[str], dict[Path, Steps]]:
    """Record saves by root/run, whose checkpoints are of the steps `before`, and restart from every crash state.

    Returns the numbers of states and of those that break a promise, and the restarted runs that differ.
    """
    tally, known = Counter[str](), dict[frozenset[tuple[str, bytes]], tuple[Path, Steps, bool]]()
    moments = record_saves(root, first, count, before.get("latest", 0))
    for safe, files in itertools.islice(crash_states(moments, before), MOST_STATES):
        key, state = frozenset(files.items()), root.with_name(f"{root.name}_{len(known)}")
        if key not in known:
            known[key] = (state, *restart(state / "run", files))
        _, steps, all_load = known[key]
        tally["states"] += 1
        tally["without"] += bool(safe and not steps)
        tally["older"] += bool(steps) and any(steps.get(name, 0) < step for name, step in safe.items())
        tally["damaged"] += not all_load
    return tally, {state: steps for state, steps, _ in known.values()}


def crash(quick: bool) -> Iterator[Row]:
    root, count = Path("crash_states", "cut").absolute(), 6 if quick else 12
    root.mkdir()
    once, states = cut_power(root, 1, count, {})
    twice = sum((cut_power(state, 101, 2, steps)[0] for state, steps in states.items()), Counter[str]())
    for what, tally in (
        (f"power cut in {count} saves", once),
        (f"power cut in 2 saves after a restart from each of these ({len(states)} differ)", twice),
    ):
        for key, meaning in (
            ("without", f"{what}: states without a valid checkpoint"),
            ("older", "... with a newest or best older than a save that returned"),
            ("damaged", "... with a damaged file among the checkpoints"),
        ):
            yield meaning, f"{tally[key]:,} of {tally['states']:,}", "0", not tally[key]


def flips(quick: bool) -> Iterator[Row]:
    """A damaged checkpoint must be refused, unless it loads with its right content: not every bit of a file has one."""
    num_flips, num_cuts = (200, 20) if quick else (2000, 200)
    run = Path("flips", "run").absolute()
    expect(0, begin(run, *KINDS[-1]))
    path = run / "checkpoints" / "latest.pt"
    whole, data = checkpoint.load(path), path.read_bytes()

    def outcome(start: int, stop: int, new: bytes) -> str:
        path.write_bytes(data[:start] + new + data[stop:])
        try:
            found = checkpoint.load(path)
        except UserError:
            return "found"
        except Exception as error:
            return type(error).__name__
        return "harmless" if first_difference(found, whole) is None else "loaded without a word"

    size = len(data)
    bits, cuts = random.sample(range(8 * size), num_flips), random.sample(range(size), num_cuts)
    blocks = [(at, min(at + 4096, size)) for at in range(0, size, 4096)]
    damages = {
        "bit flips": [(bit // 8, bit // 8 + 1, bytes([data[bit // 8] ^ 1 << bit % 8])) for bit in bits],
        "truncations": [(at, size, b"") for at in cuts],
        "zeroed blocks": [(at, end, bytes(end - at)) for at, end in blocks if any(data[at:end])],
    }
    for name, changes in damages.items():
        counts = Counter(outcome(*change) for change in changes)
        harmless, good = counts.pop("harmless", 0), counts.pop("found", 0)
        measured = f"{good:,} of {len(changes):,} found, {harmless:,} harmless{tell(counts.elements())}"
        yield f"{name} of a checkpoint", measured, "all found or harmless", not counts


SECTIONS = {
    "save_kills": save_kills,
    "crash_states": crash,
    "flips": flips,
}

if __name__ == "__main__":  # the process that is killed
    write_saves(*sys.argv[1:])
