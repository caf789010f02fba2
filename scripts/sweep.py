"""Many runs, one process each: a grid, here or on a queue, or a search by Optuna. Does not import torch.

python scripts/sweep.py lr data=digits model=mlp mode=prod optimizer.lr=1e-3,3e-3 run.seed=1,2,3    # --jobs 2 at a time
python scripts/sweep.py lr                            # once more: only what is missing or has failed; then the table
python scripts/sweep.py lr --table                                                     # the table only
python scripts/sweep.py lr --with scripts/jobs/slurm_points.sh data=digits ...         # as one array job; or condor.sub
python scripts/sweep.py lr --trials 20 data=digits ... 'optimizer.lr=tag(log, interval(1e-4, 1e-1))'    # Optuna

Point N is the run jobN in the folder exp_NAME, which also has words.txt, points.txt (the words of one point per line),
place.txt (words of the first call that belong to the machine: a later call may give others), jobN.txt (what the process
printed) and, while a queue has points, submitted (its answer). What is done already is read from the runs themselves.

Several GPUs: every process takes the first GPU that it sees. CUDA_VISIBLE_DEVICES=0,1 before the command with --jobs 2
gives each of the two places one of these GPUs.
"""

import argparse
import importlib
import itertools
import os
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scaffolding.config import Config
from scaffolding.core.config.grammar import key_of, readable, split_options, unquoted
from scaffolding.core.errors import UserError, nearest
from scaffolding.core.find import read_output_root
from scaffolding.core.folder.folder import NAME, acquire, read_status, write_text
from scaffolding.core.signals import handle

ROOT = Path(__file__).resolve().parents[1]
TRAIN = next(ROOT.glob("src/*/train.py"))
PLACE = ("trust", "paths.data", "paths.output_root", "loader.num_workers", "run.device")  # may be another each time
KEPT = ("paths.data", "loader.num_workers", "run.device")  # those of the first call hold until a call gives others


@dataclass
class Sweep:
    """The points of a sweep, and what this call adds to their words."""

    folder: Path
    words: list[str]  # as they were given the first time
    place: list[str] = field(default_factory=list)  # words of this call that belong to this place
    points: list[list[str]] = field(default_factory=list)

    def command(self, job: int) -> list[str]:
        """What starts a point, or carries it on."""
        keys = set(map(key_of, self.place))
        words = [word for word in self.points[job] if key_of(word) not in keys]
        return [sys.executable, str(TRAIN), *words, *self.place, f"job=job{job}", f"paths.output={self.folder}"]

    def status(self, job: int) -> dict[str, Any]:
        """What the run says of itself, `missing` where there is none."""
        found = {"status": "missing"}
        if (self.folder / f"job{job}").exists():
            found = read_status(self.folder / f"job{job}")
        return found

    def is_finished(self, job: int) -> bool:
        return bool(self.status(job)["status"] == "finished")

    def note(self) -> Path:
        """The file that says what a queue has, as long as it is there."""
        return self.folder / "submitted"

    def varying(self) -> list[str]:
        """The keys that are not the same in all points."""
        values: dict[str, set[str]] = {}
        for point in self.points:
            for word in point:
                values.setdefault(key_of(word), set()).add(word)
        return [key for key, found in values.items() if len(found) > 1]

    def own(self, job: int) -> dict[str, str]:
        """What distinguishes a point: its values of the keys that vary."""
        values = {key_of(word): word.partition("=")[2] for word in self.points[job]}
        return {key: unquoted(values.get(key, "")) for key in self.varying()}

    def describe(self, job: int) -> str:
        """The words that distinguish a point."""
        return shlex.join(f"{key}={value}" for key, value in self.own(job).items())

    def write_points(self) -> None:
        write_text(self.folder / "points.txt", "".join(f"{shlex.join(point)}\n" for point in self.points))


# --- words


def parsed(word: str) -> Override:
    """A word that Hydra has read."""
    return OverridesParser.create().parse_override(word)


def grid(words: list[str]) -> list[list[str]]:
    """The points of a grid: KEY=A,B, KEY=choice(...) and KEY=range(...) have several values, by Hydra's grammar."""
    options, words = split_options(words)
    choices = []
    for word in words:
        override = parsed(word)
        values = [word]
        if override.is_sweep_override():
            if not (override.is_choice_sweep() or override.is_range_sweep()):
                raise UserError(f"{word}: a grid needs values\nallowed: A,B, choice(A, B), range(A, B), or --trials N")
            values = [f"{word.partition('=')[0]}={value}" for value in override.sweep_string_iterator()]
        choices.append(values)
    return [[*options, *point] for point in itertools.product(*choices)]


