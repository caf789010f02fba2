"""A command line taken apart: what it asks for, the settings in it, and the run that these change."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .config.grammar import config_dirs, key_of, readable, search_path, split_options, unquoted
from .config.project import Project
from .errors import UserError
from .faults import FaultsError
from .processes.connect import num_processes

VERBS = ("resume", "fork", "rerun")
CHECK = "--check"  # an option: look at the config, and at nothing else
YES = "-y"  # an option: the answer to the question that run.provenance=refuse asks
SEVERAL = ("--multirun", "-m")


@dataclass(frozen=True)
class Source:
    """The run that a command line goes on from, and what Hydra gets of it.

    Args:
        verb: one of VERBS; "": the command line names no run, and nothing below counts.
        run: its folder.
        config: its plain config, which the settings change; None: they change this checkout's files.
        options: of Hydra, which make `config` the one to override.
        words: of the run's own command line, which come before the settings.
    """

    verb: str = ""
    run: Path = Path()
    config: dict[str, Any] | None = None
    options: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def places(self) -> dict[str, str]:
        """Where each of the run's own words stands."""
        return dict.fromkeys(self.words, f"{self.run.name}/overrides.yaml")


@dataclass
class CommandLine:
    """What a command line asks for.

    Args:
        project: whose configs it changes.
        options: for Hydra: what begins with a dash, without what is done here.
        words: all others, `job=NAME` as what it stands for.
        settings: those of `words` that Hydra composes, as it can read them.
        given: the values of `words` by key, without quotes; those that are null are left out.
        carried_on: the word by which this is a run that is carried on, or part of a sweep; "": it is neither.
        is_sweep: settings may hold several values, one for each job.
        shows_config: the composed config is printed, and nothing else is done.
        resolves: it is printed with what its references stand for.
        only_checks: the config is looked at, and nothing else is done.
        says_yes: the question that run.provenance=refuse asks is answered.
        source: the run that the command line goes on from.
    """

    project: Project
    options: list[str]
    words: list[str]
    settings: list[str]
    given: dict[str, str]
    carried_on: str
    is_sweep: bool
    shows_config: bool
    resolves: bool
    only_checks: bool
    says_yes: bool
    source: Source = field(default_factory=Source)

    @property
    def names_a_run(self) -> bool:
        """Whether it goes on from a run, or says whom to trust in one."""
        return not self.given.keys().isdisjoint((*VERBS, "trust"))

    def refusal(self, error: Exception, words: list[str], is_one_job: bool = False) -> UserError:
        """The error that names everything that is wrong where composing or checking the words gave `error`.

        `is_one_job`: the words are those of one job of a sweep; others of its jobs may have made something.
        """
        from .preflight.gather import refusal  # only where something is wrong

        run = None
        if self.source.config is not None:
            run = self.source.run, self.source.config
        search = search_path(config_dirs(self.options))
        is_sweep = self.is_sweep and not is_one_job
        found = refusal(error, self.project, [*search, *words], run, self.source.places, is_sweep)
        if is_one_job and isinstance(found, FaultsError):
            return FaultsError(found.faults, "")
        return found


def read_command_line(words: list[str], project: Project) -> CommandLine:
    """Take a command line apart; `source` is not looked for yet.

    Raises:
        UserError: an unknown option, a word that cannot be read, several processes that would train several runs.
    """
    options, words = split_options(words)
    is_sweep = not set(SEVERAL).isdisjoint(options)
    carried_on = [word for word in [*options, *words] if word in SEVERAL or key_of(word) in ("job", "resume")]
    words = _words_of_one_run(options, words, is_sweep, project)
    pairs = [word.partition("=") for word in words]
    shows_config = "--cfg job" in " ".join(options) and "--package" not in options
    ours = [CHECK, YES]
    if shows_config:  # done here, not by Hydra, so that it is checked
        ours += ["--cfg", "job", "--resolve"]
    line = CommandLine(
        project=project,
        options=[word for word in options if word not in ours],
        words=words,
        settings=[word for word in words if word.partition("=")[0] not in (*VERBS, "trust")],
        given={key.lstrip("+"): unquoted(value) for key, _, value in pairs if value != "null"},
        carried_on="".join(carried_on[:1]),
        is_sweep=is_sweep,
        shows_config=shows_config,
        resolves="--resolve" in options,
        only_checks=CHECK in options,
        says_yes=YES in options,
    )
    try:
        line.settings = readable(line.settings, project.schema, is_sweep)
    except UserError as error:
        if line.names_a_run:
            raise
        raise line.refusal(error, line.settings) from error
    return line


def _words_of_one_run(options: list[str], words: list[str], is_sweep: bool, project: Project) -> list[str]:
    """The words with those that `job=NAME` stands for. UserError: several processes would train several runs."""
    if is_sweep and num_processes() > 1:
        raise UserError(
            f"--multirun: {num_processes()} processes train one run together, and this would be several runs"
            "\nstart one after another without torchrun, or use scripts/sweep.py"
        )
    if any(key_of(word) == "job" for word in words):
        from .resume.job import start_or_carry_on  # only where a job is named

        return start_or_carry_on(options, words, project)
    return words
