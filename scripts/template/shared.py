"""What the programs here share: tables, processes, and what of a checkpoint is compared."""

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from loguru import logger

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
import zygote

from scaffolding.core.state import checkpoint
from scaffolding.experiment import PROJECT

HERE, TESTS = Path(__file__).resolve().parent, PROJECT.root / "tests"
CORES = os.cpu_count() or 1
ON_PATH = {"PYTHONPATH": f"{HERE}{os.pathsep}{TESTS}"}
Row = tuple[str, str, str, bool]  # what, measured, figure to reach, whether it is reached


def run_sections(about: str | None, sections: dict[str, Callable[[bool], Iterator[Row]]]) -> bool:
    """The command line of a program: run sections, each in a folder for it, and print a table; were all figures met?"""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*sections, []], help="which; none: all of them")
    parser.add_argument("--quick", action="store_true", help="fewer of each")
    parser.add_argument("--folder", type=Path, help="an empty folder that keeps what is made; none: a temporary one")
    arguments = parser.parse_args()
    commit = subprocess.getoutput(f"git -C '{PROJECT.root}' describe --always --dirty")
    machine = f"{platform.machine()}, {CORES} cores (load {os.getloadavg()[0]:.1f})"
    print(f"{time.strftime('%Y-%m-%d')}, commit {commit}, {machine}, torch {torch.__version__},", end=" ")
    print(f"Python {platform.python_version()}\n\n| what | measured | figure to reach | |\n| --- | --- | --- | --- |")
    logger.remove()  # the lines of runs in this process are not part of the table
    all_met = True
    with TemporaryDirectory() as temporary, contextlib.chdir(arguments.folder or temporary):
        for section in arguments.sections or sections:
            Path(section).mkdir()
            with open(os.devnull, "w") as off, contextlib.redirect_stdout(off), contextlib.redirect_stderr(off):
                for what, measured, figure, is_met in sections[section](arguments.quick):
                    verdict = ""  # without a figure to reach it informs
                    if figure:
                        verdict = "ok" if is_met else "**miss**"
                    print(f"| {what} | {measured} | {figure} | {verdict} |", file=sys.__stdout__, flush=True)
                    all_met = all_met and is_met
    return all_met


def tell(problems: Iterable[str | None]) -> str:
    """What went wrong, for a table: the first few."""
    named = Counter(found for found in problems if found is not None)
    return "".join(f"; {found} ({count} times)" for found, count in named.most_common(3))


def parallel(function: Callable[..., Any], *tasks: Iterable[Any]) -> list[Any]:
    """map(function, *tasks) on all cores."""
    with ThreadPoolExecutor(CORES) as pool:
        return list(pool.map(function, *tasks))


def start(argv: list[Any], log: Path, **env: str) -> zygote.Started:
    """Start `python *argv` in a process group; what it prints is added to `log`."""
    return zygote.start(argv, log, log, env=ON_PATH | env)


def content(file: Path) -> dict[str, Any]:
    """A checkpoint without its config, which has a run's name and number of workers."""
    return {part: value for part, value in checkpoint.load(file).items() if part != "config"}
