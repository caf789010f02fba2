"""The words of a command line that a run keeps in overrides.yaml, from which a fork is composed again."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ..config.compose import COMPOSE_ERRORS, NOT_KEPT, VERSION, Project, compose_unchecked, composing_error
from ..config.grammar import as_word, key_of, search_path
from ..edits.replace import KEY as REPLACE
from ..edits.replace import rewrite
from ..errors import UserError
from ..folder.reading import MAX_SIZE
from ..tree import leaves, specs
from .config import REFERENCES, check_no_references, is_gone, read_plain, tell_of_age, version_of
from .targets import check_trusted, is_below, needed_trust, strange_arguments

SETTING = re.compile(r"[+~]{0,2}(?!hydra\b)[a-zA-Z]\w*([./]\w+)*(=.*)?", re.ASCII | re.DOTALL)


def read_words(file: Path, project: Project, trust: Iterable[str]) -> list[str]:
    """The settings that made a run, from its overrides.yaml; UserError: one that is more than a plain setting."""
    found, version = read_plain(file, REFERENCES), 1  # `check_together` looks at what they come to
    if (file.parent / "config.yaml").exists():
        config = read_plain(file.parent / "config.yaml")
        if isinstance(config, dict):
            version = version_of(config, file.parent / "config.yaml")
    words = [str(word) for word in (found if isinstance(found, list) else [found])]
    words = [word for word in words if key_of(word) not in NOT_KEPT]
    present: dict[str, list[str]] = {}
    gone: list[str] = []
    for word in sorted(words, key=lambda word: not word.lstrip("+").startswith("imports")):  # others may need them
        try:
            setting = OverridesParser.create().parse_override(word)
            key = setting.key_or_group.split(".")
            value: Any = setting.value()
            if SETTING.fullmatch(word) is None or setting.package is not None or len(word) > MAX_SIZE // 30:
                raise ValueError("it reaches for what does not belong to the experiment")
            is_choice = len(key) == 1 and key not in (["imports"], [REPLACE]) and not isinstance(value, dict)
            if is_choice and re.search(r"[^\w\[\], '-]", str(value)):
                raise ValueError("it may name a file outside of a group")
        except (HydraException, ValueError, RecursionError) as error:
            text = f"{file}: {word!r:.100} is refused"
            raise UserError(f"{text}\nallowed: KEY=VALUE, and GROUP=OPTION of this checkout") from error
        if is_gone(key, project):
            gone.append(".".join(key))
            continue
        for part in reversed(key):
            value = {part: value}
        check_no_references(value, file, REFERENCES)
        now = value
        if version != VERSION:
            now = project.upgrade(value, version)
        check_trusted(_without_references(now), project, trust)
        present[word] = [word] if repr(now) == repr(value) else _as_words(now, word)
    tell_of_age(file.parent, [], gone)
    return [now for word in words for now in present.get(word, [])]


def _without_references(node: Any) -> Any:
    """Nested values without those that refer to another key; `check_together` looks at what these come to."""
    if isinstance(node, dict):
        return {key: _without_references(value) for key, value in node.items() if not _refers(value)}
    if isinstance(node, list):
        return [_without_references(value) for value in node if not _refers(value)]
    return node


def _refers(value: Any) -> bool:
    return isinstance(value, str) and "${" in value


def check_together(words: list[str], own: list[str], places: list[str], project: Project, trust: Iterable[str]) -> None:
    """Check what the words of a run make of this checkout's files: one word may choose a target, another what it gets.

    Args:
        words: of the run, each as `read_words` accepted it.
        own: what the command line chooses or names; it is trusted, but not with every argument.
        places: folders of configs that the command line adds to those of the checkout.
        project: that composes them.
        trust: what the run may name besides.

    Raises:
        UserError: they make what is not trusted, or they do not compose.
    """
    single = [word for word in own if not OverridesParser.create().parse_override(word).is_sweep_override()]
    own = [*search_path(places), *single]
    try:
        chosen = {key_of(word) for word in own}
        # the choice of a part (model/encoder) needs that of the whole, which the run may have made
        mine = _composed(
            [word for word in own if "/" not in key_of(word) or key_of(word).partition("/")[0] in chosen], project
        )
        choices = [word for word in words if (project.configs / key_of(word)).is_dir()]
        files = OmegaConf.to_container(compose_unchecked(project, [*own, *choices]))  # not resolved: `???` may be in it
        config = _composed([*own, *words], project)
    except UserError:
        raise
    except COMPOSE_ERRORS as error:
        raise composing_error(error, project, [*words, *own]) from error
    ours = needed_trust(mine, project)
    check_trusted(config, project, [*trust, *ours])
    known = {key: {part: [value] for part, value in leaves(spec)} for key, spec in specs(files)}
    for key, spec in specs(config):
        name = project.present_name(str(spec["_target_"]))
        if is_below(name, tuple(ours)) and not is_below(name, tuple(trust)):
            strange = strange_arguments(spec, known.get(key, {}))
            if strange:
                raise UserError(
                    f"{key}: {name!r:.100} gets {strange:.100} from the run's own words"
                    f"\nname that on this command line, too, or if you trust this run, add trust={name}"
                )


def _composed(words: list[str], project: Project) -> Any:
    composed = compose_unchecked(project, words)
    rewrite(composed, words)
    return OmegaConf.to_container(composed, resolve=True)


def _as_words(config: dict[str, Any], word: str) -> list[str]:
    """A setting that was changed or moved, as words again; none where it was dropped."""
    prefix, words = word[: len(word) - len(word.lstrip("+~"))], []
    for key, value in config.items():
        while isinstance(value, dict) and len(value) == 1:
            ((part, value),) = value.items()
            key = f"{key}.{part}"
        if value != {}:
            words.append(f"{prefix}{key}={as_word(value)}")
    return words
