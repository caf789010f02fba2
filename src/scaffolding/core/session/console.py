"""What a run says: dated lines in log.txt, and on the console a progress bar (terminal) or the same lines."""

import contextlib
import sys
from pathlib import Path
from typing import Any

from loguru import logger

LINE = "{time:YYYY-MM-DD HH:mm:ss} {level: <7} {message}"
SHORT: Any = {"format": LINE, "level": "INFO", "diagnose": False}  # the values of variables may be secrets


def setup() -> None:
    """Send log lines to stderr, short and dated; the default handler of loguru goes."""
    logger.remove()
    logger.add(sys.stderr, **SHORT)


def describe_row(row: dict[str, Any], num_steps: int) -> str:
    """One log line of a row of scalars."""
    hidden = {"step", "epoch", "samples", "split", "time", "peak_memory_mb", "items_per_second"}
    values = "  ".join(f"{key} {value:.4g}" for key, value in row.items() if key not in hidden)
    speed = f"  ({row['items_per_second']:.0f} items/s)" if "items_per_second" in row else ""
    return f"{row['split']:<5} step {row['step']}/{num_steps}  epoch {row['epoch']}  {values}{speed}"


class Console:
    """The log file of one run and, on a terminal, its progress bar. Use as a context."""

    def __init__(self, log_file: Path, num_steps: int, done: int) -> None:
        self.log_file, self.num_steps, self.done = log_file, num_steps, done
        self.progress: Any = None

    def __enter__(self) -> "Console":
        if sys.stderr.isatty():
            from rich.console import Console as Terminal
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            logger.remove()
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.progress = Progress(*columns, console=Terminal(stderr=True))
            self.task = self.progress.add_task("step", total=self.num_steps, completed=self.done)
            self.progress.start()
            write = self.progress.console.print
            logger.add(lambda text: write(text, end="", markup=False, highlight=False), **SHORT)
        self.file = open(self.log_file, "ab", buffering=0)
        self.handler = logger.add(self._write, format=LINE, level="DEBUG", backtrace=True, diagnose=False)
        return self

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a line that a full disk does not take; what matters is said by others
            self.file.write(text.encode())

    def __exit__(self, *exception: object) -> None:
        logger.remove(self.handler)
        self.file.close()
        if self.progress is not None:
            self.progress.stop()
            setup()

    def row(self, row: dict[str, Any]) -> None:
        """Show a row of scalars."""
        line = describe_row(row, self.num_steps)
        if self.progress is None or row["split"] != "train":
            logger.info(line)
        else:
            logger.debug(line)  # log.txt has every line; the terminal has the bar
            self.progress.update(self.task, completed=row["step"], description=line)


def command() -> str:
    """How this program was started, as it can be typed again from the same folder."""
    program = Path(sys.argv[0])
    if program.suffix != ".py":
        return program.name
    with contextlib.suppress(ValueError):
        program = program.resolve().relative_to(Path.cwd())
    return f"python {program}"
