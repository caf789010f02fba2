"""A sweep: its points, the command that starts each, and what their runs say of themselves."""

import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..config.grammar import key_of, unquoted
from ..errors import UserError
from ..folder.folder import read_status, write_text


@dataclass
class Sweep:
    """The points of a sweep, and what this call adds to their words."""

    root: Path  # of the project
    folder: Path
    words: list[str]  # as they were given the first time
    place: list[str] = field(default_factory=list)  # words of this call that belong to this place
    points: list[list[str]] = field(default_factory=list)
    is_search: bool = False
    is_new: bool = False  # `make_sweep` has not been called yet

    @property
    def train(self) -> Path:
        return next(self.root.glob("src/*/train.py"))

    def command(self, job: int) -> list[str]:
        """What starts a point, or carries it on."""
        keys = set(map(key_of, self.place))
        words = [word for word in self.points[job] if key_of(word) not in keys]
        return [sys.executable, str(self.train), *words, *self.place, f"job=job{job}", f"paths.output={self.folder}"]

    def composed(self, point: list[str]) -> Any:
        """The config that train.py makes of a point; UserError: it refuses the words."""
        return composed(self.train, [*point, *self.place])

    def status(self, job: int) -> dict[str, Any]:
        """What the run says of itself, `missing` where there is none."""
        run = self.folder / f"job{job}"
        return read_status(run) if run.exists() else {"status": "missing"}

    def is_finished(self, job: int) -> bool:
        return bool(self.status(job)["status"] == "finished")

    def unfinished(self) -> tuple[list[int], list[int]]:
        """The points that are missing or did not finish, and those that another process is at."""
        todo, alone = [], []
        for job in range(len(self.points)):
            status = self.status(job)["status"]
            if status == "running":
                alone.append(job)
            elif status != "finished":
                todo.append(job)
        return todo, alone

    def varying(self) -> list[str]:
        """The keys for which the sweep has several values."""
        return list(dict.fromkeys(key_of(word) for point in self.points for word in point if word not in self.words))

    def own(self, job: int) -> dict[str, str]:
        """What distinguishes a point: its values of the keys that vary."""
        values = {key_of(word): word.partition("=")[2] for word in self.points[job]}
        return {key: unquoted(values.get(key, "")) for key in self.varying()}

    def describe(self, job: int) -> str:
        """The words that distinguish a point."""
        return shlex.join(f"{key}={value}" for key, value in self.own(job).items())

    def note(self) -> Path:
        """The file that says what a queue has, as long as it is there."""
        return self.folder / "submitted"

    def study(self) -> Path:
        """The file in which Optuna keeps a search."""
        return self.folder / "optuna.log"

    def has_study(self) -> bool:
        """Whether the search has begun; the file is empty where a kill came first."""
        return self.study().exists() and self.study().stat().st_size > 0

    def write_points(self) -> None:
        write_text(self.folder / "points.txt", "".join(f"{shlex.join(point)}\n" for point in self.points))


def composed(train: Path, words: list[str]) -> Any:
    """The config that train.py makes of words; UserError: it refuses them."""
    # trust is for runs that are carried on, and scratch is of the machine that will train
    words = [word for word in words if key_of(word) not in ("trust", "paths.scratch")]
    done = subprocess.run([sys.executable, str(train), *words, "--cfg", "job"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().rpartition("error: ")[2])
    config = yaml.safe_load(done.stdout)
    if config["run"].get("provenance") == "ephemeral":
        raise UserError("run.provenance=ephemeral: nothing would be kept of what is started here\nleave it out")
    return config


def best(status: dict[str, Any]) -> str:
    """The best value of a run, as it is shown; "" where there is none."""
    return "" if status.get("best") is None else f"{status['best']:.4g}"
