"""From the command line to `main(cfg)`: help, resume and fork, Hydra without its folders, errors with the cause first.

Exit codes: 0 finished, 1 a run that failed, whatever ended it, 2 wrong input (nothing was created), 74 the disk took no
checkpoint any more, 128 + n stopped by signal n.
"""

import os
import signal
import sys
import time
import traceback
from pathlib import Path

if None in (sys.stdin, sys.stdout, sys.stderr):  # closed (`>&-`): the next file that is opened would get their number
    while os.open(os.devnull, os.O_RDWR) < 3:
        pass
    sys.stdin, sys.stdout, sys.stderr = sys.stdin or open(0), sys.stdout or open(1, "w"), sys.stderr or open(2, "w")  # noqa: SIM115
try:
    Path.cwd()
except FileNotFoundError:  # it was deleted, and libraries ask for it
    os.chdir(Path(__file__).parent)
_package = Path(__file__).resolve().parents[1]
if sys.path[0] and Path(sys.path[0]).resolve() == _package:  # started as a script: our evaluate.py must not hide an
    sys.path[0] = str(_package.parent)  # installed package of that name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: a Ctrl-C just ends it

import contextlib
import errno
import gc
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dotenv

gc.disable()  # most of an import's time, besides reading files, is the collector looking at what cannot be garbage
import hydra
import torch
from hydra._internal.hydra import Hydra
from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import DictConfig, OmegaConf

from .command_line import CommandLine, read_command_line
from .config.compose import (
    COMPOSE_ERRORS,
    Project,
    checked_and_plain,
    masked,
    task_words,
    without_words,
)
from .config.loop import loop_of
from .config.plugins import import_plugins
from .config.project import check_files
from .config.usage import help_text
from .edits.replace import check_all_found, rewrite
from .errors import CONTROL, Ended, RunError, StorageError, UserError, ended_early
from .faults import FaultsError
from .folder.folder import acquire, storage_error, written
from .multirun import Jobs, remove_listing, settings_of_hydra, summary
from .output import install, show_from
from .preflight.blocks import check_specs
from .processes.connect import SPEAK_AFTER, connect, leave_together, rank
from .provenance.ephemeral import kept_nowhere
from .provenance.policy import settle
from .secrets import without_keys
from .session.console import command, note_program
from .signals import handle

gc.enable()
if "triton" not in sys.modules:  # what is frozen is never freed, and triton complains of that at exit
    gc.freeze()

TRACEBACK = "HYDRA_FULL_ERROR"  # set to 1: full tracebacks, also for wrong input

Job = Callable[[DictConfig], Any]


def launch(main: Job, project: Project) -> None:
    """Compose the config of this command line and call `main` with it, once or, with --multirun, once per job."""
    handle(lambda number, frame: os._exit(128 + number))  # until a run is under way there is nothing to save
    note_program()
    dotenv.load_dotenv(project.root / ".env")
    install(project.package)
    command()  # remembers the working folder, which may be deleted meanwhile
    visible: Any = lambda record: record.update(message=without_keys(record["message"].translate(CONTROL)))  # noqa: E731
    logger.configure(patcher=visible)
    full, words = os.environ.get(TRACEBACK) == "1", sys.argv[1:]
    try:
        if {"--help", "-h"} & set(sys.argv):
            print(help_text(project, sys.argv))
        else:
            _run_hydra(main, project, words)
    except (UserError, RunError) as error:
        if full:
            raise
        if rank() > 0:
            time.sleep(SPEAK_AFTER)  # the first process says it, unless this one alone has failed
        print(f"error: {without_words(str(error), words)}".translate(CONTROL), file=sys.stderr)
        sys.exit(getattr(error, "code", 1 if written else 2))  # 2: nothing was made
    except OSError as error:
        is_of_disk = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
        if full or not (is_of_disk or isinstance(error, PermissionError)):
            raise
        if is_of_disk:
            print(f"error: {storage_error(Path(error.filename or '.').resolve(), error)}", file=sys.stderr)
            sys.exit(StorageError.code)
        print(f"error: {error.filename}: {error.strerror}".translate(CONTROL), file=sys.stderr)
        sys.exit(1 if written else 2)
    finally:
        leave_together()


def _run_hydra(main: Job, project: Project, words: list[str]) -> None:
    line = read_command_line(words, project)
    if line.names_a_run:
        from .resume.source import source_of  # only where a run is named

        line.source = source_of(line, project)
    for key in ("fork_state", "fork_weights"):
        if key in line.given and line.source.verb != "fork":
            raise UserError(f"{key}={line.given[key]}: only works with fork=RUN, which starts a new run from another")
    made: list[Path] = []  # folders, by Hydra, for a sweep
    settings = settings_of_hydra(project, line.is_sweep, made, line.given.get("run.name", ""))
    sys.argv[1:] = [*line.source.options, *line.options, *settings, *line.source.words, *line.settings]
    jobs = None
    if line.is_sweep:
        jobs = Jobs(line.settings, is_quiet=line.only_checks or line.shows_config)
    raised: list[Exception] = []
    try:
        _call_hydra(_keeping_errors(OneJob(main, project, line, jobs, made), raised, jobs), project, made)
    except COMPOSE_ERRORS as error:
        if not raised:
            raise line.refusal(error, line.settings) from error
        raise
    if jobs is not None and not (line.shows_config or line.only_checks):
        jobs.print_end()
    if raised:
        raise summary(raised[0], jobs.told if jobs else [])


