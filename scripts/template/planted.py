"""Plant faults in copies of this checkout, one at a time, and see which quick test finds each (faults.py lists them).

    python scripts/template/planted.py                            # all of them; --jobs 8: that many copies at a time
    python scripts/template/planted.py --only patience            # those with this text in their name
    python scripts/template/planted.py --tests tests/test_loop.py # with these tests alone, instead of the quick set
    python scripts/template/planted.py --write                    # and put the table into README.md

The same tests run in a copy without a fault first; what fails there is left out. With a fault, the test that README.md
names comes first, then those of `FIRST`. Exit code 1: a fault was not found, 2: a fault does not fit the sources any
more, and nothing was run.
"""

import argparse
import ast
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from faults import FAULTS, FIRST, UNSEEN
from tables import read_table, write_table

ROOT = Path(__file__).resolve().parents[2]
README = Path(__file__).resolve().with_name("README.md")
CORES = os.cpu_count() or 1
NOT_COPIED = (".git", ".venv", "_output", "_data", "__pycache__", ".*_cache")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # a plugin that lies around may warn, which is an error here
LIMIT = 3600  # seconds after which the tests count as hanging
FAILED = re.compile(r"(?m)^(?:FAILED|ERROR) (\S+\.py(?:::\w+(?:\[.*?\])?(?= - |$))?)")


class Fault(NamedTuple):
    """Text of one file that gives way to another text: one fault."""

    name: str
    file: str
    old: str
    new: str


class Outcome(NamedTuple):
    """What the tests said of a copy."""

    failed: list[str]  # the tests that failed, as pytest names them
    seconds: float
    output: str


def faults() -> list[Fault]:
    """All faults of faults.py."""
    return [Fault(name, file, old, new) for file, found in FAULTS.items() for name, old, new in found]


def misfits() -> list[str]:
    """Faults whose old text does not stand exactly once in its file, that leave no Python, or that have one name."""
    found = []
    names = [fault.name for fault in faults()]
    for fault in faults():
        count = (ROOT / fault.file).read_text().count(fault.old)
        if count != 1:
            found.append(f"{fault.name}: {fault.file} holds {count} times {fault.old!r}")
        if fault.file.endswith(".py"):
            try:
                ast.parse((ROOT / fault.file).read_text().replace(fault.old, fault.new))
            except SyntaxError as error:  # which any test would find
                found.append(f"{fault.name}: {fault.file} is not Python with it: line {error.lineno}")
        if names.count(fault.name) > 1:
            found.append(f"{fault.name}: there are two of this name")
    return found + [f"{name}: UNSEEN names it, but no fault has this name" for name in set(UNSEEN).difference(names)]


