"""Points on a queue, Slurm's or HTCondor's: hand them over, and know that it has them."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import UserError
from ..folder.folder import write_text
from .points import Sweep


def quoted(word: str) -> str:
    """A word as HTCondor reads it in `arguments`."""
    doubled = word.replace("'", "''").replace('"', '""')
    return f"'{doubled}'"


def is_on_queue(sweep: Sweep, is_again: bool, goes_there: bool) -> bool:
    """Whether a queue has what is not finished; says so. A note of it that is not needed any more is removed.

    Args:
        sweep: that was perhaps submitted.
        is_again: whether points are to be done again although a queue has had them.
        goes_there: whether they go to a queue, which then writes the note anew.
    """
    note = sweep.note()
    num_left = sum(not sweep.is_finished(job) for job in range(len(sweep.points)))
    if not note.exists():
        return False
    if num_left and not is_again:
        print(f"{num_left} of {len(sweep.points)} points are not finished, and a queue has them:")
        print(f"    {note.read_text('utf-8').strip()}")
        print("nothing is started or submitted; once the queue has none of them, --again does what is not finished")
        return True
    if not (num_left and goes_there):
        note.unlink()
    return False


def program_for(file: Path, is_sweep: bool) -> str:
    """The program that hands a job file to its queue.

    Raises:
        UserError: it or the file is missing; the file reads points.txt where one run is submitted, or does not where
            a sweep is.
    """
    program = "condor_submit" if file.suffix == ".sub" else "sbatch"
    if not file.is_file():
        raise UserError(f"--with {file}: no such file\nthe job files are in scripts/jobs")
    if shutil.which(program) is None:
        raise UserError(f"--with {file}: {program} is not on this machine\nsubmit where the queue is; *.sub: HTCondor")
    reads_points = "points.txt" in file.read_text("utf-8", "replace")
    if file.suffix != ".sub" and reads_points != is_sweep:
        kind, other = ("one run", "slurm_points.sh") if is_sweep else ("the points of a sweep", "slurm.sh")
        raise UserError(f"--with {file}: it is for {kind}\ntake one like scripts/jobs/{other}")
    return program


def submit(sweep: Sweep, file: Path, todo: list[int], num_jobs: int | None) -> None:
    """Hand points to the queue that a job file is for; print what the queue says, and note it down."""
    program = program_for(file, is_sweep=True)
    if file.suffix == ".sub":
        listed = sweep.folder / "todo.txt"
        own = {job: [*sweep.command(job)[2:-2], sweep.command(job)[-1]] for job in todo}  # the file adds job=
        write_text(listed, "".join(f"job{job}, {' '.join(map(quoted, words))}\n" for job, words in own.items()))
        words = [program, f"jobs={listed}", f"folder={sweep.folder}", str(file.resolve())]
    else:
        most = f"%{num_jobs}" if num_jobs else ""
        words = [program, f"--array={','.join(map(str, todo))}{most}", f"--job-name={sweep.folder.name}",
                 f"--output={sweep.folder}/job%a.txt", str(file.resolve()), str(sweep.folder)]  # fmt: skip
        words += sweep.place
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one there, too
    done = subprocess.run(words, cwd=sweep.root, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(words)}\n{done.stderr.strip()}")
    answer = f"{done.stdout.strip()}: points {','.join(map(str, todo))} of {sweep.folder}"
    write_text(sweep.note(), f"{answer}\n")
    print(answer)
