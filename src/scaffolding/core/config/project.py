"""What the machinery must know of the project around it, and its folder of configs."""

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from ..faults import ABSENT, Fault, FaultsError
from ..find import read_output_root

COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError)  # of user's words
TOP_KEY = re.compile(r"(?m)^([A-Za-z]\w*):")
GLOBAL = "# @package _global_"


@dataclass(frozen=True)
class Project:
    """What the machinery must know of the project around it."""

    root: Path
    package: str
    schema: type
    former_names: tuple[str, ...] = ()  # of the package, so that runs made under them still load
    trusted: tuple[str, ...] = ()  # what a loaded run may name as targets: everything below these dotted names
    upgrade: Callable[[dict[str, Any], int], dict[str, Any]] = lambda config, _: config  # of an earlier version
    fetching: tuple[str, ...] = ()  # what a loaded run may not name, though a YAML file here does
    configs: Path = dataclasses.field(init=False)
    sources: Path = dataclasses.field(init=False)  # of the package

    def __post_init__(self) -> None:
        object.__setattr__(self, "configs", self.root / "configs")
        object.__setattr__(self, "sources", self.root / "src" / self.package)
        ConfigStore.instance().store("schema", self.schema)

    def present_name(self, target: str) -> str:
        """A dotted name, under the package's present name where it has a former one."""
        first, dot, rest = target.partition(".")
        return f"{self.package}{dot}{rest}" if first in self.former_names else target

    @property
    def output_root(self) -> Path:
        """Where runs are found when the command line says nothing."""
        return read_output_root(self.root)


@contextlib.contextmanager
def hydra_at(project: Project) -> Iterator[None]:
    """Hydra at the project's configs; afterwards it is what it was."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        with initialize_config_dir(str(project.configs), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = before  # another instance: Hydra puts a copy in its place


def check_files(runtime: Any, project: Project) -> None:
    """FaultsError: a chosen file of a group sets what it cannot set; `runtime` is Hydra's account of the choices."""
    faults = list(file_faults(runtime, project))
    if faults:
        raise FaultsError(faults)


def file_faults(runtime: Any, project: Project) -> Iterator[Fault]:
    """The files of groups that set what base.yaml, which is read after them, would silently override; or keys outside
    of their group, but Hydra puts them into the group.
    """
    known = {field.name: field for field in dataclasses.fields(project.schema)}
    sections = {name for name, field in known.items() if dataclasses.is_dataclass(field.type)}
    places = [source.path for source in runtime.config_sources if source.schema == "file"]
    for group, option in runtime.choices.items():
        for file in [Path(place, group, f"{option}.yaml") for place in places]:
            if group not in known or not file.is_file():
                continue
            text = file.read_text("utf-8")
            lines = {found[1]: text.count("\n", 0, found.start()) + 1 for found in TOP_KEY.finditer(text)}
            wrong = [key for key in lines if key in sections]
            key = (wrong or [*lines, ""])[0]
            place = f"{shown_path(file, project)}:{lines.get(key, 1)}:1"
            if wrong and text.startswith(GLOBAL):
                said = f"sets {key}:, which base.yaml, read later, would override without a word"
                yield Fault("", ABSENT, said, "put it into base.yaml or an experiment", place)
            if not text.startswith(GLOBAL) and (wrong or group in lines or f"\n{GLOBAL}" in text):
                said = f"sets {key}:, and Hydra would put it into {group}:"
                yield Fault(
                    "", ABSENT, said, f"make `{GLOBAL}` its very first line, or set keys of {group} only", place
                )


def shown_path(file: Path, project: Project) -> str:
    """A config file as messages name it: from the project's folder, or the one where we are, if it lies there."""
    if file.is_relative_to(project.configs):
        return f"configs/{file.relative_to(project.configs)}"
    for folder in (project.root, Path.cwd()):
        if file.is_relative_to(folder):
            return str(file.relative_to(folder))
    return str(file)
