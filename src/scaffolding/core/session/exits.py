"""os._exit of a library must not make a job script take a run for finished."""

import contextlib
import os
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

from loguru import logger


@contextlib.contextmanager
def no_early_exit(write_status: Callable[[str, str], None]) -> Iterator[None]:
    """While active, os._exit(0) in this process ends it with 1, and `write_status` notes it down."""
    leave, own = os._exit, os.getpid()

    def leave_with_a_word(status: int) -> NoReturn:
        if os.getpid() == own:  # not a forked worker
            frame = traceback.extract_stack()[-2]
            logger.error(f"os._exit({status}) in {frame.filename}:{frame.lineno} ended the run before its end")
            write_status("failed", f"os._exit({status})")
            status = status or 1
        leave(status)

    os._exit = leave_with_a_word
    try:
        yield
    finally:
        os._exit = leave
