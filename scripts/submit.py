"""Submit a run to a queue with the code as it is now, whatever is edited meanwhile. Does not import torch.

python scripts/submit.py --with scripts/jobs/slurm.sh first data=mnist mode=prod run.budget=20epochs
python scripts/submit.py --with scripts/jobs/slurm.sh first data=mnist mode=prod -- --gpus-per-task=1  # for the queue
python scripts/submit.py --with scripts/jobs/condor.sub first data=mnist mode=prod run.budget=20epochs
python scripts/clean_jobs.py                               # delete the code of runs that have finished

The code goes to OUTPUT/jobs/NAME/code: a git worktree of HEAD, with the uncommitted changes, new files too, and
configs/local.yaml. The job file is taken from there. NAME becomes the name of the run; what the queue writes goes to
OUTPUT/jobs/NAME. The same NAME again, with the same code, submits the run again: it carries on.
"""

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from scaffolding.core.config.grammar import key_of, unquoted
from scaffolding.core.errors import UserError, exit_code
from scaffolding.core.find import read_path, read_setting
from scaffolding.core.folder.folder import LOCK, NAME, RESERVED, acquire, write_text
from scaffolding.core.provenance.git import GitError
from scaffolding.core.provenance.patch import Changes, uncommitted_changes
from scaffolding.core.provenance.worktree import add_worktree, project_in, remove_worktree, submodules
from scaffolding.core.sweep.points import composed
from scaffolding.core.sweep.queue import program_for, quoted

ROOT = Path(__file__).resolve().parents[1]
SOURCES = next(ROOT.glob("src/*/train.py")).parent
MARK, PATCH = "commit.txt", "changes.patch"  # in the job's folder: what its code is
SUBMITTED = "submitted.txt"  # there, too: the words of the run; as old as the last submit


def code_of_now() -> Changes:
    """The last commit, and what differs from it; says what the job will not have.

    Raises:
        UserError: git or a repository is missing, or it has no commit.
    """
    try:
        changes = uncommitted_changes(ROOT, [SOURCES, ROOT / "configs"])
    except GitError as error:
        raise UserError(f"{ROOT}: {error}\nthe code is pinned by git: git init, git add and git commit it") from error
    if changes.commit is None:
        raise UserError(f"{ROOT}: git has no commit yet\nthe code is pinned by git: git add and git commit it")
    empty = submodules(ROOT)
    for name in empty:
        print(f"the job's code lacks {name} (a git submodule: its folder is empty there)", file=sys.stderr)
    for name, why in changes.left_out.items():
        if name not in empty:
            print(f"the job's code lacks what is not committed of {name} ({why})", file=sys.stderr)
    return changes


def pin(job: Path, changes: Changes) -> Path:
    """The folder of the project in a worktree with this code; made where it is not there yet.

    Raises:
        UserError: the job has other code, or git fails.
    """
    code = job / "code"
    mark, patch = job / MARK, job / PATCH
    if mark.exists() and (mark.read_text(), patch.read_bytes()) != (changes.commit, changes.patch):
        raise UserError(
            f"{job.name}: {job} has other code: commit {mark.read_text()[:10]} with what is in {PATCH} there"
            f"\nanother name starts another run; from {code} itself, the job can be submitted again"
        )
    project = project_in(ROOT, code)
    if mark.exists() and project.exists():
        return project
    if code.exists():  # half made, by a kill
        shutil.rmtree(code)
    patch.write_bytes(changes.patch)
    add_worktree(ROOT, code, str(changes.commit), changes.patch)
    write_text(mark, str(changes.commit))  # last: with it, the code is whole
    return project


