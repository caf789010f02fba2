"""Sections of torture.py on checkpoint files: killed while written, after a power cut, and damaged on the disk."""

import io
import itertools
import os
import random
import signal
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from interrupted import KINDS, Row, go_through, kind_words, tell
from loguru import logger
from processes import launcher, parallel, send
from scaffolding.core.folder.run_folder import claim
from scaffolding.rehearsal import first_difference
from torch import nn

from scaffolding.core.errors import UserError
from scaffolding.core.session.run import Run
from scaffolding.core.state import checkpoint
from scaffolding.core.state.checkpoint import RunState
from scaffolding.core.state.finite import FiniteWatch

Steps = dict[str, int]  # of checkpoints, by name


def save(run: Run, step: int, size: int, best: bool) -> None:
    """Save a checkpoint of `size` bytes, all of which tell its step."""
    weights = {name: torch.full((size // 8,), float(step)) for name in ("one", "other")}
    state = RunState(step=step)
    content = {"format": checkpoint.FORMAT, "model": weights, "optimizers": {}, "state": asdict(state)}
    run.save(state, content, best, FiniteWatch(nn.Module(), torch.device("cpu")))


def step_of(path: Path) -> int:
    """The step of a checkpoint that `save` made. UserError: it is damaged; ValueError: it is torn."""
    content = checkpoint.load(path)
    step: int = content["state"]["step"]
    if not all(bool((tensor == step).all()) for tensor in content["model"].values()):
        raise ValueError(f"{path.name} is torn at step {step}")
    return step


def write_saves(folder: str, size: int, first: int) -> None:
    """Carry a run on and save for ever; report each save once it has returned."""
    run = Run(Path(folder), None, 10**6, num_checkpoints=3)
    logger.remove()
    with run.session(RunState(step=step_of(run.latest) if run.latest.exists() else 0), {}):
        for step in itertools.count(first):
            best = step % 2 == 0
            save(run, step, size, best)
            os.write(1, f"best {step}\nlatest {step}\n".encode() if best else f"latest {step}\n".encode())


def wrong_checkpoints(run: Path, acknowledged: Steps) -> list[str]:
    """What is wrong with the checkpoints of a run whose saves of these steps have returned."""
    steps, wrong = dict(acknowledged), []
    for path in (run / "checkpoints").glob("*.pt"):
        try:
            steps[path.stem] = step_of(path)
        except (UserError, ValueError) as error:
            wrong.append(str(error).partition("\n")[0])
    late = [name for name, step in acknowledged.items() if steps[name] < step]
    return wrong + [f"{name}.pt is of step {steps[name]}, {acknowledged[name]} was saved" for name in late]


def kill_saves(size: int, count: int) -> tuple[list[str], int, int, int]:
    """Kill a process that saves checkpoints of `size` bytes so many times, each time in the same folder.

    Returns what was wrong, the most files left aside by a kill, the number of kills that left some, and how many
    files are left aside after the next start.
    """
    run = Path("save_kills", str(size)).absolute()
    run.mkdir(parents=True)
    wrong, most, left = list[str](), 0, 0
    acknowledged = {"latest": 0, "best": 0}
    for index in range(count):
        log = run.with_name(f"{run.name}_{index}.log")
        pid = launcher().start(log, write_saves, str(run), size, acknowledged["latest"] + 2)
        while not (log.exists() and "\n" in log.read_text()):
            assert launcher().wait(0.005) is None, log.read_text()
        assert launcher().wait(random.uniform(0, size / 2**25)) is None, log.read_text()
        send(pid, signal.SIGKILL)
        assert launcher().wait() == -signal.SIGKILL
        for line in log.read_text().splitlines():
            acknowledged[line.split()[0]] = int(line.split()[1])
        wrong += wrong_checkpoints(run, acknowledged)
        asides = len(list(run.rglob(".*.tmp")))
        most, left = max(most, asides), left + bool(asides)
    Run(run, None, 1)
    return wrong, most, left, len(list(run.rglob(".*.tmp")))


def save_kills(quick: bool) -> Iterator[Row]:
    count, sizes = 50 if quick else 500, (2**18, 2**23)
    for size, found in zip(sizes, parallel(kill_saves, sizes, [count] * 2), strict=True):
        wrong, most, left, stays = found
        what = f"SIGKILLs inside saves of {size // 1024:,} KiB: unreadable, torn or older than acknowledged"
        yield what, f"{len(wrong)} of {count}{tell(wrong)}", "0", not wrong
        measured = f"{most} at most, some after {left} of {count}; {stays} after the next start"
        yield "... files left aside by a kill", measured, "<= 2; 0", most <= 2 and not stays


# Crash states: what a power cut may leave of the real file operations of several saves.


MOST_STATES = 5_000  # looked at; only a protocol that leaves much to chance has more


@dataclass
class Moment:
    """The run's folders and checkpoint files after an operation, and what it made durable, if it was an fsync."""

    names: dict[Path, int]  # inodes by path
    contents: dict[int, bytes]
    synced: int | None = None  # inode
    saved: Steps = field(default_factory=dict)  # what is safe once a save has returned


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
    recorder = Recorder(root)
    with patch.object(os, "fsync", recorder.fsync), redirect_stdout(io.StringIO()):
        recorder.record()
        run = Run(root / "run" if (root / "run").exists() else claim(root, "run"), None, 10**6, 3, keep_halfway=True)
        with run.session(RunState(step=before), {}):
            for step in range(first, first + count):
                best = step % 2 == 1
                save(run, step, 2**13, best)
                recorder.record(saved={"latest": step, "best": step} if best else {"latest": step})
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
            for contents in itertools.product(
                *(possible_contents(moment.contents[inode], synced.get(inode, b"")) for inode in inodes)
            ):
                by_inode = dict(zip(inodes, contents, strict=True))
                yield safe, {name: by_inode[inode] for name, inode in files.items()}


def restart(run: Path, files: dict[str, bytes]) -> tuple[Steps, bool]:
    """Lay out the checkpoints of a run as a crash left them.

    Returns the steps of the one that a resume takes and of the best, and whether all of them load.
    """
    folder = run / "checkpoints"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    found: Steps = {}
    for path in folder.glob("*.pt"):
        with suppress(UserError, ValueError):
            found[path.name] = step_of(path)
    steps = {"latest": step_of(checkpoint.load_newest(folder)[0])} if found else {}
    steps |= {"best": found["best.pt"]} if "best.pt" in found else {}
    return steps, len(found) == sum(name.endswith(".pt") for name in files)


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


def tell_cut(what: str, tally: Counter[str]) -> Iterator[Row]:
    for key, meaning in (
        ("without", f"{what}: states without a valid checkpoint"),
        ("older", "... with a newest or best older than a save that returned"),
        ("damaged", "... with a damaged file among the checkpoints"),
    ):
        yield meaning, f"{tally[key]:,} of {tally['states']:,}", "0", not tally[key]


def crash(quick: bool) -> Iterator[Row]:
    root, count = Path("crash_states", "cut").absolute(), 6 if quick else 12
    root.mkdir()
    once, states = cut_power(root, 1, count, {})
    yield from tell_cut(f"power cut in {count} saves", once)
    twice = Counter[str]()
    for state, steps in states.items():
        twice += cut_power(state, 101, 2, steps)[0]
    yield from tell_cut(f"power cut in 2 saves after a restart from each of these ({len(states)} differ)", twice)


def swapped(data: bytes, most: int) -> Iterator[bytes]:
    """The checkpoint with two tensors of one size exchanged, the zip file as sound as before."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    tensors = [name for name in entries if "/data/" in name]
    pairs = [
        pair for pair in itertools.combinations(tensors, 2)
        if len(entries[pair[0]]) == len(entries[pair[1]]) and entries[pair[0]] != entries[pair[1]]
    ]  # fmt: skip
    for one, other in pairs[:most]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in entries:
                file.writestr(name, entries[{one: other, other: one}.get(name, name)])
        yield buffer.getvalue()


def flips(quick: bool) -> Iterator[Row]:
    num_flips, num_cuts = (200, 20) if quick else (2000, 200)
    run = Path("flips", "run").absolute()
    go_through(run, *kind_words(KINDS[-1]))
    latest = run / "checkpoints" / "latest.pt"
    whole = checkpoint.load(latest)

    def flipped(data: bytes) -> Iterator[bytes]:
        for bit in random.sample(range(8 * len(data)), min(num_flips, 8 * len(data))):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            yield bytes(changed)

    def loaded(path: Path, data: bytes) -> str | None:
        """None: damage was found; else what happened."""
        path.write_bytes(data)
        try:
            content = checkpoint.load(latest)
        except UserError:
            return None
        except Exception as error:
            return type(error).__name__
        harmless = path != latest and first_difference(content, whole) is None
        return None if harmless else "loaded without a word"

    for path, what in ((latest, "a checkpoint"), (latest.with_name("latest.pt.sha256"), "its checksum file")):
        data = path.read_bytes()
        blocks = range(0, len(data), 4096)
        zeroed = [data[:at] + bytes(len(data[at : at + 4096])) + data[at + 4096 :] for at in blocks]
        damages = {
            "bit flips": flipped(data),
            "truncations": (data[:at] for at in random.sample(range(len(data)), min(num_cuts, len(data)))),
            "zeroed blocks": (changed for changed in zeroed if changed != data),
            "swapped tensors": swapped(data, num_cuts) if path == latest else (),
        }
        for name, changes in damages.items():
            found = [loaded(path, changed) for changed in changes]
            path.write_bytes(data)
            count, missed = len(found), [how for how in found if how is not None]
            figure = "all found" if path == latest else "all found or harmless"
            if count:
                yield f"{name} of {what}", f"{count - len(missed):,} of {count:,}{tell(missed)}", figure, not missed


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "save_kills": save_kills,
    "crash_states": crash,
    "flips": flips,
}
