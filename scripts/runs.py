"""A table of the runs, oldest first. Does not import torch.

python scripts/runs.py                                             # --all: dev runs too
python scripts/runs.py --filter "status=finished optimizer.lr=0.001 augment" --sort best
python scripts/runs.py --clean-jobs                                # delete the code that submit.py pinned for runs
                                                                   # that have finished
"""

import argparse
import contextlib
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scaffolding.core.config.grammar import key_of
from scaffolding.core.errors import ONE_LINE, UserError
from scaffolding.core.find import list_runs, read_output_root
from scaffolding.core.folder.folder import acquire, read_status
from scaffolding.core.folder.reading import MAX_FACTS, read_text, read_yaml
from scaffolding.core.provenance.git import GitError
from scaffolding.core.provenance.patch import uncommitted_changes

COLUMNS = ("name", "age", "status", "data", "model", "best", "step")
NOTES = ("tags", "description")  # shown where a run has some
COLORS = {
    "finished": "green",
    "running": "cyan",
    "interrupted": "yellow",
    "preempted": "yellow",
    "failed": "red",
    "died": "red",
    "damaged": "red",
}
ROOT = Path(__file__).resolve().parents[1]
SUBMITTED = "submitted.txt"  # of submit.py: the words of the run; as old as the last submit
OURS = (".env", "configs/local.yaml", "__pycache__/")  # what git ignores in a job's code and nobody would miss


def read(path: Path, root: Path) -> dict[str, Any]:
    """What the table shows of a run, and its settings; "problem" says what is wrong with its files."""
    file, config, best, step = path / "config.yaml", {}, None, 0
    status = read_status(path)
    problem = status.get("reason") if status["status"] == "damaged" else None
    try:
        config = read_yaml(file)
        if not isinstance(config, dict):
            config = {}
            raise UserError(f"{file} is not a mapping of settings")
        classes = [str(look_up(config, key) or "?") for key in ("data.dataset._target_", "model._target_")]
        monitor, mode = (look_up(config, f"run.{key}") for key in ("monitor", "monitor_mode"))
        best, step = read_scalars(path / "facts" / "scalars.csv", monitor, mode)
    except UserError as error:
        status, problem, classes = {"status": "damaged"}, str(error), ["?", "?"]
    age = time.time() - file.lstat().st_mtime
    words = [name.rpartition(".")[2].lower() for name in classes]
    cells = (path.relative_to(root).as_posix(), age, status["status"], *words, best, step)
    tags = look_up(config, "run.tags")
    notes = {
        "tags": ", ".join(map(str, tags)) if isinstance(tags, list) else "",
        "description": look_up(config, "run.description") or "",
    }
    more = {"num_steps": status.get("num_steps"), "config": config, "problem": problem}
    return dict(zip(COLUMNS, cells, strict=True)) | notes | more


def look_up(config: Any, key: str) -> Any:
    """The value of a dotted key, or None if the config lacks it."""
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def read_scalars(file: Path, monitor: Any, mode: Any) -> tuple[float | None, int]:
    """The best monitored value and the highest logged step; a line that is being written is left out.

    Raises:
        UserError: the file is not text, or not a plain file.
    """
    lines = read_text(file, MAX_FACTS).splitlines() if file.exists() else []
    columns = lines[0].split(",") if lines else []
    rows = [dict(zip(columns, line.split(","), strict=False)) for line in lines[1:]]
    rows = [row for row in rows if len(row) == len(columns) and row.get("step", "").isdecimal()]
    if monitor == "auto":
        monitor = "val/loss"  # a run with several losses has no such column
    split, _, metric = str(monitor).partition("/")
    values = []
    for row in rows:
        with contextlib.suppress(ValueError):  # an empty cell
            if row.get("split") == split:
                values.append(float(row.get(metric, "")))
    values = [value for value in values if value == value]
    best = (max if mode == "max" else min)(values, default=None)
    return best, max((int(row["step"]) for row in rows), default=0)  # the last row, of a test, may be of the best step


def matches(run: dict[str, Any], word: str) -> bool:
    """Whether a run fits a word of --filter: KEY=VALUE, of a column or a setting, or else a text in any of them."""
    key, is_pair, value = word.lower().partition("=")
    if not is_pair:
        return key in str(run).lower()
    found = look_up(run["config"], f"run.{key}") if key in NOTES else run.get(key, look_up(run["config"], key))
    if isinstance(found, list):  # run.tags
        return value in [str(part).lower() for part in found]
    return str(found).lower() == value


def order(run: dict[str, Any], column: str) -> tuple[bool, Any]:
    """Where --sort puts a run: the best ones first, whether that is the smallest or the largest value."""
    value = run[column]
    if column == "best" and value is not None and look_up(run["config"], "run.monitor_mode") == "max":
        value = -value
    return value is None, value


