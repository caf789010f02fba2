"""All faults of a config at once, with their places: what Hydra refuses is taken out, and the rest is looked at.

Imported only where something is wrong.
"""

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from ..config.explain import explain, groups, unknown_option
from ..config.grammar import SEVERAL, key_of, reading
from ..config.plugins import import_plugins
from ..config.project import COMPOSE_ERRORS, Project, file_faults, hydra_at, shown_path
from ..edits.replace import check_all_found, rewrite
from ..errors import UserError
from ..faults import ABSENT, UNKNOWN, Fault, FaultsError, noted
from ..tree import walk
from .blocks import spec_faults
from .origins import COMMAND_LINE, Origins, find_origins, place_of, reference, searched
from .sections import examine

MOST_POINTS = 50  # of a sweep that are looked at
SET_BY = {  # other parts of a config that the file of a group may set
    "model": ("loss", "metrics", "rollout", "plots"),
    "experiment": ("data", "model", "loss", "optimizer", "scheduler", "metrics", "rollout", "plots", "tracker"),
}
SET_BY["mode"] = SET_BY["experiment"]


def refusal(
    error: BaseException,
    project: Project,
    words: list[str],
    run: tuple[Path, dict[str, Any]] | None = None,
    sources: Mapping[str, str] | None = None,
    is_sweep: bool = False,
) -> UserError:
    """The error that names everything that is wrong where composing or checking a config gave `error`.

    Args:
        error: what was raised first.
        project: that composes.
        words: of the command line, and `hydra.searchpath=[...]` where it adds folders of configs.
        run: a run whose config the words change, as its folder and its plain config; None: they choose from configs/.
        sources: where words come from that are not of this command line.
        is_sweep: words may hold several values.
    """
    found: dict[Any, Fault] = {}
    for point in _points(words, project) if is_sweep else [words]:
        for one in Draft(project, run, sources or {}).look_at(point):
            found.setdefault((one.key, str(one.value), one.wrong), one)
    if found:
        return FaultsError(list(found.values()))
    if isinstance(error, FaultsError):  # it showed later, when the experiment was built
        return FaultsError(Draft(project, run, sources or {}, error.faults).look_at(words), "")
    if isinstance(error, UserError):
        return error
    return FaultsError([explain(error, project.configs, words, lambda _: {})])


def _points(words: list[str], project: Project) -> list[list[str]]:
    """The words of each run of a sweep, of the first ones; a word that cannot be read stands for itself."""
    values: list[list[str]] = []
    for word, text in zip(words, reading(words, project.schema, is_sweep=True), strict=True):
        values.append([word])
        with contextlib.suppress(HydraException):
            override = OverridesParser.create().parse_override(text if isinstance(text, str) else word)
            if override.is_sweep_override():
                values[-1] = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return [list(point) for point in itertools.islice(itertools.product(*values), MOST_POINTS)]


