"""The folder of a sweep: find and read it, refuse to make another sweep of it, make a new one."""

import shlex
from pathlib import Path
from typing import Any, NoReturn

from ..config.grammar import key_of, split_options, unquoted
from ..errors import UserError, nearest
from ..find import read_output_root
from ..folder.folder import NAME, acquire, write_text
from .points import Sweep
from .words import grid, is_of_place, read_plain

KEPT = ("paths.data", "loader.num_workers", "run.device")  # those of the first call hold until a call gives others


def open_sweep(root: Path, schema: Any, name: str, words: list[str], is_search: bool, is_look: bool = False) -> Sweep:
    """The sweep NAME. A new one is not made here: `make_sweep` follows, once nothing can be refused any more.

    One that exists is locked until this process ends, unless this is only a look. Words are not composed here, as that
    takes torch: each point says itself what is wrong with them.

    Args:
        root: the folder of the project.
        schema: of its config.
        name: of the sweep.
        words: of the command line; none: those of the first call.
        is_search: whether Optuna is to choose the points.
        is_look: whether nothing may be changed.

    Raises:
        UserError: NAME is not fit for a folder, or is a sweep of other words or of another kind; there is none to look
            at; Hydra cannot read a word; a grid has no values.
    """
    options, plain = split_options(words)
    plain = read_plain(plain, schema)
    given = {key_of(word): unquoted(word.partition("=")[2]) for word in plain}
    output_root = read_output_root(root, given.get("paths.output_root")).resolve()
    folder = output_root / f"exp_{name}"
    place = [word for word in plain if is_of_place(word)]
    words = [*options, *(word for word in plain if word not in place)]
    if (folder / "words.txt").exists():
        if not is_look:
            acquire(folder)
        before = read_sweep(root, folder, place)
        if not is_other(before, words, is_search):
            if clash := [word for word in place if key_of(word) in before.varying()]:
                raise UserError(f"{clash[0]}: it varies in {name}, where each point has its own value\nleave it out")
            before.is_search |= is_search  # one that a kill left without a study goes on as a search
            return before
        if not words or is_look or before.note().exists() or any(folder.glob("job*/config.yaml")):
            refuse(name, before, words)
    if not name or "=" in name or not NAME.fullmatch(f"exp_{name}") or (folder / "config.yaml").exists():
        raise UserError(
            f"{name!r} cannot be the name of a sweep, which comes before its words"
            "\nallowed: letters, digits and . _ - , +, up to 196"
        )
    if not words or is_look:
        there = [path.parent.name.removeprefix("exp_") for path in output_root.glob("exp_*/words.txt")]
        near = ", ".join(nearest(name, there, 3)) or "none"
        raise UserError(
            f"{name}: no such sweep in {output_root}\nnearest: {near}; to begin one, give its words, e.g. run.seed=1,2"
        )
    points = [] if is_search else grid(words)
    return Sweep(root, folder, words, place, points, is_search, is_new=True)


def read_sweep(root: Path, folder: Path, place: list[str]) -> Sweep:
    """The sweep of a folder. The words of this place win over those of the first call."""
    kept = folder / "place.txt"
    first = shlex.split(kept.read_text("utf-8")) if kept.exists() else []
    place = list({key_of(word): word for word in [*first, *place]}.values())
    points = [shlex.split(line) for line in (folder / "points.txt").read_text("utf-8").splitlines()]
    sweep = Sweep(root, folder, shlex.split((folder / "words.txt").read_text("utf-8")), place, points)
    sweep.is_search = sweep.study().exists()
    return sweep


def is_other(before: Sweep, words: list[str], is_search: bool) -> bool:
    """Whether a call wants another sweep than the one that is there."""
    is_grid = bool(before.points) and not before.is_search
    has_begun = bool(before.points) or before.is_search  # a search may have been killed before that
    is_other_kind = is_grid if is_search else bool(words) and not has_begun
    return words not in ([], before.words) or is_other_kind


def refuse(name: str, before: Sweep, words: list[str]) -> NoReturn:
    """Say why a sweep stays what it is."""
    if words in ([], before.words):
        raise UserError(
            f"--trials: {name} is a grid, whose points Optuna cannot choose: {before.folder}"
            "\nleave --trials out to do what is missing; choose another name for a search"
        )
    queue = f", and a queue has it ({before.note().read_text('utf-8').strip()})" if before.note().exists() else ""
    raise UserError(
        f"{name}: {before.folder} is a sweep of other words: {shlex.join(before.words)}{queue}"
        "\nleave the words out to do what is missing; choose another name for another sweep"
    )


def make_sweep(sweep: Sweep) -> None:
    """Make the folder of a sweep and lock it, or correct the words of one that has no run yet."""
    sweep.folder.mkdir(parents=True, exist_ok=True)
    acquire(sweep.folder)
    known = sweep.folder / "words.txt"
    if sweep.note().exists() or any(sweep.folder.glob("job*/config.yaml")):
        raise UserError(f"{sweep.folder}: another process made it meanwhile\nrun the same command again")
    for file in (known, sweep.study()):  # a study of other words chose other points
        file.unlink(missing_ok=True)
    sweep.write_points()
    kept = [word for word in sweep.place if key_of(word) in KEPT]
    write_text(sweep.folder / "place.txt", f"{shlex.join(kept)}\n")
    write_text(known, f"{shlex.join(sweep.words)}\n")  # last: with it, the folder is a sweep
    sweep.is_new = False
