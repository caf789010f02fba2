"""Write the page of a run, or one that compares several: an HTML file that needs no network. Does not import torch.

python scripts/report.py latest                                    # a run, also while it runs: RUN/report.html
python scripts/report.py latest --every 10                         # again each 10 s until it ends: live curves
python scripts/report.py _output/exp_lr                            # a sweep stands for its runs
python scripts/report.py _output/exp_lr other_run --to compared.html
"""

import argparse
import sys
import time
from pathlib import Path

from scaffolding.core.errors import UserError, exit_code
from scaffolding.core.find import list_runs, open_run, read_output_root
from scaffolding.core.folder.folder import read_status
from scaffolding.core.report.write import write_report

ROOT = Path(__file__).resolve().parents[1]
PAGE = "report.html"


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="name, first letters, `latest`, path; folder of a sweep")
    parser.add_argument("--to", metavar="FILE", type=Path, help=f"the page (default: {PAGE} in the run's folder)")
    parser.add_argument("--every", metavar="SECONDS", type=float, help="write again until all runs have ended")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    return parser.parse_args()


def find_runs(word: str, output_root: Path) -> tuple[Path, list[Path]]:
    """The folder that a word stands for and the runs in it: a run, or all runs of a folder such as a sweep's.

    Raises:
        UserError: nothing has that name.
    """
    for folder in (Path(word).expanduser(), output_root / word):
        if folder.is_dir() and not (folder / "config.yaml").exists():
            runs = list_runs(folder)
            if runs:
                return folder, runs
    run = open_run(word, output_root)
    return run, [run]


def place_of(folders: list[Path], given: Path | None) -> Path:
    """Where the page goes; UserError: it is not said, or not possible."""
    if given is None and len(folders) > 1:
        raise UserError("several runs: where should the page that compares them go?\ngive it a file with --to FILE")
    file = given or folders[0] / PAGE
    if not file.parent.is_dir():
        raise UserError(f"--to {file}: {file.parent} is not a folder\nmake it, or choose another place")
    if file.is_dir():
        raise UserError(f"--to {file} is a folder\ngive it a file, e.g. --to {file / PAGE}")
    return file


def is_running(runs: list[Path]) -> bool:
    return any(read_status(run)["status"] == "running" for run in runs)


def main() -> int:
    args = read_arguments()
    if args.every is not None and not 0 < args.every < 86400:
        raise UserError(f"--every {args.every:g}: not allowed\nallowed: more than 0 and less than 86400 seconds")
    output_root = (args.output or read_output_root(ROOT)).resolve()
    found = [find_runs(word, output_root) for word in args.runs]
    runs = list(dict.fromkeys(run.resolve() for _, runs in found for run in runs))
    file = place_of([folder for folder, _ in found], args.to)
    title = found[0][0].resolve().name if len(found) == 1 else ""
    while args.every is not None and is_running(runs):
        write_report(runs, file, title, reload=args.every)
        print(f"\rreport:   {file.resolve()}, again every {args.every:g} s", end="", flush=True)
        time.sleep(args.every)
    write_report(runs, file, title)
    print(f"\rreport:   {file.resolve()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
