"""One process, which has nobody to agree with."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn


class OneProcess:
    """Stands in for `Processes` (several.py) where a run has one process: everything is done here and at once."""

    rank, count = 0, 1
    device = None  # the run's setting chooses it

    def first(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns in the first process, which alone calls it: it writes."""
        return function(*arguments)

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """What `function` returns here, after the first process is through with it: it may download."""
        return function()

    def wait(self) -> None:
        """Wait until all are here."""

    def check(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function` in every process; where it raises in one, all raise."""
        function(*arguments)

    def check_start(self, exp: Any) -> None:
        """RunError where processes do not begin a run alike."""

    def agree(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        return number

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank."""
        return [value]

    def sum(self, value: Any) -> Any:
        """The sum of a number or a scalar tensor over all processes."""
        return value

    def mean(self, metrics: Mapping[str, Any]) -> Any:
        """The values over all processes."""
        return metrics

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the buffers that the first one has."""

    def leave_alone(self, metric: Any) -> None:
        """Let a metric compute its value in each process by itself."""

    def check_same(self, model: nn.Module) -> None:
        """RunError where processes have other weights."""

    def full(self, state: Any) -> Any:
        """A nested state with whole tensors in the place of sharded ones."""
        return state

    @contextlib.contextmanager
    def following(self, run: Any) -> Iterator[None]:
        """The session of a process that writes nothing."""
        yield

    def cause(self, error: BaseException, run: Path) -> BaseException:
        """The error to show where one ends the run."""
        return error
