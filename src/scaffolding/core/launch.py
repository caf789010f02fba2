"""From the command line to `main(cfg)`: help, resume and fork, Hydra without its folders, errors with the cause first.

Exit codes: 0 finished, 1 a run that failed, 2 wrong input (nothing was created), 74 the disk took no checkpoint any
more, 128 + n stopped by signal n.
"""

import os
import signal
import sys
from pathlib import Path

_package = Path(__file__).resolve().parents[1]
_folder = Path(sys.argv[0]).resolve().parent
_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
if sys.argv[0].endswith(".py") and _folder.name == _package.name and _folder != _package:
    if (_folder / "core" / "launch.py").exists() and _path[0] != str(_folder.parent):
        # a script of another checkout that shares this environment, a git worktree say: it must run its own sources
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_folder.parent), *filter(None, _path)])
        os.execv(sys.executable, sys.orig_argv)
if sys.path[0] and Path(sys.path[0]).resolve() == _package:  # started as a script: our evaluate.py must not hide an
    sys.path[0] = str(_package.parent)  # installed package of that name
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save yet: a Ctrl-C just ends it

import errno
import gc
from collections.abc import Callable
from typing import Any

import dotenv

gc.disable()  # most of an import's time, besides reading files, is the collector looking at what cannot be garbage
import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from loguru import logger
from omegaconf import DictConfig

from .config.compose import COMPOSE_ERRORS, Project, check_files, checked, explained, groups, masked
from .config.usage import help_text
from .errors import RunError, StorageError, UserError
from .folder.folder import storage_error
from .session.console import LOG
from .session.run import STOP_SIGNALS
from .session.tracking import leave_unfinished

gc.enable()
if "triton" not in sys.modules:  # what is frozen is never freed, and triton complains of that at exit
    gc.freeze()

TRACEBACK = "HYDRA_FULL_ERROR"  # set to 1: full tracebacks, also for wrong input
CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}  # a terminal obeys them


def launch(main: Callable[[DictConfig], Any], project: Project) -> None:
    """Compose the config of this command line and call `main` with it, once or, with --multirun, once per job."""
    for number in STOP_SIGNALS:  # until a run is under way there is nothing to save
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    dotenv.load_dotenv(project.root / ".env")
    logger.remove()
    logger.add(lambda text: sys.stderr.write(text), **LOG)
    logger.configure(patcher=_without_control_characters)
    full = os.environ.get(TRACEBACK) == "1"
    try:
        if {"--help", "-h"} & set(sys.argv):
            print(help_text(project, sys.argv))
        else:
            _run_hydra(main, project, sys.argv[1:])
    except (UserError, RunError) as error:
        if full:
            raise
        print(f"error: {error}".translate(CONTROL), file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else error.code)
    except OSError as error:
        if full or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        print(f"error: {storage_error(Path(error.filename or '.').resolve(), error)}", file=sys.stderr)
        sys.exit(StorageError.code)
    finally:
        leave_unfinished()


def _without_control_characters(record: Any) -> None:
    """Show those of a file's names or a checkpoint's keys, which may be a stranger's, instead of obeying them."""
    record["message"] = record["message"].translate(CONTROL)


