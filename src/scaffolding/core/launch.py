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
from typing import Any

import dotenv

gc.disable()  # most of an import's time, besides reading files, is the collector looking at what cannot be garbage
import hydra
import torch
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import DictConfig, OmegaConf

from .config.compose import (
    COMPOSE_ERRORS,
    Project,
    checked_and_plain,
    masked,
    task_words,
    without_words,
)
from .config.grammar import config_dirs, key_of, readable, search_path, split_options, unquoted
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
from .processes.connect import SPEAK_AFTER, connect, leave_together, num_processes, rank
from .provenance.ephemeral import kept_nowhere
from .provenance.policy import settle
from .secrets import without_keys
from .session.console import command, note_program
from .signals import handle

gc.enable()
if "triton" not in sys.modules:  # what is frozen is never freed, and triton complains of that at exit
    gc.freeze()

VERBS = ("resume", "fork", "rerun")
CHECK = "--check"  # an option: look at the config, and at nothing else
YES = "-y"  # an option: the answer to the question that run.provenance=refuse asks
SEVERAL = ("--multirun", "-m")
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
    options, words = split_options(words)
    is_sweep = bool(set(SEVERAL) & set(options))
    carried_on = next((word for word in [*options, *words] if word in SEVERAL or key_of(word) in ("job", "resume")), "")
    words = _words_of_one_run(options, words, is_sweep, project)
    pairs = [word.partition("=") for word in words]
    given = {key.lstrip("+"): unquoted(value) for key, _, value in pairs if value != "null"}
    rest = [word for word in words if word.partition("=")[0] not in (*VERBS, "trust")]
    search = search_path(config_dirs(options))
    parent: tuple[Path, Any] | None = None  # a run whose config the words change
    inherited: dict[str, str] = {}  # words of another run, and where they stand

    def all_wrong(error: Exception, words: list[str], is_one_job: bool = False) -> UserError:
        from .preflight.gather import refusal  # only where something is wrong

        found = refusal(error, project, [*search, *words], parent, inherited, is_sweep and not is_one_job)
        return FaultsError(found.faults, "") if is_one_job and isinstance(found, FaultsError) else found

    has_verb = bool({*VERBS, "trust"} & set(given))
    try:
        rest = readable(rest, project.schema, is_sweep)
    except UserError as error:
        raise error if has_verb else all_wrong(error, rest) from error
    made: list[Path] = []  # folders, by Hydra, for a sweep
    more = settings_of_hydra(project, is_sweep, made, given.get("run.name", ""))
    source: list[str] = []
    verb = ""
    if has_verb:
        from .resume.source import source_of  # only where a run is named

        verb, run, source, kept = source_of(given, rest, options, project)
        more += kept
        inherited = dict.fromkeys(kept, f"{run.name}/overrides.yaml")
        if source:
            parent = run, ConfigStore.instance().load(f"{source[-1]}.yaml").node
    for key in ("fork_state", "fork_weights"):
        if key in given and verb != "fork":
            raise UserError(f"{key}={given[key]}: only works with fork=RUN, which starts a new run from another")
    shows_config = "--cfg job" in " ".join(options) and "--package" not in options
    resolves, only_checks, says_yes = "--resolve" in options, CHECK in options, YES in options
    options = [word for word in options if word not in (CHECK, YES)]
    if shows_config:  # done here, not by Hydra, so that it is checked
        options = [word for word in options if word not in ("--cfg", "job", "--resolve")]

    jobs = Jobs(rest, is_quiet=only_checks or shows_config) if is_sweep else None

    def job(composed: DictConfig) -> Any:
        remove_listing(made)
        try:
            if not source:  # composed of this checkout's files
                check_files(HydraConfig.get().runtime, project)
            replaced = rewrite(composed, task_words())
            check_all_found(replaced, inherited)
            cfg, plain = checked_and_plain(composed, project)
            if shows_config:
                print(OmegaConf.to_yaml(composed, resolve=resolves), end="")
                return None
            show_from(cfg.run.console_level, project.package)
            processes = None if only_checks else connect(cfg, verb == "resume")
            for (old, new), keys in replaced.items():
                logger.info(f"{new} replaces {old} in {', '.join(keys) or 'no value'}")
            import_plugins(cfg.imports, project.root)
            check_specs(plain, is_new=True)
        except FaultsError as error:
            raise all_wrong(error, task_words(), is_sweep) from error
        if verb:
            from .resume.resume import check  # only where a run goes on from another

            check(cfg, verb, run, given, project)
            if verb == "resume" and processes:  # the run may be finished, and then nothing of it changes
                processes.first(acquire, run, False)
        loop = loop_of(cfg.run.loop, main, project)
        if processes is None:
            which = f"{jobs.at_work()}: " if jobs is not None else ""
            print(f"{which}the config is sound; no data were read, and nothing was created")
            return None
        settle(cfg, project, processes.first, carried_on, says_yes)
        if is_sweep:  # its jobs lie together
            cfg.paths.output = HydraConfig.get().sweep.dir
        sys.argv[1:] = map(masked, [*options, *words])  # libraries may note down what they find there
        gc.disable()  # building the first optimizer imports half of torch; --help does without it
        torch.optim.SGD([torch.zeros(1)])
        gc.enable()
        with kept_nowhere(cfg, processes):
            return loop(cfg)

    sys.argv[1:] = [*source, *options, *more, *rest]
    raised: list[Exception] = []
    try:
        _call_hydra(_keeping_errors(job, raised, jobs), project, made)
    except COMPOSE_ERRORS as error:
        if not raised:
            raise all_wrong(error, rest) from error
        raise
    if jobs is not None and not (shows_config or only_checks):
        jobs.print_end()
    if raised:
        raise summary(raised[0], jobs.told if jobs else [])


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