def is_of_place(word: str) -> bool:
    """Whether a word belongs to the machine; one with several values is a part of the grid, but for `trust=A,B`."""
    key = key_of(word)
    return key == "trust" or (key in PLACE and not parsed(word).is_sweep_override())


def read_plain(plain: list[str]) -> list[str]:
    """The words that are not options, as Hydra can read them; of two with the same key, the later one.

    Raises:
        UserError: Hydra cannot read a word; a word says which run a point is.
    """
    trust = [word for word in plain if key_of(word) == "trust"]  # train.py reads it, not Hydra
    others = [word for word in plain if key_of(word) != "trust"]
    plain = list({key_of(word): word for word in [*readable(others, Config, is_sweep=True), *trust]}.values())
    wrong = [word for word in plain if key_of(word) in ("job", "run.name", "paths.output", "resume", "fork", "rerun")]
    if wrong or "\n" in "".join(plain):
        raise UserError(
            f"{(wrong or plain)[0]}: not in a sweep, whose runs are job0, job1, ... in a folder\nleave it out"
        )
    return plain


def open_sweep(name: str, words: list[str], is_search: bool, is_look: bool = False) -> Sweep:
    """The sweep NAME, made where it is new. It is locked until this process ends, unless this is only a look.

    Words are not composed here, as that takes torch: each point says itself what is wrong with them.

    Raises:
        UserError: NAME is not fit for a folder, or is a sweep of other words or of another kind; there is none to look
            at; Hydra cannot read a word; a grid has no values.
    """
    options, plain = split_options(words)
    plain = read_plain(plain)
    given = {key_of(word): unquoted(word.partition("=")[2]) for word in plain}
    root = read_output_root(ROOT, given.get("paths.output_root")).resolve()
    folder = root / f"exp_{name}"
    place = [word for word in plain if is_of_place(word)]
    words = [*options, *(word for word in plain if word not in place)]
    if (folder / "words.txt").exists():
        if not is_look:
            acquire(folder)
        before = read_sweep(folder, place)
        if not is_other(before, words, is_search):
            return before
        if not words or is_look or before.note().exists() or any(folder.glob("job*/config.yaml")):
            refuse(name, before, words)
    if not NAME.fullmatch(f"exp_{name}") or (folder / "config.yaml").exists():
        raise UserError(f"{name!r} cannot be the name of a sweep\nallowed: letters, digits and . _ - = , +, up to 196")
    if not words or is_look:
        there = [path.parent.name.removeprefix("exp_") for path in root.glob("exp_*/words.txt")]
        near = ", ".join(nearest(name, there, 3)) or "none"
        raise UserError(
            f"{name}: no such sweep in {root}\nnearest: {near}; to begin one, give its words, e.g. run.seed=1,2"
        )
    return make_sweep(Sweep(folder, words, place, [] if is_search else grid(words)))


def read_sweep(folder: Path, place: list[str]) -> Sweep:
    """The sweep of a folder. The words of this place win over those of the first call."""
    kept = folder / "place.txt"
    first = shlex.split(kept.read_text()) if kept.exists() else []
    place = list({key_of(word): word for word in [*first, *place]}.values())
    lines = (folder / "points.txt").read_text().splitlines()
    words = shlex.split((folder / "words.txt").read_text())
    return Sweep(folder, words, place, [shlex.split(line) for line in lines])


def is_grid(sweep: Sweep) -> bool:
    """Whether its points were not chosen by Optuna."""
    return bool(sweep.points) and not (sweep.folder / "optuna.log").exists()


def is_other(before: Sweep, words: list[str], is_search: bool) -> bool:
    """Whether a call wants another sweep than the one that is there."""
    has_begun = bool(before.points) or (before.folder / "optuna.log").exists()  # a search may have failed before that
    is_other_kind = is_grid(before) if is_search else bool(words) and not has_begun
    return words not in ([], before.words) or is_other_kind