def _run_hydra(main: Callable[[DictConfig], Any], project: Project, words: list[str]) -> None:
    keys = {word.partition("=")[0].lstrip("+") for word in words}
    trust = [name for name in (_value(words, "trust") or "").split(",") if name]
    is_sweep = bool({"--multirun", "-m"} & keys)
    verb, parent = "", None
    if {"resume", "fork", "rerun"} & keys:
        verb, parent = _named_run(words, _output_root(words, project))
    if trust and not parent:
        raise UserError("trust: goes with resume, fork or rerun\nthe checkout and the command line are trusted anyway")
    # Hydra makes no folders and no log of its own; the jobs of a sweep lie together
    more = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.sweep.subdir=."]
    more += [f"hydra/{log}=disabled" for log in ("job_logging", "hydra_logging")]
    if is_sweep:
        more.append(f"hydra.sweep.dir={_output_root(words, project)}/exp_${{now:%Y-%m-%d_%H-%M-%S}}")
    rest = [word for word in words if word.partition("=")[0] not in ("resume", "fork", "rerun", "trust")]
    options: list[str] = []
    if parent:
        options, inherited = _read_run(verb, parent, rest, project, trust)
        more += inherited
    raised: list[Exception] = []

    def task(composed: DictConfig) -> Any:
        try:
            check_files(HydraConfig.get().runtime, project)
            cfg = checked(composed, project)
            if parent:
                cfg[verb] = str(parent)
                if verb == "rerun":
                    cfg.run.name = _value(words, "run.name")
                    here = str(parent.parent)  # wherever the run was moved
                    cfg.paths.output = _value(words, "paths.output") or here
                from .resume.resume import check  # only where a run goes on from another

                check(cfg, verb, project)
            sys.argv[1:] = map(masked, words)  # libraries may note down what they find there
            _import_rest()
            return main(cfg)
        except Exception as error:  # kept, and raised below: Hydra would print lines of its own first
            raised.append(error)
            if is_sweep:
                raise

    os.environ[TRACEBACK] = "1"  # errors come here as they were raised, instead of Hydra's own report
    # argparse wants the overrides in one piece: ours go before the first of the user's
    first = next((i for i, word in enumerate(rest) if "=" in word and not word.startswith("-")), len(rest))
    sys.argv[1:] = [*options, *rest[:first], *more, *rest[first:]]
    try:
        hydra.main(version_base="1.3", config_path=str(project.configs), config_name="base")(task)()
    except COMPOSE_ERRORS as error:
        if not raised:
            raise explained(error, project, rest) from error
        raise
    if raised:
        raise raised[0]


def _named_run(words: list[str], root: Path) -> tuple[str, Path | None]:
    """The verb of a command line, and the run that it names; ("", None) without one."""
    named = {verb: name for verb in ("resume", "fork", "rerun") if (name := _value(words, verb)) is not None}
    if not named:
        return "", None
    if len(named) > 1:
        raise UserError(
            f"{' and '.join(named)}: only one of them\nresume carries the same run on, fork starts a new one, "
            "rerun does the same again"
        )
    from .folder.folder import find_run

    verb, name = next(iter(named.items()))
    return verb, find_run(name, root)


def _read_run(
    verb: str, run: Path, words: list[str], project: Project, trust: list[str]
) -> tuple[list[str], list[str]]:
    """What Hydra gets of a run: options that make its config the one to override, or the words that it was made of."""
    from .config.trust import open_to_resume, read_words  # imported only here

    if verb == "fork":  # the parent's command line, then this one's
        own = {word.partition("=")[0].lstrip("+~") for word in words} | {
            "run.name",
            "paths.output",
            "paths.output_root",
        }
        before = read_words(run / "overrides.yaml", project, trust)
        return [], [word for word in before if word.partition("=")[0].lstrip("+~") not in own]
    for word in words:  # there are no groups to choose from any more
        if (group := word.partition("=")[0].lstrip("+~")) in groups(project.configs):
            raise UserError(
                f"{word}: refused, {verb} keeps the run's {group}\nset single keys ({group}.KEY=VALUE), "
                f"or start a new run from its weights with fork={run.name}"
            )
    return ["--config-name", open_to_resume(run, project, trust)], []


def _import_rest() -> None:
    """What building the first optimizer imports, half of torch, in the same fast way; --help does without it."""
    gc.disable()
    torch.optim.SGD([torch.zeros(1)])
    gc.enable()


def _value(words: list[str], key: str) -> str | None:
    """The value a command line gives to a plain key."""
    found = [word.partition("=")[2].strip("'\"") for word in words if word.lstrip("+").partition("=")[0] == key]
    return found[-1] if found and found[-1] != "null" else None


def _output_root(words: list[str], project: Project) -> Path:
    given = _value(words, "paths.output") or _value(words, "paths.output_root")
    return project.root / given if given else project.output_root
