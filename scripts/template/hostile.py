"""Sections of torture.py on somebody else's run: hostile checkpoints, configs, command lines and names do no harm.

python scripts/template/hostile.py FOLDER FILE    # what Hydra alone builds of the targets; for the section itself
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401  (some targets are in it: LIMIT counts from its import on, as it does from torch's)
import yaml
from hydra.utils import instantiate
from shared import Row, start
from zygote import TRAIN

import strangers  # isort: skip  (of tests/, which shared.py puts on the path)

from scaffolding.core.errors import UserError
from scaffolding.core.folder.folder import claim, find_run
from scaffolding.core.state import checkpoint
from scaffolding.experiment import Experiment

SECRET = "not-for-the-eyes-of-strangers"


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
        self.forget()

    def forget(self) -> None:
        """Count from nothing again."""
        self.num_opened = self.num_refused = self.longest = self.executed = 0
        self.slowest, self.odd = 0.0, list[str]()

    def train(self, *words: str, code: int = 0) -> str:
        """Run the real train.py; what it prints."""
        log = self.root / "train.log"
        log.unlink(missing_ok=True)
        found = start([TRAIN, *words, f"paths.output_root={self.runs}"], log, SECRET=SECRET).wait()
        text = log.read_text().partition("nanobind: leaked")[0]  # printed as the fork server's objects are frozen
        if found != code:
            raise RuntimeError(f"exit code {found} of {' '.join(words)}: {text}")
        return text

    def spoil(self, file: str, content: bytes) -> None:
        """A fresh copy of the good run with another content in one of its files."""
        shutil.rmtree(self.bad, ignore_errors=True)
        shutil.copytree(self.good, self.bad, symlinks=True)
        files = [self.bad / file]
        if file.endswith(".pt"):
            files = [self.bad / "checkpoints" / f"{name}.pt" for name in ("latest", "best")]
        for path in files:
            path.write_bytes(content)

    def open(self, what: str) -> None:
        """Try to open what was spoilt, and count how it went."""
        self.num_opened += 1
        begin = time.process_time()
        try:
            Experiment.from_path(self.bad)
            self.odd.append(f"{what}: opened")
        except UserError as error:
            self.judge(what, str(error))
        except Exception as error:
            self.odd.append(f"{what}: {type(error).__name__}: {error}")
        self.slowest = max(self.slowest, time.process_time() - begin)
        self.executed += len(take_away(self.marks))

    def judge(self, what: str, message: str) -> None:
        """Count a refusal and look at its words."""
        self.num_refused += 1
        lines = message.strip().splitlines()
        self.longest = max(self.longest, len(lines))
        if len(lines) > 3 or "weights_only" in message or SECRET in message or "Traceback" in message:
            self.odd.append(f"{what}: {message}")

    def told(self) -> str:
        """What was out of the ordinary, for a table."""
        return f" ({'; '.join(self.odd)})" if self.odd else ""


def take_away(marks: Path) -> list[str]:
    """What payloads have left."""
    found = sorted(path.name for path in marks.iterdir())
    for path in marks.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def tree(folder: Path, without: Path | None = None) -> dict[str, tuple[int, int]]:
    """Every path below a folder with its size and time of change; folders without either."""
    found = {}
    for path in folder.rglob("*"):
        if without is None or not path.is_relative_to(without):
            stat = path.lstat()
            is_folder = path.is_dir() and not path.is_symlink()
            found[str(path)] = (0, 0) if is_folder else (stat.st_size, stat.st_mtime_ns)
    return found


def build_unchecked(marks: Path, evil: Path) -> None:
    """Build every target with Hydra alone and print the names of those that leave a mark."""
    for what, spec in strangers.targets(marks, evil).items():
        if what != "train":  # it would only read this command line
            with contextlib.suppress(Exception):
                instantiate(spec)
        if take_away(marks):
            print(f"alive: {what}", flush=True)


def opened(
    name: str, at: Trial, files: Iterator[tuple[str, bytes]], file: str, least: int, quick: bool
) -> Iterator[Row]:
    """Open every one of `files`, or every third, in the place of `file` with Experiment.from_path."""
    at.forget()
    if quick:
        files, least = itertools.islice(files, 0, None, 3), least // 3
    before = tree(at.root, without=at.bad)
    for what, content in files:
        at.spoil(file, content)
        at.open(what)
    changed = tree(at.root, without=at.bad) != before
    count = f"{at.executed} of {at.num_opened} executed"
    yield f"{name}", count, f"0 of >= {least}", at.executed == 0 and at.num_opened >= least
    refused = f"{at.num_refused} refused, the slowest in {at.slowest:.2f} s of CPU, <= {at.longest} lines"
    well = at.num_refused == at.num_opened and not at.odd and at.longest <= 3
    yield f"... refused{at.told()}", refused, "all, <= 3 lines", well
    yield "... files changed outside of that run", str(int(changed)), "0", not changed


def hostile(quick: bool) -> Iterator[Row]:
    """Checkpoints, configs and command lines that would run something."""
    at = Trial(Path("hostile").absolute())
    content = dict(checkpoint.load(at.good / "checkpoints" / "best.pt"))
    config = yaml.safe_load((at.good / "config.yaml").read_text())
    yield from opened("hostile checkpoints", at, strangers.checkpoints(content, at.marks), "best.pt", 30, quick)
    yield from opened("hostile configs", at, strangers.configs(config, at.marks, at.evil), "config.yaml", 40, quick)
    command = [sys.executable, "-W", "ignore", __file__, str(at.marks), str(at.evil)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, cwd=at.root)
    alive = [line.removeprefix("alive: ") for line in done.stdout.splitlines() if line.startswith("alive: ")]
    yield "... of these targets, run by Hydra alone", f"{len(alive)}", ">= 6", len(alive) >= 6
    cases = list(by_train(at, content, config, alive))
    if quick:
        cases = cases[:: max(1, len(cases) // 12)]
    at.forget()
    for file, data, word in cases:
        at.spoil(file, data)
        before = tree(at.runs)
        at.num_opened += 1
        at.judge(word, at.train(word, code=2))
        at.executed += len(take_away(at.marks)) + (tree(at.runs) != before)
    where = f"train.py resume=, fork= of these: executed, or files changed{at.told()}"
    yield where, f"{at.executed} of {at.num_opened}", "0", at.executed == 0 and not at.odd


def by_train(at: Trial, content: Any, config: Any, alive: list[str]) -> Iterator[tuple[str, bytes, str]]:
    """(file, its hostile content, word) for the real train.py."""
    sections = ("section of Hydra", "launcher of Hydra", "defaults")
    chosen = (*alive, *sections, "tag !!python/object/apply:os.system", "refers to ${oc.env:SECRET")
    for what, data in strangers.configs(config, at.marks, at.evil):
        if what.startswith(chosen):
            yield "config.yaml", data, "resume=bad"
    for words in list(strangers.words(at.marks).values())[::2]:
        yield "overrides.yaml", words.encode(), "fork=bad"
    files = dict(strangers.checkpoints(content, at.marks))
    for what in ("os.system", "getattr chain", "record packed to a thousandth", "state with a target", "other shapes"):
        yield "best.pt", files[what], "resume=bad"
        yield "best.pt", files[what], "fork=bad"


def names(quick: bool) -> Iterator[Row]:
    """Names for runs and checkpoints that lead somewhere else."""
    count, wrong, found = 2_000 if quick else 10_000, list[str](), 0
    at = Trial(Path("names").absolute())
    outside = at.root / "outside"
    shutil.copytree(at.good, outside)
    (at.runs / "link").symlink_to(outside, target_is_directory=True)
    (at.runs / "good" / "checkpoints" / "run.pt").symlink_to(at.good / "checkpoints" / "best.pt")
    before = tree(at.root)
    with contextlib.chdir(at.root):
        for name in strangers.names(count, at.runs):
            for resolve in (
                lambda name: find_run(name, at.runs),
                lambda name: checkpoint.find_checkpoint(at.good, name),
            ):
                with contextlib.suppress(UserError):
                    path = resolve(name)
                    found += 1
                    wrong += [name] if not path.resolve().is_relative_to(at.runs) else []
            with contextlib.suppress(UserError):
                made = claim(at.runs, name)
                wrong += [name] if made.parent != at.runs or made.is_symlink() else []
                made.rmdir()
    yield "names that lead out of the output folder", f"{len(wrong)} of {count:,}", "0", not wrong
    yield "... names of runs and checkpoints that are there", f"{found}", "> 0", found > 0
    made_any = tree(at.root) != before
    yield "... folders or files made", str(int(made_any)), "0", not made_any


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {"hostile": hostile, "names": names}

if __name__ == "__main__":
    build_unchecked(*map(Path, sys.argv[1:]))
