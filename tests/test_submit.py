"""scripts/submit.py pins the code of a moment and hands a job to its queue; stand-ins for the queues' programs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import plain
import pytest
from conftest import INHERITED, TESTS, TINY

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.provenance.provenance import code_hash

SCRIPTS = PROJECT_ROOT / "scripts"
pytestmark = pytest.mark.skipif(
    not ((SCRIPTS / "submit.py").exists() and (SCRIPTS / "jobs").exists()), reason="submit.py has been deleted"
)
STAND_IN = '#!/bin/sh\nprintf "%s\\n" "$(pwd)" "$(which python)" "$@" > "$SAID"\necho Submitted batch job 7\n'


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with what a job needs, changes that are not committed, and programs that stand in for queues."""
    place = tmp_path / "clone"
    ignored = shutil.ignore_patterns("__pycache__", "_output", "_data", "local.yaml")
    for name in ("src", "configs", "scripts"):
        shutil.copytree(PROJECT_ROOT / name, place / name, ignore=ignored)
    base = place / "configs/base.yaml"
    base.write_text(plain.plain(base.read_text(), place / "configs"))
    (place / ".gitignore").write_text("__pycache__/\n_output/\n_data/\n.env\nconfigs/local.yaml\n")
    git(place, "init", "-q")
    git(place, "add", "-A")
    git(place, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")
    (place / "new.py").write_text("# new\n")
    file = place / "configs/mode/prod.yaml"
    file.write_text(f"{file.read_text()}# changed\n")
    (place / "configs/local.yaml").write_text("paths:\n  data: data_here\n")
    (place / ".env").write_text("A=1\n")
    for name in ("sbatch", "condor_submit"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "only_git").mkdir()
    (tmp_path / "only_git/git").symlink_to(str(shutil.which("git")))
    return place


def git(place: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=place, check=True, capture_output=True, text=True).stdout


def call(clone: Path, script: str, *words: str, code: int = 0, with_queue: bool = True, errors: bool = False) -> str:
    """The output of a script of the clone, or what it says of a wrong use and, with `errors`, of what it lacks."""
    path = f"{clone.parent}/only_git"
    if with_queue:
        path = f"{clone.parent}/bin{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "SAID": str(clone.parent / "said"), "PYTHONPATH": str(clone / "src")}
    program = [sys.executable, str(clone / "scripts" / script), *words]
    done = subprocess.run(program, cwd=clone, env=env, capture_output=True, text=True)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stdout if code == 0 and not errors else done.stderr


def said(clone: Path) -> list[str]:
    """The queue's program: folder, python, words."""
    return (clone.parent / "said").read_text().splitlines()


def test_the_code_of_the_moment_is_pinned_and_submitted(clone: Path) -> None:
    slurm = ("--with", "scripts/jobs/slurm.sh", "first", "mode=prod", "run.description=a b")
    assert call(clone, "submit.py", *slurm).startswith("Submitted batch job 7: the run first, with the code in ")
    job = clone / "_output/jobs/first"
    paths = [f"paths.output_root={clone}/_output", f"paths.data={clone}/data_here"]
    words = ["--job-name=first", f"--output={job}/%j.txt", f"{job}/code/scripts/jobs/slurm.sh", "mode=prod"]
    assert said(clone) == [
        f"{job}/code",
        f"{Path(sys.executable).parent}/python",
        *words,
        "run.description=a b",
        *paths,
    ]
    assert (job / "code/new.py").read_text() == "# new\n"
    assert (job / "code/configs/mode/prod.yaml").read_text().endswith("# changed\n")
    assert (job / "code/configs/local.yaml").exists() and (job / "code/.env").read_text() == "A=1\n"
    assert git(job / "code", "rev-parse", "HEAD") == git(clone, "rev-parse", "HEAD")
    assert git(job / "code", "status", "--porcelain") == git(clone, "status", "--porcelain")  # the same changes

    call(clone, "submit.py", *slurm)  # the same code: submitted again
    (clone / "new.py").write_text("# newer\n")
    assert f"first: {job} has other code" in call(clone, "submit.py", *slurm, code=2)
    assert (job / "code/new.py").read_text() == "# new\n"
    condor = ("--with", "scripts/jobs/condor.sub", "second", "run.description=it's b")
    call(clone, "submit.py", *condor, "--", "-append", "request_gpus = 1")
    line = (clone / "_output/jobs/second/jobs.txt").read_text()
    assert line.startswith("second, 'run.description=it''s b' 'paths.output_root=")
    job = clone / "_output/jobs/second"
    options = [f"jobs={job}/jobs.txt", f"folder={job}", "-append", "request_gpus = 1"]
    assert said(clone) == [f"{job}/code", *said(clone)[1:2], *options, f"{job}/code/scripts/jobs/condor.sub"]


def test_results_and_worktrees_are_where_the_user_has_them(clone: Path) -> None:
    """Fails where a relative path of the command line starts at the pinned code, or git forgets other worktrees."""
    git(clone, "worktree", "add", "--detach", str(clone.parent / "on_a_disk"))
    shutil.rmtree(clone.parent / "on_a_disk")  # not mounted
    library = git(clone, "rev-parse", "HEAD").strip()
    git(clone, "update-index", "--add", "--cacheinfo", f"160000,{library},libs/one")  # a submodule
    git(clone, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "submodule")
    places = ["paths.output=_output/here", "paths.output_root=_output/runs"]
    places += ["paths.scratch=${oc.env:FOLDER_OF_THE_NODE}"]  # of the machine that will train
    first = ["--with", "scripts/jobs/slurm.sh", "first", "mode=prod", *places]
    assert "lacks libs/one (a git submodule" in call(clone, "submit.py", *first, "--", "--gpus=1", errors=True)
    folders = {"output_root": "_output/runs", "data": "data_here", "output": "_output/here"}
    paths = [f"paths.{key}={clone}/{folder}" for key, folder in folders.items()]
    assert said(clone)[-5:] == ["mode=prod", places[-1], *paths]
    code = clone / "_output/runs/jobs/first/code"
    assert said(clone)[-7:-5] == ["--gpus=1", f"{code}/scripts/jobs/slurm.sh"]
    shutil.rmtree(code)  # by hand: git still knows it
    call(clone, "submit.py", *first)
    assert code.exists()
    run = clone / "_output/here/first"
    run.mkdir(parents=True)
    (run / "status.json").write_text('{"status": "finished"}')
    if (SCRIPTS / "clean_jobs.py").exists():
        assert f"{code}: deleted" in call(clone, "clean_jobs.py", "--output", "_output/runs")
    assert "on_a_disk" in git(clone, "worktree", "list")


@pytest.mark.parametrize("output", ["~/results", "/somewhere/results/", "${paths.output_root}/mine"])
def test_a_site_may_have_its_own_folder_for_results(clone: Path, output: str) -> None:
    (clone / "configs/local.yaml").write_text(f"paths:\n  output: {output}\n")
    assert "the run first" in call(clone, "submit.py", "--with", "scripts/jobs/slurm.sh", "first", "mode=prod")


@pytest.mark.skipif(not (SCRIPTS / "clean_jobs.py").exists(), reason="clean_jobs.py has been deleted")
def test_the_code_of_a_run_that_waits_is_kept(clone: Path) -> None:
    """Fails where a finished dev run of the same name, or what the run was before it was submitted, counts."""
    call(clone, "submit.py", "--with", "scripts/jobs/slurm.sh", "first", "mode=prod")
    root = clone / "_output"
    for run in (root / "dev/first", root / "first"):
        assert f"kept, as {root}/first is not there" in call(clone, "clean_jobs.py")
        run.mkdir(parents=True)
        (run / "config.yaml").touch()
        (run / "status.json").write_text('{"status": "finished"}')
    os.utime(root / "first/status.json", (1, 1))  # before the submit
    assert f"first was submitted again after {root}/first had finished" in call(clone, "clean_jobs.py")
    os.utime(root / "first/status.json")
    assert "/jobs/first/code: deleted" in call(clone, "clean_jobs.py")


def test_wrong_use_is_refused(clone: Path) -> None:
    def refusal(*words: str, with_queue: bool = True) -> str:
        lines = call(clone, "submit.py", *words, code=2, with_queue=with_queue).splitlines()
        assert len(lines) == 2, lines
        return lines[0]

    slurm = ("--with", "scripts/jobs/slurm.sh")
    assert "nowhere.sh: no such file" in refusal("--with", "nowhere.sh", "first")
    assert "'a/b' is not a name for a run" in refusal(*slurm, "a/b")
    assert "'mode=prod' is not a name for a run" in refusal(*slurm, "mode=prod")
    assert "slurm_points.sh: it is for the points of a sweep" in refusal("--with", "scripts/jobs/slurm_points.sh", "a")
    assert "datta=noisy: no such key" in call(clone, "submit.py", *slurm, "first", "datta=noisy", code=2)
    assert "resume=a: the job file adds job=first" in refusal(*slurm, "first", "resume=a")
    assert "sbatch is not on this machine" in refusal(*slurm, "first", with_queue=False)
    local = clone / "configs/local.yaml"
    local.write_text("paths:\n  output: results\n")
    assert "paths.output=results of configs/local.yaml or base.yaml is relative" in refusal(*slurm, "first")
    local.unlink()
    base = clone / "configs/base.yaml"
    text = base.read_text()
    base.write_text(text.replace("  output: ${paths.output_root}", "  output: results"))
    assert "local.yaml or base.yaml is relative" in refusal(*slurm, "first")
    base.write_text(text)
    local.write_text("paths: [1, 2\n")
    assert "local.yaml:2:1: " in call(clone, "submit.py", *slurm, "first", code=2)
    if (SCRIPTS / "runs.py").exists():
        assert "local.yaml:2:1: " in call(clone, "runs.py", code=2).splitlines()[0]
    local.unlink()
    shutil.rmtree(clone / ".git")
    assert "not a git repository" in refusal(*slurm, "first")
    assert not (clone / "_output").exists()


def test_what_the_queue_refuses_leaves_nothing_behind(clone: Path) -> None:
    """Fails where the worktree of a job that was never submitted stays, or that of one that was submitted goes."""
    slurm = ("--with", "scripts/jobs/slurm.sh", "first", "mode=prod")
    works = (clone.parent / "bin/sbatch").read_text()
    refuses = "#!/bin/sh\necho no such partition >&2\nexit 1\n"
    (clone.parent / "bin/sbatch").write_text(refuses)
    assert "no such partition" in call(clone, "submit.py", *slurm, code=2)
    assert not (clone / "_output/jobs/first").exists() and "jobs/first" not in git(clone, "worktree", "list")
    (clone.parent / "bin/sbatch").write_text(works)
    call(clone, "submit.py", *slurm)
    (clone.parent / "bin/sbatch").write_text(refuses)
    job = clone / "_output/jobs/first"
    before = (job / "submitted.txt").read_text(), (job / "submitted.txt").stat().st_mtime_ns
    call(clone, "submit.py", *slurm, "run.seed=2", code=2)
    assert (job / "code").exists()
    assert ((job / "submitted.txt").read_text(), (job / "submitted.txt").stat().st_mtime_ns) == before


@pytest.mark.skipif(not (SCRIPTS / "clean_jobs.py").exists(), reason="clean_jobs.py has been deleted")
def test_a_pinned_run_uses_its_own_code_and_is_cleaned_up(clone: Path) -> None:
    """Its run says where the code came from, as one that was started in the checkout; then the code may go."""
    call(clone, "submit.py", "--with", "scripts/jobs/slurm.sh", "first", "mode=prod")
    root = clone / "_output"
    code = root / "jobs/first/code"
    assert f"kept, as {root}/first is not there" in call(clone, "clean_jobs.py")
    words = [*TINY, "run.budget=2", "job=first", f"paths.output_root={root}"]
    program = [sys.executable, str(next(code.glob("src/*/train.py"))), *words]
    env = {name: text for name, text in os.environ.items() if name != plain.FOLDER}
    env["PYTHONPATH"] = os.pathsep.join([str(TESTS), *INHERITED])
    subprocess.run(program, cwd=code, env=env, check=True, capture_output=True)
    assert (root / "first/changes.patch").read_text() == (root / "jobs/first/changes.patch").read_text()
    record = json.loads((root / "first/provenance.json").read_text())
    assert record["commit"] == git(clone, "rev-parse", "HEAD").strip()
    assert record["code"] == code_hash(next(clone.glob("src/*/train.py")).parent)
    (code / "run.py").write_text("# of the owner")
    git(code, "add", "run.py")
    git(code, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "of the owner")
    commit = git(code, "rev-parse", "HEAD").strip()
    assert f"kept, as it has another commit: {commit}" in call(clone, "clean_jobs.py")
    git(code, "reset", "-q", "HEAD~")
    (code / "run.py").unlink()
    (code / "by_hand.txt").write_text("of the owner")
    assert "kept, as it was changed since" in call(clone, "clean_jobs.py")
    (code / "by_hand.txt").unlink()
    (code / "_output").mkdir()
    (code / "_output/result.txt").write_text("of the owner")
    assert "kept, as it was changed since: _output/" in call(clone, "clean_jobs.py")
    shutil.rmtree(code / "_output")
    assert f"{code}: deleted" in call(clone, "clean_jobs.py")
    assert not code.exists() and "jobs/first" not in git(clone, "worktree", "list")