def place(words: list[str]) -> tuple[list[str], Path]:
    """The words with every path in full, as a relative one would start at the worktree; the folder of all runs.

    Raises:
        UserError: a path refers to what is not there; configs/local.yaml has results go to a relative path.
    """
    own = [word for word in words if key_of(word).startswith("paths.") and "=" in word]
    own = [word for word in own if key_of(word) != "paths.scratch"]  # of the machine where the job will run
    heads = {"output_root": "paths.output_root", "data": "paths.data"}
    heads |= {key_of(word).removeprefix("paths."): word.partition("=")[0] for word in own}
    given = {key_of(word).removeprefix("paths."): unquoted(word.partition("=")[2]) for word in own}
    paths = {key: read_path(key, ROOT, given).resolve() for key in heads}
    output = os.path.expanduser(str(read_setting("output", ROOT, given | {"output_root": str(paths["output_root"])})))
    if "output" not in given and not Path(output).is_absolute():
        raise UserError(
            f"paths.output={output} of configs/local.yaml or base.yaml is relative, and would start at the job's copy "
            f"of the code\nset it to {ROOT / output}"
        )
    others = [word for word in words if word not in own]
    return [*others, *(f"{heads[key]}={path}" for key, path in paths.items())], paths["output_root"]


def command(file: Path, name: str, words: list[str], options: list[str], job: Path) -> list[str]:
    """What hands the job to its queue."""
    if file.suffix == ".sub":
        write_text(job / "jobs.txt", f"{name}, {' '.join(map(quoted, words))}\n")
        return ["condor_submit", f"jobs={job}/jobs.txt", f"folder={job}", *options, str(file)]
    return ["sbatch", f"--job-name={name}", f"--output={job}/%j.txt", *options, str(file), *words]


def submit(file: Path, name: str, words: list[str], options: list[str]) -> str:
    """Pin the code, submit the job, and return what the queue says.

    Args:
        file: the job file.
        name: of the run.
        words: of train.py.
        options: of the queue's program.

    Raises:
        UserError: NAME, the job file, git or the queue is not fit for it.
    """
    if not NAME.fullmatch(name) or RESERVED.fullmatch(name) or "=" in name:
        raise UserError(
            f"{name!r} is not a name for a run, which comes before its words"
            "\nallowed: letters, digits and . _ - , +, up to 200; not dev, latest, jobs, or what begins with exp_"
        )
    if wrong := [word for word in words if key_of(word) in ("job", "run.name", "resume", "fork", "rerun")]:
        raise UserError(
            f"{wrong[0]}: the job file adds job={name}, which starts the run or carries it on\nleave it out"
        )
    program_for(file, is_sweep=False)
    words, root = place(words)
    composed(SOURCES / "train.py", words)
    changes = code_of_now()
    job = root / "jobs" / name
    job.mkdir(parents=True, exist_ok=True)
    acquire(job)
    is_new, submitted = os.listdir(job) == [LOCK], job / SUBMITTED
    before = (submitted.read_text(), submitted.stat()) if submitted.exists() else None
    try:
        return hand_over(file, name, words, options, job, changes)
    except UserError:  # a git or a queue that cannot
        if is_new:
            with contextlib.suppress(UserError):  # git may not know it yet
                remove_worktree(ROOT, job / "code")
            shutil.rmtree(job)
        elif before is not None:
            write_text(submitted, before[0])
            os.utime(submitted, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))
        raise


def hand_over(file: Path, name: str, words: list[str], options: list[str], job: Path, changes: Changes) -> str:
    """Pin the code in the job's folder, and hand the job to its queue; arguments and return as in `submit`."""
    project = pin(job, changes)
    if file.resolve().is_relative_to(ROOT):
        file = project / file.resolve().relative_to(ROOT)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one there, too
    sent = command(file.resolve(), name, words, options, job)
    write_text(job / SUBMITTED, f"{shlex.join(words)}\n")  # before the run can finish
    done = subprocess.run(sent, cwd=project, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(sent)}\n{done.stderr.strip()}")
    return f"{done.stdout.strip()}: the run {name}, with the code in {project}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--with", metavar="FILE", dest="file", type=Path, required=True, help="a job file")
    parser.add_argument("name", metavar="NAME", help="of the run")
    parser.add_argument("words", metavar="WORDS", nargs="*", help="of train.py; after --: options of the queue")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_intermixed_args(sys.argv[1:end])
    print(submit(args.file, args.name, args.words, sys.argv[end + 1 :]))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(main))
