"""A table of the runs, oldest first.

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

from scaffolding.core.run_folder import list_runs, read_output_root, read_status

COLUMNS = ("name", "age", "status", "data", "model", "best", "step")
COLORS = {"finished": "green", "running": "cyan", "failed": "red", "died": "red", "interrupted": "yellow"}
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C: ten times faster


def read(path: Path, root: Path) -> dict[str, Any]:
    """What the table shows of a run, and under "config" all of its settings."""
    file = path / "config.yaml"
    config = yaml.load(file.read_bytes(), Loader)  # noqa: S506 (a safe loader)
    status = read_status(path)
    best, step = read_facts(path / "facts" / "scalars.csv", config["run"])
    return {
        "name": str(path.relative_to(root)),
        "age": time.time() - file.stat().st_mtime,
        "status": status["status"],
        "data": target(config["data"].get("dataset")),
        "model": target(config["model"]),
        "best": best,
        "step": step,
        "num_steps": status.get("num_steps", "?"),
        "config": config,
    }


def target(spec: Any) -> str:
    """The lower-case name of the class that a block of the config builds."""
    return str((spec or {}).get("_target_", "?")).rpartition(".")[2].lower()


def read_facts(file: Path, settings: dict[str, Any]) -> tuple[float | None, int]:
    """The best monitored value and the last step."""
    header, *lines = file.read_text().splitlines() if file.exists() else [""]
    columns = header.split(",")
    split, _, metric = (settings.get("monitor") or "").partition("/")
    step, values = 0, []
    for line in lines:
        if f",{split}," in line and metric in columns:
            cells = line.split(",")
            values += [float(cells[columns.index(metric)] or "nan")] if len(cells) == len(columns) else []
    for line in lines[-2:]:  # the very last may be torn
        step = int(line.split(",")[0]) if line.count(",") == len(columns) - 1 else step
    values = [value for value in values if value == value]
    return (min if settings.get("monitor_mode") == "min" else max)(values, default=None), step


def matches(run: dict[str, Any], word: str) -> bool:
    """Whether a run has what one word of --filter asks for: KEY=VALUE (a column or a setting), or a text anywhere."""
    key, is_pair, value = word.lower().partition("=")
    if not is_pair:
        settings = run["config"]["run"]
        texts = [run[name] for name in COLUMNS] + [settings.get("description"), settings.get("tags")]
        return any(key in str(text).lower() for text in texts)
    found: Any = run
    for part in key.split(".") if key in run else ["config", *key.split(".")]:
        found = found.get(part) if isinstance(found, dict) else None
    return str(found).lower() == value


def duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sort", metavar="KEY", choices=COLUMNS, help=", ".join(COLUMNS))
    parser.add_argument("--filter", metavar="TEXT", default="", help="words that must all match: KEY=VALUE or any text")
    parser.add_argument("--all", action="store_true", help="dev runs too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where the runs are (default: paths.output_root)")
    args = parser.parse_args()
    root = args.output or read_output_root(Path(__file__).resolve().parents[1])
    paths = [path for path in list_runs(root) if args.all or path.relative_to(root).parts[0] != "dev"]
    runs = [read(path, root) for path in paths]
    runs = [run for run in runs if all(matches(run, word) for word in args.filter.split())]
    if args.sort:
        runs.sort(key=lambda run: (run[args.sort] is None, run[args.sort]))
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    for run in runs:
        best = "" if run["best"] is None else f"{run['best']:.4g}"
        color = COLORS.get(run["status"], "white")
        cells = (run["name"], duration(run["age"]), f"[{color}]{run['status']}", run["data"], run["model"], best)
        table.add_row(*cells, f"{run['step']}/{run['num_steps']}")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=1000)  # for pipes and files: nothing is cut or wrapped
    console.print(table if runs else f"no runs in {root}" if not args.filter else "no run matches")


if __name__ == "__main__":
    main()
