"""Programs of which several processes run at once, each told in its environment which one it is, as torchrun does."""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import zygote


def start(
    argv: list[str], num: int, log: Path, env: Mapping[str, str], last: Sequence[str] = ()
) -> list[zygote.Started]:
    """Start a program as `num` processes. What process N prints is added to a file next to `log`, named <log>.N.

    The last process gets the words in `last` as well.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    common = {**env, "WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = []
    for rank in range(num):
        file = log.with_name(f"{log.name}.{rank}")
        of_rank = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        words = [*argv, *(last if rank == num - 1 else ())]
        processes.append(zygote.start(words, file, file, env=common | of_rank))
    return processes


def wait(processes: list[zygote.Started], seconds: float = 120) -> list[int | None]:
    """Their exit codes; None: it still runs, and is ended now."""
    codes = [process.wait(seconds) for process in processes]
    for process, code in zip(processes, codes, strict=True):
        if code is None:
            process.send(9)
    return codes


@contextlib.contextmanager
def ended(processes: list[zygote.Started]) -> Iterator[list[zygote.Started]]:
    """However a block ends, the processes end as well."""
    try:
        yield processes
    finally:
        for process in processes:
            if process.code is None:
                process.send(9)
