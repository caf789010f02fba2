"""The run that a command line goes on from, before anything is composed."""

import dataclasses
import re
from pathlib import Path

from hydra.core.config_store import ConfigStore
from loguru import logger

from ..config.compose import Project, masked
from ..config.grammar import config_dirs, key_of
from ..edits.append import KEY as APPEND
from ..edits.replace import KEY as REPLACE
from ..errors import UserError
from ..find import absolute, find_run, of_machine, read_output_root
from ..trust.config import open_config
from ..trust.words import check_together, read_words

VERBS = ("resume", "fork", "rerun")


def source_of(
    given: dict[str, str], words: list[str], options: list[str], project: Project
) -> tuple[str, Path, list[str], list[str]]:
    """The verb of a command line, the run that it names, and what Hydra gets of that run.

    Returns:
        Verb, run, options that make the run's config the one to override, or the words that it was made of.

    Raises:
        UserError: there is not one verb, or not such a run; it may not be carried on as the words want.
    """
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
    keys = {key_of(word): word for word in words if "=" in word or word.startswith("~")}
    if verb == "fork":  # the parent's command line, then this one's
        own = {*keys, "run.name", "paths.output", "paths.output_root"}
        own |= {f"paths.{name}" for name in of_machine(project.schema)}
        before = read_words(run / "overrides.yaml", project, trust)
        inherited = {key_of(word): word for word in before}
        chosen = [key for key, word in keys.items() if (project.configs / key).is_dir() and inherited.get(key) != word]
        groups = tuple(f"{key.replace('/', '.')}." for key in chosen) + tuple(f"{key}/" for key in chosen)
        dropped = [word for key, word in inherited.items() if key.startswith(groups) and key not in own]
        if dropped:
            logger.info(
                f"left out: {', '.join(map(masked, dropped))}, which {run.name} had for its own choice of "
                f"{', '.join(sorted({re.split('[./]', key)[0] for key in inherited if inherited[key] in dropped}))}"
            )
        own |= {key_of(word) for word in dropped}
        kept = [word for word in before if key_of(word) not in own or key_of(word) == REPLACE]  # one after the other
        naming = [word for key, word in keys.items() if (project.configs / key).is_dir() or "_target_" in word]
        check_together(kept, naming, config_dirs(options), project, trust)
        return verb, run, [], kept
    for key, word in keys.items():
        if (project.configs / key).is_dir():  # the run has chosen
            single = f"; single keys may be set ({key}.KEY=VALUE)"
            if key not in {field.name for field in dataclasses.fields(project.schema)}:  # mode, experiment
                single = ""
            raise UserError(
                f"{word}: refused, {verb} keeps the run's {key}, as every choice of a group\nleave it out{single}"
                f"\nfork={run.name} {word} starts a new run from its weights"
            )
    # as it was checked: Hydra does not read the folder
    content = open_config(run, project, trust)
    ConfigStore.instance().store("config of the run", content | {REPLACE: None, APPEND: {}})
    return verb, run, ["--config-name", "config of the run"], []
