"""Merge a later version of the template into your project, whatever its name is and whatever you have edited.

    git remote add template URL && git fetch template          # once; later only: git fetch template
    python scripts/pull_template.py template/main

Your version, the template's version that you began with, and the new one, both under your project's name, are merged
by git: what only the template changed is taken over, what only you changed stays, and examples that you deleted stay
deleted. Where both changed the same lines, git marks the conflict: edit the file, `git add` it, `git commit`;
`git merge --abort` takes everything back. In pdm.lock, run `pdm lock` instead. The next pull starts from here.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


def refuse(problem: str, remedy: str) -> NoReturn:
    print(f"pull_template.py: {problem}\n{remedy}", file=sys.stderr)
    sys.exit(2)


def run(*words: str, cwd: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True)


def git(*words: str, cwd: Path = ROOT) -> str:
    """What a git command prints; the program ends with what it says if it fails."""
    done = run("git", *words, cwd=cwd)
    if done.returncode != 0:
        refuse(f"git {' '.join(words[:2])}: {(done.stderr or done.stdout).strip()}", "Nothing was merged.")
    return done.stdout.strip()


def name_in(text: str) -> str:
    """The project's name in a pyproject.toml."""
    return str(tomllib.loads(text)["project"]["name"])


def commit_of(version: str) -> str:
    """The commit that a branch, a tag or a short name stands for."""
    found = run("git", "rev-parse", "--verify", "--quiet", f"{version}^{{commit}}")
    if found.returncode != 0:
        refuse(f"{version}: git knows no such version.", "git fetch template; git branch --remotes lists its branches.")
    return found.stdout.strip()


def began_with(new: str) -> str:
    """The template's version that this project began as, or pulled last."""
    found = run("git", "merge-base", "HEAD", new).stdout.strip()
    if not found:
        refuse(
            "this project and the template have no commit in common.",
            "Say which version of the template it began as: --base COMMIT (git log template/main lists them).",
        )
    return found


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, for a while."""
    with tempfile.TemporaryDirectory(prefix="template_") as folder:
        place = Path(folder, "files")
        git("worktree", "add", "--detach", "--quiet", str(place), commit)
        try:
            yield place
        finally:
            git("worktree", "remove", "--force", str(place))


def renamed(commit: str, name: str, gone: set[str]) -> str:
    """The template's files under this project's name, formatted, without those in `gone`, as a tree in git."""
    with checked_out(commit) as place:
        if name_in((place / "pyproject.toml").read_text("utf-8")) != name:
            # -I -S: it does not see that a package of that name is installed
            done = run(sys.executable, "-I", "-S", "scripts/rename.py", name, "--force", cwd=place)
            if done.returncode != 0:
                refuse(f"{commit[:10]} cannot be renamed: {done.stderr.strip()}", "Nothing was merged.")
        for words in (["check", "--fix", "--quiet", "."], ["format", "--quiet", "."]):  # as `pdm run format` does
            run(sys.executable, "-m", "ruff", *words, cwd=place)
        for file in gone:
            (place / file).unlink(missing_ok=True)
        git("add", "--all", cwd=place)
        return git("write-tree", cwd=place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("version", metavar="VERSION", help="of the template: a branch, tag or commit that git fetched")
    parser.add_argument("--base", metavar="COMMIT", help="the version that this project began as, if git cannot tell")
    args = parser.parse_args()
    if git("status", "--porcelain", "--untracked-files=no"):
        refuse("uncommitted changes: git could not undo this.", "Commit or stash them.")
    new = commit_of(args.version)
    before = commit_of(args.base or began_with(new))
    if before == new:
        print(f"{args.version} is here already.")
        return
    name = name_in((ROOT / "pyproject.toml").read_text("utf-8"))
    began = renamed(before, name, set())
    gone = set(git("ls-tree", "-r", "--name-only", began).split("\n")) - set(git("ls-files").split("\n"))
    trees = [renamed(commit, name, gone) for commit in (before, new)]
    base = git("commit-tree", trees[0], "-m", f"template {before[:10]}, renamed")
    changes = git("commit-tree", trees[1], "-p", base, "-m", f"template {new[:10]}, renamed")
    # a merge commit, whose second parent is the template's: git then knows what has been pulled
    git("merge", "--strategy=ours", "--no-commit", "--no-ff", "--allow-unrelated-histories", new)
    done = run("git", "cherry-pick", "--no-commit", changes)
    if done.returncode != 0:
        print(git("status", "--short", "--untracked-files=no"))
        print("git could not merge these files by itself. In each, choose, then: git add FILE; in the end: git commit")
        print("git merge --abort takes everything back.")
        sys.exit(1)
    git("commit", "--quiet", "--message", f"Merge {args.version} of the template ({new[:10]})")
    print(f"merged {args.version} ({new[:10]}). Next: pdm install && pdm run format && pdm run test")


if __name__ == "__main__":
    main()