def copy_checkout(folder: Path) -> None:
    """Copy what git knows of this checkout, or all of it where git does not help; as a repository with one commit."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
        return
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    author = ["-c", "user.name=planted", "-c", "user.email=planted@localhost"]
    for words in (["init", "--quiet"], ["add", "--all"], [*author, "commit", "--quiet", "--message", "a copy"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


def run_tests(fault: Fault | None, tests: list[str], left_out: Iterable[str], num_workers: int) -> Outcome:
    """The tests in a fresh copy that has the fault; with one, they end with the first test that fails."""
    begin = time.monotonic()
    with TemporaryDirectory(prefix="planted_") as temporary:
        copy = Path(temporary, "copy")
        copy_checkout(copy)
        words = ["-p", "xdist.plugin", "-q", "-m", "not full", "-n", str(num_workers)]
        words += [f"--basetemp={temporary}/tests", *tests]
        words.append("--ignore=tests/template/test_planted.py")  # it would notice that the old text is gone
        words += [f"--deselect={test}" for test in left_out]
        if fault is not None:
            words.append("-x")
            file = copy / fault.file
            file.write_text(file.read_text().replace(fault.old, fault.new))
        inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
        path = os.pathsep.join([str(copy / "src"), str(copy / "tests"), *inherited])
        with open(Path(temporary, "output"), "w+") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pytest", *words],
                cwd=copy,
                env=os.environ | {"PYTHONPATH": path} | ALONE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            text = output.read()
    failed = FAILED.findall(text)
    if not failed and process.returncode not in (0, 5):  # pytest failed to start or was killed; 5: it found no test
        failed = [f"pytest (exit code {process.returncode})"]
    return Outcome(failed, time.monotonic() - begin, text)


def likely_tests(fault: Fault, table: str) -> list[str]:
    """The tests that are likely to find a fault: the one that a table of README.md names, its file, those of FIRST."""
    likely = [f"tests/test_{name}.py" for name in FIRST.get(fault.file, "").split()]
    before = re.search(rf"(?m)^\| {re.escape(fault.name)} \| .*? \| `(\S+?\.py)(.*?)` \|", table)
    if before and (ROOT / "tests" / before[1]).exists():
        likely = [f"tests/{before[1]}{before[2]}", f"tests/{before[1]}", *likely]
    return list(dict.fromkeys(likely))


def find(fault: Fault, stages: list[list[str]], left_out: Iterable[str], num_workers: int) -> Outcome:
    """Run tests with a fault, stage by stage, until one fails; a stage without a name is the whole quick set."""
    seconds = 0.0
    for chosen in stages:
        outcome = run_tests(fault, chosen, left_out, num_workers)
        seconds += outcome.seconds
        if outcome.failed:
            break
    return outcome._replace(seconds=seconds)


def row(fault: Fault, outcome: Outcome) -> str:
    """What the table says of a fault."""
    found = "**none**"
    if outcome.failed:
        found = f"`{outcome.failed[0].removeprefix('tests/')}`"
    elif fault.name in UNSEEN:
        found = f"none: {UNSEEN[fault.name]}"
    cells = (fault.name, f"`{fault.file.removeprefix('src/scaffolding/')}`", found, f"{outcome.seconds:.0f}")
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(rows: dict[str, str]) -> None:
    """Put rows into the table of README.md, in the place of those of the same faults."""
    old = {name: line for line, name in re.findall(r"(?m)^(\| (.+?) \|.*)$", read_table(README, "planted"))}
    known = {fault.name: (old | rows).get(fault.name) for fault in faults()}
    lines = [line for line in known.values() if line is not None]
    num_found = sum("| none" not in line and "**none**" not in line for line in lines)
    head = [f"{num_found} of {len(lines)} faults are found.", "", "| fault | in | found by | s |", f"{'| --- ' * 4}|"]
    write_table(README, "planted", [*head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", metavar="NAME", nargs="+", default=[""], help="faults with one of these in their name"
    )
    parser.add_argument("--tests", metavar="FILE", nargs="+", default=[], help="test files, or single tests in them")
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="copies at a time, which share all cores")
    parser.add_argument("--write", action="store_true", help="put the rows into scripts/template/README.md")
    arguments = parser.parse_args()
    wrong = misfits()
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        sys.exit(2)
    chosen = [fault for fault in faults() if any(text in fault.name for text in arguments.only)]
    sound = run_tests(None, arguments.tests, [], CORES)
    if sound.failed:
        print(f"left out, as they fail without a fault: {', '.join(sound.failed)}", flush=True)
    if len(sound.failed) > 25 or any(" " in test.partition("[")[0] for test in sound.failed):
        sys.exit(f"{sound.output}\nthe tests do not run here")
    rows, num_workers, survivors = {}, max(1, CORES // arguments.jobs), 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        table, tasks = read_table(README, "planted"), []  # it changes while they run
        for each in chosen:
            stages = [arguments.tests]
            if not arguments.tests:
                stages = [[test] for test in likely_tests(each, table)] + [[]]
            tasks.append(pool.submit(find, each, stages, sound.failed, num_workers))
        for fault, task in zip(chosen, tasks, strict=True):
            outcome = task.result()
            rows[fault.name] = row(fault, outcome)
            survivors += not outcome.failed and fault.name not in UNSEEN
            print(rows[fault.name], flush=True)
            if arguments.write:  # at once: the program may be stopped early
                write(rows)
    print(f"{len(chosen)} faults, {survivors} not found; without a fault the tests take {sound.seconds:.0f} s")
    sys.exit(survivors > 0)


if __name__ == "__main__":
    main()
