"""Delete the code that submit.py pinned for runs that have finished. Does not import torch.

python scripts/clean_jobs.py                                       # says of each job what became of it, and why
"""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

from scaffolding.core.config.grammar import key_of
from scaffolding.core.errors import UserError
from scaffolding.core.find import read_output_root
from scaffolding.core.folder.folder import acquire, read_status
from scaffolding.core.provenance.git import GitError
from scaffolding.core.provenance.patch import uncommitted_changes

ROOT = Path(__file__).resolve().parents[1]
SUBMITTED = "submitted.txt"  # of submit.py: the words of the run; as old as the last submit
OURS = (".env", "configs/local.yaml", "__pycache__/")  # what git ignores in a job's code and nobody would miss


def needed(job: Path, root: Path) -> str:
    """Why a job still needs its code; "": its run has finished since it was last submitted."""
    submitted = job / SUBMITTED
    if not submitted.exists():
        return f"{submitted} does not exist, so its age is not known"
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    args = parser.parse_args()
    try:
        root = (args.output or read_output_root(ROOT)).resolve()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for code in sorted(root.glob("jobs/*/code")):
        print(f"{code}: {clean(code, root)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
