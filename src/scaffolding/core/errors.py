"""Errors the user can fix, and how to name the nearest right word."""

import difflib
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

# What a terminal would obey; it may stand in the names and keys of a stranger's run.
CONTROL = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
CONTROL |= {code: f"\\u{code:04x}" for code in (0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
LIBRARIES = ("site-packages", "dist-packages", str(Path(traceback.__file__).parent), "<frozen", "<string>")
ONE_LINE = CONTROL | {9: "\\t", 10: "\\n"}


class UserError(ValueError):
    """Wrong input, found before anything was created: shown without a traceback, exit code 2.

    The text is one line on what is wrong with which value where, one on what is allowed or nearest, at most one on
    what to do.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text.translate(CONTROL))


class DamagedError(UserError):
    """A checkpoint that is not what was written; another one may do."""


class RunError(Exception):
    """A run that cannot go on and whose message says all there is to say: shown without a traceback, exit code 1."""

    code = 1


class CodeError(RunError):
    """The owner's code raised something: what, where, on what, and how to go on."""


class Ended(SystemExit):
    """The machinery ends the program. Any other SystemExit comes from the owner's code or from a library."""


class StorageError(RunError):
    """A file could not be written; what was there before is untouched. Ends a run only where it lasts: exit code 74."""

    code = 74  # EX_IOERR of sysexits.h


def nearest(word: str, options: Iterable[str], count: int = 1) -> list[str]:
    """The `count` options most alike to `word`, best first; dotted keys also match by their last part."""

    def likeness(option: str) -> float:
        ends = word.rpartition(".")[2], option.rpartition(".")[2]
        pairs = ((word, option, 1.0), (word.lower(), option.lower(), 0.95), (*ends, 0.9))
        return max(weight * difflib.SequenceMatcher(None, one, other).ratio() for one, other, weight in pairs)

    return sorted(sorted(set(options)), key=likeness, reverse=True)[:count]


def at_mark(error: BaseException) -> UserError | None:
    """What is wrong at which place of a YAML file; None: the error does not say where."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return None
    return UserError(f"{mark.name}:{mark.line + 1}:{mark.column + 1}: {getattr(error, 'problem', 'not valid YAML')}")


def failure(error: BaseException, what: str) -> str:
    """`what` failed with an error; the last frame of the user's own code comes last."""
    where = own_place(error)
    if where:
        where = f"\nat {where}"
    return f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}{where}"


def own_place(error: BaseException) -> str:
    """The last line of the user's own code that an error came from, "FILE:LINE in FUNCTION: code"; "": none is known.

    The outermost frame, which caught the error, does not count.
    """
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if not is_of_library(frame.filename)] or frames
    return "".join(f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" for frame in own[-1:])


def is_of_library(filename: str) -> bool:
    """Whether a frame of a traceback is in an installed package, in Python itself, or in no file."""
    return any(part in filename for part in LIBRARIES)


def ended_early(error: BaseException) -> RunError:
    """What a SystemExit or KeyboardInterrupt means that somebody's code raised in the middle of a run."""
    return RunError(failure(error, "the run was ended before its end"))


def exit_code(work: Callable[[], int]) -> int:
    """Do the work of a script; returns its exit code, or that of the error that ended it, which is printed."""
    try:
        return work()
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        return getattr(error, "code", 2)
    except KeyboardInterrupt:
        print("\rstopped", file=sys.stderr)
        return 130
