"""Which files of code differ between a run and now, as git knows them."""

import tempfile
from pathlib import Path

from .git import Git
from .patch import changes_in


def changed_since(root: Path, sources: Path, commit: str, patch: bytes) -> list[str]:
    """The python files below `sources` that are not what a commit with a patch has, by their names in the repository.

    Files of that time that the patch left out count as changed.

    Raises:
        GitError: git does not know the commit, the patch does not fit it, or git fails or is too slow.
    """
    with tempfile.TemporaryDirectory() as scratch:
        git = Git(root, Path(scratch))
        changes_in(git, root, [sources])
        now = git.lines("write-tree")[0]
        git.environment["GIT_INDEX_FILE"] = str(Path(scratch, "then"))
        git("read-tree", commit)
        if patch:
            git("apply", "--cached", "--whitespace=nowarn", "-", given=patch)
        then = git.lines("write-tree")[0]
        inside = str(sources.resolve().relative_to(git.top.resolve()))
        differing = git.names("diff-tree", "-r", "--no-renames", "--name-only", "-z", then, now, "--", inside)
        return [name for name in differing if name.endswith(".py")]
