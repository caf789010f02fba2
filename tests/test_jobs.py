"""The job files as far as no queue is needed; test_slurm.py has a real one."""

import os
import re
import shlex
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from scaffolding.config import PROJECT_ROOT

JOBS, SWEEP = PROJECT_ROOT / "scripts/jobs", PROJECT_ROOT / "scripts/sweep.py"
SAYS = '#!/bin/sh\nprintf "%s\\n" "$@" > "$SAID"\necho submitted\n'


def test_the_package_knows_no_queue() -> None:
    """Fails where a run depends on the queue that started it: what a queue needs is said in its job file."""
    for file in (PROJECT_ROOT / "src").rglob("*.py"):
        assert not re.search(r"\b(SLURM|CONDOR|RAY)", file.read_text()), file


def call(folder: Path, *words: object, code: int = 0, **variables: str) -> list[str]:
    """Run a command in the project's folder; the words that the stand-ins for a queue's programs got, or its errors."""
    (folder / "bin").mkdir(exist_ok=True)
    for name in ("srun", "sbatch", "condor_submit", "scontrol"):
        (folder / "bin" / name).write_text(SAYS if name != "scontrol" else "#!/bin/sh\necho here\n")
        (folder / "bin" / name).chmod(0o755)
    path = f"{folder}/bin{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "SAID": str(folder / "said")} | variables
    command = list(map(str, words))
    done = subprocess.run(command, env=env, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done.stderr.splitlines() if code else (folder / "said").read_text().splitlines()


@pytest.mark.skipif(not (JOBS / "slurm.sh").exists(), reason="slurm.sh has been deleted")
def test_a_job_is_not_restarted_for_ever(tmp_path: Path) -> None:
    """Fails where a job whose time is too short for a step is queued again and again."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "first", "SLURM_NTASKS": "1"}
    said = call(tmp_path, "bash", JOBS / "slurm.sh", "mode=prod", "a=b c", SLURM_RESTART_COUNT="100", **job)
    assert said[-3:] == ["mode=prod", "a=b c", "job=first"]
    said = call(tmp_path, "bash", JOBS / "slurm.sh", "mode=prod", code=1, SLURM_RESTART_COUNT="101", **job)
    assert said == ["restarted 101 times: not again"]


@pytest.mark.skipif(not (JOBS / "slurm.sh").exists(), reason="slurm.sh has been deleted")
def test_a_run_gets_the_processors_of_its_job(tmp_path: Path) -> None:
    """Fails where srun, which does not inherit the number from 22.05 on, gives each process a single one."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "first", "SLURM_NTASKS": "1"}
    said = call(tmp_path, "bash", JOBS / "slurm.sh", SLURM_CPUS_PER_TASK="4", **job)
    assert said[0] == "--cpus-per-task=4"


@pytest.mark.skipif(not (JOBS / "slurm.sh").exists(), reason="slurm.sh has been deleted")
@pytest.mark.parametrize("code, waits", [(143, True), (138, True), (134, True), (137, False), (139, False), (1, False)])
def test_only_a_job_that_was_stopped_stays_until_slurm_ends_it(tmp_path: Path, code: int, waits: bool) -> None:
    """Fails where a crash keeps what the job has of the cluster, or a preempted job ends before Slurm queues it."""
    programs = {
        "scontrol": "echo here",
        "srun": f"exit {code}",
        "sleep": f"touch {tmp_path}/waited; kill -KILL $PPID",  # instead of Slurm
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "first", "SLURM_NTASKS": "1"}
    env = os.environ | job | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", JOBS / "slurm.sh"], env=env, cwd=PROJECT_ROOT, capture_output=True)
    assert (tmp_path / "waited").exists() == waits
    assert done.returncode == (-signal.SIGKILL if waits else code)


@pytest.mark.skipif(not (JOBS / "condor.sub").exists(), reason="condor.sub has been deleted")
def test_a_condor_job_starts_in_the_folder_of_condor_submit() -> None:
    """Fails where it starts in the folder of the user's shell, which need not be that of the code."""
    text = (JOBS / "condor.sub").read_text()
    assert "$ENV(PWD)" not in text and not re.search(r"^initialdir", text, re.MULTILINE)


@pytest.mark.skipif(not (JOBS / "condor.sub").exists(), reason="condor.sub has been deleted")
@pytest.mark.parametrize("folder", [None, "/else where"])
def test_condor_reads_a_job_for_each_line(tmp_path: Path, folder: str | None) -> None:
    """As HTCondor's own library reads the file; what condor_submit's command line gives is set first."""
    htcondor = pytest.importorskip("htcondor2")
    jobs = tmp_path / "jobs.txt"
    jobs.write_text("first, 'data=mnist' 'run.description=it''s a, b'\nsecond, mode=prod\n")
    submit = htcondor.Submit((JOBS / "condor.sub").read_text())
    submit["jobs"] = str(jobs)
    if folder is not None:
        submit["folder"] = folder
    items = list(submit.itemdata())
    words = ["'data=mnist' 'run.description=it''s a, b'", "mode=prod"]
    assert items == [{"run": run, "words": each} for run, each in zip(("first", "second"), words, strict=True)]
    for name, value in items[0].items():
        submit[name] = value
    assert submit.expand("arguments").endswith(f' run {words[0]} job=first"')
    assert submit.expand("log") == f"{folder or '_output'}/first.condor.txt"
    for key in ("executable", "kill_sig", "job_max_vacate_time", "periodic_remove", "request_cpus", "request_memory"):
        assert submit.expand(key)


@pytest.mark.skipif(not (JOBS / "slurm_points.sh").exists(), reason="slurm_points.sh has been deleted")
def test_a_point_gets_its_own_words_and_those_of_the_place(tmp_path: Path) -> None:
    points = [["run.seed=1"], ["run.tags=['a b','$x']", "run.seed=2"]]
    (tmp_path / "points.txt").write_text("".join(f"{shlex.join(point)}\n" for point in points))
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "lr", "SLURM_ARRAY_TASK_ID": "1"}
    said = call(tmp_path, "bash", JOBS / "slurm_points.sh", tmp_path, "loader.num_workers=2", **job)
    assert said[-5:] == [*points[1], "loader.num_workers=2", f"paths.output={tmp_path}", "job=job1"]


