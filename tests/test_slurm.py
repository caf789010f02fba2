"""The job files on a real Slurm, which runs on this machine alone: packages slurm-wlm and munge of Debian, as root.

With SLURM_TESTS=all in the environment, all of it is tested, in four minutes; else the one case that has most in it.

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

import pytest
import together
from conftest import BASE, ENV, assert_same_run, run_train, wait_until
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

    def submit(self, *words: object) -> str:
        """Submit a job; its number."""
        output = f"--output={self.folder}/%j.txt"
        return self.ask("sbatch", "--parsable", output, *SMALL, *words).strip()

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
        ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        wait_until(lambda: self.show(job, "JobState") in ended)
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
