"""run.provenance: code that is not committed is allowed, warned of or refused, or nothing is kept of the run."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clones import call, environment, make_clone, train_file
from conftest import BASE, wait_until

from scaffolding.core.provenance.patch import files_of

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
EPHEMERAL = "kept:     nothing (run.provenance=ephemeral)"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which all is committed."""
    return make_clone(tmp_path_factory.mktemp("clean") / "clone")


@pytest.fixture(scope="module")
def dirty(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an edited file and a new one."""
    place = Path(shutil.copytree(clean, tmp_path_factory.mktemp("dirty") / "clone", symlinks=True))
    train_file(place).write_text(f"{train_file(place).read_text()}# edited\n")
    (place / "new file.py").write_text("# new\n")
    return place


def run(clone: Path, *words: str, root: Path, code: int = 0, **env: str) -> "subprocess.CompletedProcess[str]":
    """Train in a clone, with its runs and temporary files below `root`."""
    (root / "temporary").mkdir(exist_ok=True)
    env = {"TMPDIR": str(root / "temporary"), **env}
    return call(clone, train_file(clone), *BASE, f"paths.output_root={root / 'runs'}", *words, code=code, env=env)


def left(root: Path) -> list[Path]:
    """The files and folders of runs, and temporary ones."""
    found = [path for folder in ("runs", "temporary") for path in (root / folder).resolve().rglob("*")]
    return [path for path in found if not re.search("torchinductor|pymp-", str(path))]


def test_what_is_not_committed_is_refused_before_data_are_read(dirty: Path, tmp_path: Path) -> None:
    places = tmp_path / "places"
    words = ("data=placed", "run.provenance=refuse")
    lines = run(dirty, *words, root=tmp_path, code=2, PLACES=str(places)).stderr.splitlines()
    edited = train_file(dirty).relative_to(dirty)
    assert lines[-2:] == [
        f"error: run.provenance=refuse: not committed: new file.py, {edited}",
        "commit the code, or give run.provenance=allow; -y runs without keeping anything",
    ]
    assert not places.exists() and left(tmp_path) == []
    run(dirty, "data=placed", root=tmp_path, PLACES=str(places))
    assert places.exists()  # the data that would have been read


@pytest.mark.full
def test_a_commit_is_accepted_and_a_warning_names_the_rest(clean: Path, dirty: Path, tmp_path: Path) -> None:
    run(clean, "run.provenance=refuse", "run.name=clean", root=tmp_path)
    assert (tmp_path / "runs/clean/checkpoints/best.pt").exists()
    done = run(dirty, "run.provenance=warn", "run.name=warned", root=tmp_path)
    assert "WARNING not committed: new file.py, src/" in done.stderr
    assert "not committed: new file.py" in (tmp_path / "runs/warned/log.txt").read_text()


def test_where_git_does_not_know_the_code_it_is_refused(clean: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(clean, bare, ignore=shutil.ignore_patterns(".git"))
    limits = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    done = run(bare, "run.provenance=refuse", root=tmp_path, code=2, **limits)
    assert "not a git repository" in done.stderr and "no commit says which code this is" in done.stderr
    assert left(tmp_path) == []


def test_nothing_is_kept_of_an_ephemeral_run(dirty: Path, tmp_path: Path) -> None:
    """Its numbers are those of a run that is kept; refuse with -y is such a run."""
    more = ("plots=[curves]",) if (dirty / "configs/plots/curves.yaml").exists() else ()
    done = run(dirty, "run.provenance=refuse", "-y", *more, root=tmp_path)
    assert left(tmp_path) == []
    lines = done.stdout.splitlines()
    assert lines[-1] == EPHEMERAL and not [line for line in lines if line.startswith(("run:", "resume:", "load:"))]
    kept = run(dirty, root=tmp_path).stdout.splitlines()
    assert [line.partition(";")[0] for line in lines[:1]] == [line.partition(";")[0] for line in kept[:1]]
    assert lines[0].startswith("result:") and EPHEMERAL not in kept


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(clean: Path, tmp_path: Path, number: signal.Signals) -> None:
    struck = {"KILL_AT": "5", "KILL_WITH": number.name}
    code = 128 + number if number == signal.SIGTERM else -number
    run(clean, "run.provenance=ephemeral", root=tmp_path, code=code, **struck)
    wait_until(lambda: left(tmp_path) == [])


@pytest.mark.full
def test_an_ephemeral_run_is_rehearsed_as_any_other(clean: Path, tmp_path: Path) -> None:
    words = ("mode=dev", "run.provenance=ephemeral", "run.budget=8", "run.save_every=2")
    done = run(clean, *words, root=tmp_path)
    assert "tensors identical" in done.stdout and EPHEMERAL in done.stdout and left(tmp_path) == []


def test_what_another_command_carries_on_must_be_kept(clean: Path, tmp_path: Path) -> None:
    run(clean, "run.name=first", root=tmp_path)
    before = left(tmp_path)
    for words in (["job=second"], ["--multirun", "run.seed=1,2"]):
        done = run(clean, "run.provenance=ephemeral", *words, root=tmp_path, code=2)
        assert f"run.provenance=ephemeral: not together with {words[0]}" in done.stderr
    words = ["resume=first", "run.provenance=ephemeral", f"paths.output_root={tmp_path / 'runs'}"]
    done = call(clean, train_file(clean), *words, "trust=tiny", code=2)
    assert "run.provenance=ephemeral: not together with resume=first" in done.stderr
    if (clean / "scripts/sweep.py").exists():
        words = ["lr", *BASE[2:], "run.provenance=ephemeral", "run.seed=1,2", f"paths.output_root={tmp_path / 'runs'}"]
        done = call(clean, clean / "scripts/sweep.py", "--config-dir", BASE[1], *words, code=2)
        assert "nothing would be kept of what is started here" in done.stderr
    assert left(tmp_path) == before


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("", 2)])
def test_a_terminal_is_asked(dirty: Path, tmp_path: Path, answer: str, code: int) -> None:
    ours, theirs = pty.openpty()
    words = [*BASE, f"paths.output_root={tmp_path / 'runs'}", "run.provenance=refuse"]
    program: Any = [sys.executable, str(train_file(dirty)), *words]
    with subprocess.Popen(
        program, cwd=dirty, env=environment(dirty), stdin=theirs, stdout=-1, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1000)
        os.write(ours, f"{answer}\n".encode())
        with pytest.raises(OSError, match="Input/output"):  # at its end
            while found := os.read(ours, 1000):
                said += found
        out = process.communicate()[0].decode()
    assert process.returncode == code, (said, out)
    assert b"not committed: new file.py" in said and b"run without keeping anything? [y/N]" in said
    assert (EPHEMERAL in out) == (code == 0) and left(tmp_path) == []


def test_the_files_of_a_patch_are_those_of_its_heads() -> None:
    text = b"diff --git a/x.py b/x.py\n@@ -1 +1 @@\n-diff --git a/no b/no\n+x\n"
    text += b'diff --git "a/caf\\303\\251.py" "b/caf\\303\\251.py"\n'
    assert files_of(text) == ["x.py", "caf\\303\\251.py"] and files_of(b"") == []
