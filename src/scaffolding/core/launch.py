"""From the command line to `main(cfg)`: help, resume and fork, Hydra without its folders, errors with the cause first.

Exit codes: 0 finished, 1 a run that failed, 2 wrong input (nothing was created), 74 the disk took no checkpoint any
more, 128 + n stopped by signal n.
"""

import errno
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dotenv

gc.disable()  # most of an import's time, beside reading files, is the collector looking at what cannot be garbage
import hydra
import torch
from omegaconf import DictConfig

from .config.compose import COMPOSE_ERRORS, Project, checked, explained, groups
from .errors import RunError, StorageError, UserError
from .folder import provenance
from .folder.files import storage_error
from .session import console
from .session.signals import leave_at_once
from .session.tracking import leave_unfinished

gc.enable()
if "triton" not in sys.modules:  # what is frozen is never freed, and triton complains of that at exit
    gc.freeze()

TRACEBACK = "HYDRA_FULL_ERROR"  # set to 1: full tracebacks, also for wrong input


def launch(main: Callable[[DictConfig], Any], project: Project, help_text: Callable[[list[str]], str]) -> None:
    """Compose the config of this command line and call `main` with it, once or, with --multirun, once per job."""
    leave_at_once()
    dotenv.load_dotenv(project.root / ".env")
    console.setup()
    full = os.environ.get(TRACEBACK) == "1"
    try:
        if {"--help", "-h"} & set(sys.argv):
            print(help_text(sys.argv))
        else:
            _run_hydra(main, project, sys.argv[1:])
    except (UserError, RunError) as error:
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else error.code)
    except OSError as error:
        if full or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        print(f"error: {storage_error(Path(error.filename or '.').resolve(), error)}", file=sys.stderr)
        sys.exit(StorageError.code)
    finally:
        leave_unfinished()


def _run_hydra(main: Callable[[DictConfig], Any], project: Project, words: list[str]) -> None:
    root = _output_root(words, project)
    verb, parent = _named_run(words, root)
    is_sweep = bool({"--multirun", "-m"} & set(words))
    # Hydra makes no folders and no log of its own; the jobs of a sweep lie together
    more = ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra.sweep.subdir=."]
    more += [f"hydra/{log}=disabled" for log in ("job_logging", "hydra_logging")]
    more += [f"hydra.sweep.dir={root}/exp_${{now:%Y-%m-%d_%H-%M-%S}}"] if is_sweep else []
    rest = [word for word in words if word.partition("=")[0] not in ("resume", "fork", "rerun", "trust")]
    trust = [name for name in (_value(words, "trust") or "").split(",") if name]
    if trust and not parent:
        raise UserError("trust: goes with resume, fork or rerun\nthe checkout and the command line are trusted anyway")
    options, inherited = _read_run(verb, parent, rest, project, trust) if parent else ([], [])
    more += inherited
    raised: list[Exception] = []

    def task(composed: DictConfig) -> Any:
        try:
            cfg = checked(composed, project)
            if parent:
                cfg[verb] = str(parent)
                cfg.run.name = _value(words, "run.name") if verb == "rerun" else cfg.run.name
            sys.argv[1:] = map(provenance.masked, words)  # libraries may note down what they find there
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
    from .folder.find import find_run  # imported only here

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
