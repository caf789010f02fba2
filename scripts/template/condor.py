"""Section of cluster.py on a real HTCondor: Debian trixie with minicondor in a folder, entered by chroot, as root."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shared import CORES, TESTS, Row

from scaffolding.core.folder.folder import read_status
from scaffolding.experiment import PROJECT

CONFIG = f"""MOUNT_UNDER_SCRATCH =
MOUNT_PRIVATE_DEV_SHM = False
USE_PID_NAMESPACES = False
NUM_CPUS = {CORES}
NEGOTIATOR_INTERVAL = 2
SCHEDD_INTERVAL = 5
UPDATE_INTERVAL = 5
"""
WORDS = f"""--config-dir {TESTS}/configs data=noisy model=tiny plots=none tracker=none mode=prod optimizer=fatal
    run.budget=250 run.log_every=1 run.eval_every=25 run.save_every=10 loader.batch_size=16 run.device=cpu
    data.dataset._target_=tiny.FaultyPoints""".split()
SLOW = "+data.dataset.how='is slow'"


class Machine:
    """An HTCondor in a folder. Use as a context.

    CONDOR_CHROOT names a folder that is kept from one call to the next; without it, one is made and removed.
    """

    def __init__(self, folder: Path) -> None:
        self.root = Path(os.environ.get("CONDOR_CHROOT", folder.resolve() / "root"))
        self.places = [PROJECT.root]
        python = map(Path, (sys.prefix, sys.base_prefix))
        self.places += [place for place in python if PROJECT.root not in place.parents]
        assert Path("/usr") not in self.places, "Python must lie elsewhere than in /usr, which is the other system's"

    def __enter__(self) -> "Machine":
        if not self.root.exists():
            words = ["mmdebstrap", "--variant=apt", "--include=minicondor,procps", "trixie", str(self.root)]
            subprocess.run(words, check=True, capture_output=True)
            self.ask("useradd -m user")
        (self.root / "etc/condor/config.d/99-here").write_text(CONFIG)
        with contextlib.ExitStack() as stack:
            stack.callback(self._remove)
            for place in self.places:
                self._mount(stack, place, "--bind", str(place))
                # whoever deletes the folder after a kill must not delete what it shows
                subprocess.run(["mount", "-o", "remount,bind,ro", str(self._inside(place))], check=True)
            self._mount(stack, Path("/proc"), "-t", "proc", "proc")
            self._mount(stack, Path("/dev/shm"), "-t", "tmpfs", "tmpfs")
            self.ask("condor_master")
            stack.callback(self._stop)
            wait_for(lambda: "Unclaimed" in self._run("condor_status").stdout)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    def _inside(self, place: Path) -> Path:
        """A place as it is reached from outside of the folder."""
        return self.root / place.relative_to("/")

    def _mount(self, stack: contextlib.ExitStack, place: Path, *words: str) -> None:
        """Show something at a place, until the stack is closed."""
        target = self._inside(place)
        target.mkdir(parents=True, exist_ok=True)
        for parent in [*target.relative_to(self.root).parents][:-1]:
            (self.root / parent).chmod((self.root / parent).stat().st_mode | 0o755)  # /tmp stays open to all
        subprocess.run(["mount", *words, str(target)], check=True)
        stack.callback(subprocess.run, ["umount", "-l", str(target)], check=True)

    def _stop(self) -> None:
        self._run("condor_off -master -fast")
        time.sleep(5)

    def _remove(self) -> None:
        """Delete the folder, unless it is to be kept or something is still mounted in it."""
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        if "CONDOR_CHROOT" not in os.environ and not any(place.startswith(f"{self.root}/") for place in mounted):
            shutil.rmtree(self.root)

    def ask(self, command: str, user: str = "root") -> str:
        """What a shell command prints there; of an ordinary user, in the project's folder, with the environment."""
        path = f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"
        code = f"{TESTS}:{PROJECT.root / 'src'}"
        script = f"cd {PROJECT.root} && export PATH={path} PYTHONPATH={code} OMP_NUM_THREADS=1 && {command}"
        if user == "root":
            script = command
        done = self._run(script, user)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _run(self, script: str, user: str = "root") -> "subprocess.CompletedProcess[str]":
        words = ["chroot", str(self.root), "su", "-", user, "-c", script]
        return subprocess.run(words, capture_output=True, text=True)

    def submit(self, name: str, words: list[str]) -> tuple[str, Path]:
        """Submit scripts/jobs/condor.sub for one run; the job's number, and the run's folder."""
        home = self.root / "home/user"
        folder = home / name
        shutil.rmtree(folder, ignore_errors=True)
        self.ask(f"mkdir /home/user/{name}", "user")
        quoted = [word if " " not in word else "'" + word.replace("'", "''") + "'" for word in words]
        (home / "jobs.txt").write_text(f"{name}, {' '.join([*quoted, f'paths.output_root=/home/user/{name}'])}\n")
        text = (PROJECT.root / "scripts/jobs/condor.sub").read_text()
        text = re.sub("= 4$", "= 1", text.replace("= 16GB", "= 1GB"), flags=re.MULTILINE)
        (home / "condor.sub").write_text(text.replace("PATH, HOME", "PATH, HOME, PYTHONPATH, OMP_NUM_THREADS"))
        said = self.ask(
            f"condor_submit jobs=/home/user/jobs.txt folder=/home/user/{name} /home/user/condor.sub", "user"
        )
        found = re.search(r"cluster (\d+)", said)
        assert found is not None, said
        return f"{found[1]}.0", folder / name


def wait_for(condition: Callable[[], Any], seconds: float = 240) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.5)


def num_rows(run: Path) -> int:
    """Rows that a run has logged."""
    file = run / "facts/scalars.csv"
    return len(file.read_text().splitlines()) if file.exists() else 0


def evictions(common: list[str], whole: Path, difference: Callable[[Path, Path], str | None]) -> Iterator[Row]:
    """A run that is evicted softly (SIGTERM) and fast (SIGKILL).

    Args:
        common: words besides WORDS and SLOW that made `whole`.
        whole: the run that went through.
        difference: what first differs between two runs; None: nothing.
    """
    with Machine(Path("condor")) as machine:
        for how, ways in {"softly": [""], "fast": ["-fast"], "softly, then fast": ["", "-fast"]}.items():
            job, run = machine.submit(how.replace(", ", "_").replace(" ", "_"), [*common, *WORDS, SLOW])
            for way in ways:
                rows = num_rows(run)
                wait_for(lambda run=run, rows=rows: num_rows(run) > rows + 8)
                machine.ask(f"condor_vacate_job {way} {job}")
                time.sleep(5)
            wait_for(lambda run=run: read_status(run)["status"] == "finished")
            found = difference(whole, run)
            resumed = (run / "log.txt").read_text().count("resuming")
            shown = f"{found or 'identical'}, carried on {resumed} times"
            yield f"HTCondor: evicted {how}", shown, "identical", found is None and resumed == len(ways)
