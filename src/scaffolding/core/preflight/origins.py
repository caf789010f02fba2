"""Which line of which file, or which word of the command line, set each key of a config."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf._utils import get_yaml_loader

from ..config.explain import groups
from ..config.grammar import key_of
from ..config.project import Project, hydra_at, shown_path
from ..secrets import hide_secrets

COMMAND_LINE = "command line"
SEARCH_PATH = "hydra.searchpath"  # the word that adds folders of configs


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads values as OmegaConf does, in C where that is there."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


@dataclass(frozen=True)
class Origin:
    """What set a key once: a file with a line and a column, counted from 1, or the command line (line 0)."""

    source: str
    value: Any  # as it stands there, references included; None of a mapping
    line: int = 0
    column: int = 0
    is_part: bool = False  # a mapping, or an item of a list: its whole or parts may come from elsewhere

    @property
    def place(self) -> str:
        """FILE:LINE:COLUMN, or "command line"."""
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


Origins = dict[str, list[Origin]]  # by dotted key: all that set it, in the order in which they win


def find_origins(
    project: Project, words: list[str], run: Path | None = None, sources: Mapping[str, str] | None = None
) -> Origins:
    """Where each key of a config comes from, in Hydra's order: the last origin of a key is the one that counts.

    Args:
        project: whose configs were composed.
        words: of the command line, one run's; `hydra.searchpath=[...]` adds folders of configs. They must compose.
        run: the folder of a run whose config the words change, in place of configs/.
        sources: where words come from that are not of this command line.
    """
    found: Origins = {}
    if run is not None:
        read_file(project.configs / "base.yaml", "", found, project)
        read_file(run / "config.yaml", "", found, project)
    else:
        folders = [project.configs, *searched(words)]
        for path, package in defaults(project, words):
            file = next((folder / path for folder in folders if (folder / path).is_file()), None)
            if file is not None:  # else it is one of Hydra's own, or the schema
                read_file(file, package, found, project)
    options = groups(project.configs)
    for word in words:
        with contextlib.suppress(HydraException):
            read_word(word, options, found, (sources or {}).get(word, COMMAND_LINE))
    return found


def searched(words: Iterable[str]) -> list[Path]:
    """The folders of configs that the words add to those of the checkout."""
    found: list[Path] = []
    for word in words:
        if key_of(word) == SEARCH_PATH:
            folders: Any = OverridesParser.create().parse_override(word).value()
            found += [Path(str(folder).removeprefix("file://")) for folder in folders]
    return found


def defaults(project: Project, words: list[str]) -> list[tuple[str, str]]:
    """(file below a folder of configs, package of its keys) of all that Hydra merges, in its order."""
    with hydra_at(project):
        loader = GlobalHydra.instance().config_loader()
        listed = loader.compute_defaults_list("base", words, RunMode.RUN).defaults
    return [(f"{one.config_path}.yaml", (one.package or "").replace("_global_", "")) for one in listed]


def read_file(file: Path, package: str, found: Origins, project: Project) -> None:
    """Add what a YAML file sets."""
    loader, source = Loader(file.read_text("utf-8")), shown_path(file, project)
    node = loader.get_single_node()
    if not isinstance(node, yaml.MappingNode):
        return
    plain = loader.construct_document(node)
    node.value = [(name, value) for name, value in node.value if name.value != "defaults"]
    for key, value, mark, is_part in _marked(node, plain, package):
        _add(found, key, Origin(source, value, mark.line + 1, mark.column + 1, is_part))


def _marked(node: Any, plain: Any, key: str, is_item: bool = False) -> Iterator[tuple[str, Any, Any, bool]]:
    """(dotted key, value, mark, whether it is a mapping or in a list) of all parts of a YAML node."""
    if isinstance(node, yaml.MappingNode) and isinstance(plain, dict):
        for name, value in node.value:
            inner, part = f"{key}.{name.value}".lstrip("."), plain.get(name.value)
            is_mapping = isinstance(value, yaml.MappingNode) and bool(value.value)
            mark = name.start_mark if is_mapping else value.start_mark
            yield inner, None if is_mapping else part, mark, is_item or is_mapping
            yield from _marked(value, part, inner, is_item)
    if isinstance(node, yaml.SequenceNode) and isinstance(plain, list):
        for index, (value, part) in enumerate(zip(node.value, plain, strict=True)):
            yield f"{key}.{index}", part, value.start_mark, True
            yield from _marked(value, part, f"{key}.{index}", True)


def read_word(word: str, options: Iterable[str], found: Origins, source: str = COMMAND_LINE) -> None:
    """Add what a word of the command line sets; of one that removes a key, nothing stays.

    Raises:
        HydraException: it cannot be read.
    """
    override = OverridesParser.create().parse_override(word)
    key, value = str(override.key_or_group), override.value()
    if key.startswith("hydra") or (key in options and not isinstance(value, dict)):
        return
    if override.is_delete():
        _forget(found, key)
        found.pop(key, None)
        return
    for inner, part, is_part in _parts(key, value):
        _add(found, inner, Origin(source, part, is_part=is_part))


def _parts(key: str, value: Any, is_item: bool = False) -> Iterator[tuple[str, Any, bool]]:
    is_mapping = isinstance(value, dict) and bool(value)
    yield key, None if is_mapping else value, is_item or is_mapping
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _parts(f"{key}.{name}", part, is_item)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(f"{key}.{index}", part, True)


def _add(found: Origins, key: str, origin: Origin) -> None:
    """Add an origin; a value takes the place of the mapping or list that was there, with all its parts."""
    if not origin.is_part or origin.value is not None:
        _forget(found, key)
    found.setdefault(key, []).append(origin)


def _forget(found: Origins, key: str) -> None:
    if key in found and (found[key][-1].is_part or isinstance(found[key][-1].value, list)):
        for name in [name for name in found if name.startswith(f"{key}.")]:
            del found[name]


def place_of(key: str, found: Origins) -> str:
    """The place that set a key or, where none did, the first part of it, or what it is a part of; "": not known."""
    if key not in found:
        key = next((name for name in found if name.startswith(f"{key}.")), key)
    while key:
        if key in found:
            return found[key][-1].place
        key = key.rpartition(".")[0]
    return ""


def reference(key: str, found: Origins) -> str:
    """The key that another one refers to as its whole value, `${data.num_classes}`; "": it does not."""
    if key not in found:
        return ""
    refers = re.fullmatch(r"\$\{([\w.]+)\}", str(found[key][-1].value))
    return refers[1] if refers else ""


def set_by(found: Origins) -> dict[str, list[list[Any]]]:
    """[FILE:LINE or "command line", value] of all that set a key, the last one winning; secrets hidden.

    Of each key that was set twice or by something beyond base.yaml and the groups: an experiment, a mode, local.yaml or
    the command line.
    """
    told = {}
    for key, origins in found.items():
        whole = [one for one in origins if not one.is_part]
        last = whole[-1].source if whole else ""
        if (
            len(whole) > 1
            or last.startswith(("configs/experiment/", "configs/mode/", "configs/local"))
            or (whole and whole[-1].line == 0)
        ):
            places = [f"{one.source}:{one.line}" if one.line else one.source for one in whole]
            values = [hide_secrets(one.value, key.rpartition(".")[2]) for one in whole]
            told[key] = [list(pair) for pair in zip(places, values, strict=True)]
    return told
