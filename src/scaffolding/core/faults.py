"""Faults of a config: what is wrong with which key, where that was set, and what is allowed."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .config.grammar import as_word
from .errors import ONE_LINE, UserError
from .secrets import hide_secrets

LONGEST = 60  # characters of a value that a message repeats
COLUMN = 72  # where places stand; longer lines push theirs to the right


class Marker:
    """A value that stands for something else; its name says for what."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


ABSENT = Marker("ABSENT")  # the fault is not about a value
UNKNOWN = Marker("UNKNOWN")  # in a config: what stood here has a fault already, so nothing more is said of it


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a config.

    `key` is dotted; "" where a file cannot be read at all. `value` is what was set. `advice` holds lines: what is
    allowed or nearest, and what to do. `place` is FILE:LINE:COLUMN or "command line", "" as long as nobody looked it
    up; `near` is the key to look up in place of `key`.
    """

    key: str
    value: Any
    wrong: str
    advice: str = ""
    place: str = ""
    near: str = ""

    @property
    def said(self) -> str:
        """What is wrong, in one line without the place; secrets are hidden."""
        if not self.key:
            return self.wrong
        shown = "" if self.value is ABSENT else f"={short(self.value, self.key)}"
        return f"{self.key}{shown}: {self.wrong}"


class FaultsError(UserError):
    """Everything that is wrong with a config."""

    def __init__(self, faults: Sequence[Fault], ending: str = "; nothing was created") -> None:
        self.faults = list(faults)
        super().__init__(told(self.faults, ending))


def fault(key: str, value: Any, wrong: str, advice: str = "", **more: str) -> FaultsError:
    """An error with one fault, to be raised."""
    return FaultsError([Fault(key, value, wrong, advice, **more)])


@contextlib.contextmanager
def noted(faults: list[Fault]) -> Iterator[None]:
    """Add the faults that are raised within to a list."""
    try:
        yield
    except FaultsError as error:
        faults += error.faults


def short(value: Any, key: str = "") -> str:
    """A value as the command line would have it, on one line and not too long; *** in place of a secret."""
    shown = hide_secrets(value, key.rpartition(".")[2])
    text = shown if isinstance(shown, str) else as_word(shown)
    text = text.translate(ONE_LINE) or "''"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def told(faults: Sequence[Fault], ending: str) -> str:
    """Faults as text: one with its place in brackets, several as a list with the places at the right."""
    if len(faults) == 1:
        [only] = faults
        line = only.said
        if not only.key and only.place:
            line = f"{only.place}: {line}"
        elif only.place:
            line += f" ({only.place})"
        return "\n".join(filter(None, [line, only.advice]))
    width = max((len(one.said) for one in faults if len(one.said) <= COLUMN), default=0)
    lines = [f"{len(faults)} faults in the config{ending}", ""]
    for one in faults:
        lines.append(f"{one.said:<{width}}    {one.place}".rstrip())
        lines += [f"    {line}" for line in one.advice.splitlines()]
    return "\n".join(lines)
