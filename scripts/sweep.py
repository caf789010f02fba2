"""Many runs, one process each: a grid, here or on a queue, or a search by Optuna. Does not import torch.

python scripts/sweep.py lr data=digits model=mlp mode=prod optimizer.lr=1e-3,3e-3 run.seed=1,2,3  # --jobs 2: 2 at once
python scripts/sweep.py lr                            # once more: only what is missing or has failed; then the table
python scripts/sweep.py lr --table                                                     # the table only
python scripts/sweep.py lr --with scripts/jobs/slurm_points.sh data=digits ...         # as one array job; or condor.sub
python scripts/sweep.py lr --trials 20 data=digits ... 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'    # Optuna

Point N is the run jobN in the folder exp_NAME, which also has words.txt, points.txt (the words of one point per line),
place.txt (words of the first call that belong to the machine: a later call may give others), jobN.txt (what the process
printed) and, for a queue, submitted (its answer) and todo.txt (what HTCondor reads), for a search, optuna.log. What is
done already is read from the runs themselves.

Several GPUs: every process takes the first GPU that it sees. CUDA_VISIBLE_DEVICES=0,1 before the command with --jobs 2
gives each of the two places one of these GPUs.
"""

import argparse
import sys
from pathlib import Path

from scaffolding.config import Config
from scaffolding.core.errors import UserError, exit_code
from scaffolding.core.sweep.crew import do_points, tell_of_alone
from scaffolding.core.sweep.open import make_sweep, open_sweep
from scaffolding.core.sweep.points import Sweep
from scaffolding.core.sweep.queue import is_on_queue, program_for, submit
from scaffolding.core.sweep.search import Search
from scaffolding.core.sweep.table import jobs_of, print_end
from scaffolding.core.table.seeds import SEED

ROOT = Path(__file__).resolve().parents[1]


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a whole number of at least 1")
    return int(text)


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = "processes at a time (default: 1; on a queue: no limit); for several GPUs, see above"
    parser.add_argument("name", metavar="NAME", help="of the sweep: its runs are in exp_NAME")
    parser.add_argument("words", metavar="WORDS", nargs="*", help="of train.py; KEY=A,B has several values")
    parser.add_argument("--jobs", metavar="N", type=positive, help=jobs)
    parser.add_argument("--with", metavar="FILE", dest="file", type=Path, help="a job file: the points go to its queue")
    parser.add_argument(
        "--again",
        action="store_true",
        help="also do what a queue already had; first make sure that the queue no longer has it",
    )
    parser.add_argument("--trials", metavar="N", type=positive, help="a search by Optuna, until there are N points")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    parser.add_argument("--table", action="store_true", help="print the table only")
    parser.add_argument("--over", metavar="KEY", help="mean and spread over its values (default: run.seed)")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder of your own configs")
    return parser.parse_intermixed_args()


def check(args: argparse.Namespace, sweep: Sweep) -> None:
    """UserError: options that do not go together, or not with this sweep."""
    if sweep.is_search and args.file is not None:
        raise UserError("--with: not for a search, where each point depends on those before\nuse --jobs N")
    if args.stop and args.file is not None:
        raise UserError("--stop: not with --with, as the queue does not stop at a failure\nleave it out")
    if args.jobs is not None and args.file is not None and args.file.suffix == ".sub":
        raise UserError(
            f"--jobs: not with HTCondor, which reads it from the job file\nwrite max_materialize = {args.jobs} into "
            f"{args.file}"
        )
    keys = sweep.varying()
    if args.over not in (None, *keys) and not (sweep.is_search and not sweep.points):
        raise UserError(f"--over {args.over}: it does not vary here\nallowed: {', '.join(keys) or 'none'}")


def begin(args: argparse.Namespace, sweep: Sweep) -> Search | None:
    """Make the folder of a new sweep, after all that may refuse it; returns the search, if it is one."""
    search = Search(sweep) if sweep.is_search else None
    if args.file is not None:
        program_for(args.file, is_sweep=True)
    if sweep.is_new:
        if search is None:  # a mistake in all points shows here
            sweep.composed(sweep.points[0])
        make_sweep(sweep)
    if search is not None:
        search.open_study()
    return search


def do(args: argparse.Namespace, sweep: Sweep) -> int:
    """Do what is left of a sweep here, or hand it to a queue. Returns the exit code."""
    search = begin(args, sweep)
    if is_on_queue(sweep, args.again, args.file is not None):
        return 0
    todo, alone = sweep.unfinished()
    total = max(len(sweep.points), args.trials or 0)
    print(f"{total - len(sweep.points) + len(todo)} of {total} points to do in {sweep.folder}", flush=True)
    tell_of_alone(sweep, alone)
    code = 0
    if args.file is not None:
        if todo:
            submit(sweep, args.file, todo, args.jobs)
    elif search is not None:
        code = do_points(sweep, search.todo(todo, total), total, args.jobs or 1, args.stop, search.tell)
    else:
        code = do_points(sweep, iter(todo), total, args.jobs or 1, args.stop)
    return code or int(not all(map(sweep.is_finished, alone)))


def main() -> int:
    args = read_arguments()
    options = [] if args.config_dir is None else ["--config-dir", str(args.config_dir.resolve())]
    sweep = open_sweep(ROOT, Config, args.name, [*options, *args.words], args.trials is not None, args.table)
    check(args, sweep)
    code = 0 if args.table else do(args, sweep)
    over = args.over or (None if sweep.is_search else SEED)
    print_end(sweep.folder, jobs_of(sweep), over, is_look=args.table)
    return code


if __name__ == "__main__":
    sys.exit(exit_code(main))
