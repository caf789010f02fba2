"""The jobs of `--multirun`: where their runs go, and what is said in the end of those that failed."""

import traceback
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import OmegaConf

from .config.compose import Project, masked, own_words
from .errors import RunError, UserError
from .find import absolute
from .folder.folder import NAME, TIME


def of_job(words: list[str]) -> str:
    """Which job of a sweep is at work, by its number and what it has besides the `words` of all, for messages."""
    own = " ".join(word for word in own_words() if word not in map(masked, words))
    return f"job {HydraConfig.get().job.num} ({own}): "


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
