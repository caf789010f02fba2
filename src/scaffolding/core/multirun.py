"""The jobs of `--multirun`: where their runs go, what each one varies, and what is said of them in the end."""

import traceback
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import OmegaConf

from .config.compose import Project, masked, own_words, without_words
from .config.grammar import key_of, unquoted
from .errors import CodeError, RunError, UserError
from .find import absolute
from .folder.folder import NAME, TIME


def remove_listing(made: list[Path]) -> None:
    """Remove Hydra's multirun.yaml, which repeats what each job's folder says, secrets included."""
    for folder in made[:1]:
        (folder / "multirun.yaml").unlink(missing_ok=True)


def settings_of_hydra(project: Project, is_sweep: bool, made: list[Path], run_name: str) -> list[str]:
    """Words that keep Hydra from making folders and a log and, in a sweep, say where its runs go.

    The sweep's folder has the runs' name in its own, if they have one. It and those around it that do not exist yet are
    added to `made`, the inner ones first.
    """
    words = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.sweep.subdir=."]
    words += [f"hydra/{log}=none" for log in ("job_logging", "hydra_logging")]
    if is_sweep:
        name = f"exp_{datetime.now():{TIME}}"
        if NAME.fullmatch(run_name) and "," not in run_name:  # a,b are two names
            name += f"_{run_name}"

        def sweep_folder(output_root: str) -> str:
            folder = absolute(output_root, project.root) / name
            if not made:
                made.extend(path for path in (folder, *folder.parents) if not path.exists())
            return str(folder)

        OmegaConf.register_new_resolver("sweep_folder", sweep_folder, replace=True)
        words.append("hydra.sweep.dir='${sweep_folder:${paths.output_root}}'")
    return words


@dataclass
class Jobs:
    """What is noted down of the jobs of a sweep while they run.

    Args:
        words: of the command line, which all jobs share.
        is_quiet: whether the beginning of a job is not worth a line: none of them trains.
        folder: where their runs are.
        own: of each job by number, the words that are not those of all.
        told: of each job that failed: which one, and why.
    """

    words: list[str]
    is_quiet: bool = False
    folder: Path | None = None
    own: dict[int, list[str]] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def begin(self) -> None:
        """Say which job begins, and what it varies."""
        hydra, shared = HydraConfig.get(), set(map(masked, self.words))
        self.folder = Path(hydra.sweep.dir)
        self.own[hydra.job.num] = [word for word in own_words() if word not in shared]
        if not self.is_quiet:
            logger.info(f"job {hydra.job.num}: {' '.join(self.own[hydra.job.num])}")

    def note_failure(self, error: Exception) -> None:
        """Say of the job that has just failed why it did, and keep it for the end."""
        number, cause = HydraConfig.get().job.num, without_words(str(error), self.words)
        logger.error(f"job {number}: {cause}")
        if isinstance(error, CodeError):  # the rest has just been said
            cause = cause.partition("\n")[0]
        if not isinstance(error, UserError | RunError):
            cause = f"{type(error).__name__}: {cause}"
        self.told.append(f"{self.at_work()}: {cause}")

    def at_work(self) -> str:
        """Which job is at work, by its number and what it varies."""
        number = HydraConfig.get().job.num
        return f"job {number} ({' '.join(self.own.get(number, []))})"

    def print_end(self) -> None:
        """Print the table of the jobs, if one of them made a run; `summary` says why others did not."""
        from .sweep.table import Job, print_end  # only where there are several runs

        if self.folder is None or not self.folder.exists():
            return
        jobs = []
        for number, words in self.own.items():
            values = {key_of(word): unquoted(word.partition("=")[2]) for word in words}
            runs = [*self.folder.glob(f"*_job{number}"), self.folder / f"job{number}"]
            jobs.append(Job(runs[0], values))
        print_end(self.folder, jobs, has_reasons=False)


def summary(first: Exception, told: list[str]) -> Exception:
    """The error that a command ends with: of a sweep it says of each failed job which one it was, and why."""
    if not told:
        return first
    text = "\n".join(told)
    if isinstance(first, UserError):
        return UserError(text)
    if isinstance(first, RunError):
        return type(first)(text)
    traceback.print_exception(first)
    if isinstance(first, OSError):
        logger.error(text)
        return first
    return RunError(text)
