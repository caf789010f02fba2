"""How many processes train together, and how they find each other.

Whatever started them (torchrun, srun, Ray) tells each in its environment: RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT. With one process, torch.distributed is not imported.
"""

import os
import sys
from typing import Any

from ..errors import UserError
from .one import OneProcess

VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # needed besides WORLD_SIZE
SPEAK_AFTER = 3.0  # seconds that processes wait before they say what is wrong: the first one says it, and all end

ONE_PROCESS = OneProcess()
connected: list[Any] = []  # the processes of this program, once they know each other


def num_processes() -> int:
    """How many processes the environment speaks of; UserError: it does not make sense."""
    count = os.environ.get("WORLD_SIZE") or "1"
    if not count.isdigit() or int(count) < 1:
        raise UserError(f"WORLD_SIZE={count}: not a number of processes\nunset it, or start with torchrun")
    if int(count) == 1:
        return 1
    missing = [name for name in VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE={count} says that there are several processes, but not {', '.join(missing)}"
            f"\nstart them with torchrun --nproc-per-node {count} {sys.argv[0]} ...; for one process unset WORLD_SIZE"
        )
    for name in ("RANK", "LOCAL_RANK"):
        if not os.environ[name].isdigit() or int(os.environ[name]) >= int(count):
            raise UserError(f"{name}={os.environ[name]}: not a number below WORLD_SIZE={count}")
    return int(count)


def rank() -> int:
    """Which of the processes this is, counted from 0, as far as the environment says it."""
    number = os.environ.get("RANK", "")
    if os.environ.get("WORLD_SIZE", "1") in ("", "1") or not number.isdigit():
        return 0
    return int(number)


def connect(cfg: Any, is_resumed: bool = False) -> Any:
    """The processes that train this run: this one alone, or all that were started, which know each other from now on.

    Args:
        cfg: the config.
        is_resumed: whether the run exists, so that its micro-batches are what they are.

    Raises:
        UserError: they cannot share the micro-batches of a step or the GPUs, or were started with different settings.
    """
    count = num_processes()
    if count == 1:
        return ONE_PROCESS
    if sys.platform == "win32":
        raise UserError(
            f"WORLD_SIZE={count}: several processes train together on Linux and macOS only"
            "\nstart one process, or work in WSL, which is a Linux on Windows"
        )
    if cfg.run.accumulate < count:
        size, smaller = cfg.loader.batch_size, max(1, cfg.loader.batch_size // count)
        if is_resumed:
            raise UserError(
                f"run.accumulate={cfg.run.accumulate}: {count} processes cannot share the micro-batches of a step"
                f"\nstart at most {cfg.run.accumulate}, or begin another run: fork=RUN run.accumulate={count}"
            )
        raise UserError(
            f"run.accumulate={cfg.run.accumulate}: {count} processes share the micro-batches of a step, so there must "
            f"be {count} or more\nrun.accumulate={count} makes steps of {count} * {size} items; "
            f"loader.batch_size={smaller} run.accumulate={count} keeps steps of {count * smaller}"
        )
    if not connected:
        from .several import Processes  # only where there are several

        Processes(cfg, connected.append)
    return connected[0]


def leave_together() -> None:
    """Called last: with several processes, this one ends here, when all are ready to or when one has failed."""
    if not connected:
        return
    error = sys.exc_info()[1]
    code: Any = 0
    if isinstance(error, SystemExit):
        code = error.code
    elif error is not None:
        connected[0].tell(error)
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    connected[0].leave(code or 0)
