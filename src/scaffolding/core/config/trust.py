"""What a loaded run may say: its folder is data, perhaps a stranger's. The checkout and the command line are code."""

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from torch import nn, optim, utils

from ..errors import UserError
from .build import locate, targets
from .compose import VERBS

if TYPE_CHECKING:
    from .compose import Project

DOTTED = re.compile(r"[a-zA-Z]\w*(\.[a-zA-Z]\w*)+", re.ASCII)  # no part of it private
SETTING = re.compile(r"[+~]{0,2}(?!hydra\b)[a-zA-Z]\w*([./]\w+)*(=.*)?", re.ASCII | re.DOTALL)
PATHS = re.compile(r"\$\{paths\.\w+\}", re.ASCII)
MAX_SIZE, MAX_DEPTH = 300_000, 30  # bytes of a YAML file, levels of nesting
LIBRARIES = ("torch.", "torchvision.", "torchmetrics.")  # of these only what can be part of an experiment
PARTS = (nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler, utils.data.Dataset)


def read_plain(file: Path) -> Any:
    """The content of a run's YAML file: plain values that refer to nothing but ${paths.NAME}; else UserError."""
    if not file.is_file() or file.stat().st_size > MAX_SIZE:
        raise UserError(f"{file}: there is no such file, or it is larger than {MAX_SIZE} bytes")
    text, depth = file.read_bytes(), 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # a few lines of aliases can stand for gigabytes
            if depth > MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise yaml.MarkedYAMLError(problem="an alias, or nested too deep", problem_mark=event.start_mark)  # type: ignore[arg-type]
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        what = f":{mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ": not YAML"
        raise UserError(f"{file}{what:.300}\nthe files of a run hold plain values only") from error
    _check_plain(content, file, "")
    return content


def open_config(folder: Path, project: "Project", trust: Iterable[str] | None) -> dict[str, Any]:
    """The plain config of a run; with `trust` fit to be built: all of its targets are trusted, by the project or by it.

    Raises:
        UserError: there is none in `folder`, or it holds what could run code; nothing of it has been imported.
    """
    file, known = folder / "config.yaml", {field.name for field in dataclasses.fields(project.schema)}.difference(VERBS)
    if not file.is_file():
        raise UserError(f"{folder} is no run: there is no config.yaml in it")
    config = read_plain(file)
    if odd := [repr(key) for key in config if key not in known] if isinstance(config, dict) else ["no mapping"]:
        raise UserError(f"{file}: {odd[0]:.100} is no part of a run's config\nallowed: {', '.join(sorted(known))}")
    if trust is not None:
        check_trusted(config, project, trust)
    return config  # type: ignore[no-any-return]


def open_to_resume(run: Path, project: "Project", trust: Iterable[str]) -> str:
    """Give the config of a run to Hydra, as it was checked, under the name returned: Hydra does not read the folder.

    Raises:
        UserError: as open_config, and where a link in the run leads out of it: what is written would go there.
    """
    for path in (path for pattern in ("*", "facts/*", "checkpoints/*", "figures/*") for path in run.glob(pattern)):
        if path.is_symlink() and not path.resolve().is_relative_to(run.resolve()):
            raise UserError(f"{path} is a link to {path.readlink()}, out of the run\nput there what it points to")
    ConfigStore.instance().store(name := "config of the run", open_config(run, project, trust))
    return name


def _check_plain(node: Any, file: Path, key: str) -> None:
    if isinstance(node, dict | list):
        for name, value in node.items() if isinstance(node, dict) else enumerate(node):
            _check_plain(name, file, inner := f"{key}.{name}".lstrip("."))
            _check_plain(value, file, inner)
    elif not isinstance(node, str | int | float | None) or "${" in PATHS.sub("", str(node)):
        raise UserError(
            f"{file}: {key}: {node!r:.100} is refused\nallowed: plain values, which may hold ${{paths.NAME}}"
        )


