"""Folders of runs: a new one, and what a session makes and removes in it."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from ..folder import folder
from ..state.checkpoint import link_checkpoint


def clear(path: Path) -> None:
    """Make the folders of a run, and remove what a kill left in it."""
    for name in ("facts", "checkpoints", "figures"):
        (path / name).mkdir(exist_ok=True)
    for aside in (*path.glob(".*.tmp"), *path.glob("*/.*.tmp"), *path.glob("rank_*.txt")):  # of a write, of a failure
        aside.unlink()
    for aside in (*path.glob(".rehearsal_*"), *path.glob(".estimate_*")):  # and what one during a dev run left
        shutil.rmtree(aside, ignore_errors=True)


def create(
    exp: Any, parent: dict[str, Any] | None, words: Iterable[str] = (), links: Mapping[str, Path] | None = None
) -> Path:
    """Claim and lock a new folder, and write what the run is; of several processes, the first one does.

    Args:
        exp: its config is written, with the words that it was made of.
        parent: the run that this one comes from.
        words: overrides that made the parent, where this command line does not repeat them.
        links: checkpoints that the run starts from, by the names that they get.
    """
    path: Path = exp.processes.first(_create, exp, parent, words, links or {})
    return path


def _create(exp: Any, parent: dict[str, Any] | None, words: Iterable[str], links: Mapping[str, Path]) -> Path:
    name, suffix, output = exp.settings.name, "", Path(exp.cfg.paths.output)
    hydra = HydraConfig.get() if HydraConfig.initialized() else None
    if hydra is not None and hydra.mode == RunMode.MULTIRUN and output == Path(hydra.sweep.dir):
        suffix = f"_job{hydra.job.num}"  # the runs of a sweep; not those by which one of them looks ahead
    path = folder.claim(output, name, suffix)
    folder.write_text(path / "provenance.json", json.dumps({"created": time.time(), "parent": parent}) + "\n")
    folder.write_text(path / "overrides.yaml", yaml.safe_dump([*words, *exp.words], allow_unicode=True))
    (path / "checkpoints").mkdir(exist_ok=True)
    for name, file in links.items():
        link_checkpoint(file, path / "checkpoints" / f"{name}.pt")
    text = yaml.safe_dump(exp.config, sort_keys=False, allow_unicode=True)
    folder.write_text(path / "config.yaml", text)  # last: a folder with a config is a run
    return path
