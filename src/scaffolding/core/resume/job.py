"""`job=NAME` makes a command line restartable: it starts the run NAME or, given again, carries it on.

Queues, and whatever else repeats a command after a failure, need nothing more.
"""

from pathlib import Path

from ..config.compose import NOT_KEPT, Project, compose_config, masked
from ..config.grammar import config_dirs, key_of, quoted, readable, unquoted
from ..errors import UserError
from ..folder.folder import NAME, RESERVED
from .restore import resumed_with, words_of

# What belongs to the place where a run is trained, and may be another at each start.
PLACE = ("trust", "loader.num_workers", "run.device")
SEVERAL = ("--multirun", "-m")


def start_or_carry_on(options: list[str], words: list[str], project: Project) -> list[str]:
    """The words of a command line with run.name=NAME or, if that run exists, resume=NAME in the place of job=NAME.

    Words that the run was made with are left out where it is resumed, but for those of the place (trust, paths.*,
    loader.num_workers, run.device). What differs from them is passed on, and `resume=` takes it or refuses it by its
    rules. What only a later `resume=` gave, the command line need not have. Nothing is made or locked here.

    Raises:
        UserError: NAME is not fit for a folder; another word says which run it is; the command line lacks a word that
            the run was made with, or chooses something else of a group; the words do not compose.
    """
    name = _name(options, words)
    rest = [word for word in words if key_of(word) != "job"]
    run = _output(options, rest, project) / name
    if not (run / "config.yaml").exists():  # a folder that a kill left without one is taken over
        return [*(word for word in rest if key_of(word) != "trust"), f"run.name={name}"]
    made_with = {key_of(word): word for word in words_of(run) if not _is_of_place(key_of(word))}
    told = [key_of(word) for word in words_of(run)]
    added = {key for _, changes in resumed_with(run) for key in changes if told.count(key) == 1}  # by a resume= alone
    given, kept = {key_of(word): word for word in rest}, []
    for key, word in given.items():
        (text,) = readable([word], project.schema, is_sweep=False)
        shown = masked(text)
        if _is_of_place(key) or shown != text or made_with.get(key) != shown:  # the run does not keep secrets
            kept.append(word)
        if made_with.get(key) != shown and (project.configs / key).is_dir():
            raise UserError(
                f"{word}: job={name} exists, and was made with {made_with.get(key, f'no word for {key}')}"
                "\nanother name starts another run"
            )
    lacking = [word for key, word in made_with.items() if key not in (*given, *NOT_KEPT, *added, "run.name")]
    if lacking:
        raise UserError(
            f"job={name} exists, and was made with {' '.join(lacking)}, which this command line lacks"
            f"\nrepeat what it was started with, or carry it on as it is with resume={name}; another name starts "
            "another run"
        )
    kept = [word for word in kept if key_of(word) != "paths.output"]
    return [f"resume={name}", f"paths.output={run.parent}", *kept]


def _name(options: list[str], words: list[str]) -> str:
    """NAME; UserError: it is not fit for a folder, or another word says which run it is."""
    job, *more = [word for word in words if key_of(word) == "job"]
    more += [word for word in options if word in SEVERAL]
    more += [word for word in words if key_of(word) in (*NOT_KEPT, "run.name")]
    name = unquoted(job.partition("=")[2])
    if more:
        raise UserError(
            f"{job}: not together with {more[0]}\njob=NAME alone says which run it is: it starts the run NAME, or "
            "carries it on"
        )
    if not NAME.fullmatch(name) or RESERVED.fullmatch(name) or name == "null":
        raise UserError(
            f"job={name}: it is not a name for a run\nallowed: letters, digits and . _ - = , +, up to 200; not dev, "
            "latest, jobs, or what begins with exp_"
        )
    return name


def _output(options: list[str], words: list[str], project: Project) -> Path:
    """Where a run of these words goes."""
    places = [quoted(f"file://{Path(place).absolute()}") for place in config_dirs(options)]
    plain = [word for word in words if key_of(word) != "trust"]
    return Path(compose_config(project, [f"hydra.searchpath=[{','.join(places)}]", *plain]).paths.output)


def _is_of_place(key: str) -> bool:
    return key in PLACE or key.startswith("paths.")
