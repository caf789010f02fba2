"""Uncommitted work: a patch of all that differs from the commit, in bytes, and the names of what it leaves out.

Only plumbing is asked, which a user's settings for diffs do not reach.
"""

import hashlib
import io
import os
import re
import stat
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..secrets import find_key, is_key_file
from .git import Git, GitError

MAX_FILE, MAX_TOTAL = 5_000_000, 20_000_000  # bytes: a file, and all files, of a patch or archive
MAX_PATCH = 3 * MAX_TOTAL  # bytes: a patch has the old lines as well, and binary files in letters
SOURCES = {".py", ".pyx", ".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".yaml", ".yml", ".toml", ".json", ".ipynb"}
LOCAL = "local.yaml"  # ignored on purpose: its settings are in the run's config
DIFF = ("--cached", "--patch", "--binary", "--full-index", "--no-renames", "--no-color", "--no-ext-diff",
        "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--unified=3")  # fmt: skip
MISSING, GITLINK = "000000", "160000"  # modes of a tree's entries
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass
class Changes:
    """What differs from a commit; `commit` is None where there is none yet, and the patch then holds all files."""

    commit: str | None
    patch: bytes = b""
    left_out: dict[str, str] = field(default_factory=dict)  # path in the repository: why it is not in the patch


@dataclass
class Entry:
    """A path that may differ from the commit."""

    name: str
    mode: str = MISSING  # in the commit
    blob: str = ""
    size: int = 0  # bytes of the blob


def uncommitted_changes(root: Path, sources: Iterable[Path]) -> Changes:
    """A patch of all that differs from the commit, new files too: applied to its checkout it gives this tree.

    Large files and those that hold keys are left out, and named. Sources that git ignores are in it.

    Args:
        root: a folder in the repository; of new files, those below it count.
        sources: folders of code.

    Raises:
        GitError: git or a repository is missing, or git fails or is too slow.
    """
    with tempfile.TemporaryDirectory() as scratch:
        git = Git(root, Path(scratch))
        return changes_in(git, root, sources)


def changes_in(git: Git, root: Path, sources: Iterable[Path]) -> Changes:
    """As `uncommitted_changes`; afterwards the index of `git` is what the patch makes of the commit."""
    changes = Changes(git.commit)
    try:
        chosen = _choose(git, _differing(git, root, sources), changes.left_out)
        git.environment["GIT_INDEX_FILE"] += "_committed"
        changes.patch = _patch(git, chosen, changes.left_out)
        if find_key(changes.patch):  # in lines that were taken out
            held = [
                entry for entry in chosen if entry.mode != MISSING and find_key(git("cat-file", "blob", entry.blob))
            ]
            changes.left_out |= {entry.name: "what is committed holds a key" for entry in held}
            changes.patch = _patch(git, [entry for entry in chosen if entry not in held], changes.left_out)
    except GitError as error:
        error.commit = git.commit
        raise
    return changes


def files_of(patch: bytes) -> list[str]:
    """The names of the files that a patch changes, in its order; special letters as git writes them."""
    heads = re.findall(rb'(?m)^diff --git "?a/(.*?)"? "?b/', patch)  # no line of content begins like that
    return [head.decode(errors="replace") for head in heads]


def _patch(git: Git, chosen: list[Entry], left_out: dict[str, str]) -> bytes:
    """The difference that the chosen files make; those that git does not take go to `left_out`."""
    git("read-tree", git.tree)
    _add(git, chosen, left_out)
    if not chosen:
        return b""
    return git("diff-index", *DIFF, git.tree)


def _differing(git: Git, root: Path, sources: Iterable[Path]) -> list[Entry]:
    """What may differ from the commit: changed or deleted, staged or not, new, and sources that are ignored."""
    flagged: dict[str, list[str]] = {"--no-skip-worktree": [], "--no-assume-unchanged": []}
    for line in git.names("ls-files", "-v", "-z"):
        tag, name = line[0], line[2:]
        if tag.lower() == "s" and os.path.lexists(git.top / name):
            flagged["--no-skip-worktree"].append(name)
        if tag.islower():
            flagged["--no-assume-unchanged"].append(name)
    for flag, names in flagged.items():
        if names:
            git.names("update-index", flag, "-z", "--stdin", given=names)
    found = {}
    parts = iter(git.names("diff-index", "--raw", "-z", "--no-renames", "--ignore-submodules=none", git.tree))
    for head, name in zip(parts, parts, strict=True):
        mode, new_mode, blob, *_ = head.removeprefix(":").split()
        found[name] = Entry(name, GITLINK if new_mode == GITLINK else mode, blob)
    others = git.names("ls-files", "--others", "--exclude-standard", "-z", "--", _inside(git, root))
    ignored = (
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "-z",
        "--",
        *(_inside(git, s) for s in sources),
    )
    others += [name for name in git.names(*ignored) if Path(name).suffix in SOURCES and Path(name).name != LOCAL]
    for name in others:
        found.setdefault(name, Entry(name))
    known = [entry for entry in found.values() if entry.mode not in (MISSING, GITLINK)]
    sizes = git.lines("cat-file", "--batch-check=%(objectsize)", given="\n".join(e.blob for e in known).encode())
    for entry, size in zip(known, sizes, strict=True):
        entry.size = int(size) if size.isdecimal() else 0
    return list(found.values())


def _inside(git: Git, folder: Path) -> str:
    return os.path.relpath(folder.resolve(), git.top.resolve())


def _choose(git: Git, entries: list[Entry], left_out: dict[str, str]) -> list[Entry]:
    """The entries that the patch is to hold, the code first; of the others, `left_out` gets the names and why."""
    sized = {entry.name: max(entry.size, _size(git.top / entry.name)) for entry in entries}
    entries = sorted(entries, key=lambda entry: (Path(entry.name).suffix not in SOURCES, sized[entry.name]))
    chosen, total = [], 0
    for entry in entries:
        size = sized[entry.name]
        why = _reason(git, entry, size)
        if not why and total + size > MAX_TOTAL:
            why = f"all together have more than {MAX_TOTAL / 1e6:g} MB"
        if not why:
            chosen.append(entry)
            total += size
        elif entry.mode in (MISSING, GITLINK) or size <= MAX_FILE or not _is_unchanged(git, entry):
            left_out[entry.name] = why
    return chosen


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _reason(git: Git, entry: Entry, size: int) -> str:
    """Why a file is not to be in the patch; "": it may be."""
    path = git.top / entry.name
    if entry.mode == GITLINK or entry.name.endswith("/"):
        return "another git repository"
    if size > MAX_FILE:
        return f"{size / 1e6:.1f} MB"
    return unfit(path)


def unfit(path: Path) -> str:
    """Why a file must not be in a record of the code: it holds a key, or cannot be read; "": it may be."""
    if is_key_file(path.name):
        return "by its name it holds a key"
    try:
        mode = path.lstat().st_mode
    except OSError:
        return ""  # deleted
    if stat.S_ISLNK(mode) or stat.S_ISDIR(mode):  # a folder in the place of a file: deleted
        return ""
    if not stat.S_ISREG(mode):
        return "not a plain file"
    try:
        found = find_key(path.read_bytes())
    except OSError as error:
        return str(error.strerror)
    return f"it holds {found}" if found else ""


def _is_unchanged(git: Git, entry: Entry) -> bool:
    """Whether a large file of the commit was only touched."""
    path = git.top / entry.name
    try:
        if _filter(git, [entry]) == {entry.name: "lfs"}:
            with open(path, "rb") as file:
                pointer = POINTER.format(hashlib.file_digest(file, "sha256").hexdigest(), _size(path))
            return git.lines("hash-object", "--stdin", given=pointer.encode()) == [entry.blob]
        return git.lines("hash-object", "--", entry.name) == [entry.blob]
    except (OSError, GitError):
        return False


def _filter(git: Git, entries: list[Entry]) -> dict[str, str]:
    """The filters through which git would read files, by name."""
    parts = iter(git.names("check-attr", "-z", "--stdin", "filter", given=[entry.name for entry in entries]))
    return {name: value for name, _, value in zip(parts, parts, parts, strict=True) if value != "unspecified"}


def _add(git: Git, chosen: list[Entry], left_out: dict[str, str]) -> None:
    """Put files as they are now into the index; those that git does not take go from `chosen` to `left_out`."""
    filters = _filter(git, chosen)
    removed, plain = [], []
    for entry in list(chosen):
        path = git.top / entry.name
        if path.is_dir() and not path.is_symlink():
            removed.append(entry.name)
        elif filters.get(entry.name) == "lfs" and path.is_file():  # its filter would write into the repository
            try:
                blob = git.lines("hash-object", "-w", "--no-filters", "--", entry.name)[0]
                git("update-index", "--add", "--replace", "--cacheinfo", f"100644,{blob},{entry.name}")
            except GitError as error:
                chosen.remove(entry)
                left_out[entry.name] = str(error)
        else:
            plain.append(entry)
    git.names("update-index", "--force-remove", "-z", "--stdin", given=removed)
    update = ("update-index", "--add", "--remove", "--replace", "-z", "--stdin")
    try:
        git.names(*update, given=[entry.name for entry in plain])
    except GitError:  # one of them; which one?
        for entry in plain:
            try:
                git.names(*update, given=[entry.name])
            except GitError as error:
                chosen.remove(entry)
                left_out[entry.name] = str(error)


def archive(root: Path, folders: Iterable[Path]) -> tuple[bytes, dict[str, str]]:
    """The files at the top of `root` and the sources in `folders`, as a .tar.gz, where git does not know them.

    Returns:
        The archive, and what it leaves out with the reason.
    """
    found = [path for path in root.glob("*") if path.suffix in SOURCES]
    found += [path for folder in folders for path in folder.rglob("*") if path.suffix in SOURCES]
    left_out, total, data = {}, 0, io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as file:
        for path in sorted(found):
            if path.name == LOCAL or not path.is_file():
                continue
            name, size = path.relative_to(root).as_posix(), path.stat().st_size
            why = unfit(path)
            if size > MAX_FILE or total + size > MAX_TOTAL:
                why = f"{size / 1e6:.1f} MB"
            if why:
                left_out[name] = why
                continue
            file.add(path, name)
            total += size
    return data.getvalue(), left_out
