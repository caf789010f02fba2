"""The run that a command line goes on from, before anything is composed."""

import dataclasses
import re
from pathlib import Path

from hydra.core.config_store import ConfigStore
from loguru import logger

from ..command_line import VERBS, CommandLine, Source
from ..config.compose import Project, masked
from ..config.grammar import config_dirs, key_of
from ..edits.append import KEY as APPEND
from ..edits.append import appended_to
from ..edits.replace import KEY as REPLACE
from ..errors import UserError
from ..find import absolute, find_run, of_machine, read_output_root
from ..trust.config import open_config
from ..trust.words import check_together, read_words


def source_of(line: CommandLine, project: Project) -> Source:
    """The run that a command line goes on from.

    Raises:
        UserError: no verb is given, or several; the run does not exist; the words may not change it like that.
    """
    given = line.given
    verbs = [verb for verb in VERBS if verb in given]
    if not verbs:
        raise UserError("trust: needs resume, fork or rerun\nthe checkout and the command line are trusted anyway")
    if len(verbs) > 1:
        raise UserError(
            f"{' and '.join(verbs)}: only one of them\nresume carries the same run on, fork starts a new one, "
            "rerun does the same again"
        )
    verb, trust = verbs[0], [name for name in given.get("trust", "").split(",") if name]
    output = given.get("paths.output") if verb == "resume" else None  # of the others it says where the new run goes
    if output is not None:
        root = absolute(output, project.root)
    else:
        root = read_output_root(project.root, given.get("paths.output_root"))
    run = find_run(given[verb], root)
    keys = {key_of(word): word for word in line.settings if "=" in word or word.startswith("~")}
    if verb == "fork":
        words = _words_of_parent(run, keys, trust, project)
        naming = [word for key, word in keys.items() if (project.configs / key).is_dir() or "_target_" in word]
        check_together(words, naming, config_dirs(line.options), project, trust)
        return Source(verb, run, words=words)
    _check_keeps_choices(verb, run, keys, project)
    # as it was checked: Hydra does not read the folder
    config = open_config(run, project, trust) | {REPLACE: None, APPEND: {}}
    ConfigStore.instance().store("config of the run", config)
    return Source(verb, run, config, options=["--config-name", "config of the run"])


def _words_of_parent(run: Path, keys: dict[str, str], trust: list[str], project: Project) -> list[str]:
    """The parent's command line, without what this one sets by its keys or chooses anew."""
    own = {*keys, "run.name", "paths.output", "paths.output_root"}
    own |= {f"paths.{name}" for name in of_machine(project.schema)}
    before = read_words(run / "overrides.yaml", project, trust)
    inherited = {_changed(word): word for word in before}
    chosen = [key for key, word in keys.items() if (project.configs / key).is_dir() and inherited.get(key) != word]
    groups = tuple(f"{key.replace('/', '.')}." for key in chosen) + tuple(f"{key}/" for key in chosen)
    dropped = [word for key, word in inherited.items() if key.startswith(groups) and key not in own]
    if dropped:
        logger.info(
            f"left out: {', '.join(map(masked, dropped))}, which {run.name} had for its own choice of "
            f"{', '.join(sorted({re.split('[./]', key)[0] for key in inherited if inherited[key] in dropped}))}"
        )
    own |= {_changed(word) for word in dropped}
    return [word for word in before if _changed(word) not in own or key_of(word) == REPLACE]  # one after the other


def _changed(word: str) -> str:
    """The key that a word changes: of one that adds to a list, that of the list."""
    return appended_to(word) or key_of(word)


def _check_keeps_choices(verb: str, run: Path, keys: dict[str, str], project: Project) -> None:
    """UserError: the command line chooses another file of a group."""
    for key, word in keys.items():
        if (project.configs / key).is_dir():  # the run has chosen
            single = f"; single keys may be set ({key}.KEY=VALUE)"
            if key not in {field.name for field in dataclasses.fields(project.schema)}:  # mode, experiment
                single = ""
            raise UserError(
                f"{word}: refused, {verb} keeps the run's {key}, as every choice of a group\nleave it out{single}"
                f"\nfork={run.name} {word} starts a new run from its weights"
            )
