"""The job files on a real Slurm, which runs on this machine alone: packages slurm-wlm and munge of Debian, as root.

With SLURM_TESTS=all in the environment, all of it is tested, in 15 minutes; else the one case that has most in it.

A machine that has them, and no Slurm at work, can tell whether a job file keeps what it promises.
"""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import plain
import pytest
import together
from conftest import BASE, ENV, assert_same_run, run_train, wait_until
from pairs import trainable
from test_submit import clone as clone  # a fixture
from zygote import TRAIN

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.folder import read_status

JOBS = PROJECT_ROOT / "scripts" / "jobs"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
SEARCHED = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
pytestmark = [
    pytest.mark.full,
    pytest.mark.xdist_group("slurm"),  # one Slurm
    pytest.mark.skipif(not (JOBS / "slurm.sh").exists(), reason="slurm.sh has been deleted"),
    pytest.mark.skipif(
        not all(shutil.which(name, path=SEARCHED) for name in PROGRAMS) or os.getuid() != 0,
        reason="needs root, and: apt-get install slurm-wlm munge",
    ),
]
only_on_demand = pytest.mark.skipif(os.environ.get("SLURM_TESTS") != "all", reason="without SLURM_TESTS=all")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmdPort={d}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/backfill
JobRequeue=1
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
MpiDefault=none
SwitchType=switch/none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 CoresPerSocket=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
SLOW = (*BASE, "data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=is slow", "run.budget=40")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
SMALL = ("--cpus-per-task=1", "--mem-per-cpu=100M")


