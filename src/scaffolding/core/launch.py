"""From the command line to `main(cfg)`: help, resume and fork, Hydra without its folders, errors with the cause first.

Exit codes: 0 finished, 1 a run that failed, whatever ended it, 2 wrong input (nothing was created), 74 the disk took no
checkpoint any more, 128 + n stopped by signal n.
"""

import os
import signal
import subprocess
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
_folder = Path(sys.argv[0]).resolve().parent
_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
_is_ours = _folder == _package or _folder.name != _package.name or not (_folder / "core" / "launch.py").exists()
if sys.argv[0].endswith(".py") and not _is_ours and _path[0] != str(_folder.parent):
    # a script of another checkout that shares this environment (a git worktree): it must run its own sources
    os.environ["PYTHONPATH"] = os.pathsep.join([str(_folder.parent), *filter(None, _path)])
    if sys.platform == "win32":  # `execv` would not wait for the other program there
        sys.exit(subprocess.call(sys.orig_argv))
    os.execv(sys.executable, sys.orig_argv)
if sys.path[0] and Path(sys.path[0]).resolve() == _package:  # started as a script: our evaluate.py must not hide an
    sys.path[0] = str(_package.parent)  # installed package of that name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: a Ctrl-C just ends it

import contextlib
import dataclasses
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
    check_files,
    checked,
    composing_error,
    masked,
    own_words,
    without_words,
)
from .config.grammar import config_dirs, key_of, readable, split_options, unquoted
from .config.usage import help_text
from .errors import CONTROL, Ended, RunError, StorageError, UserError, ended_early
from .find import absolute, find_run, of_machine, read_output_root
from .folder.folder import acquire, storage_error, written
from .multirun import remove_listing, settings_of_hydra, summary
from .output import install
from .processes.connect import SPEAK_AFTER, connect, leave_together, num_processes, rank
from .secrets import without_keys
from .session.console import command, note_program
from .signals import handle
from .trust.config import open_config
from .trust.words import check_together, read_words

gc.enable()
if "triton" not in sys.modules:  # what is frozen is never freed, and triton complains of that at exit
    gc.freeze()

VERBS = ("resume", "fork", "rerun")
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
    is_sweep = bool({"--multirun", "-m"} & set(options))
    words = _words_of_one_run(options, words, is_sweep, project)
    pairs = [word.partition("=") for word in words]
    given = {key.lstrip("+"): unquoted(value) for key, _, value in pairs if value != "null"}
    rest = [word for word in words if word.partition("=")[0] not in (*VERBS, "trust")]
    rest = readable(rest, project.schema, is_sweep)
    made: list[Path] = []  # folders, by Hydra, for a sweep
    more = settings_of_hydra(project, is_sweep, made, given.get("run.name", ""))
    source: list[str] = []
    verb = ""
    if {*VERBS, "trust"} & set(given):
        verb, parent, source, inherited = _source_of(given, rest, options, project)
        more += inherited
    for key in ("fork_state", "fork_weights"):
        if key in given and verb != "fork":
            raise UserError(f"{key}={given[key]}: only works with fork=RUN, which starts a new run from another")
    shows_config = "--cfg job" in " ".join(options) and "--package" not in options
    resolves = "--resolve" in options
    if shows_config:  # done here, not by Hydra, so that it is checked
        options = [word for word in options if word not in ("--cfg", "job", "--resolve")]

    def job(composed: DictConfig) -> Any:
        remove_listing(made)
        if not source:  # composed of this checkout's files
            check_files(HydraConfig.get().runtime, project)
        cfg = checked(composed, project)
        if shows_config:
            print(OmegaConf.to_yaml(composed, resolve=resolves), end="")
            return None
        processes = connect(cfg, verb == "resume")
        if verb:
            from .resume.resume import check  # only where a run goes on from another

            check(cfg, verb, parent, given, project)
            if verb == "resume":  # the run may be finished, and then nothing of it changes
                processes.first(acquire, parent, False)
        if is_sweep:  # its jobs lie together
            cfg.paths.output = HydraConfig.get().sweep.dir
        sys.argv[1:] = map(masked, [*options, *words])  # libraries may note down what they find there
        gc.disable()  # building the first optimizer imports half of torch; --help does without it
        torch.optim.SGD([torch.zeros(1)])
        gc.enable()
        return main(cfg)

    sys.argv[1:] = [*source, *options, *more, *rest]
    raised: list[Exception] = []
    told: list[str] = []  # of each job of a sweep that failed: which one, and why
    try:
        _call_hydra(_keeping_errors(job, raised, told, rest, is_sweep), project, made)
    except COMPOSE_ERRORS as error:
        if not raised:
            raise composing_error(error, project, rest) from error
        raise
    if raised:
        raise summary(raised[0], told)


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