def refuse(name: str, before: Sweep, words: list[str]) -> None:
    """Say why a sweep stays what it is."""
    if words in ([], before.words):
        raise UserError(
            f"--trials: {name} is a grid, whose points Optuna cannot choose: {before.folder}"
            "\nleave --trials out to do what is missing; choose another name for a search"
        )
    queue = f", and a queue has it ({before.note().read_text().strip()})" if before.note().exists() else ""
    raise UserError(
        f"{name}: {before.folder} is a sweep of other words: {shlex.join(before.words)}{queue}"
        "\nleave the words out to do what is missing; choose another name for another sweep"
    )


def make_sweep(sweep: Sweep) -> Sweep:
    """Make the folder of a sweep, or correct the words of one that has no run yet."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    acquire(sweep.folder)
    known = sweep.folder / "words.txt"
    for file in (known, sweep.folder / "optuna.log"):  # a study of other words chose other points
        file.unlink(missing_ok=True)
    sweep.write_points()
    kept = [word for word in sweep.place if key_of(word) in KEPT]
    write_text(sweep.folder / "place.txt", f"{shlex.join(kept)}\n")
    write_text(known, f"{shlex.join(sweep.words)}\n")  # last: with it, the folder is a sweep
    return sweep


def composed(words: list[str]) -> Any:
    """The config that train.py makes of the words of a point; UserError: it refuses them."""
    done = subprocess.run([sys.executable, str(TRAIN), *words, "--cfg", "job"], capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().rpartition("error: ")[2])
    return yaml.safe_load(done.stdout)


# --- points at work on this machine


def several_devices() -> list[str]:
    """The GPUs that CUDA_VISIBLE_DEVICES lists, if there are several."""
    listed = [device.strip() for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    devices = [device for device in listed if device]
    return devices if len(devices) > 1 else []


class Crew:
    """The processes at work, one per point. A signal that asks this program to stop is passed on to them: they save."""

    def __init__(self, sweep: Sweep, num_jobs: int) -> None:
        self.sweep = sweep
        self.devices = several_devices() if num_jobs > 1 else []
        self.places: dict[int, int] = {}  # of a point among those at work; it chooses a GPU
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.begins: dict[int, int] = {}  # where in jobN.txt the output of this start begins
        self.asked: int | None = None  # the signal that asked to stop

    def environment(self, job: int) -> dict[str, str]:
        """The environment of a point: with its own GPU, where there are several and its words name none."""
        chosen = [word for word in self.sweep.command(job) if key_of(word) == "run.device"]
        if not self.devices or any(letter.isdigit() for letter in "".join(chosen)):
            return dict(os.environ)
        return os.environ | {"CUDA_VISIBLE_DEVICES": self.devices[self.places[job] % len(self.devices)]}

    def start(self, job: int) -> None:
        self.places[job] = min(set(range(len(self.processes) + 1)) - set(self.places.values()))
        file = self.sweep.folder / f"job{job}.txt"
        with open(file, "ab") as output:
            self.begins[job] = output.tell()
            # in a separate session: a Ctrl-C reaches it through `stop` alone, once
            options: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, "start_new_session": True}
            self.processes[job] = subprocess.Popen(self.sweep.command(job), env=self.environment(job), **options)
        if self.asked is not None:  # while it was being started
            self.processes[job].send_signal(self.asked)

    def stop(self, number: int) -> None:
        self.asked = number
        for process in list(self.processes.values()):
            process.send_signal(number)

    def end(self) -> None:
        """Stop those that are still at work, and wait until they have saved."""
        if self.processes:
            self.stop(signal.SIGTERM)
        while self.processes:
            self.ended()
            time.sleep(0.02)

    def ended(self) -> list[tuple[int, int]]:
        """(job, exit code) of those that have ended since the last call."""
        codes = {job: process.poll() for job, process in self.processes.items()}
        done = [(job, code) for job, code in codes.items() if code is not None]
        for job, _ in done:
            del self.processes[job], self.places[job]
        return done

    def cause(self, job: int, code: int) -> str:
        """Why a point did not finish."""
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        status = self.sweep.status(job)
        if code > 128:
            return f"{status['status']}: {status.get('reason')}"
        said = (self.sweep.folder / f"job{job}.txt").read_bytes()[self.begins[job] :].decode(errors="replace")
        lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
        return next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])


def do_points(sweep: Sweep, todo: Iterator[int], total: int, num_jobs: int, stops: bool, search: Any) -> int:
    """Do points, `num_jobs` at a time, and say of each how it ended. Returns the exit code.

    Whatever is raised here stops the processes at work first.

    Args:
        sweep: that they belong to.
        todo: their numbers; the next one is asked for when there is room for it.
        total: how many there are, done ones included.
        num_jobs: processes at a time.
        stops: end at the first failure.
        search: is told each that finished; None: a grid.
    """
    crew, has_failed, is_over = Crew(sweep, num_jobs), False, False
    handle(lambda number, frame: crew.stop(number))
    try:
        while crew.processes or not is_over:
            while len(crew.processes) < num_jobs and not is_over:
                job = None if crew.asked else next(todo, None)
                is_over = job is None
                if job is not None:
                    crew.start(job)
            for job, code in crew.ended():
                if code == 0 and search is not None:
                    search.tell(job)
                tell_of(crew, job, code, total)
                if code and not crew.asked:
                    has_failed = True
                    if stops:
                        crew.stop(signal.SIGTERM)
            time.sleep(0.02)
    finally:
        crew.end()
    if crew.asked and not (has_failed and stops):
        return 128 + crew.asked
    return int(has_failed)


def tell_of(crew: Crew, job: int, code: int, total: int) -> None:
    """Say how a point ended."""
    sweep, status = crew.sweep, crew.sweep.status(job)
    if code == 0:
        num_done = sum(map(sweep.is_finished, range(len(sweep.points))))
        said = f"({num_done} of {total}): {sweep.describe(job)}  {best(status)}"
        print(f"job{job} {status['status']} {said}", flush=True)
        return
    ended = "stopped" if code > 128 else f"failed (exit code {code})"
    print(f"job{job} {ended}: {sweep.describe(job)}\n    {crew.cause(job, code)}")
    print(f"    all it said: {sweep.folder}/job{job}.txt", flush=True)


# --- points on a queue


def quoted(word: str) -> str:
    """A word as HTCondor reads it in `arguments`."""
    doubled = word.replace("'", "''").replace('"', '""')
    return f"'{doubled}'"


def is_on_queue(sweep: Sweep, is_again: bool, goes_there: bool) -> bool:
    """Whether a queue has what is not finished; says so. A note of it that is not needed any more is removed.

    Args:
        sweep: that was perhaps submitted.
        is_again: whether points are to be done again although a queue has had them.
        goes_there: whether they go to a queue, which then writes the note anew.
    """
    note = sweep.note()
    num_left = sum(not sweep.is_finished(job) for job in range(len(sweep.points)))
    if not note.exists():
        return False
    if num_left and not is_again:
        print(f"{num_left} of {len(sweep.points)} points are not finished, and a queue has them:")
        print(f"    {note.read_text().strip()}")
        print("nothing is started or submitted; once the queue has none of them, --again does what is not finished")
        return True
    if not (num_left and goes_there):
        note.unlink()
    return False


def submit(sweep: Sweep, file: Path, todo: list[int], num_jobs: int | None) -> None:
    """Hand points to the queue that a job file is for; print what the queue says, and note it down."""
    program = "condor_submit" if file.suffix == ".sub" else "sbatch"
    if not file.is_file() or shutil.which(program) is None:
        problem = f"{program} is not on this machine" if file.is_file() else "no such file"
        raise UserError(f"--with {file}: {problem}\nthe job files are in scripts/jobs; *.sub is for HTCondor")
    if file.suffix == ".sub":
        listed = sweep.folder / "todo.txt"
        own = {job: [*sweep.command(job)[2:-2], sweep.command(job)[-1]] for job in todo}  # the file adds job=
        write_text(listed, "".join(f"job{job}, {' '.join(map(quoted, words))}\n" for job, words in own.items()))
        words = [program, f"jobs={listed}", f"folder={sweep.folder}", str(file.resolve())]
    else:
        most = f"%{num_jobs}" if num_jobs else ""
        words = [program, f"--array={','.join(map(str, todo))}{most}", f"--job-name={sweep.folder.name}",
                 f"--output={sweep.folder}/job%a.txt", str(file.resolve()), str(sweep.folder)]  # fmt: skip
        words += sweep.place
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` is this one there, too
    done = subprocess.run(words, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(words)}\n{done.stderr.strip()}")
    answer = f"{done.stdout.strip()}: points {','.join(map(str, todo))} of {sweep.folder}"
    write_text(sweep.note(), f"{answer}\n")
    print(answer)


# --- a search by Optuna


class Search:
    """A study of Optuna, whose trial N is point N. Only finished points are told: others are done again."""

    def __init__(self, sweep: Sweep) -> None:
        try:
            optuna: Any = importlib.import_module("optuna")
            journal: Any = importlib.import_module("optuna.storages.journal")
        except ImportError:
            raise UserError("--trials: optuna is not installed\nonce: pdm install -G sweep") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep, self.optuna = sweep, optuna
        self.options, words = split_options(sweep.words)
        self.fixed = [word for word in words if not parsed(word).is_sweep_override()]
        self.searched = {word.partition("=")[0]: parsed(word) for word in words if word not in self.fixed}
        file = sweep.folder / "optuna.log"
        direction = None
        if not file.exists():
            first = [f"{key}={_first(override)}" for key, override in self.searched.items()]
            place = [word for word in sweep.place if key_of(word) != "trust"]  # it is for runs that are carried on
            run = composed([*self.options, *self.fixed, *first, *place])["run"]
            if run["monitor"] is None:
                raise UserError("run.monitor=null: a search needs a value to go after\nset run.monitor=val/KEY")
            direction = {"min": "minimize", "max": "maximize"}[run["monitor_mode"]]
        storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(file)))
        self.study = optuna.create_study(
            storage=storage, study_name=sweep.folder.name, direction=direction, load_if_exists=True
        )
        self.distributions = {key: self._distribution(override) for key, override in self.searched.items()}
        for trial in self.study.trials:
            self._note(trial)
            if sweep.is_finished(trial.number) and not trial.state.is_finished():
                self.tell(trial.number)

    def todo(self, unfinished: list[int], num_trials: int) -> Iterator[int]:
        """The points that are to be done; new ones are asked for until there are `num_trials`."""
        yield from unfinished
        while len(self.sweep.points) < num_trials:
            trial = self.study.ask(self.distributions)
            self._note(trial)
            yield trial.number

    def tell(self, job: int) -> None:
        """Give the study the best value of a finished run. Of one that was done again it keeps the first value."""
        value = self.sweep.status(job).get("best")
        if value is None:
            print(f"job{job}: it has no best value to search by: set run.monitor=val/KEY", file=sys.stderr)
            return
        self.study.tell(job, value, skip_if_finished=True)

    def _note(self, trial: Any) -> None:
        """Write the words of a trial into points.txt; those that a kill left without some get the first values."""
        values = {key: trial.params.get(key, _first(override)) for key, override in self.searched.items()}
        point = [*self.options, *self.fixed, *(f"{key}={value}" for key, value in values.items())]
        self.sweep.points[trial.number :] = [point]
        self.sweep.write_points()

    def _distribution(self, override: Override) -> Any:
        of = self.optuna.distributions
        value: Any = override.value()
        if override.is_interval_sweep():
            is_log = "log" in value.tags
            if "int" in value.tags or isinstance(value.start, int):
                return of.IntDistribution(int(value.start), int(value.end), log=is_log)
            return of.FloatDistribution(value.start, value.end, log=is_log)
        return of.CategoricalDistribution(list(override.sweep_string_iterator()))


def _first(override: Override) -> Any:
    """A value of those that are searched."""
    if override.is_interval_sweep():
        value: Any = override.value()
        return value.start
    return next(iter(override.sweep_string_iterator()))


# --- what came out


def unfinished(sweep: Sweep) -> tuple[list[int], list[int]]:
    """The points that are missing or did not finish, and those that another process is at."""
    todo, alone = [], []
    for job in range(len(sweep.points)):
        status = sweep.status(job)["status"]
        if status == "running":
            alone.append(job)
        elif status != "finished":
            todo.append(job)
    return todo, alone


def tell_of_alone(sweep: Sweep, alone: list[int]) -> None:
    """Say which points are left alone; of one on another machine, where a kill is not seen, also what carries it on."""
    for job in alone:
        status = sweep.status(job)
        host = status.get("host")
        print(f"job{job} is running on {host} (process {status.get('pid')}): it is left alone")
        if host != socket.gethostname():
            print(f"    if it was killed there: {shlex.join(['python', *sweep.command(job)[1:]])}")


def best(status: dict[str, Any]) -> str:
    return "" if status.get("best") is None else f"best {status['best']:.4g}"


def print_tables(sweep: Sweep, over: str | None) -> None:
    """A row per point; with a key to go over, also a row for each choice of the other keys: mean, spread, number."""
    console = Console(highlight=False, width=None if Console().is_terminal else 1000)
    keys = sweep.varying()
    table = Table("job", "status", *keys, "best", "step", box=None, pad_edge=False)
    groups: dict[tuple[str, ...], list[float]] = {}
    for job in range(len(sweep.points)):
        status, own = sweep.status(job), sweep.own(job)
        value = status.get("best") if status["status"] == "finished" else None
        step = f"{status.get('step', 0)}/{status.get('num_steps', '?')}"
        cells = (f"job{job}", status["status"], *own.values(), best(status).removeprefix("best "), step)
        table.add_row(*map(Text, cells))
        if over is not None:
            group = groups.setdefault(tuple(part for key, part in own.items() if key != over), [])
            group += [] if value is None else [value]
    console.print(table)
    if over is not None:
        table = Table(*(key for key in keys if key != over), "mean", "spread", "n", box=None, pad_edge=False)
        for own_words, values in groups.items():
            mean = f"{statistics.mean(values):.4g}" if values else ""
            spread = f"{statistics.stdev(values):.2g}" if len(values) > 1 else ""
            table.add_row(*map(Text, (*own_words, mean, spread, str(len(values)))))
        console.print(f"\nbest, over {over} (spread: sample standard deviation)", markup=False)
        console.print(table)


def positive(text: str) -> int:
    """A number from 1 on, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: not a number from 1 on")
    return number


