"""Where the runs are, and which of them a name stands for. Does not import torch."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dotenv
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .errors import UserError, at_mark, nearest
from .folder.folder import NAME
from .folder.reading import MAX_FACTS, read_bytes

DEPTH = 3  # of runs below the output root: jobs of sweeps lie in a folder, and dev runs
DATE = re.compile(r"\A\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_")  # what a name begins with that nobody chose
CREATED = re.compile(rb'{\s*"created": ([\d.]+)')


def list_runs(output_root: Path, is_sorted: bool = True) -> list[Path]:
    """All run folders under the output root (dev runs and jobs of sweeps too), oldest first or in no order."""
    runs = [Path(path) for path in _scan(str(output_root), DEPTH)]
    if not is_sorted:
        return runs
    return sorted(sorted(runs), key=created)


def _scan(folder: str, depth: int) -> Iterator[str]:
    """Run folders below a folder; what lies in a run is not a run."""
    try:
        entries = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:  # it is not there, or not to be read
        return
    for entry in entries:
        if os.path.exists(os.path.join(entry.path, "config.yaml")):
            yield entry.path
        elif depth > 1:
            yield from _scan(entry.path, depth - 1)


def created(run: Path) -> float:
    """When a run was made, in seconds since 1970; of one that does not say it, the oldest change of its files."""
    file = run / "provenance.json"
    with contextlib.suppress(ValueError):  # of a file that is damaged: a UserError, or not a number
        found = CREATED.match(read_bytes(file, MAX_FACTS))
        if found:
            return float(found[1])
    files = (run / "config.yaml", run / "overrides.yaml", file)
    return min((file.lstat().st_mtime for file in files if os.path.lexists(file)), default=0.0)


def find_run(name: str, output_root: Path) -> Path:
    """The run that `name` stands for: a name, with or without its date, its first letters, any other part of it that
    no other run has, `latest`, `dev/NAME`, or a path under the output root.

    Raises:
        UserError: none, or several; the nearest or all of them are named.
    """
    root = output_root.resolve()
    runs = {str(path.relative_to(root)): path for path in list_runs(root) if path.resolve().is_relative_to(root)}
    runs = {key: path for key, path in runs.items() if key.isprintable()}  # a name that nobody can type
    if name == "latest":
        real = [path for key, path in runs.items() if not key.startswith("dev/")]
        if not real:
            raise UserError(f"latest: no run in {root} yet (dev runs do not count)\nno run was created")
        return real[-1]
    if "/" in name and name.isprintable():  # as a shell completes it
        for path in (Path(name).resolve(), (root.parent / name).resolve()):
            if path in runs.values():
                return path
    wanted = name.rstrip("/")
    if not all(NAME.fullmatch(part) for part in wanted.split("/")):
        raise UserError(
            f"{name!r} is not a run in {root}\ngive a run's name, a part of it, `latest`, or its path there"
        )
    if wanted in runs:
        return runs[wanted]
    matches = [key for key in runs if key.rpartition("/")[2] == wanted]
    matches = matches or [key for key in runs if rest_of(key) == wanted]
    matches = matches or [key for key in runs if key.startswith(wanted)]
    matches = matches or [key for key in runs if wanted in key]
    if len(matches) == 1:
        return runs[matches[0]]
    if matches:
        raise UserError(f"{name!r} stands for {len(matches)} runs: {', '.join(matches[-5:])}\ngive more of it")
    near = ", ".join(nearest(wanted, runs, 3)) or "none"
    raise UserError(f"{name!r}: no such run in {root}\nnearest: {near}\nno run was created")


def rest_of(name: str) -> str:
    """The name of a run without the folder that it lies in, and without its date."""
    return DATE.sub("", name.rpartition("/")[2])


def shortest_name(run: Path, output_root: Path) -> str:
    """What `find_run` takes for a run: its name or, where several have that, its path below the output root.

    Raises:
        UserError: it does not lie there.
    """
    for name in (run.name, os.path.relpath(run.resolve(), output_root.resolve())):
        with contextlib.suppress(UserError):
            if find_run(name, output_root).samefile(run):
                return name
    raise UserError(f"{run} is not a run in {output_root}")


def open_run(word: str, output_root: Path) -> Path:
    """The run that a path from anywhere, or else a name as in `find_run`, stands for."""
    path = Path(os.path.expanduser(word))  # Path.expanduser raises for a user that is not known
    if (path / "config.yaml").is_file():
        return path
    return find_run(word, output_root)


def read_output_root(project_root: Path, given: str | None = None) -> Path:
    """Where the runs are: paths.output_root of the command line (`given`), of local.yaml, or of base.yaml; else
    UserError.
    """
    return read_path("output_root", project_root, {"output_root": given})


def read_path(name: str, project_root: Path, given: Mapping[str, str | None]) -> Path:
    """One of `paths`, as the command line has them (`given`), or else local.yaml or base.yaml.

    Raises:
        UserError: it is null or empty, or as in `read_setting`.
    """
    path = read_setting(name, project_root, given)
    if path in (None, ""):
        raise UserError(f"paths.{name}: it is {'empty' if path == '' else 'null'}\ngive it a folder")
    return absolute(str(path), project_root)


def read_setting(name: str, project_root: Path, given: Mapping[str, str | None]) -> Any:
    """One of `paths` as in `read_path`, resolved but not made absolute; it may be null.

    Raises:
        UserError: it refers to what is not there, or a file is damaged.
    """
    dotenv.load_dotenv(project_root / ".env")  # as `launch` does
    found: Any = OmegaConf.create({"paths": {"output_root": "_output", "data": "_data"}})
    try:
        for config in ("base.yaml", "local.yaml"):
            file = project_root / "configs" / config
            if file.exists():
                found = OmegaConf.merge(found, _settings_of(file))  # all of them, as paths may refer to others
        found.paths.update({key: path for key, path in given.items() if path is not None})
        return found.paths[name]
    except OmegaConfBaseException as error:
        raise UserError(f"paths.{name}: {str(error).partition(chr(10))[0]}") from error


def _settings_of(file: Path) -> dict[str, Any]:
    """The content of a YAML file of settings; UserError: it is damaged."""
    try:
        with open(file, encoding="utf-8") as stream:  # a stream: errors then name the file
            content = yaml.safe_load(stream) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise at_mark(error) or UserError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: {content!r:.100} is not a mapping of settings")
    paths = content.get("paths") or {}
    if not isinstance(paths, dict):
        raise UserError(f"{file}: paths: {paths!r:.100} is not a mapping of names to folders")
    return content | {"paths": paths}


def of_machine(schema: Any) -> list[str]:
    """The names of the paths that belong to the machine, whatever run is at work on it."""
    fields = dataclasses.fields(schema.__dataclass_fields__["paths"].type)
    return [field.name for field in fields if field.metadata.get("change") == "machine"]


def absolute(path: str, project_root: Path) -> Path:
    """A path of the config: relative ones start at the project's folder, `~` at the user's home."""
    return project_root / os.path.expanduser(path)
