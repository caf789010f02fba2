"""What a run says on the console: a line for each row, on a terminal a progress bar, and its own command."""

import functools
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from ..folder.facts import COLUMNS
from ..output import Stream, above_bar

launched: list[str] = []  # see `program`


def describe_row(row: dict[str, Any], num_steps: int) -> str:
    """One log line of a row of scalars."""
    values = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in COLUMNS)
    line = f"{row['split']:<5} step {row['step']}/{num_steps}  epoch {row['epoch']}  {values}"
    if "items_per_second" in row:
        line += f"  ({row['items_per_second']:.0f} items/s)"
    return line


class ProgressBar:
    """The progress bar of one run on a terminal. Use as a context."""

    def __init__(self, num_steps: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        stream: Any = Stream(getattr(sys.stderr, "stream", sys.stderr))
        console = Console(file=stream)
        self.progress = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False)
        self.task = self.progress.add_task("step", total=num_steps, completed=done)

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        above_bar.append(self.above)
        return self

    def __exit__(self, *exception: object) -> None:
        above_bar.remove(self.above)
        self.progress.stop()

    def above(self, text: str) -> None:
        """Say something above the bar; lines are not broken, so that they can be pasted."""
        self.progress.console.out(text, end="", highlight=False)

    def show(self, step: int, line: str) -> None:
        """Move the bar, and say the newest row next to it."""
        self.progress.update(self.task, completed=step, description=line)


def program() -> list[str]:
    """The command that starts this program again, without its words; empty where `launch` did not start it."""
    return launched


def note_program() -> None:
    """Remember how this process was started: as `python FILE`, or `python -m MODULE`."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None and spec.origin == os.path.abspath(sys.argv[0]):
        launched[:] = [sys.executable, "-m", spec.name]
    elif os.path.isfile(sys.argv[0]):
        launched[:] = [sys.executable, os.path.abspath(sys.argv[0])]


@functools.cache  # the folder may be deleted meanwhile
def command() -> str:
    """How this program was started, as it can be pasted into a shell in the same folder."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return shlex.quote(program.name)
    program = program.resolve()
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return f"python {shlex.quote(str(program))}"
