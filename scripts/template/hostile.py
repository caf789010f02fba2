"""Somebody else's run: how many of the hostile checkpoints, configs, command lines and names do any harm.

`SECTIONS` maps a section's name to a function of `quick` that yields rows: what, measured, figure to reach, reached.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import strangers
import torch
import torchvision  # noqa: F401  some targets are in it: LIMIT counts from its import on, as it does from torch's
from hydra.utils import instantiate
from scaffolding.core.folder.find import find_checkpoint, find_run
from scaffolding.core.folder.run_folder import claim

from scaffolding.core.errors import UserError
from scaffolding.core.state import checkpoint
from scaffolding.experiment import PROJECT, Experiment

Row = tuple[str, str, str, bool]
TRAIN = ROOT / "src" / PROJECT.package / "train.py"
SECRET = "not-for-the-eyes-of-strangers"
LIMIT = 2.0  # seconds of this process until a file is refused, with the libraries imported


class Trial:
    """A whole run, a copy of it to be spoilt, and the folder in which every payload would leave its mark."""

    def __init__(self, root: Path) -> None:
        self.root, self.runs, self.marks, self.evil = root, root / "runs", root / "marks", root / "evil.pt"
        self.good, self.bad = self.runs / "good", self.runs / "bad"
        self.marks.mkdir()
        torch.save(strangers.Call(os.system, f"touch {self.marks / 'loaded'}"), self.evil)
        self.train(
            "data=digits", "model=mlp", "mode=prod", "run.budget=20", "tracker=none", "plots=none", "run.name=good"
        )
        self.num_opened = self.num_refused = 0
        self.slowest, self.longest, self.odd = 0.0, 0, list[str]()

    def train(self, *words: str, code: int = 0) -> str:
        """Run the real train.py; its error output."""
        command = [sys.executable, str(TRAIN), *words, f"paths.output_root={self.runs}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "SECRET": SECRET}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=self.root)
        if done.returncode != code:
            raise RuntimeError(f"exit code {done.returncode} of {' '.join(words)}: {done.stderr}")
        return done.stderr

    def spoil(self, file: str, content: bytes) -> None:
        """A fresh copy of the good run with another content in one of its files."""
        shutil.rmtree(self.bad, ignore_errors=True)
        shutil.copytree(self.good, self.bad, symlinks=True)
        for hashes in self.bad.glob("checkpoints/*.sha256"):
            hashes.unlink()
        for name in ("latest", "best") if file.endswith(".pt") else ():
            (self.bad / "checkpoints" / f"{name}.pt").write_bytes(content)
        if not file.endswith(".pt"):
            (self.bad / file).write_bytes(content)

    def open(self, what: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Try to open what was spoilt, and count how it went."""
        self.num_opened += 1
        start = time.process_time()
        try:
            function(*arguments)
            self.odd.append(f"{what}: opened")
        except UserError as error:
            self.judge(what, str(error))
        except Exception as error:
            self.odd.append(f"{what}: {type(error).__name__}: {error}")
        self.slowest = max(self.slowest, time.process_time() - start)

    def judge(self, what: str, message: str) -> None:
        """Count a refusal and look at its words."""
        self.num_refused += 1
        lines = message.strip().splitlines()
        self.longest = max(self.longest, len(lines))
        if len(lines) > 3 or "weights_only" in message or SECRET in message or "Traceback" in message:
            self.odd.append(f"{what}: {message}")

    def alone(self) -> list[str]:
        """The targets that Hydra builds where nobody checks them first, in a process of its own."""
        command = [sys.executable, "-W", "ignore", __file__, "--alone", str(self.marks), str(self.evil)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=self.root)
        return [line.removeprefix("alive: ") for line in done.stdout.splitlines() if line.startswith("alive: ")]

    def executed(self) -> list[str]:
        """What payloads have left; it is taken away."""
        return take_away(self.marks)


def take_away(marks: Path) -> list[str]:
    found = sorted(path.name for path in marks.iterdir())
    for path in marks.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def build_unchecked(marks: Path, evil: Path) -> None:
    """Build every target with Hydra alone and print the names of those that leave a mark."""
    for what, spec in strangers.targets(marks, evil).items():
        if what != "train":  # it would only read this command line
            with contextlib.suppress(Exception):
                instantiate(spec)
        if take_away(marks):
            print(f"alive: {what}", flush=True)


@contextlib.contextmanager
def trial() -> Iterator[Trial]:
    os.environ["SECRET"] = SECRET
    with tempfile.TemporaryDirectory() as folder:
        yield Trial(Path(folder).resolve())


def rows(name: str, at: Trial, files: Iterator[tuple[str, bytes]], file: str, least: int) -> Iterator[Row]:
    """Open every one of `files` in the place of `file` with Experiment.from_path."""
    at.num_opened = at.num_refused = at.longest = 0
    at.slowest = 0.0
    executed = 0
    before = tree(at.root, without=at.bad)
    for what, content in files:
        at.spoil(file, content)
        at.open(what, Experiment.from_path, at.bad)
        executed += len(at.executed())
    changed = tree(at.root, without=at.bad) != before
    count = f"{executed} of {at.num_opened} executed"
    yield f"{name}", count, f"0 of >= {least}", executed == 0 and at.num_opened >= least
    refused = f"{at.num_refused} refused, the slowest in {at.slowest:.2f} s of CPU, <= {at.longest} lines"
    yield f"... refused{describe(at)}", refused, f"all, <= {LIMIT:.0f} s, <= 3 lines", refused_well(at)
    yield "... files changed outside of that run", str(int(changed)), "0", not changed
    at.odd.clear()