class Cluster:
    """A Slurm on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([str(Path(sys.executable).parent), SEARCHED])
        self.env = os.environ | ENV | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}

    def ask(self, *words: object) -> str:
        """What a program of Slurm prints, called in the project's folder."""
        command = list(map(str, words))
        done = subprocess.run(command, cwd=PROJECT_ROOT, env=self.env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def submit(self, *words: object, **variables: str) -> str:
        """Submit a job, with more variables in its environment; its number."""
        command = ["sbatch", "--parsable", f"--output={self.folder}/%j.txt", *SMALL, *words]
        return self.ask("env", *(f"{name}={value}" for name, value in variables.items()), *command).strip()

    def show(self, job: str, key: str) -> str:
        """What Slurm knows of a job."""
        found = re.search(rf"\b{key}=(\S+)", self.ask("scontrol", "show", "job", job))
        assert found is not None
        return found[1]

    def release_again(self, job: str, restarts: int) -> None:
        """Wait until a job is queued again, and let it start at once: Slurm would wait for two minutes."""
        wait_until(lambda: self.show(job, "Restarts") == str(restarts) and self.show(job, "JobState") == "PENDING")
        time.sleep(2)  # the node takes a job that is started within the second of its end for the old one
        self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")
        wait_until(lambda: self.show(job, "JobState") != "PENDING")

    def wait_for(self, job: str, state: str) -> None:
        """Wait until a job has ended in a state."""
        wait_until(lambda: self.show(job, "JobState") in ENDED)
        assert self.show(job, "JobState") == state, (self.folder / f"{job}.txt").read_text()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    cluster = Cluster(folder)
    ports = {"ctld": free_port(), "d": free_port()}
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], **ports))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    files = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munged.pid",
             "log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}  # fmt: skip
    try:
        cluster.ask("munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
        cluster.ask("slurmctld")
        time.sleep(2)
        cluster.ask("slurmd")
        wait_until(lambda: "idle" in cluster.ask("sinfo", "--noheader"))
        yield cluster
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            file = folder / f"{name}.pid"
            if file.exists():
                subprocess.run(["kill", file.read_text().strip()], check=False)


def free_port() -> int:
    with socket.socket() as file:
        file.bind(("127.0.0.1", 0))
        return int(file.getsockname()[1])


@pytest.fixture(scope="module")
def slow_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went through, without Slurm."""
    root = tmp_path_factory.mktemp("slow")
    run_train(*SLOW, f"paths.output_root={root}", "run.name=whole")
    return root / "whole"


def has_trained(run: Path, steps: int = 1) -> bool:
    file = run / "facts/scalars.csv"
    return file.exists() and len(file.read_text().splitlines()) > steps


@only_on_demand
def test_a_job_that_is_put_back_carries_on(slurm: Cluster, slow_run: Path, tmp_path: Path) -> None:
    """USR1 before the time limit, `scontrol requeue`, a job of a higher partition: one run, the same as without."""
    words = (*SLOW, f"paths.output_root={tmp_path}")
    job, run = slurm.submit("--job-name=first", JOBS / "slurm.sh", *words), tmp_path / "first"
    wait_until(lambda: has_trained(run, 5))
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    slurm.release_again(job, 1)
    assert read_status(run)["status"] in ("preempted", "running")
    rows = len((run / "facts/scalars.csv").read_text().splitlines())
    wait_until(lambda: has_trained(run, rows + 5))
    slurm.ask("scontrol", "requeue", job)
    slurm.release_again(job, 2)
    rows = len((run / "facts/scalars.csv").read_text().splitlines())
    wait_until(lambda: has_trained(run, rows + 5))
    other = slurm.submit("--partition=high", "--exclusive", "--wrap=true")
    slurm.release_again(job, 3)
    slurm.wait_for(other, "COMPLETED")
    slurm.wait_for(job, "COMPLETED")
    assert_same_run(slow_run, run)
    assert read_status(run)["status"] == "finished"


def test_a_job_of_two_processes_carries_on(slurm: Cluster, tmp_path: Path) -> None:
    """Fails where the processes do not find each other, or one of them is not told to save."""
    words = (*SLOW, "run.accumulate=2", "run.budget=30")
    whole = [str(TRAIN), *words, f"paths.output_root={tmp_path}", "run.name=whole"]
    with together.ended(together.start(whole, 2, tmp_path / "whole.log", ENV)) as processes:
        assert together.wait(processes) == [0, 0]
    root = tmp_path / "slurm"
    job = slurm.submit("--job-name=first", "--ntasks=2", JOBS / "slurm.sh", *words, f"paths.output_root={root}")
    wait_until(lambda: has_trained(root / "first", 5))
    slurm.ask("scancel", "--batch", "--signal=USR1", job)
    slurm.release_again(job, 1)
    slurm.wait_for(job, "COMPLETED")
    assert_same_run(tmp_path / "whole", root / "first")
    assert read_status(root / "first")["status"] == "finished" and len(list(root.iterdir())) == 1


@only_on_demand
def test_a_chain_of_short_jobs_is_one_run(slurm: Cluster, tmp_path: Path) -> None:
    """Slurm's own time limit, again and again; fails where a link loses a step, or runs until it is killed."""
    words = (*BASE, "run.budget=1000", "run.log_every=10", "run.eval_every=50", "run.save_every=50")
    run_train(*words, "data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=no", "run.name=whole",
              f"paths.output_root={tmp_path}")  # fmt: skip
    slow = ("data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how=is slow", f"paths.output_root={tmp_path}")
    short = ("--time=1", "--signal=B:USR1@20", "--job-name=first")
    job = slurm.submit(*short, JOBS / "slurm.sh", *words, *slow)
    num_links = 1
    while slurm.show(job, "JobState") not in ENDED:
        if slurm.show(job, "JobState") == "PENDING" and slurm.show(job, "Restarts") == str(num_links):
            slurm.release_again(job, num_links)
            num_links += 1
        time.sleep(0.2)
    assert slurm.show(job, "JobState") == "COMPLETED", (slurm.folder / f"{job}.txt").read_text()
    assert num_links >= 5
    assert_same_run(tmp_path / "whole", tmp_path / "first")


@only_on_demand
def test_a_signal_while_a_job_starts_up(slurm: Cluster, slow_run: Path, tmp_path: Path) -> None:
    """Fails where the job ends before it knows what to do about it."""
    job = slurm.submit("--job-name=first", JOBS / "slurm.sh", *SLOW, f"paths.output_root={tmp_path}")
    for restarts, delay in enumerate((0.1, 0.5, 2), 1):
        wait_until(lambda: slurm.show(job, "JobState") == "RUNNING")
        time.sleep(delay)
        assert not has_trained(tmp_path / "first")
        slurm.ask("scancel", "--batch", "--signal=USR1", job)
        slurm.release_again(job, restarts)
    slurm.wait_for(job, "COMPLETED")
    assert_same_run(slow_run, tmp_path / "first")


@only_on_demand
def test_a_job_of_which_one_process_fails_ends_with_its_code(slurm: Cluster, tmp_path: Path) -> None:
    """Fails where the job waits, as one that is preempted does."""
    words = (*SLOW, "run.accumulate=2", f"paths.output_root={tmp_path}")
    fails = {"FAIL": "update 3", "KILL_RANK": "1"}
    job = slurm.submit("--job-name=first", "--ntasks=2", JOBS / "slurm.sh", *words, **fails)
    slurm.wait_for(job, "FAILED")
    assert slurm.show(job, "ExitCode") == "1:0"
    assert "rank_1: ZeroDivisionError: planted" in str(read_status(tmp_path / "first")["reason"])


@only_on_demand
@pytest.mark.skipif(not (PROJECT_ROOT / "scripts/submit.py").exists(), reason="submit.py has been deleted")
def test_a_job_runs_the_code_that_was_submitted(slurm: Cluster, clone: Path) -> None:
    """The checkout is edited before the job starts, and is broken then."""
    data, model = trainable()[0]
    words = [f"data={data}", f"model={model}", "mode=prod", "tracker=none", "run.budget=3", "loader.sample=true"]
    job_file = clone / "scripts/jobs/slurm.sh"
    job_file.write_text(job_file.read_text().replace("=4G", "=100M").replace("-task=4", "-task=1"))
    script = clone / "scripts/submit.py"
    env = ("env", "-u", plain.FOLDER, f"PYTHONPATH={clone / 'src'}")
    said = slurm.ask(*env, sys.executable, script, "--with", job_file, "first", *words, "--", "--begin=now+5")
    (number,) = re.findall(r"batch job (\d+): the run first", said)
    next(clone.glob("src/*/train.py")).write_text("raise SystemExit('edited')\n")
    slurm.wait_for(number, "COMPLETED")
    assert read_status(clone / "_output/first")["status"] == "finished"


@only_on_demand
def test_a_job_that_is_cancelled_has_saved_and_stays_so(slurm: Cluster, tmp_path: Path) -> None:
    words = (*SLOW, f"paths.output_root={tmp_path}")
    job, run = slurm.submit("--job-name=first", JOBS / "slurm.sh", *words), tmp_path / "first"
    wait_until(lambda: has_trained(run))
    slurm.ask("scancel", job)
    slurm.wait_for(job, "CANCELLED")
    assert read_status(run)["status"] == "preempted" and (run / "checkpoints/latest.pt").exists()


@only_on_demand
def test_a_run_that_fails_is_not_started_again(slurm: Cluster, tmp_path: Path) -> None:
    words = (*BASE, "run.nosuch=1", f"paths.output_root={tmp_path}")
    job = slurm.submit("--job-name=first", JOBS / "slurm.sh", *words)
    slurm.wait_for(job, "FAILED")
    assert slurm.show(job, "ExitCode") == "2:0" and list(tmp_path.iterdir()) == []


@only_on_demand
@pytest.mark.skipif(not (PROJECT_ROOT / "scripts/sweep.py").exists(), reason="sweep.py has been deleted")
def test_the_points_of_a_sweep_are_one_array_job(slurm: Cluster, tmp_path: Path) -> None:
    """What is done is not submitted again."""
    jobs = tmp_path / "points.sh"
    jobs.write_text((JOBS / "slurm_points.sh").read_text().replace("=4G", "=100M").replace("-task=4", "-task=1"))
    options = ["--config-dir", BASE[1], "--with", jobs, f"paths.output_root={tmp_path}"]
    script = PROJECT_ROOT / "scripts/sweep.py"
    said = slurm.ask(sys.executable, script, "lr", *options, *BASE[2:], "optimizer.lr=1e-2,2e-2", "run.tags=['a b']")
    (number,) = re.findall(r"batch job (\d+): points 0,1 of", said)
    folder = tmp_path / "exp_lr"
    wait_until(lambda: all(read_status(folder / f"job{job}")["status"] == "finished" for job in (0, 1)))
    assert number in slurm.ask("scontrol", "show", "job", number)
    said = slurm.ask(sys.executable, script, "lr", f"paths.output_root={tmp_path}")
    assert "0 of 2 points to do" in said and len(re.findall(r"job\d +finished", said)) == 2
