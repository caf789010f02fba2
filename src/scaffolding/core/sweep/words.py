"""The words of a sweep: which of them have several values, and which belong to the machine."""

import contextlib
import itertools
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException

from ..config.grammar import key_of, readable, split_options
from ..errors import UserError

# Words that may differ from call to call.
PLACE = ("trust", "paths.data", "paths.scratch", "paths.output_root", "loader.num_workers", "run.device")
WHICH_RUN = ("job", "run.name", "paths.output", "resume", "fork", "rerun")  # the sweep itself says it of each point


def parsed(word: str) -> Override:
    """A word that Hydra has read; UserError: it cannot."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise UserError(f"{word}: {str(error).partition(chr(10))[0]}\nallowed: KEY=VALUE, or ~KEY") from error


def read_plain(plain: list[str], schema: Any) -> list[str]:
    """The words that are not options, as Hydra can read them; of two with the same key, the later one.

    Raises:
        UserError: Hydra cannot read a word; a word says which run a point is.
    """
    wrong = [word for word in plain if "=" not in word and not word.startswith("~")]
    if wrong:
        raise UserError(f"{wrong[0]}: not KEY=VALUE\nwords come after the name of the sweep: sweep.py NAME KEY=A,B ...")
    trust = [word for word in plain if key_of(word) == "trust"]  # train.py reads it, not Hydra
    others = [word for word in plain if key_of(word) != "trust"]
    plain = list({key_of(word): word for word in [*readable(others, schema, is_sweep=True), *trust]}.values())
    wrong = [word for word in plain if len(word.splitlines()) > 1]
    if wrong:
        raise UserError(f"{wrong[0]!r}: a line break\nleave it out: a point of a sweep is one line of points.txt")
    wrong = [word for word in plain if key_of(word) in WHICH_RUN]
    if wrong:
        raise UserError(f"{wrong[0]}: not in a sweep, whose runs are job0, job1, ... in a folder\nleave it out")
    return plain


def is_of_place(word: str) -> bool:
    """Whether a word belongs to the machine; one with several values is a part of the grid, but for `trust=A,B`."""
    key = key_of(word)
    return key == "trust" or (key in PLACE and not parsed(word).is_sweep_override())


def values(override: Override) -> list[str]:
    """The values that a word lists; UserError: it lists none."""
    found: list[str] = []
    is_glob = override.value_type == ValueType.GLOB_CHOICE_SWEEP  # it means files that Hydra alone can find
    if not is_glob and (override.is_choice_sweep() or override.is_range_sweep()):
        with contextlib.suppress(ValueError):  # a range in steps of 0
            found = list(override.sweep_string_iterator())
    if not found:
        raise UserError(
            f"{override.input_line}: it lists no values"
            "\nallowed: A,B, choice(A, B), range(FROM, BELOW); with --trials N also interval(FROM, TO)"
        )
    return found


def grid(words: list[str]) -> list[list[str]]:
    """The points of a grid: KEY=A,B, KEY=choice(...) and KEY=range(...) have several values, by Hydra's grammar."""
    options, words = split_options(words)
    choices = []
    for word in words:
        override = parsed(word)
        choice = [word]
        if override.is_sweep_override():
            choice = [f"{word.partition('=')[0]}={value}" for value in values(override)]
        choices.append(choice)
    return [[*options, *point] for point in itertools.product(*choices)]