@dataclass
class Draft:
    """A config on its way to being composed, with what was found wrong."""

    project: Project
    run: tuple[Path, dict[str, Any]] | None
    sources: Mapping[str, str]
    faults: list[Fault] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # groups of which a choice could not be made
    is_misplaced: bool = False  # keys of a file are not where it means them to be

    def look_at(self, words: list[str]) -> list[Fault]:
        """All faults, with their places."""
        project, schema = self.project, self.project.schema
        self.options = dict(groups(project.configs))
        for folder in searched(word for word in words if word.startswith("hydra.")):
            for group, options in groups(folder).items():
                self.options[group] = sorted({*self.options.get(group, ()), *options})
        overrides = list(self._readable(words))
        choices = [one for one in overrides if self._is_choice(one)]
        settings = [one for one in overrides if one not in choices and not one.is_hydra_override()]
        self.hydra = [str(one.input_line) for one in overrides if one.is_hydra_override()]
        chosen = [str(one.input_line) for one in choices if self._is_there(one)]
        if self.run is None:
            composed = self._compose(chosen)
        else:
            composed = OmegaConf.create(_untyped(schema))
            composed.merge_with(self.run[1])
        applied: list[str] = []
        if composed is not None:
            applied = self._apply(settings, composed)
            self._replace(applied, composed)
            _, plain, found = examine(composed, schema, project.configs)
            self.faults += [one for one in found if not self._is_hidden(one)]
            if not self.is_misplaced:
                self._check_parts(plain)
        return self._placed([*chosen, *applied])

    def _readable(self, words: list[str]) -> Iterator[Override]:
        """The words that Hydra can read; the others are faults."""
        for word, text in zip(words, reading(words, self.project.schema, is_sweep=False), strict=True):
            if isinstance(text, str):
                try:
                    yield OverridesParser.create().parse_override(text)
                    continue
                except HydraException as error:
                    text = UserError(str(error).partition("\n")[0])
            key, equals, value = word.partition("=")
            wrong, _, advice = str(text).removeprefix(f"{word}: ").partition("\n")
            self._add(Fault(key, value if equals else ABSENT, wrong, advice), word)

    def _add(self, one: Fault, word: str) -> None:
        """Note what is wrong with a word."""
        self.faults.append(replace(one, place=one.place or self.sources.get(word, COMMAND_LINE)))

    def _is_choice(self, override: Override) -> bool:
        return override.key_or_group in self.options and not isinstance(override.value(), dict)

    def _is_there(self, override: Override) -> bool:
        """Whether a choice of a group can be made; else it is a fault."""
        group, value = override.key_or_group, override.value()
        options, word = self.options[group], str(override.input_line)
        if override.is_delete():
            return True
        if value in (None, "") or (isinstance(value, list) and group not in SEVERAL):
            given = word.partition("=")[2]
            self._add(Fault(group, given, "no such option", f"options: {', '.join(options)}"), word)
            self.refused.add(group)
            return False
        wrong = [item for item in (value if isinstance(value, list) else [value]) if str(item) not in options]
        for item in wrong:
            self._add(unknown_option(group, str(item), options), word)
            self.refused.add(group)
        return not wrong

    def _compose(self, chosen: list[str]) -> DictConfig | None:
        """The config of the choices, without types; choices that Hydra refuses leave `chosen`, and are faults."""
        base = yaml.safe_load((self.project.configs / "base.yaml").read_text("utf-8")) or {}
        usual: dict[str, Any] = {}
        for entry in base.get("defaults", ()):
            usual |= entry if isinstance(entry, dict) else {}
        for _ in range(len(self.options) + len(chosen)):
            try:
                with hydra_at(self.project), _without_types(self.project):
                    composed = compose("base", [*self.hydra, *chosen], return_hydra_config=True)
                break
            except COMPOSE_ERRORS as error:
                one = explain(error, self.project.configs, chosen, lambda _: {})
                added = [word for word in chosen if word.startswith("+") and key_of(word) == one.key]
                if added:
                    self._add(one, added[0])
                    chosen.remove(added[0])
                    continue
                self.faults.append(replace(one, place=self._place_of_choice(one, chosen) or one.place))
                if one.key not in usual or one.key in self.refused or one.value == usual[one.key]:
                    return None
                self.refused.add(one.key)
                chosen.append(f"{one.key}={usual[one.key]}")
        else:
            return None
        misplaced = list(file_faults(composed.hydra.runtime, self.project))
        self.faults += misplaced
        self.is_misplaced = bool(misplaced)
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def _place_of_choice(self, one: Fault, chosen: list[str]) -> str:
        """Where a chosen file chooses what is not there."""
        folders = [self.project.configs, *searched(self.hydra)]
        names = [*(word.lstrip("+").replace("=", "/") for word in chosen), "local", "base"]
        for file in [folder / f"{name}.yaml" for name in names for folder in folders]:
            text = file.read_text("utf-8") if file.is_file() else ""
            choice = rf"(?m)^.*\b{re.escape(one.key)}(?:@[\w.]+)?:\s*({re.escape(str(one.value))})\s*(#|$)"
            found = re.search(choice, text)
            if one.key and found:
                line = text.count("\n", 0, found.start(1)) + 1
                return f"{shown_path(file, self.project)}:{line}:{found.start(1) - found.start() + 1}"
        return ""

    def _apply(self, settings: list[Override], composed: DictConfig) -> list[str]:
        """Change the config by each word that can change it; gives these words. The others are faults."""
        applied = []
        OmegaConf.set_struct(composed, True)
        for override in settings:
            word = str(override.input_line)
            try:
                ConfigLoaderImpl._apply_overrides_to_config([override], composed)
                applied.append(word)
            except COMPOSE_ERRORS as error:
                one = explain(error, self.project.configs, [word], lambda _: composed)
                if not self._is_hidden(one):
                    self._add(one, word)
        return applied

    def _replace(self, words: list[str], composed: DictConfig) -> None:
        """Replace texts as the words say; a pair that replaces nothing is a fault."""
        try:
            check_all_found(rewrite(composed, words), self.sources)
        except UserError as error:
            wrong, _, advice = str(error).partition("\n")
            key, _, wrong = wrong.partition(": ")
            self._add(Fault("", ABSENT, f"{key}: {wrong}", advice), key)

    def _hidden(self) -> set[str]:
        """The parts of the config that a choice which could not be made would have set."""
        return self.refused | {part for group in self.refused for part in SET_BY.get(group, ())}

    def _is_hidden(self, one: Fault) -> bool:
        hidden = self._hidden()
        return one.key.partition(".")[0] in hidden or any(f"refers to {part}." in one.wrong for part in hidden)

    def _check_parts(self, plain: dict[str, Any]) -> None:
        """The blocks of the config, under the package's present name."""
        for part in self._hidden() & plain.keys():
            plain[part] = UNKNOWN
        if isinstance(plain["imports"], list):
            for entry in plain["imports"]:
                with noted(self.faults):
                    import_plugins([entry], self.project.root)
        for _, node in walk(plain):
            if isinstance(node, dict) and isinstance(node.get("_target_"), str):
                node["_target_"] = self.project.present_name(node["_target_"])
        told = {one.key for one in self.faults}
        found = [one for one in spec_faults(plain, is_new=True) if one.key not in told]
        if "imports" in told:  # what could not be imported is missing
            found = [one for one in found if "finds no module" not in one.wrong]
        self.faults += found

    def _placed(self, words: list[str]) -> list[Fault]:
        """The faults with the places that set their keys."""
        found: Origins = {}
        with contextlib.suppress(*COMPOSE_ERRORS, OSError):  # what cannot be read is a fault with a place already
            run = None if self.run is None else self.run[0]
            found = find_origins(self.project, [*self.hydra, *words], run, self.sources)
        placed = []
        for one in self.faults:
            other = reference(one.key, found)
            if other and one.value is not ABSENT:  # the value comes from there
                place = place_of(other, found)
                at = "by the command line" if place == COMMAND_LINE else f"at {place}"
                more = f"it comes from {other}, set {at}"
                one = replace(one, advice="\n".join(filter(None, [one.advice, more])))
            placed.append(replace(one, place=one.place or place_of(one.near or one.key, found)))
        return placed


def _untyped(schema: type) -> dict[str, Any]:
    """The schema's keys without types: what is of another kind then composes, and is found by itself."""
    plain: Any = OmegaConf.to_container(OmegaConf.structured(schema))
    return {str(key): value for key, value in plain.items()}


@contextlib.contextmanager
def _without_types(project: Project) -> Iterator[None]:
    """Let Hydra compose on top of a schema that takes anything."""
    store = ConfigStore.instance()
    store.store("schema", _untyped(project.schema))
    try:
        yield
    finally:
        store.store("schema", project.schema)
