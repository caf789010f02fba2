"""What a run says on the console: lines, or on a terminal a progress bar and lines above it."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from loguru import logger

LOG_LINE = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}"
LOG: Any = {"format": LOG_LINE, "level": "INFO", "diagnose": False}  # the values of variables may be secrets
NOT_SHOWN = ("step", "epoch", "samples", "split", "time", "peak_memory_mb", "items_per_second")


def describe_row(row: dict[str, Any], num_steps: int) -> str:
    """One log line of a row of scalars."""
    values = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in NOT_SHOWN)
    line = f"{row['split']:<5} step {row['step']}/{num_steps}  epoch {row['epoch']}  {values}"
    if "items_per_second" in row:
        line += f"  ({row['items_per_second']:.0f} items/s)"
    return line


class ProgressBar:
    """The progress bar of one run on a terminal; log lines appear above it. Use as a context."""

    def __init__(self, num_steps: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=Console(stderr=True))
        self.task = self.progress.add_task("step", total=num_steps, completed=done)

    def __enter__(self) -> "ProgressBar":
        self.progress.start()
        write = self.progress.console.print
        logger.remove()
        logger.add(lambda text: write(text, end="", markup=False, highlight=False), **LOG)
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
        logger.remove()
        logger.add(lambda text: print(text, end="", file=sys.stderr), **LOG)

    def show(self, step: int, line: str) -> None:
        """Move the bar, and say the newest row next to it."""
        self.progress.update(self.task, completed=step, description=line)


def command() -> str:
    """How this program was started, as it can be typed again from the same folder."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return program.name
    with contextlib.suppress(ValueError):
        program = program.resolve().relative_to(Path.cwd())
    return f"python {program}"