def _keeping_errors(job: Job, raised: list[Exception], told: list[str], words: list[str], is_sweep: bool) -> Job:
    """The job with its errors put into `raised`: Hydra does not see them, or it would print its own lines first.

    In a sweep the other jobs run, and `told` gets a text for each error.
    """

    def task(composed: DictConfig) -> Any:
        try:
            return job(composed)
        except Ended:
            raise
        except (Exception, SystemExit) as error:
            raised.append(ended_early(error) if isinstance(error, SystemExit) else error)
            if is_sweep:
                traceback.clear_frames(error.__traceback__)  # they hold the job's network
                cause = without_words(str(raised[-1]), words)
                logger.error(f"job {HydraConfig.get().job.num}: {cause}")
                if not isinstance(raised[-1], UserError | RunError):
                    cause = f"{type(error).__name__}: {cause}"
                own = " ".join(word for word in own_words() if word not in map(masked, words))
                told.append(f"job {HydraConfig.get().job.num} ({own}): {cause}")
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


def _source_of(
    given: dict[str, str], words: list[str], options: list[str], project: Project
) -> tuple[str, Path, list[str], list[str]]:
    """The verb of a command line, the run that it names, and what Hydra gets of that run.

    Returns:
        Verb, run, options that make the run's config the one to override, or the words that it was made of.
    """
    verbs = [verb for verb in VERBS if verb in given]
    if not verbs:
        raise UserError("trust: needs resume, fork or rerun\nthe checkout and the command line are trusted anyway")
    if len(verbs) > 1:
        raise UserError(
            f"{' and '.join(verbs)}: only one of them\nresume carries the same run on, fork starts a new one, "
            "rerun does the same again"
        )
    verb, trust = verbs[0], [name for name in given.get("trust", "").split(",") if name]
    output = given.get("paths.output") if verb == "resume" else None  # of the others it says where the new run goes
    if output is not None:
        root = absolute(output, project.root)
    else:
        root = read_output_root(project.root, given.get("paths.output_root"))
    run = find_run(given[verb], root)
    keys = {key_of(word): word for word in words if "=" in word or word.startswith("~")}
    if verb == "fork":  # the parent's command line, then this one's
        own = {*keys, "run.name", "paths.output", "paths.output_root"}
        own |= {f"paths.{name}" for name in of_machine(project.schema)}
        before = read_words(run / "overrides.yaml", project, trust)
        inherited = {key_of(word): word for word in before}
        chosen = [key for key, word in keys.items() if (project.configs / key).is_dir() and inherited.get(key) != word]
        groups = tuple(f"{key}." for key in chosen)
        dropped = [word for key, word in inherited.items() if key.startswith(groups) and key not in own]
        if dropped:
            logger.info(
                f"left out: {', '.join(map(masked, dropped))}, which {run.name} had for its own choice of "
                f"{', '.join(sorted({key.partition('.')[0] for key in inherited if inherited[key] in dropped}))}"
            )
        own |= {key_of(word) for word in dropped}
        kept = [word for word in before if key_of(word) not in own]
        naming = [word for key, word in keys.items() if (project.configs / key).is_dir() or "_target_" in word]
        check_together(kept, naming, config_dirs(options), project, trust)
        return verb, run, [], kept
    for key, word in keys.items():
        if (project.configs / key).is_dir():  # the run has chosen
            single = f"; single keys may be set ({key}.KEY=VALUE)"
            if key not in {field.name for field in dataclasses.fields(project.schema)}:  # mode, experiment
                single = ""
            raise UserError(
                f"{word}: refused, {verb} keeps the run's {key}, as every choice of a group\nleave it out{single}"
                f"\nfork={run.name} {word} starts a new run from its weights"
            )
    # as it was checked: Hydra does not read the folder
    ConfigStore.instance().store("config of the run", open_config(run, project, trust))
    return verb, run, ["--config-name", "config of the run"], []
