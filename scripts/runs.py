"""Tables of the runs: find, compare, and judge them by several seeds. Does not import torch.

python scripts/runs.py                                   # the newest 20, newest last; dev runs too: --dev
python scripts/runs.py --where "data=digits and optimizer.lr < 1e-2 and status=finished" --sort val/loss
python scripts/runs.py --where "val/loss < 0.1 and name like '%otter%'" --columns optimizer.lr,test/accuracy
python scripts/runs.py diff marble_guillemot caped_jackal            # settings, code, packages, results that differ
python scripts/runs.py seeds --where "data=digits"                   # mean, spread, interval, paired test over run.seed
python scripts/runs.py best --where "data=digits"                    # the name of the best finished run, for $( )
python scripts/runs.py note RUN "lr too high, see the fork"          # kept with the run, shown in tables
python scripts/runs.py --format csv                                  # or md, latex: of any of these tables

Columns: settings (optimizer.lr), results (val/... at the best step, test/... of the best weights, train/... the last),
seconds/PHASE, data and other groups (the class in lower case), and name, status, reason, age and duration (seconds),
step, num_steps, best, best_step, monitor, description, tags, note.

--where and --sort are SQL expressions over columns. A bare word that is compared is a text (data=digits), true is 1,
false is 0, a list is written [64, 32], has(tags, pilot) looks into one. A run without a value is left out by every
comparison: "optimizer.momentum = null" finds it. --sort -val/loss puts the largest first, --sort best the best.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

from scaffolding.core.errors import UserError
from scaffolding.core.find import open_run, read_output_root
from scaffolding.core.folder.reading import open_here
from scaffolding.core.folder.summary import NOTE
from scaffolding.core.table.best import best
from scaffolding.core.table.columns import check_columns, problems, table_of_differences, table_of_runs
from scaffolding.core.table.query import select, values_of
from scaffolding.core.table.runs import Run, read_runs, read_some
from scaffolding.core.table.seeds import SEED, group_by_settings, remarks, table_of_groups
from scaffolding.core.table.show import FORMATS, cell

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("list", "diff", "seeds", "best", "note")
NUM_SHOWN = 20


def read_arguments(words: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", choices=COMMANDS, default="list", help="list is meant without one")
    parser.add_argument("words", metavar="WORD", nargs="*", help="of diff: runs; of note: a run, and a text")
    parser.add_argument("--where", metavar="EXPRESSION", help="only runs for which it is true")
    parser.add_argument("--sort", metavar="EXPRESSION", help="ascending; with a minus before it, descending")
    parser.add_argument("--columns", metavar="A,B", help="these, instead of those that choose themselves")
    parser.add_argument("-n", metavar="N", type=int, default=NUM_SHOWN, help=f"so many runs (default: {NUM_SHOWN})")
    parser.add_argument("--over", metavar="KEY", default=SEED, help=f"of seeds: a setting in place of {SEED}")
    parser.add_argument("--dev", action="store_true", help="dev runs too")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    joined = list[str]()
    for word in words:  # or argparse takes `-val/loss` for an option
        if joined and joined[-1] in ("--sort", "--where"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    args = parser.parse_intermixed_args(joined)
    if args.n < 1:
        parser.error(f"-n {args.n}: not a number of at least 1")
    return args


def check(args: argparse.Namespace) -> None:
    """UserError: the words do not fit the command."""
    count = len(args.words)
    if args.command == "diff" and count < 2:
        raise UserError(f"diff: it compares runs, and {count or 'none'} is given\npython scripts/runs.py diff RUN RUN")
    if args.command == "note" and (count != 2 or not args.words[1].strip()):
        raise UserError('note: it takes a run and a text\npython scripts/runs.py note RUN "TEXT"')
    if args.command not in ("diff", "note") and count:
        raise UserError(f"{args.words[0]}: {args.command} takes no words\nto choose runs: --where EXPRESSION")


def list_runs(args: argparse.Namespace, runs: list[Run], columns: list[str] | None) -> None:
    """The table of runs, what is wrong with some, and how many more there are."""
    shown = runs[: args.n] if args.sort else runs[-args.n :]
    print(table_of_runs(shown, columns).in_format(args.format))
    if args.format != "text":
        return
    for line in problems(shown):
        print(cell(line))
    if len(runs) > len(shown):
        print(f"{len(runs) - len(shown):,} more: -n {len(runs)}")


def compare_seeds(args: argparse.Namespace, runs: list[Run], columns: list[str] | None) -> None:
    """The table of groups."""
    groups = group_by_settings(runs, args.over)
    if not groups:
        raise UserError(f"seeds: none of {len(runs)} runs has finished")
    print(table_of_groups(groups, columns).in_format(args.format))
    if args.format == "text":
        for line in remarks(groups, args.over):
            print(line)


def add_note(run: Path, text: str) -> None:
    """Append a text to the note of a run, with its date."""
    file = run / NOTE
    try:
        with open(file, "a", encoding="utf-8", opener=open_here) as stream:
            stream.write(f"{datetime.now():%Y-%m-%d %H:%M}  {text.strip()}\n")
    except (OSError, UnicodeEncodeError) as error:
        raise UserError(f"{file} cannot be written: {getattr(error, 'strerror', None) or error}") from error


def do(args: argparse.Namespace) -> None:
    """What the command asks for; UserError: it cannot be done."""
    check(args)
    root = (args.output or read_output_root(ROOT)).resolve()
    if args.command == "note":
        add_note(open_run(args.words[0], root), args.words[1])
        return
    if args.command == "diff":
        compared = read_some([open_run(word, root) for word in args.words], root)
        differences = table_of_differences(compared)
        print(differences.in_format(args.format))
        if not differences.rows:
            print("no difference", file=sys.stderr)
        return
    if args.command == "best":
        run = best(root, args.where, args.sort, args.dev)
        print(run["path"] if args.output else run["short"])
        return
    everything = read_runs(root, args.dev)
    columns = args.columns.split(",") if args.columns else None
    if columns is not None and everything:
        check_columns("--columns", columns, everything)
    runs = select(everything, args.where, args.sort)
    if not runs:
        print(f"no such run in {root}" if everything else f"no run in {root}", file=sys.stderr)
        for line in values_of(everything, args.where or ""):
            print(line, file=sys.stderr)
    elif args.command == "list":
        list_runs(args, runs, columns)
    else:
        compare_seeds(args, runs, columns)


def main() -> int:
    args = read_arguments(sys.argv[1:])
    try:
        do(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
