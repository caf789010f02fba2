"""A table of the runs, oldest first. Does not import torch.

python scripts/runs.py                                             # --all: dev runs too
python scripts/runs.py --filter "status=finished optimizer.lr=0.001 augment" --sort best
"""

import argparse
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from scaffolding.core.folder.folder import list_runs, read_output_root, read_status

COLUMNS = ("name", "age", "status", "data", "model", "best", "step")
COLORS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "preempted": "yellow",
    "failed": "red",
    "died": "red",
}
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times faster


def read(path: Path, root: Path) -> dict[str, Any]:
    """What the table shows of a run, and its settings."""
    file = path / "config.yaml"
    config, status = yaml.load(file.read_bytes(), SafeLoader), read_status(path)
    specs = (config["data"].get("dataset"), config["model"])
    classes = [str((spec or {}).get("_target_", "?")).rpartition(".")[2].lower() for spec in specs]
    cells = (
        path.relative_to(root).as_posix(),
        time.time() - file.stat().st_mtime,
        status["status"],
        *classes,
        *read_scalars(path / "facts" / "scalars.csv", config["run"]["monitor"], config["run"]["monitor_mode"]),
    )
    return dict(zip(COLUMNS, cells, strict=True)) | {"num_steps": status.get("num_steps"), "config": config}


def read_scalars(file: Path, monitor: str | None, mode: str) -> tuple[float | None, int]:
    """The best monitored value and the last logged step; a line that is being written is left out."""
    lines = file.read_text().splitlines() if file.exists() else []
    columns = lines[0].split(",") if lines else []
    rows = [line.split(",") for line in lines[1:] if line.count(",") == len(columns) - 1]
    if monitor == "auto":
        monitor = "val/loss"  # with several losses there is no such column
    split, _, metric = (monitor or "").partition("/")
    values = []
    if metric in columns:
        cells = [row[columns.index(metric)] for row in rows if row[columns.index("split")] == split]
        values = [value for value in map(float, filter(None, cells)) if value == value]
    best = (min if mode == "min" else max)(values, default=None)
    return best, int(rows[-1][0]) if rows else 0


def matches(run: dict[str, Any], word: str) -> bool:
    """Whether a run fits a word of --filter: KEY=VALUE, of a column or a setting, or else a text in any of them."""
    key, is_pair, value = word.lower().partition("=")
    if not is_pair:
        return key in str(run).lower()
    found: Any = run if key in run else run["config"]
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return str(found).lower() == value


def order(run: dict[str, Any], column: str) -> tuple[bool, Any]:
    """Where --sort puts a run: the best ones first, whether that is the smallest or the largest value."""
    value = run[column]
    if column == "best" and value is not None and run["config"]["run"]["monitor_mode"] == "max":
        value = -value
    return value is None, value


def duration(seconds: float) -> str:
    unit, size = next((pair for pair in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= pair[1]), ("s", 1))
    return f"{seconds / size:.0f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sort", metavar="KEY", choices=COLUMNS, help=", ".join(COLUMNS))
    parser.add_argument("--filter", metavar="TEXT", default="", help="words that must all fit: KEY=VALUE or any text")
    parser.add_argument("--all", action="store_true", help="dev runs too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    args = parser.parse_args()
    root = (args.output or read_output_root(Path(__file__).resolve().parents[1])).resolve()
    runs = [read(path, root) for path in list_runs(root) if args.all or path.relative_to(root).parts[0] != "dev"]
    runs = [run for run in runs if all(matches(run, word) for word in args.filter.split())]
    if args.sort:
        runs.sort(key=lambda run: order(run, args.sort))
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for run in runs:
        status, best = run["status"], "" if run["best"] is None else f"{run['best']:.4g}"
        step = f"{run['step']}/{run['num_steps'] or '?'}"
        state = f"[{COLORS.get(status, 'default')}]{status}[/]"
        table.add_row(run["name"], duration(run["age"]), state, run["data"], run["model"], best, step)
    is_terminal = Console().is_terminal
    console = Console(highlight=False, width=None if is_terminal else 1000)  # to a pipe or file nothing is cut
    console.print(table if runs else f"no such run in {root}")


if __name__ == "__main__":
    main()
