"""From the command line to `main(cfg)`: help, resume and fork, Hydra without its folders, errors with the cause first.

Exit codes: 0 finished, 1 a run that failed, 2 wrong input (nothing was created), 128 + n stopped by signal n.
"""

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dotenv

gc.disable()  # most of an import's time above reading files is the collector looking at what cannot be garbage
import hydra  # noqa: E402
import torch  # noqa: E402, F401
import yaml  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

gc.enable()
gc.freeze()

from . import console  # noqa: E402
from .compose import COMPOSE_ERRORS, Project, checked, explain, groups, register  # noqa: E402
from .errors import RunError, UserError  # noqa: E402
from .run_folder import find_run  # noqa: E402

# Hydra makes no folders and no log of its own; a sweep's jobs lie together
QUIET = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
    "hydra.sweep.subdir=.",
)
TRACEBACK = "HYDRA_FULL_ERROR"  # set to 1: full tracebacks, also for wrong input


def launch(main: Callable[[DictConfig], Any], project: Project) -> None:
    """Compose the config of this command line and call `main` with it, once or, with --multirun, once per job."""
    dotenv.load_dotenv(project.root / ".env")
    console.setup()
    full = os.environ.get(TRACEBACK) == "1"
    try:
        arguments = _arguments(sys.argv[1:], project)
        if arguments is not None:
            _run_hydra(main, project, arguments)
    except UserError as error:
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        if full:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run_hydra(main: Callable[[DictConfig], Any], project: Project, arguments: list[str]) -> None:
    given = [word for word in arguments if "=" in word and not word.startswith("hydra")]
    resume = _value(sys.argv[1:], "resume")
    run = find_run(resume, _output_root(sys.argv[1:], project)) if resume else None
    raised: list[Exception] = []

    def task(composed: DictConfig) -> Any:
        try:
            cfg = checked(composed, project)
            cfg.resume = str(run) if run else None
            return main(cfg)
        except Exception as error:  # kept, and raised below: Hydra would print lines of its own first
            raised.append(error)
            if "--multirun" not in arguments and "-m" not in arguments:
                return None
            raise

    register(project)
    os.environ[TRACEBACK] = "1"  # errors come here as they were raised, instead of Hydra's own report
    sys.argv[1:] = arguments
    try:
        hydra.main(version_base="1.3", config_path=str(project.configs), config_name="base")(task)()
    except COMPOSE_ERRORS as error:
        if raised:
            raise
        raise explain(error, project, given) from error
    if raised:
        raise raised[0]


def _arguments(words: list[str], project: Project) -> list[str] | None:
    """What Hydra gets for a command line; None where --help was all."""
    if "--help" in words or "-h" in words:
        print(help_text(project, Path(words[words.index("--config-dir") + 1]) if "--config-dir" in words else None))
        return None
    sweep = f"hydra.sweep.dir={project.output_root}/exp_${{now:%Y-%m-%d_%H-%M-%S}}"
    quiet = [*QUIET, sweep] if "--multirun" in words or "-m" in words else list(QUIET)
    resume, fork = _value(words, "resume"), _value(words, "fork")
    root = _output_root(words, project)
    if resume is not None:
        if fork is not None:
            raise UserError("resume and fork: only one of them\nresume carries the same run on, fork starts a new one")
        run = find_run(resume, root)
        rest = [word for word in words if not word.startswith("resume=")]
        for word in rest:
            name = word.partition("=")[0].lstrip("+~")
            if name in groups(project.configs):
                raise UserError(
                    f"{word}: refused, a resumed run keeps its {name}\n"
                    f"set single keys ({name}.KEY=VALUE), or start a new run from its weights with fork={run.name}"
                )
        options = ["--config-path", str(run), "--config-name", "config"]
        return [*options, *quiet, *rest]
    if fork is not None:
        parent = find_run(fork, root)
        own = {word.partition("=")[0].lstrip("+~") for word in words}
        before = yaml.safe_load((parent / "overrides.yaml").read_text()) or []
        own |= {"fork", "resume", "run.name"}
        inherited = [word for word in before if word.partition("=")[0].lstrip("+~") not in own]
        rest = [word for word in words if not word.startswith("fork=")]
        return [*inherited, *rest, f"fork='{parent}'", *quiet]
    return [*words, *quiet]


def _value(words: list[str], key: str) -> str | None:
    """The value a command line gives to a plain key."""
    found = [word.partition("=")[2] for word in words if word.lstrip("+").partition("=")[0] == key]
    value = found[-1].strip("'\"") if found else None
    return None if value in ("null", None) else value


def _output_root(words: list[str], project: Project) -> Path:
    given = _value(words, "paths.output") or _value(words, "paths.output_root")
    return project.path(given) if given else project.output_root


def help_text(project: Project, extra: Path | None = None) -> str:
    """Groups, their options, and the keys of base.yaml with unit and meaning."""
    base = (project.configs / "base.yaml").read_text()
    defaults = {
        key: value
        for entry in yaml.safe_load(base)["defaults"]
        if isinstance(entry, dict)
        for key, value in entry.items()
    }
    lines = [f"usage: {console.command()} [GROUP=OPTION ...] [KEY=VALUE ...]", "", "groups and their options (* default):"]
    options = groups(project.configs)
    for group, own in (groups(extra) if extra else {}).items():
        options[group] = sorted({*options.get(group, []), *own})
    for group, names in options.items():
        marked = [f"*{name}" if defaults.get(group) == name else name for name in names]
        lines.append(f"  {group:<11} {'  '.join(marked)}")
    lines += [
        "",
        "other runs:",
        "  resume=RUN   carry a run on: its name, first letters, `latest`, or its path",
        "  fork=RUN     start a new run from the weights of another",
        "  --multirun KEY=A,B   one run per value; --config-dir DIR   a folder of your own configs",
        "  --cfg job   print the composed config",
        "",
        "keys of configs/base.yaml:",
        "",
        base.split("\n\n", 1)[1].rstrip(),
    ]
    return "\n".join(lines)