def read_words(file: Path, project: "Project", trust: Iterable[str]) -> list[str]:
    """The settings that made a run, from its overrides.yaml; UserError: one that is more than a plain setting."""
    found = read_plain(file)
    words = [str(word) for word in (found if isinstance(found, list) else [found])]
    words = [word for word in words if word.partition("=")[0].lstrip("+~") not in VERBS]
    for word in sorted(words, key=lambda word: not word.lstrip("+").startswith("imports")):  # others may need them
        try:
            setting = OverridesParser.create().parse_override(word)
            key, value = setting.key_or_group.split("."), setting.value()
            if SETTING.fullmatch(word) is None or setting.package is not None or len(word) > MAX_SIZE // 30:
                raise ValueError("it reaches for what is not the experiment's")
            if (
                len(key) == 1
                and key != ["imports"]
                and not isinstance(value, dict)
                and re.search(r"[^\w\[\], '-]", str(value))
            ):
                raise ValueError("it may name a file outside of a group")
        except (HydraException, ValueError, RecursionError) as error:
            text = f"{file}: {word!r:.100} is refused"
            raise UserError(f"{text}\nallowed: KEY=VALUE, and GROUP=OPTION of this checkout") from error
        for part in reversed(key):
            value = {part: value}
        _check_plain(value, file, "")
        check_trusted(value, project, trust)
    return words


def check_trusted(config: Any, project: "Project", trust: Iterable[str]) -> None:
    """Refuse targets outside of the list: all by name before anything is imported, then by what the names stand for."""
    names = config.get("imports") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"imports: {names!r:.100} is no list of names")
    if untrusted := project.untrusted(config, trust):
        raise _untrusted(untrusted, "", project)
    if names:
        from .plugins import import_plugins  # imported only here

        import_plugins(names, project.root)
    for key, spec in targets(config):
        key, name = f"{key}._target_".lstrip("."), project.present_name(str(spec["_target_"]))
        if DOTTED.fullmatch(name) is None:
            raise _untrusted({key: name}, "", project)
        if name in (*project.trusted, *trust):  # written out in full, it is meant, whatever it is
            continue
        found = made = locate(name, key)
        is_fit = isinstance(found, type) or (inspect.isfunction(found) and "." not in found.__qualname__)
        if is_fit and name.startswith(LIBRARIES):
            made = found if isinstance(found, type) else inspect.signature(found).return_annotation
            is_fit = isinstance(made, type) and (issubclass(made, PARTS) or name.startswith("torchvision.transforms."))
        if not is_fit or project.untrusted(
            {"made of": [{"_target_": _real_name(thing)} for thing in (found, made)]}, trust
        ):
            raise _untrusted({key: name}, f" (the {type(found).__name__} {_real_name(found)})", project)


def _real_name(found: Any) -> str:
    return f"{getattr(found, '__module__', '?')}.{getattr(found, '__qualname__', '?')}"


def _untrusted(names: dict[str, str], real: str, project: "Project") -> UserError:
    """The error for what is not in the list, by key: the first one is named, the advice is for all of them."""
    words: dict[str, None] = {}
    for key, name in names.items():
        first = name.partition(".")[0]
        word = name if real or f"{first}.".startswith((*LIBRARIES, f"{project.package}.")) else first
        if not key.startswith("imports") and not DOTTED.fullmatch(f"{word}.x"):
            word = "NAME"
        words[f"{word:.100}"] = None  # each once, in order
    key, name = next(iter(names.items()))
    listed = ",".join(words)
    return UserError(
        f"{key}: {name!r:.100}{real} is not in the list of trusted targets"
        f"\nallowed: classes of {', '.join(project.trusted)}"
        f"\nif you trust this run, add trust={listed} beside resume= or fork= (from_path: trust={tuple(words)}), "
        f"or add it to TRUSTED in src/{project.package}/config.py"
    )
