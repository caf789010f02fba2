"""What came out of a sweep, as tables."""

import statistics

from .points import Sweep, best


def print_tables(sweep: Sweep, over: str | None) -> None:
    """A row per point; with a key to go over, also a row for each choice of the other keys: mean, spread, number."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if Console().is_terminal else 1000)
    keys = sweep.varying()
    table = Table("job", "status", *keys, "best", "step", box=None, pad_edge=False)
    groups: dict[tuple[str, ...], list[float]] = {}
    for job in range(len(sweep.points)):
        status, own = sweep.status(job), sweep.own(job)
        step = f"{status.get('step', 0)}/{status.get('num_steps', '?')}"
        table.add_row(*map(Text, (f"job{job}", status["status"], *own.values(), best(status), step)))
        group = groups.setdefault(tuple(value for key, value in own.items() if key != over), [])
        if status["status"] == "finished" and status.get("best") is not None:
            group.append(status["best"])
    console.print(table)
    if over is None:
        return
    table = Table(*(key for key in keys if key != over), "mean", "spread", "n", box=None, pad_edge=False)
    for others, values in groups.items():
        mean = f"{statistics.mean(values):.4g}" if values else ""
        spread = f"{statistics.stdev(values):.2g}" if len(values) > 1 else ""
        table.add_row(*map(Text, (*others, mean, spread, str(len(values)))))
    console.print(f"\nbest, over {over} (spread: sample standard deviation)", markup=False)
    console.print(table)