def read_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = "processes at a time (default: 1; on a queue: no limit); for several GPUs, see above"
    parser.add_argument("name", metavar="NAME", help="of the sweep: its runs are in exp_NAME")
    parser.add_argument("words", metavar="WORDS", nargs="*", help="of train.py; KEY=A,B has several values")
    parser.add_argument("--jobs", metavar="N", type=positive, help=jobs)
    parser.add_argument("--with", metavar="FILE", dest="file", type=Path, help="a job file: the points go to its queue")
    parser.add_argument(
        "--again", action="store_true", help="also what a queue has had; make sure that it has it no more"
    )
    parser.add_argument("--trials", metavar="N", type=positive, help="a search by Optuna, until there are N points")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
    parser.add_argument("--table", action="store_true", help="print the table only")
    parser.add_argument("--over", metavar="KEY", help="also mean and spread over its values (default: run.seed)")
    parser.add_argument("--config-dir", metavar="DIR", type=Path, help="a folder of your own configs")
    return parser.parse_intermixed_args()


def do(args: argparse.Namespace, sweep: Sweep, is_search: bool) -> int:
    """Do what is left of a sweep here, or hand it to a queue. Returns the exit code."""
    search = Search(sweep) if is_search else None
    if is_on_queue(sweep, args.again, args.file is not None):
        return 0
    todo, alone = unfinished(sweep)
    total = max(len(sweep.points), args.trials or 0)
    print(f"{total - len(sweep.points) + len(todo)} of {total} points to do in {sweep.folder}", flush=True)
    tell_of_alone(sweep, alone)
    code = 0
    if args.file is None:
        numbers = search.todo(todo, total) if search else iter(todo)
        code = do_points(sweep, numbers, total, args.jobs or 1, args.stop, search)
    elif todo:
        submit(sweep, args.file, todo, args.jobs)
    return code or int(not all(map(sweep.is_finished, alone)))


def main() -> int:
    args = read_arguments()
    options = [] if args.config_dir is None else ["--config-dir", str(args.config_dir.resolve())]
    try:
        sweep = open_sweep(args.name, [*options, *args.words], args.trials is not None, is_look=args.table)
        is_search = args.trials is not None or (sweep.folder / "optuna.log").exists()
        if is_search and args.file is not None:
            raise UserError("--trials: not with --with, as each point depends on what came out before\nuse --jobs N")
        if args.over not in (None, *sweep.varying()) and not is_search:
            raise UserError(
                f"--over {args.over}: it does not vary here\nallowed: {', '.join(sweep.varying()) or 'none'}"
            )
        code = 0 if args.table else do(args, sweep, is_search)
        print_tables(sweep, args.over or ("run.seed" if "run.seed" in sweep.varying() else None))
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
