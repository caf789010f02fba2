"""Where a number came from: commit, uncommitted work, packages, machine, command line, what set which setting."""

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from loguru import logger

from ..config.compose import COMPOSE_ERRORS, masked, task_words
from ..config.grammar import key_of, search_path
from ..errors import ONE_LINE, UserError
from ..folder.folder import replacing, storage_error, write_text
from ..folder.reading import read_json
from ..preflight.origins import Origins, find_origins, read_word, set_by
from ..secrets import hide_secrets
from .data import of_experiment
from .git import GitError
from .patch import Changes, archive, uncommitted_changes

ARGV = hide_secrets([masked(word) for word in sys.argv])  # as it was typed: what Hydra is given comes later
NUM_NAMED, NUM_SAID = 200, 5  # files that are left out: in provenance.json, in the log


def code_hash(sources: Path) -> str:
    """A hash of all python files below a folder."""
    found = hashlib.sha256()
    for file in sorted(sources.rglob("*.py")):
        found.update(repr((file.relative_to(sources).as_posix(), file.read_bytes())).encode())
    return found.hexdigest()[:16]


def numerics(device: torch.device, num_processes: int) -> dict[str, Any]:
    """What may change the last bits of a result."""
    name = f"{device.type} {platform.machine()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "torch": str(torch.__version__),
        "device": name,
        "threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "processes": num_processes,
    }


def describe(sources: Path, device: torch.device, num_processes: int) -> dict[str, Any]:
    """What provenance.json holds besides what git knows; `sources` is the folder of the package."""
    installed = [package.metadata for package in importlib.metadata.distributions()]
    return {
        "code": code_hash(sources),
        "argv": ARGV,
        "python": platform.python_version(),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            "cuda": torch.version.cuda,
        },
        "numerics": numerics(device, num_processes),
        "packages": dict(sorted((found["Name"], found["Version"]) for found in installed if "Name" in found)),
    }


def keep_changes(run: Path, project: Any, suffix: str = "") -> dict[str, Any]:
    """Write changes<suffix>.patch, or sources<suffix>.tar.gz where git does not know the code.

    Warns of what neither holds. Returns what provenance.json says of it: commit, dirty, and what is left out.
    """
    patch, packed = (run / f"{name}" for name in (f"changes{suffix}.patch", f"sources{suffix}.tar.gz"))
    folders = [project.sources, project.root / "configs"]
    try:
        changes, kept = uncommitted_changes(project.root, folders), patch.name
        known: dict[str, Any] = {"commit": changes.commit, "dirty": bool(changes.patch or changes.left_out)}
        if changes.commit is None:
            logger.warning(f"git has no commit yet: {patch.name} in the run's folder holds all files")
    except GitError as error:
        changes, kept, known = Changes(None), packed.name, {"commit": error.commit, "dirty": None}
        content, changes.left_out = archive(project.root, [*folders, project.root / "scripts"])
        write_private(packed, content)
        lacks = f"what differs from commit {error.commit[:10]}" if error.commit else "the commit"
        logger.warning(f"{error}: {lacks} is not known, {packed.name} in the run's folder holds the sources")
    write_private(patch, changes.patch)
    left_out = {_printable(name): why for name, why in changes.left_out.items()}
    if left_out:
        named = [f"{name} ({why})" for name, why in left_out.items()]
        more = f" and {len(named) - NUM_SAID} more" if len(named) > NUM_SAID else ""
        logger.warning(f"{kept} lacks {', '.join(named[:NUM_SAID])}{more}: commit or keep them yourself")
        known["left_out"] = dict(list(left_out.items())[:NUM_NAMED])
    return known


def _printable(name: str) -> str:
    return os.fsencode(name).decode(errors="replace").translate(ONE_LINE)


def write_private(file: Path, content: bytes) -> None:
    """Replace a file that only its owner may read: what is not committed may not be meant for others."""
    with replacing(file) as stream:
        if sys.platform != "win32":
            with contextlib.suppress(OSError):  # not every file system knows modes
                os.fchmod(stream.fileno(), 0o600)
        stream.write(content)


def read_record(run: Path) -> dict[str, Any]:
    """provenance.json of a run, `parent` a mapping or None, `resumed` a list of mappings with a step; empty where there
    is none.
    """
    file = run / "provenance.json"
    if not file.exists():
        return {}
    found = read_json(file)
    if "parent" in found and not isinstance(found["parent"], dict):
        found["parent"] = None
    resumed = found.get("resumed")
    if not isinstance(resumed, list):
        resumed = []
    resumed = [entry for entry in resumed if isinstance(entry, dict) and isinstance(entry.get("step"), int)]
    if "resumed" in found:
        found["resumed"] = resumed
    return found


def settings_by_place(project: Any, before: dict[str, Any]) -> dict[str, Any]:
    """What set the settings of this session, as `set_by` in origins.py; empty where no command line composed them.

    Of a resume or rerun it holds what its words change in the config of the run. `before` is what provenance.json says
    already: it tells when the run was created. Files that were edited since then would name wrong lines, so nothing is
    said, and a warning tells why.
    """
    if not HydraConfig.initialized():
        return {}
    hydra, found = HydraConfig.get(), Origins()
    words = task_words()
    if hydra.job.config_name != "base":  # the config is that of a run
        for word in words:
            read_word(word, (), found)
        return set_by(found)
    folders = [Path(one.path) for one in hydra.runtime.config_sources if one.schema == "file"]
    typed, parent = {key_of(word) for word in sys.argv[1:]}, before.get("parent") or {}  # argv: as launch left it
    sources = {}
    if parent:
        overrides = f"{Path(str(parent.get('run'))).name}/overrides.yaml"
        sources = {word: overrides for word in words if key_of(word) not in typed}
    try:
        for file in itertools.chain.from_iterable(folder.rglob("*.yaml") for folder in folders):
            if file.stat().st_mtime > before.get("created", math.inf):
                raise UserError(f"{file} was edited since the run started")
        search = search_path([str(folder) for folder in folders if folder != project.configs])
        return set_by(find_origins(project, [*search, *words], sources=sources))
    except (*COMPOSE_ERRORS, OSError) as error:
        logger.warning(f"provenance.json does not say which place set which setting: {error}")
        return {}


def record(run: Path, exp: Any) -> None:
    """Write provenance.json and changes.patch of a run (after the first step: packages take a while to list).

    Those of a resumed run are added under "resumed" and as changes_<step>.patch; a rehearsal has none.
    """
    file, project, step = run / "provenance.json", exp.project, exp.state.step
    try:
        before = read_record(run)
    except UserError as error:
        logger.warning(f"{error}; it is written anew")
        before = {"parent": None}
    if "parent" not in before:
        return
    is_resumed = "commit" in before
    try:
        now = keep_changes(run, project, f"_{step}" if is_resumed else "") | describe(
            project.sources, exp.device, exp.processes.count
        )
        now["set_by"] = settings_by_place(project, before)
        now["data"] = of_experiment(exp)
        now["trust"] = exp.run.trust  # what resume= and from_path need: the page of the run shows it
        if is_resumed:
            del now["packages"]
            now = {"resumed": [*before.get("resumed", ()), {"step": step, **now}]}
        write_text(file, json.dumps(before | now, indent=2) + "\n")
    except OSError as error:
        logger.warning(f"{storage_error(file, error)}; training goes on")