@pytest.mark.skipif(not (SWEEP.exists() and JOBS.exists()), reason="sweep.py has been deleted")
@pytest.mark.parametrize("name", ["slurm_points.sh", "condor.sub"])
def test_a_sweep_hands_its_points_to_a_queue(tmp_path: Path, name: str) -> None:
    words = ["run.seed=1,2", "run.description=it's", "loader.num_workers=2", f"paths.output_root={tmp_path}"]
    if name != "condor.sub":
        words += ["--jobs", "3"]
    said = call(tmp_path, sys.executable, SWEEP, "lr", "--with", JOBS / name, *words)
    folder = tmp_path / "exp_lr"
    place = ["loader.num_workers=2", f"paths.output_root={tmp_path}"]
    if name == "condor.sub":
        assert said == [f"jobs={folder}/todo.txt", f"folder={folder}", str(JOBS / name)]
        text = (JOBS / name).read_text()  # what it sets itself would win over the command line
        assert "$(jobs:" in text and "$(folder:" in text and not re.search(r"^(jobs|folder)\s*=", text, re.MULTILINE)
        lines = (folder / "todo.txt").read_text().splitlines()
        assert [line.partition(", ")[0] for line in lines] == ["job0", "job1"]
        words = [f"'{word}'" for word in (*place, f"paths.output={folder}")]
        assert lines[1].endswith(" ".join(["'run.seed=2'", "'run.description=\"\"it''s\"\"'", *words]))
        return
    queue = ["--array=0,1%3", "--job-name=exp_lr", f"--output={folder}/job%a.txt"]
    assert said == [*queue, str(JOBS / name), str(folder), *place]


@pytest.mark.skipif(not (JOBS / "ray.py").exists(), reason="ray.py has been deleted")
@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_ray_that_is_missing_is_told_with_its_group() -> None:
    done = subprocess.run([sys.executable, str(JOBS / "ray.py"), "2"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr == "error: ray is not installed\nonce: pdm install -G cluster\n"
