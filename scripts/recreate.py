"""Do a run again with the code that it ran, changes that were not committed included, whatever the code is now.

python scripts/recreate.py RUN                     # makes a git worktree of that code, and prints the command
python scripts/recreate.py RUN --run               # runs it, too: compares row by row, and deletes the worktree
python scripts/recreate.py RUN --to DIR            # where the worktree goes (default: next to the project)
python scripts/recreate.py RUN --run -- run.name=again trust=my_library     # more words, which rerun= takes

RUN is a name as runs.py shows it, any part of it that no other run has, latest, or a path. What cannot be brought back
is listed: packages and data that differ, files that the run did not keep, secrets. This runs what RUN holds: recreate
runs of people that you trust.
"""

import argparse
import contextlib
import importlib.metadata
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaffolding.core.errors import UserError, exit_code
from scaffolding.core.find import absolute, open_run, read_output_root, shortest_name

ROOT = Path(__file__).resolve().parents[1]
COMMIT = re.compile(r"[0-9a-f]{7,64}")
NUM_NAMED = 8  # packages and files in a line


def make_code(run: Path, record: dict[str, Any], place: Path) -> Path:
    """Put the code that a run began with to `place`; returns the folder of the project there.

    Raises:
        UserError: the run did not keep its code, or git does not know its commit any more.
    """
    from scaffolding.core.folder.reading import read_bytes
    from scaffolding.core.provenance.patch import MAX_PATCH
    from scaffolding.core.provenance.worktree import add_worktree, git, project_in, share_settings, unpack

    packed, patch, commit = run / "sources.tar.gz", run / "changes.patch", str(record.get("commit"))
    if packed.exists():  # git did not know the code
        unpack(packed, place)
        share_settings(ROOT, place)
        return place
    content = read_bytes(patch, MAX_PATCH) if patch.exists() else b""
    if record.get("commit") is None and content:  # git had no commit yet: the patch holds all files
        place.mkdir(parents=True)
        git(place, "init", "--quiet")
        git(place, "apply", "--whitespace=nowarn", "-", given=content)
        share_settings(ROOT, project_in(ROOT, place))
        return project_in(ROOT, place)
    if COMMIT.fullmatch(commit) is None:
        raise UserError(f"{run.name}: no commit is known of the code that it ran, and {packed} is not there")
    try:
        git(ROOT, "cat-file", "-e", f"{commit}^{{commit}}")
    except UserError as error:
        raise UserError(f"{run.name} ran commit {commit[:10]}, which is not in {ROOT}\nfetch it with git") from error
    return add_worktree(ROOT, place, commit, content)


@contextlib.contextmanager
def removed_if_it_fails(place: Path) -> Iterator[None]:
    """Leave nothing of what was begun at `place` where it cannot be finished."""
    try:
        yield
    except BaseException:
        remove(place)
        raise


def remove(place: Path) -> None:
    """Delete a worktree, or a folder that git does not know."""
    from scaffolding.core.provenance.worktree import remove_worktree

    with contextlib.suppress(UserError):
        remove_worktree(ROOT, place)
    shutil.rmtree(place, ignore_errors=True)


def lacks(run: Path, record: dict[str, Any], project: Path, words: list[str]) -> list[str]:
    """What is not as it was when the run began, in lines."""
    from scaffolding.core.folder.reading import read_yaml
    from scaffolding.core.provenance.data import changed_files, recorded
    from scaffolding.core.provenance.provenance import code_hash
    from scaffolding.core.secrets import is_hidden
    from scaffolding.core.tree import leaves

    lines = [f"file: {name} was not kept ({why})" for name, why in dict(record.get("left_out") or {}).items()]
    (sources,) = (path.parent for path in project.glob("src/*/train.py"))
    if code_hash(sources) != record.get("code"):
        lines.append(f"code: {sources} is not quite what {run.name} ran, and rerun= will refuse it")
    others = {entry.get("code") for entry in record.get("resumed", ())} - {record.get("code")}
    if others:
        lines.append("code: the run was resumed with other code; this is what it began with")
    if record.get("python") != platform.python_version():
        lines.append(f"python: {platform.python_version()} is here, {record.get('python')} was there")
    installed = {found.metadata["Name"]: found.version for found in importlib.metadata.distributions()}
    packages = [
        f"{name} {installed.get(name, 'missing')} (was {version})"
        for name, version in dict(record.get("packages") or {}).items()
        if installed.get(name) != version
    ]
    if packages:
        more = f" and {len(packages) - NUM_NAMED} more" if len(packages) > NUM_NAMED else ""
        lines.append(f"packages: {', '.join(packages[:NUM_NAMED])}{more}")
    config = read_yaml(run / "config.yaml")
    given = {word.partition("=")[0] for word in words}
    for key, value in leaves(config):
        if is_hidden(value) and key not in given:
            lines.append(f"secret: {key} was not kept; give it after --, as {key}=...")
    lines += [f"data: {line}" for line in changed_files(recorded(run), ROOT)]
    if config.get("imports"):
        lines.append(f"imports: {config['imports']} are taken as they are now")
    return lines


def command_of(run: Path, project: Path, words: list[str]) -> list[str]:
    """What does the run again: `rerun=`, which keeps its config, with the data where they are for this checkout."""
    from scaffolding.core.folder.reading import read_yaml

    (train,) = project.glob("src/*/train.py")
    root = read_output_root(ROOT)
    try:
        name = shortest_name(run, root)
    except UserError:  # it lies elsewhere
        name, root = run.name, run.resolve().parent
    paths = read_yaml(run / "config.yaml").get("paths") or {}
    places = {"output_root": root, "data": absolute(str(paths.get("data", "_data")), ROOT)}
    given = {word.partition("=")[0] for word in words}
    own = [f"paths.{key}={path}" for key, path in places.items() if f"paths.{key}" not in given]
    return [sys.executable, str(train), f"rerun={name}", *own, *words]


def recreate(run: Path, place: Path, words: list[str], is_run: bool, is_kept: bool) -> int:
    """Make the code, say what it lacks, and print the command or run it; returns the exit code."""
    from scaffolding.core.provenance.provenance import read_record

    record = read_record(run)
    if "code" not in record:
        raise UserError(f"{run.name} does not say which code it ran, because it ended before its first step")
    if place.exists():
        raise UserError(f"{place} exists\ndelete it, or give another folder with --to DIR")
    with removed_if_it_fails(place):
        project = make_code(run, record, place)
        command = command_of(run, project, words)
        for line in lacks(run, record, project, words):
            print(f"differs: {line}")
    print(f"code:    {project}\ncommand: cd {shlex.quote(str(ROOT))} && {shlex.join(command)}", flush=True)
    code = subprocess.run(command, cwd=ROOT).returncode if is_run else 0
    if is_run and code == 0 and not is_kept:
        remove(place)
    else:
        is_worktree = (place / ".git").is_file()
        print(f"delete:  {f'git -C {ROOT} worktree remove --force' if is_worktree else 'rm -r'} {place}")
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--to", metavar="DIR", type=Path, help="where the code goes; it stays there")
    parser.add_argument("--run", dest="is_run", action="store_true", help="run it")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder of the runs (default: paths.output_root)")
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:end])
    run = open_run(args.run, args.output or read_output_root(ROOT)).resolve()
    place = (args.to or ROOT.parent / f"{ROOT.name}_{run.name}").resolve()
    return recreate(run, place, sys.argv[end + 1 :], args.is_run, args.to is not None)


if __name__ == "__main__":
    sys.exit(exit_code(main))
