"""Any criterion on any module: the loss of configs/model/module.yaml."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from ..core.tree import describe

Path = Sequence[str | int]  # into a batch: keys of dicts, positions in tuples and lists
Paths = Mapping[str, Path] | Sequence[Path]  # of arguments, by name or in their order


class MappedLoss:
    """Any criterion on any module, whatever the batch looks like: `criterion(model(*inputs), *targets)`.

    A path leads into a batch, step by step: `[0]` is its first part, `[image, 2]` is `batch["image"][2]`, `[]` all of
    it.

    Args:
        criterion: called with what the module returns, then the targets; a mean over items.
        inputs: paths of the module's arguments, by name or in their order; None: the batch's first part.
        targets: paths of the criterion's arguments after the first one, by name or in their order; None: the second.
        output: path into what the module returns, where that is a tuple or a mapping, e.g. `[logits]`.
        metrics: functions called like the criterion, by the name that their values get; means over items, too.

    Raises:
        ValueError: `inputs` or `targets` is neither a list nor a mapping of lists.
    """

    def __init__(
        self,
        criterion: Callable[..., Tensor],
        inputs: Paths | None = None,
        targets: Paths | None = None,
        output: Path = (),
        metrics: Mapping[str, Callable[..., Tensor]] | None = None,
    ) -> None:
        self.criterion, self.output, self.metrics = criterion, output, metrics or {}
        self.inputs, self.targets = _checked(inputs, "inputs", 0), _checked(targets, "targets", 1)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The criterion's value and the metrics, from a batch of any structure."""
        inputs, named_inputs = _arguments(batch, self.inputs)
        targets, named_targets = _arguments(batch, self.targets)
        output = _at(model(*inputs, **named_inputs), self.output)
        loss = self.criterion(output, *targets, **named_targets)
        values = {name: metric(output, *targets, **named_targets) for name, metric in self.metrics.items()}
        return loss, {**values, "output": output}

    def check(self, model: nn.Module, batch: Any) -> None:
        """Compare the paths with a batch, and the arguments with what the module and the criterion take.

        Raises:
            ValueError: a path leads nowhere, an argument is missing or unknown; both sides are named.
        """
        for name, paths in (("inputs", self.inputs), ("targets", self.targets)):
            for argument, path in _named(paths):
                try:
                    _at(batch, path)
                except (KeyError, IndexError, TypeError) as error:
                    raise ValueError(
                        f"{name}.{argument}: there is no {list(path)} in a batch\na batch is {describe(batch)}"
                    ) from error
        _check_call(model, "inputs", _arguments(batch, self.inputs))
        targets, named_targets = _arguments(batch, self.targets)
        for function in (self.criterion, *self.metrics.values()):
            _check_call(function, "targets", ([None, *targets], named_targets))


def _checked(paths: Any, name: str, position: int) -> Paths:
    """Paths as they were given, or the one of the batch's part at `position`."""
    if paths is None:
        return [[position]]
    parts = paths.values() if isinstance(paths, Mapping) else paths
    if isinstance(paths, str) or not all(isinstance(path, list | tuple) for path in parts):
        raise ValueError(f"{name}={paths}: give a list of paths or {{name: path}}, where a path is a list, e.g. [[0]]")
    return paths  # type: ignore[no-any-return]


def _named(paths: Paths) -> list[tuple[Any, Path]]:
    return list(paths.items()) if isinstance(paths, Mapping) else list(enumerate(paths))


def _arguments(batch: Any, paths: Paths) -> tuple[list[Any], dict[str, Any]]:
    """What paths lead to, as arguments by order and by name."""
    if isinstance(paths, Mapping):
        return [], {name: _at(batch, path) for name, path in paths.items()}
    return [_at(batch, path) for path in paths], {}


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def _check_call(function: Callable[..., Any], name: str, arguments: tuple[list[Any], dict[str, Any]]) -> None:
    """ValueError: a function does not take these arguments."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):  # some built-in functions tell nothing of their arguments
        return
    try:
        signature.bind(*arguments[0], **arguments[1])
    except TypeError as error:
        owner = getattr(called, "__name__", repr(called))
        if isinstance(function, nn.Module):
            owner = type(function).__name__
        given = len(arguments[0]) - (name == "targets")  # the criterion's first argument is the output
        words = ", ".join(arguments[1]) or f"{given} by position"
        first = " after the module's output" if name == "targets" else ""
        raise ValueError(f"{name} gives {words}{first}: {error}\n{owner} takes {signature}") from error
