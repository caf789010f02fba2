"""Reading the config of a run, whose folder is data, perhaps a stranger's."""

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from loguru import logger
from omegaconf import DictConfig, OmegaConf

from ..config.compose import NOT_WRITTEN, VERSION, Project, checked
from ..errors import CONTROL, UserError
from ..find import of_machine, read_setting
from ..folder.reading import check_plain_files, read_yaml
from ..tree import walk
from .targets import check_trusted, untrusted

PATHS = re.compile(r"\$\{paths\.\w+\}", re.ASCII)
REFERENCES = re.compile(r"\$\{\.*[a-zA-Z_]\w*(\.\w+)*\}", re.ASCII)  # to any key, without a resolver


def read_config(
    folder: Path, project: Project, trust: Iterable[str] | None = None, needs_imports: bool = True
) -> DictConfig:
    """The checked config of a run, fit to be built if `trust` is given; UserError as in open_config."""
    return checked(OmegaConf.create(open_config(folder, project, trust, needs_imports)), project)


def open_config(
    folder: Path, project: Project, trust: Iterable[str] | None, needs_imports: bool = True
) -> dict[str, Any]:
    """The plain config of a run; with `trust` fit to be built: all that it names is the owner's code, or in `trust`.

    A setting that the run did not know yet has the value of base.yaml; what belongs to the machine, its value here.
    Without `needs_imports`, `imports:` that are not trusted are left out, with a warning, where nothing else needs
    trust: training may need them, a look at it need not.

    Raises:
        UserError: there is none in `folder`, or it holds what could run code (nothing of it has been imported), or
            there are links out of the folder, or pipes and devices in it.
    """
    file, known = folder / "config.yaml", {field.name: field for field in dataclasses.fields(project.schema)}
    if not file.is_file():
        raise UserError(f"{folder} is not a run: it has no config.yaml")
    check_plain_files(folder)
    config = read_plain(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} is not a mapping of settings")
    version = version_of(config, file)
    config.pop("version", None)
    for key in config:
        if key in (*NOT_WRITTEN, "trust", "defaults", "hydra") or not str(key).isidentifier():
            allowed = ", ".join(sorted(set(known).difference(NOT_WRITTEN)))
            raise UserError(f"{file}: {key!r:.100} is not a part of a run's config\nallowed: {allowed}")
    if version != VERSION:
        config = project.upgrade(config, version)
    if trust is not None:
        if not needs_imports:
            config = _without_imports(config, project, trust, folder)
        check_trusted(config, project, trust)
    base, new = yaml.safe_load((project.configs / "base.yaml").read_text("utf-8")), list[str]()
    gone = [key for key in config if is_gone([str(key)], project)]
    for section, field in known.items():
        if dataclasses.is_dataclass(field.type) and isinstance(config.get(section), dict):
            own, names = config[section], [inner.name for inner in dataclasses.fields(field.type)]
            if section == "paths":
                own |= {name: read_setting(name, project.root, {}) for name in of_machine(project.schema)}
            missing = {name: value for name, value in base[section].items() if name in names and name not in own}
            config[section] = missing | {name: value for name, value in own.items() if name in names}
            new += [f"{section}.{name}={value}" for name, value in missing.items()]
            gone += [f"{section}.{name}" for name in own if name not in names]
    if trust is not None:
        tell_of_age(folder, new, gone)
    return {key: value for key, value in config.items() if key in known}


def version_of(config: dict[str, Any], file: Path) -> int:
    """The version that wrote a run's config; UserError: it is not a number."""
    version = config.get("version", 1)
    if not isinstance(version, int):
        raise UserError(f"{file}: version={version!r:.100} is not a whole number")
    return version


def is_gone(key: list[str], project: Project) -> bool:
    """Whether a setting of a run, by the parts of its key, is one that this checkout no longer has."""
    known = {field.name: field.type for field in dataclasses.fields(project.schema)}
    if key[0] not in known:
        return not (project.configs / key[0]).is_dir()  # mode, experiment
    section = known[key[0]]
    if len(key) == 1 or not dataclasses.is_dataclass(section):
        return False
    return key[1] not in {field.name for field in dataclasses.fields(section)}


def tell_of_age(folder: Path, new: Iterable[str], gone: Iterable[str]) -> None:
    """Say once which settings are newer than a run, and which of its settings no longer exist."""
    new, gone = ([text for text in texts if (folder, text) not in _told] for texts in (new, gone))
    _told.update((folder, text) for text in (*new, *gone))
    if new:
        logger.info(f"{folder.name} is older than {', '.join(new)}: the values of base.yaml")
    if gone:
        logger.warning(f"{folder.name} has settings that no longer exist; they are ignored: {', '.join(gone)}")


_told: set[tuple[Path, str]] = set()


def read_plain(file: Path, allowed: re.Pattern[str] = PATHS) -> Any:
    """The content of a run's YAML file: plain values that refer to nothing but what is allowed; else UserError."""
    content = read_yaml(file)
    check_no_references(content, file, allowed)
    return content


def check_no_references(content: Any, file: Path, allowed: re.Pattern[str] = PATHS) -> None:
    """UserError: a value or key that is not plain, or that refers to more than is allowed: by default paths."""
    for key, node in walk(content):
        if isinstance(node, dict):
            values = list(node)  # its keys; what they hold comes later
        elif isinstance(node, list):
            continue
        else:
            values = [node]
        for value in values:
            text = str(value)
            # a path with a $ in it, or a $ before one, could become a reference where they are put together
            rest = allowed.sub("", text)
            refers = "${" in rest or ("$" in rest and (rest != text or key.startswith("paths.")))
            if refers or text != text.translate(CONTROL) or not isinstance(value, str | int | float | None):
                name = "paths.NAME" if allowed is PATHS else "KEY"
                raise UserError(
                    f"{file}: {key!r:.100}: {value!r:.100} is refused"
                    f"\nallowed: plain values, which may hold ${{{name}}}"
                )


def _without_imports(config: dict[str, Any], project: Project, trust: Iterable[str], folder: Path) -> dict[str, Any]:
    """The config without the imports that are not trusted, if all else is; else as it is."""
    trust, imports = tuple(trust), config.get("imports")
    if not isinstance(imports, list):
        return config
    kept = [name for name in imports if name in trust]
    rest = {**config, "imports": kept}
    if kept == imports or untrusted(rest, project, trust):
        return config
    left_out = ", ".join(f"{name!r:.100}" for name in imports if name not in trust)
    logger.warning(f"{folder}: imports are left out, as they are not trusted: {left_out}".translate(CONTROL))
    return rest
