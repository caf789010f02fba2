"""Sections of torture.py on somebody else's run: hostile checkpoints, configs and command lines do no harm.

tests/test_trust.py sees that the payloads work where nobody checks them.
"""

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from shared import Row, parallel, start, tell
from zygote import TRAIN

import strangers  # isort: skip  (of tests/, which shared.py puts on the path)

from scaffolding.core.state import checkpoint

SECRET = "not-for-the-eyes-of-strangers"
GOOD = ("data=digits", "model=mlp", "mode=prod", "run.budget=20", "tracker=none", "plots=none", "run.name=good")


class Case(NamedTuple):
    """What a file of a run has been replaced by, and how train.py is to open the run."""

    what: str
    file: str
    data: bytes
    verb: str


def train(runs: Path, log: Path, *words: str) -> tuple[int | None, str]:
    """Run the real train.py; its exit code, and what it prints."""
    code = start([TRAIN, *words, f"paths.output_root={runs}"], log, SECRET=SECRET).wait()
    return code, log.read_text()


def good_run(root: Path) -> Path:
    """A run for others to be copied from."""
    code, text = train(root / "runs", root / "good.log", *GOOD)
    assert code == 0, text
    return root / "runs" / "good"


def tree(folder: Path) -> set[tuple[Path, int, int]]:
    """Every path below a folder with its size and time of change; folders without either."""
    found = set()
    for path in folder.rglob("*"):
        stat = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        found.add((path, 0, 0) if is_folder else (path, stat.st_size, stat.st_mtime_ns))
    return found


def attack(good: Path, marks: Path, kind: str, cases: list[Case]) -> Iterator[Row]:
    """Let train.py open a copy of a good run for each case."""
    logs = good.parents[1] / kind
    logs.mkdir()
    for number, case in enumerate(cases):
        bad = shutil.copytree(good, good.with_name(f"{kind}_{number}"), symlinks=True)
        files = ["checkpoints/latest.pt", "checkpoints/best.pt"] if case.file.endswith(".pt") else [case.file]
        for file in files:
            (bad / file).write_bytes(case.data)
    before, seconds = tree(good.parent), list[float]()

    def problem(number: int, case: Case) -> str | None:
        """What is wrong with how a case is refused; None: nothing."""
        begin = time.monotonic()
        words = (f"{case.verb}={kind}_{number}", "run.budget=40")  # more steps: else nothing is loaded by a resume
        code, text = train(good.parent, logs / f"{number}.log", *words)
        seconds.append(time.monotonic() - begin)
        is_unwanted = any(word in text for word in ("weights_only", SECRET, "Traceback"))
        if code != 2 or len(text.splitlines()) > 3 or is_unwanted:
            return f"{case.what}: exit code {code}: {text}"
        return None

    problems = parallel(problem, range(len(cases)), cases)
    executed, changed = [path.name for path in marks.iterdir()], tree(good.parent) ^ before
    yield f"hostile {kind}", f"{len(executed)} of {len(cases)} executed{tell(executed)}", "0", not executed
    refused = f"{problems.count(None)} refused, the slowest in {max(seconds):.1f} s with the start of train.py"
    yield f"... refused{tell(problems)}", refused, "all, <= 3 lines", not any(problems)
    yield "... files changed", f"{len(changed)}", "0", not changed


def hostile(quick: bool) -> Iterator[Row]:
    """Checkpoints, configs and command lines that would run something, each opened by the real train.py."""
    root = Path("hostile").absolute()
    good, marks, evil = good_run(root), root / "marks", root / "evil.pt"
    marks.mkdir()
    torch.save(strangers.Call(os.system, f"touch {marks / 'loaded'}"), evil)
    content = dict(checkpoint.load(good / "checkpoints" / "best.pt"))
    config = yaml.safe_load((good / "config.yaml").read_text())
    verbs, every = itertools.cycle(("resume", "fork")), 6 if quick else 1
    files = [Case(what, "best.pt", data, next(verbs)) for what, data in strangers.checkpoints(content, marks)]
    configs = [Case(what, "config.yaml", data, "resume") for what, data in strangers.configs(config, marks, evil)]
    words = [Case(what, "overrides.yaml", text.encode(), "fork") for what, text in strangers.words(marks).items()]
    for kind, cases in (("checkpoints", files), ("configs", configs), ("words", words)):
        yield from attack(good, marks, kind, cases[::every])
    codes = [train(good.parent, root / "good.log", f"{verb}=good", "run.budget=40")[0] for verb in ("fork", "resume")]
    yield "... fork= and resume= of the run before it was spoilt: exit codes", f"{codes}", "[0, 0]", codes == [0, 0]


SECTIONS = {"hostile": hostile}