@dataclass(frozen=True)
class OneJob:
    """What a command line does with a config that Hydra composed: once or, with --multirun, once per job.

    Args:
        main: of train.py.
        project: whose configs were composed.
        line: the command line.
        jobs: what is noted down of a sweep; None: this is a single run.
        made: folders that Hydra makes for a sweep.
    """

    main: Job
    project: Project
    line: CommandLine
    jobs: Jobs | None
    made: list[Path]

    def __call__(self, composed: DictConfig) -> Any:
        """Check a composed config and train with it; or only show it, or say that it is sound."""
        remove_listing(self.made)
        words = task_words()
        try:
            checked = self._checked(composed)
            if checked is None:
                return None
            return self._run(*checked)
        except FaultsError as error:
            raise self.line.refusal(error, words, is_one_job=self.line.is_sweep) from error

    def _checked(self, composed: DictConfig) -> tuple[DictConfig, Any] | None:
        """The checked config, and the processes that train with it (None: it is only checked); None: it was shown."""
        line, project = self.line, self.project
        if line.source.config is None:  # composed of this checkout's files
            check_files(HydraConfig.get().runtime, project)
        replaced = rewrite(composed, task_words())
        check_all_found(replaced, line.source.words)
        cfg, plain = checked_and_plain(composed, project)
        if line.shows_config:
            print(OmegaConf.to_yaml(composed, resolve=line.resolves), end="")
            return None
        show_from(cfg.run.console_level, project.package)
        processes = None
        if not line.only_checks:
            processes = connect(cfg, line.source.verb == "resume")
        for (old, new), keys in replaced.items():
            logger.info(f"{new} replaces {old} in {', '.join(keys) or 'no value'}")
        import_plugins(cfg.imports, project.root)
        check_specs(plain, is_new=True)
        return cfg, processes

    def _run(self, cfg: DictConfig, processes: Any) -> Any:
        """Train, if the run that it goes on from and the repository allow it. Without processes, say that it would."""
        line, project = self.line, self.project
        verb, run = line.source.verb, line.source.run
        if verb:
            from .resume.resume import check  # only where a run goes on from another

            check(cfg, verb, run, line.given, project)
            if verb == "resume" and processes:  # the run may be finished, and then nothing of it changes
                processes.first(acquire, run, False)
        loop = loop_of(cfg.run.loop, self.main, project)
        if processes is None:
            which = f"{self.jobs.at_work()}: " if self.jobs is not None else ""
            print(f"{which}the config is sound; no data were read, and nothing was created")
            return None
        settle(cfg, project, processes.first, line.carried_on, line.says_yes)
        if line.is_sweep:  # its jobs lie together
            cfg.paths.output = HydraConfig.get().sweep.dir
        sys.argv[1:] = map(masked, [*line.options, *line.words])  # libraries may note down what they find there
        gc.disable()  # building the first optimizer imports half of torch; --help does without it
        torch.optim.SGD([torch.zeros(1)])
        gc.enable()
        with kept_nowhere(cfg, processes):
            return loop(cfg)


def _keeping_errors(job: Job, raised: list[Exception], jobs: Jobs | None) -> Job:
    """The job with its errors put into `raised`: Hydra does not see them, or it would print its own lines first.

    In a sweep, whose `jobs` are noted down, the other jobs run.
    """

    def task(composed: DictConfig) -> Any:
        try:
            if jobs is not None:
                jobs.begin()
            return job(composed)
        except Ended:
            raise
        except (Exception, SystemExit) as error:
            raised.append(ended_early(error) if isinstance(error, SystemExit) else error)
            if jobs is not None:
                traceback.clear_frames(error.__traceback__)  # they hold the job's network
                jobs.note_failure(raised[-1])
            return math.nan  # to a sweeper: it failed

    return task


def _call_hydra(task: Job, project: Project, made: list[Path]) -> None:
    """Let Hydra call the task, for each job of a sweep; of a sweep that was refused nothing stays."""
    os.environ[TRACEBACK] = "1"  # errors come here as they were raised, instead of Hydra's own report
    # Hydra would compose the whole config a first time, only to look for hydra.mode in it; --multirun says that here
    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
    try:
        hydra.main(version_base="1.3", config_path=str(project.configs), config_name="base")(task)()
    finally:
        remove_listing(made)
        for folder in made:
            with contextlib.suppress(OSError):  # it holds runs
                folder.rmdir()