def duration(seconds: float) -> str:
    unit, size = next((pair for pair in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= pair[1]), ("s", 1))
    return f"{seconds / size:.0f} {unit}"


def needed(job: Path, root: Path) -> str:
    """Why a job still needs its code; "": its run has finished since it was last submitted."""
    submitted = job / SUBMITTED
    if not submitted.exists():
        return f"there is no {submitted}: when was it submitted?"
    words = shlex.split(submitted.read_text())
    outputs = [word.partition("=")[2] for word in words if key_of(word) == "paths.output"]
    run = Path([str(root), *outputs][-1]) / job.name
    if not run.exists():
        return f"{run} is not there"
    status = read_status(run)["status"]
    if status != "finished":
        return f"{run} is {status}"
    if (run / "status.json").stat().st_mtime_ns <= submitted.stat().st_mtime_ns:
        return f"{job.name} was submitted again after {run} had finished"
    return ""


def clean(code: Path, root: Path) -> str:
    """Delete the worktree of a submitted run if it has finished, and nothing else is in it; what became of it."""
    try:
        acquire(code.parent)  # it may just be submitted again
        if why := needed(code.parent, root):
            return f"kept, as {why}"
        top = Path(git(ROOT, "rev-parse", "--show-toplevel"))
        project = code / ROOT.relative_to(top)
        sources = [path.parent for path in project.glob("src/*/train.py")]
        now = uncommitted_changes(project, [*sources, project / "configs"])
        ignored = git(code, "ls-files", "--others", "--ignored", "--exclude-standard", "--directory").splitlines()
        others = [path for path in ignored if not path.endswith(OURS)]
        if now.commit != (code.parent / "commit.txt").read_text():
            return f"kept, as it has another commit: {now.commit}"
        if others or now.left_out or now.patch != (code.parent / "changes.patch").read_bytes():
            return f"kept, as it was changed since{': ' * bool(others)}{', '.join(others[:5])}"
        git(ROOT, "worktree", "remove", "--force", str(code))
    except UserError as error:
        return f"kept, as {str(error).partition(chr(10))[0]}"
    except (GitError, OSError) as error:
        return f"kept: {error}"
    return "deleted"


def git(folder: Path, *words: str) -> str:
    """What git says in a folder; GitError: it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise GitError(done.stderr.strip())
    return done.stdout.strip()


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sort", metavar="KEY", choices=COLUMNS, help=", ".join(COLUMNS))
    parser.add_argument("--filter", metavar="TEXT", default="", help="words that must all fit: KEY=VALUE or any text")
    parser.add_argument("--all", action="store_true", help="dev runs too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    parser.add_argument(
        "--clean-jobs", action="store_true", help="delete the code of submitted runs that have finished"
    )
    return parser.parse_args()


def main() -> int:
    args = read_arguments()
    try:
        root = (args.output or read_output_root(ROOT)).resolve()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.clean_jobs:
        for code in sorted(root.glob("jobs/*/code")):
            print(f"{code}: {clean(code, root)}")
        return 0
    print_runs(args, root)
    return 0


def print_runs(args: argparse.Namespace, root: Path) -> None:
    """The table, and what is wrong with damaged runs."""
    runs = [read(path, root) for path in list_runs(root) if args.all or path.relative_to(root).parts[0] != "dev"]
    runs = [run for run in runs if all(matches(run, word) for word in args.filter.split())]
    if args.sort:
        runs.sort(key=lambda run: order(run, args.sort))
    notes = [name for name in NOTES if any(run[name] for run in runs)]
    table = Table(*COLUMNS, *notes, box=None, pad_edge=False)
    for run in runs:
        best = "" if run["best"] is None else f"{run['best']:.4g}"
        step = f"{run['step']}/{run['num_steps'] or '?'}"
        cells = (run["name"], duration(run["age"]), run["status"], run["data"], run["model"], best, step)
        texts = [shown(cell) for cell in (*cells, *(run[name] for name in notes))]
        texts[2].stylize(COLORS.get(run["status"], "default"))
        table.add_row(*texts)
    is_terminal = Console().is_terminal
    console = Console(highlight=False, width=None if is_terminal else 1000)  # to a pipe or file nothing is cut
    console.print(table if runs else f"no such run in {root}", markup=False)
    for run in runs:
        if run["problem"]:
            console.print(shown(f"{run['name']}: {run['problem']}".partition("\n")[0]))


def shown(text: Any) -> Text:
    """A text of a run's files as it is: on one line, without what a terminal or rich would obey."""
    return Text(str(text).encode(errors="replace").decode().translate(ONE_LINE))


if __name__ == "__main__":
    sys.exit(main())
