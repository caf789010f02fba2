"""What a run says on the console: a line for each row, on a terminal a progress bar, and its own command."""

import functools
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from ..clock import Clock, is_waiting_for_data, training_seconds
from ..folder.facts import COLUMNS, SECONDS, is_timing
from ..output import Stream, above_bar
from ..state.progress import RunState

launched: list[str] = []  # see `program`


BUSY = {  # what a run does where it does not train, on its bar
    "log": "logging",
    "evaluate": "evaluating",
    "rollout": "rolling out",
    "plot": "drawing figures",
    "save": "saving",
}
BUSY_AFTER = 0.5  # seconds, so that the bar does not flicker


def describe_row(row: dict[str, Any], num_steps: int, is_best: bool = False) -> str:
    """One log line of a row of scalars."""
    line = f"{row['split']:<5} step {row['step']}/{num_steps}  epoch {row['epoch']}  {describe_values(row)}"
    if "items_per_second" in row:
        line += f"  ({row['items_per_second']:.0f} items/s)"
    if is_best:
        line += "  * best"
    return line


def describe_values(row: dict[str, Any]) -> str:
    """The values of a row that are not about its place or the machine."""
    names = (name for name in row if name not in COLUMNS and not is_timing(name))
    return "  ".join(f"{name} {row[name]:.4g}" for name in names)


class ProgressBar:
    """The progress bar of one run on a terminal: what always fits, then as much of the newest row as there is room for.

    It moves by the clock, not by rows. Use as a context.

    Args:
        state: where the run stands.
        num_steps: the budget in optimizer steps.
        clock: knows what the run is doing.
    """

    def __init__(self, state: RunState, num_steps: int, clock: Clock) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column
        from rich.text import Text

        bar = self

        class Moving(Progress):
            def get_renderables(self) -> Any:  # called whenever the bar is drawn
                for task in self.task_ids:
                    self.update(task, completed=state.step)
                return super().get_renderables()

        class Row(TextColumn):
            def render(self, task: Any) -> Text:
                return Text(bar.describe())

        rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
        columns = (MofNCompleteColumn(), BarColumn(20), TimeRemainingColumn(), Row("", table_column=rest))
        stream: Any = Stream(getattr(sys.stderr, "stream", sys.stderr))
        console = Console(file=stream)
        self.progress = Moving(*columns, console=console, redirect_stdout=False, redirect_stderr=False, expand=True)
        self.progress.add_task("step", total=num_steps, completed=state.step)
        self.clock, self.row = clock, ""

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

    def show(self, row: dict[str, Any]) -> None:
        """Say a training row next to the bar."""
        parts = [describe_values(row)]
        if "items_per_second" in row:
            parts.insert(0, f"{short(row['items_per_second'])} items/s")
        seconds = {name.removeprefix(SECONDS): value for name, value in row.items() if name.startswith(SECONDS)}
        if is_waiting_for_data(seconds):
            parts.insert(0, f"data {seconds['data'] / training_seconds(seconds):.0%}")
        self.row = "  ".join(parts)

    def describe(self) -> str:
        """What stands next to the bar: the newest training row, or what the run is doing instead."""
        phase, seconds = self.clock.phase, time.perf_counter() - self.clock.since
        if phase in BUSY and seconds > BUSY_AFTER:
            return f"{BUSY[phase]} …"
        return self.row


def short(number: float) -> str:
    """A number in few letters: 950, 28k, 1.2M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


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
