"""What --help says, and the table of what a changed setting does."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ..session.console import command
from .compose import Project
from .explain import groups
from .grammar import config_dirs

RULES = {  # of a changed setting, by its word in config.py: what it does with resume=, fork=, rerun=
    "free": ("takes effect", "takes effect", "takes effect"),
    "course": ("takes effect", "takes effect", "refused: the rows would not be comparable"),
    "identity": ("refused: it is part of what the run is", "takes effect", "refused: it is part of what the run is"),
    "machine": ("that of this machine", "that of this machine", "that of this machine"),
}
NOTE = "run.name: a run keeps its name, a fork or rerun has its own. With fork_state=true, identity is refused, too."


def changes(schema: Any, section: str = "") -> Iterator[tuple[str, str]]:
    """(setting, word) of every field of a schema, a setting that is a whole block as `block.*`."""
    for field in fields(schema):
        if is_dataclass(field.type):
            yield from changes(field.type, f"{field.name}.")
        elif "change" in field.metadata:
            whole = "" if section or field.name == "imports" else ".*"
            yield f"{section}{field.name}{whole}", field.metadata["change"]


def change_of(schema: Any, key: str) -> str:
    """What a changed setting does, "free", "course", "identity" or "machine": the word of its field in config.py."""
    words = dict(changes(schema))
    return words.get(key) or words.get(f"{key.partition('.')[0]}.*") or "identity"


def rules_table(schema: Any) -> str:
    """The words of config.py as a Markdown table: what a changed setting does with each verb."""
    lines = ["| settings | `resume=` | `fork=` | `rerun=` |", "| --- | --- | --- | --- |"]
    for word, effects in RULES.items():
        named: dict[str, list[str]] = {}
        for key, found in changes(schema):
            if found == word:
                section, _, name = key.rpartition(".")
                named.setdefault(section, []).append(name)
        settings = "; ".join(f"{section}: {' '.join(names)}".removeprefix(": ") for section, names in named.items())
        lines.append(f"| *{word}*: {settings} | {' | '.join(effects)} |")
    return "\n".join([*lines, "", NOTE])


def help_text(project: Project, words: list[str]) -> str:
    """Groups, their options, and the keys of base.yaml with their rule, unit and meaning."""
    text = (project.configs / "base.yaml").read_text("utf-8")
    keys = re.split(r"(?m)^defaults:", text, maxsplit=1)[-1].partition("\n\n")[2]
    defaults = [entry for entry in yaml.safe_load(text)["defaults"] if isinstance(entry, dict)]
    chosen = {group: option for entry in defaults for group, option in entry.items()}
    folders = [project.configs, *map(Path, config_dirs(words))]
    lines = [f"usage: {command()} [GROUP=OPTION ...] [KEY=VALUE ...]", "", "groups, options (* default):"]
    for folder in folders:
        for group, options in groups(folder).items():
            marked = [f"*{option}" if chosen.get(group) == option else option for option in options]
            lines.append(f"  {group:<11} {'  '.join(marked)}")
    lines += [
        "",
        "other runs and ways to run:",
        "  resume=RUN          carry a run on: its name, first letters, `latest`, or its path",
        "  job=NAME            start the run NAME or, given again, carry it on: for queues and restarts",
        "  fork=RUN            start a new run from the weights of another",
        "                      fork_state=true: from its whole newest state; fork_weights=partial: from what fits",
        "  rerun=RUN           do a run again, and compare it row by row",
        "  trust=NAME[,NAME]   with these three: what the run may name although no file of this checkout does",
        "  replace=[OLD,NEW]   one text in the place of another in all values; several: replace=[[A,B],[C,D]]",
        "  plots=[A,B]         several options of a group whose files are named blocks: plots, tracker",
        "  --multirun KEY=A,B  one run per value",
        "  --config-dir DIR    a folder of your own configs; --cfg job prints the composed config",
        "  -y                  yes: with run.provenance=refuse, run without keeping anything",
        "  --check             look at the config, and at nothing else: every fault, or that it is sound",
        "",
        "keys of configs/base.yaml, and what a changed one does when a run is resumed:",
        "  free: nothing to the run; course: it changes how the run goes on; identity: refused; machine: not kept",
        "",
    ]
    rules, section = dict(changes(project.schema)), ""
    for line in keys.rstrip().splitlines():
        key = line.strip().partition(":")[0]
        if line.startswith(key):
            section = key
        else:
            key = f"{section}.{key}"
        lines.append(f"{rules.get(key, ''):<9} {line}".rstrip())
    return "\n".join(lines)
