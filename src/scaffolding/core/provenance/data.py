"""Fingerprints of data, by which a run that goes on, or is loaded, sees that its files are others now.

Cheap: of a large file only blocks are read, and of many files only the sizes of some are compared.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loguru import logger
from omegaconf import OmegaConf

from ..errors import ONE_LINE, UserError
from ..folder.reading import read_json
from ..tree import leaves

WHOLE = 1_000_000  # bytes up to which a file is read as a whole
BLOCK, NUM_BLOCKS = 50_000, 20  # of a larger one
NUM_NAMED, NUM_SIZES = 20, 1000  # files with a fingerprint each; beyond that, so many sizes are looked at

Fingerprints = dict[str, Any]


def fingerprints(data: Mapping[str, Any], datasets: Mapping[str, Any], root: Path) -> Fingerprints:
    """What tells data from others: of a dataset that has it, the text `fingerprint()`; else of the files it reads.

    These are the settings under `data:` that are paths of files, and what a dataset lists in an attribute `files`. The
    values of an attribute `normalisation` are recorded, too.

    Args:
        data: the data config, with resolved values.
        datasets: objects by name; one that has several names counts once.
        root: the project's folder, where relative paths start if they do not start in the working folder.
    """
    found: Fingerprints = {}
    distinct = {id(dataset): name for name, dataset in reversed(list(datasets.items()))}
    own = {name: datasets[name] for name in sorted(distinct.values())}
    for name, dataset in own.items():
        if callable(getattr(dataset, "fingerprint", None)):
            found[f"{name}.fingerprint()"] = str(dataset.fingerprint())
    statistics = normalisations(own)
    if found:
        return found | statistics
    for key, value in leaves(data):
        path = _file(value, root)
        if path is not None and not key.endswith("_target_"):
            found[f"data.{key}"] = _of_file(path, root)
    for name, dataset in own.items():
        files = [path for path in (_file(value, root) for value in _listed(dataset)) if path is not None]
        if len(files) > NUM_NAMED:
            found[f"{name}.files"] = _of_many(files)
        else:
            found |= {f"{name}.files.{index}": _of_file(path, root) for index, path in enumerate(files)}
    return found | statistics


def normalisations(datasets: Mapping[str, Any]) -> Fingerprints:
    """The numbers by which datasets normalise, as they say in an attribute `normalisation`, a dict."""
    found: Fingerprints = {}
    for name, dataset in datasets.items():
        stated = getattr(dataset, "normalisation", None)
        if isinstance(stated, Mapping):
            found |= {f"{name}.normalisation.{key}": _plain(value) for key, value in leaves(stated)}
    return found


def _plain(value: Any) -> Any:
    """A number, an array or a tensor as JSON holds it; of anything else what it prints."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return value if isinstance(value, int | float | None) else str(value)


def _listed(dataset: Any) -> list[Any]:
    files = getattr(dataset, "files", None)
    return list(files) if isinstance(files, list | tuple) else []


def _file(value: Any, root: Path) -> Path | None:
    """The file that a value is the path of; None: it is not one."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        return None
    for path in (Path(value).expanduser(), root / value):
        try:
            if path.is_file():
                return path
        except OSError:  # a text that is too long for a name
            return None
    return None


def _of_file(path: Path, root: Path) -> dict[str, Any]:
    size, found = path.stat().st_size, hashlib.sha256()
    with open(path, "rb") as file:
        for start in _blocks(size):
            file.seek(start)
            found.update(file.read(BLOCK if size > WHOLE else WHOLE))
    place = path.resolve()
    if place.is_relative_to(root.resolve()):
        place = place.relative_to(root.resolve())
    return {"file": str(place), "size": size, "hash": found.hexdigest()[:16], "time": round(path.stat().st_mtime, 3)}


def _blocks(size: int) -> Iterator[int]:
    """Where blocks of a file begin: the first, the last, and others evenly between them."""
    if size <= WHOLE:
        return iter([0])
    return iter([(size - BLOCK) * index // (NUM_BLOCKS - 1) for index in range(NUM_BLOCKS)])


def _of_many(files: list[Path]) -> dict[str, Any]:
    chosen = files
    if len(files) > NUM_SIZES:
        chosen = [files[(len(files) - 1) * index // (NUM_SIZES - 1)] for index in range(NUM_SIZES)]
    sizes = repr([(path.name, path.stat().st_size) for path in chosen])
    return {"count": len(files), "hash": hashlib.sha256(sizes.encode()).hexdigest()[:16]}


def of_experiment(exp: Any) -> Fingerprints:
    """The fingerprints of the data that an experiment reads, its stream included."""
    return of_datasets(exp, exp.datasets, getattr(exp.loaders.get("train"), "stream", None))


def of_datasets(exp: Any, splits: Mapping[str, Any], stream: Any = None) -> Fingerprints:
    """The fingerprints of an experiment's data where only these splits of it are built."""
    data: Any = OmegaConf.to_container(exp.cfg.data, resolve=True)
    datasets = {name: split.dataset for name, split in splits.items()}
    if stream is not None:
        datasets["stream"] = stream
    return fingerprints(data, datasets, exp.project.root)


def recorded(run: Path) -> Fingerprints:
    """The fingerprints that a run recorded last; empty where it recorded none."""
    try:
        record = read_json(run / "provenance.json")
    except UserError:  # missing or damaged: whoever needs more of it says so
        return {}
    resumed = record.get("resumed")
    for entry in [*reversed(resumed if isinstance(resumed, list) else []), record]:
        if isinstance(entry, dict) and isinstance(entry.get("data"), dict):
            return dict(entry["data"])
    return {}


def changed_files(before: Fingerprints, root: Path) -> list[str]:
    """What became of the files that fingerprints are of, a line for each that is not what it was."""
    lines, now = [], {}
    for key, old in before.items():
        if isinstance(old, dict) and isinstance(old.get("file"), str):
            path = root / old["file"]
            if path.is_file():
                now[key] = _of_file(path, root)
            else:
                lines.append(f"{key} ({path}) is not there".translate(ONE_LINE))
    return lines + differences(before, now)


def differences(before: Fingerprints, now: Fingerprints) -> list[str]:
    """What of the data is not what it was, a line for each; what only one of the two knows is left out."""
    lines = []
    for key in [key for key in before if key in now]:
        old, new = before[key], now[key]
        if isinstance(old, dict) and isinstance(new, dict):
            of_file = f"{key} ({new['file']})" if "file" in new else key
            what = [name for name in ("count", "size", "hash") if old.get(name) != new.get(name)]
            if what and what[0] != "hash":
                lines.append(f"{of_file} has changed: {what[0]} {new.get(what[0])}, was {old.get(what[0])}")
            elif what:
                lines.append(f"{of_file} has changed")
            elif new.get("size", 0) > WHOLE and old.get("time") != new.get("time"):
                lines.append(f"{of_file} was written since; the parts of it that are compared have not changed")
        elif old != new:
            lines.append(f"{key} is {new}, was {old}")
    return [line.translate(ONE_LINE) for line in lines]


def warn_of_data(run: str, before: Fingerprints, now: Fingerprints) -> None:
    """Name the data of a run that are not what they were."""
    for line in differences(before, now):
        logger.warning(f"data: {line:.300}, since {run} ran")
