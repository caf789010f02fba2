"""The code of a commit, with a patch, in a git worktree: next to the checkout, and untouched by edits there."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from ..errors import UserError
from .patch import MAX_TOTAL

GITLINK = "160000"  # the mode by which git knows a submodule


def git(folder: Path, *words: str, given: bytes = b"") -> str:
    """What git says in a folder; UserError: it fails."""
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *words]
    try:
        done = subprocess.run(command, cwd=folder, input=given, capture_output=True)
    except FileNotFoundError:
        raise UserError("git is not installed") from None
    if done.returncode:
        raise UserError(f"git {words[0]} in {folder}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode().strip()


def submodules(root: Path) -> list[str]:
    """The git submodules of the repository, which a worktree does not fill."""
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    entries = git(top, "ls-files", "--stage", "-z").split("\0")
    return [entry.partition("\t")[2] for entry in entries if entry.startswith(GITLINK)]


def project_in(root: Path, place: Path) -> Path:
    """The folder of the project `root` in a worktree at `place`: the project may lie within its repository."""
    top = Path(git(root, "rev-parse", "--show-toplevel"))
    return place / root.resolve().relative_to(top.resolve())


def add_worktree(root: Path, place: Path, commit: str, patch: bytes) -> Path:
    """Check out a commit with a patch at `place`, and give it what belongs to this machine: local.yaml and .env.

    Returns:
        The folder of the project there.

    Raises:
        UserError: git fails; a worktree that is half made may be left at `place`.
    """
    project = project_in(root, place)
    # by force: git may still know a worktree that was here, and has been deleted
    git(root, "worktree", "add", "--force", "--quiet", "--detach", str(place), commit)
    if patch:
        git(place, "apply", "--whitespace=nowarn", "-", given=patch)
    share_settings(root, project)
    return project


def share_settings(root: Path, project: Path) -> None:
    """Give a copy of a project what belongs to this machine, and git does not know."""
    if (root / "configs/local.yaml").exists():
        shutil.copyfile(root / "configs/local.yaml", project / "configs/local.yaml")
    if (root / ".env").exists():
        (project / ".env").symlink_to(root / ".env")


def remove_worktree(root: Path, place: Path) -> None:
    """Delete a worktree, and let git forget it; UserError: git does not know it."""
    git(root, "worktree", "remove", "--force", str(place))


def unpack(packed: Path, place: Path) -> None:
    """The plain files of an archive of sources (`archive` in patch.py), in a new folder.

    Raises:
        UserError: it is damaged, or holds what no archive of ours holds: links, other places, too much.
    """
    place.mkdir(parents=True)
    total = 0
    try:
        with tarfile.open(packed) as file:
            for member in file:
                target, total = place / member.name, total + member.size
                content = file.extractfile(member)
                is_inside = target.resolve().is_relative_to(place.resolve())
                if content is None or not member.isreg() or not is_inside or total > MAX_TOTAL:
                    raise UserError(f"{packed}: {member.name!r:.100} does not belong into an archive of sources")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{packed} is damaged: {error}") from error