def describe(at: Trial) -> str:
    return f" ({'; '.join(at.odd)})" if at.odd else ""


def refused_well(at: Trial) -> bool:
    return at.num_refused == at.num_opened and not at.odd and at.slowest <= LIMIT and at.longest <= 3


def tree(folder: Path, without: Path | None = None) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change."""
    paths = [path for path in folder.rglob("*") if without is None or not path.is_relative_to(without)]
    files = {str(path): path.lstat() for path in paths if not path.is_dir() or path.is_symlink()}
    return {name: (found.st_size, found.st_mtime_ns) for name, found in files.items()} | {
        str(path): (0, 0) for path in paths if path.is_dir()
    }


def hostile(quick: bool) -> Iterator[Row]:
    """Checkpoints, configs and command lines that would run something."""
    with trial() as at:
        content = checkpoint.load(at.good / "checkpoints" / "best.pt")
        config = yaml.safe_load((at.good / "config.yaml").read_text())
        yield from rows("hostile checkpoints", at, strangers.checkpoints(dict(content), at.marks), "best.pt", 30)
        yield from rows("hostile configs", at, strangers.configs(config, at.marks, at.evil), "config.yaml", 40)
        alive = at.alone()
        yield "... of these targets, run by Hydra alone", f"{len(alive)}", ">= 6", len(alive) >= 6
        yield from by_train(at, config, quick, alive)


def by_train(at: Trial, config: dict[str, Any], quick: bool, alive: list[str]) -> Iterator[Row]:
    """The same through the real train.py."""
    cases: list[tuple[str, bytes, str]] = []
    chosen = (
        *alive,
        "section of Hydra",
        "launcher of Hydra",
        "defaults",
        "tag !!python/object/apply:os.system",
        "refers to ${oc.env:SECRET",
    )
    for what, content in strangers.configs(config, at.marks, at.evil):
        if what.startswith(chosen):
            cases.append(("config.yaml", content, "resume=bad"))
    for content in list(strangers.words(at.marks).values())[::2]:
        cases.append(("overrides.yaml", content.encode(), "fork=bad"))
    files = dict(strangers.checkpoints(dict(checkpoint.load(at.good / "checkpoints" / "best.pt")), at.marks))
    for what in ("os.system", "getattr chain", "record packed to a thousandth", "state with a target", "other shapes"):
        cases += [("best.pt", files[what], "resume=bad"), ("best.pt", files[what], "fork=bad")]
    cases = cases[:: max(1, len(cases) // 12)] if quick else cases
    at.num_opened = at.num_refused = executed = 0
    for file, content, word in cases:
        at.spoil(file, content)
        before = tree(at.runs)
        at.num_opened += 1
        at.judge(word, at.train(word, code=2))
        executed += len(at.executed()) + (tree(at.runs) != before)
    where = "train.py resume=, fork= of these: executed, or files changed"
    yield where + describe(at), f"{executed} of {at.num_opened}", "0", executed == 0 and not at.odd


def names(quick: bool) -> Iterator[Row]:
    """Names for runs and checkpoints that lead somewhere else."""
    count = 2_000 if quick else 10_000
    with trial() as at:
        outside = at.root / "outside"
        shutil.copytree(at.good, outside)
        (at.runs / "link").symlink_to(outside, target_is_directory=True)
        (at.runs / "good" / "checkpoints" / "run.pt").symlink_to(at.good / "checkpoints" / "best.pt")
        os.chdir(at.root)
        before = tree(at.root)
        wrong, found = list[str](), 0
        for name in strangers.names(count, at.runs):
            for resolve in (lambda name: find_run(name, at.runs), lambda name: find_checkpoint(at.good, name)):
                try:
                    path = resolve(name)
                except UserError:
                    continue
                found += 1
                wrong += [name] if not path.resolve().is_relative_to(at.runs) else []
            try:
                made = claim(at.runs, name)
            except UserError:
                continue
            wrong += [name] if made.parent != at.runs or made.is_symlink() else []
            made.rmdir()
        yield "names that lead out of the output folder", f"{len(wrong)} of {count:,}", "0", not wrong
        yield "... names of runs and checkpoints that are there", f"{found}", "> 0", found > 0
        made_any = tree(at.root) != before
        yield "... folders or files made", str(int(made_any)), "0", not made_any
        os.chdir("/")


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {"hostile": hostile, "names": names}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        sys.exit(build_unchecked(*map(Path, sys.argv[2:])))
    for section in [word for word in sys.argv[1:] if word in SECTIONS] or list(SECTIONS):
        for what, measured, figure, reached in SECTIONS[section]("--quick" in sys.argv):
            print(f"| {what} | {measured} | {figure} | {'ok' if reached else 'NO'} |", flush=True)
