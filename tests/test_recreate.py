"""scripts/recreate.py does a run again with the code that it ran, which is neither committed nor there any more."""

import shutil
from pathlib import Path

import pytest
from clones import call, commit, git, make_clone, train_file
from conftest import BASE, assert_same_run, latest

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.checks.rehearsal import first_difference

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="there is no git"),
    pytest.mark.skipif(not (PROJECT_ROOT / "scripts/recreate.py").exists(), reason="recreate.py has been deleted"),
]
STEP = "exp.scaler.scale(loss).backward()"
PENALTY = "loss = loss + 0.1 * sum(part.square().sum() for part in exp.trained[name].values())\n            "


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path / "clone")


def edit(clone: Path) -> str:
    """Change the loss in train.py; returns the text before."""
    file = train_file(clone)
    text = file.read_text()
    assert text.count(STEP) == 1
    file.write_text(text.replace(STEP, PENALTY + STEP))
    return text


def test_a_run_of_code_that_is_gone_comes_out_the_same(clone: Path) -> None:
    """Fails where what was not committed is lost, or where the code of now is run in its place."""
    train, script, runs = train_file(clone), clone / "scripts/recreate.py", clone / "_output"
    before = edit(clone)
    call(clone, train, *BASE, "run.name=first")
    train.write_text(before)
    assert git(clone, "status", "--porcelain") == ""
    call(clone, train, *BASE, "run.name=other")
    assert first_difference(latest(runs / "first")["model"], latest(runs / "other")["model"]) is not None

    (clone / "more.py").write_text("# later\n")
    commit(clone)
    done = call(clone, script, "first", "--run", "--", "run.name=again", "trust=tiny")
    assert "rows identical to first" in done.stdout and "differs:" not in done.stdout
    assert_same_run(runs / "first", runs / "again")
    assert not (clone.parent / "clone_first").exists() and "clone_first" not in git(clone, "worktree", "list")


@pytest.mark.full
def test_the_command_is_printed_and_what_is_lacking_is_named(clone: Path, tmp_path: Path) -> None:
    train, script, runs = train_file(clone), clone / "scripts/recreate.py", clone / "_output"
    text = edit(clone)
    (clone / "large.bin").write_bytes(bytes(6_000_000))
    call(clone, train, *BASE, "run.name=first")
    train.write_text(text)
    record = runs / "first/provenance.json"
    record.write_text(record.read_text().replace('"PyYAML": "', '"PyYAML": "0.'))
    config = runs / "first/config.yaml"
    config.write_text(config.read_text() + "more:\n  password: '***'\n")
    place = tmp_path / "there"
    lines = call(clone, script, "first", "--to", str(place)).stdout.splitlines()
    told = [line.partition(": ")[2] for line in lines if line.startswith("differs: ")]
    assert (
        told[0].startswith("file: large.bin was not kept") and "packages: PyYAML " in told[1] and "(was 0." in told[1]
    )
    assert told[2] == "secret: more.password was not kept; give it after --, as more.password=..." and len(told) == 3
    assert PENALTY in train_file(place).read_text() and lines[-2].startswith(f"command: cd {clone} && ")
    assert f"{train_file(place)} rerun=first paths.output_root={runs} paths.data={clone}/_data" in lines[-2]
    assert f"{place} exists" in call(clone, script, "first", "--to", str(place), code=2).stderr
    git(clone, *lines[-1].partition(f"-C {clone} ")[2].split())
    assert not place.exists()


@pytest.mark.full
def test_without_git_the_archive_is_unpacked(clone: Path) -> None:
    train, script, runs = train_file(clone), clone / "scripts/recreate.py", clone / "_output"
    shutil.rmtree(clone / ".git")
    before = edit(clone)
    call(clone, train, *BASE, "run.name=first")
    assert (runs / "first/sources.tar.gz").exists()
    train.write_text(before)
    done = call(clone, script, "first", "--run", "--", "run.name=again", "trust=tiny")
    assert "rows identical to first" in done.stdout
    assert_same_run(runs / "first", runs / "again")
    assert not (clone.parent / "clone_first").exists()


@pytest.mark.full
def test_what_cannot_be_recreated_is_refused_and_leaves_nothing(clone: Path) -> None:
    train, script, runs = train_file(clone), clone / "scripts/recreate.py", clone / "_output"
    call(clone, train, *BASE, "run.name=first")
    record = runs / "first/provenance.json"
    text = record.read_text()
    known = git(clone, "rev-parse", "HEAD").strip()
    record.write_text(text.replace(known, "0" * 40))
    assert f"ran commit {'0' * 10}, which is not in {clone}" in call(clone, script, "first", code=2).stderr
    record.write_text(text)
    (runs / "first/changes.patch").write_text("diff --git a/x b/x\nnonsense\n")
    assert "git apply" in call(clone, script, "first", code=2).stderr
    assert "clone_first" not in git(clone, "worktree", "list") and not (clone.parent / "clone_first").exists()
    record.write_text('{"created": 1, "parent": null}')
    assert "ended before its first step" in call(clone, script, "first", code=2).stderr
