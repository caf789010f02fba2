"""Weights & Biases."""

import errno
import json
import netrc
import os
import re
import shutil
import signal
import tempfile
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loguru import logger

MIN_FREE = 1 << 17  # bytes of its disk
PLACES = 100  # for the rows and figures of one training step
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
JOB = re.compile(r".*_job\d+")  # a run of a sweep
HOST = "api.wandb.ai"


class Wandb:
    """A W&B run. Never prompts; without a login or a server it writes offline and says how to upload later.

    The run has its folder's name, an id that is kept in the folder, the tags and the description (as notes) of the
    config, the run that it comes from as `parent`, and within a sweep the sweep's folder as group.

    Args:
        project: W&B project.
        mode: "online", "offline", or "auto": what WANDB_MODE says, else online where `wandb login` or WANDB_API_KEY
            has left a key, else offline.
        init_timeout: seconds to wait for the server before going offline.
    """

    def __init__(self, project: str, mode: str, init_timeout: int) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"mode={mode}: auto, online or offline is needed")
        self.project, self.mode, self.init_timeout = project, mode, init_timeout
        self.number = -1  # W&B's own step of the last row or figure

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Begin, or carry on, the W&B run whose id the folder keeps."""
        for place in {folder.resolve(), Path.cwd()}:  # W&B would take its server's address from there
            for file in (place / "wandb" / "settings", place / ".wandb" / "settings"):
                if place.is_relative_to(folder.resolve()) and file.exists():
                    raise ValueError(f"{file} would tell W&B where to send the run and your key: delete it")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # without a network, it delays the end
        import wandb

        (folder / "wandb").mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder / "wandb").close()  # W&B itself would go to the system's temporary folder
        setup: Any = wandb.setup(wandb.Settings(silent=True))  # from the first line on
        mode, why = self.mode, ""
        if mode == "auto":
            mode = os.environ.get("WANDB_MODE") or "online"
        is_online = mode not in ("offline", "dryrun", "disabled") and has_key(setup)
        if is_online and hasattr(wandb, "Api"):
            try:
                wandb.Api(timeout=self.init_timeout)  # asks the server about the key: init would hang and never let go
            except Exception as error:
                is_online, why = False, f", its server is out of reach ({type(error).__name__})"
        of_run = config.get("run") or {}
        settings: Any = wandb.Settings(
            silent=True, init_timeout=self.init_timeout, console="off", disable_git=True, symlink=False
        )
        if hasattr(settings, "allow_media_symlink"):  # W&B keeps figures as hard links to ours, and not as copies
            settings.allow_media_symlink = True
        self.run = wandb.init(
            project=self.project,
            name=folder.name,
            id=run_id(folder),
            dir=folder,
            config=config | {"parent": parent_of(folder)},
            tags=list(of_run.get("tags") or ()) or None,
            notes=of_run.get("description") or None,
            group=folder.parent.name if JOB.fullmatch(folder.name) else None,
            mode="online" if is_online else "disabled" if mode == "disabled" else "offline",
            resume="allow" if is_online else None,
            settings=settings,
        )
        self.folder = Path(self.run.dir).parent
        self.where = self.run.url if is_online else self.folder  # for sync.py
        if not is_online and mode != "disabled":
            logger.log(
                "WARNING" if why else "INFO", f"W&B is offline{why}; upload later with: wandb sync {self.folder}"
            )
        self.run.define_metric("*", step_metric="step")
        self.first = self.run.step  # the first number that W&B has not got yet

    def log(self, row: dict[str, Any]) -> None:
        """One row of scalars.csv, its values under <split>/<name>."""
        axes = {name: row[name] for name in ("step", "epoch", "samples")}
        values = {f"{row['split']}/{name}": row[name] for name in row if name not in (*axes, "split", "time")}
        self._log(axes | values, max(row["step"] * PLACES, self.number + 1))

    def log_figure(self, kind: str, file: Path, step: int) -> None:
        """One figure of the run's folder."""
        import wandb

        self._log({f"figures/{kind}": wandb.Image(file), "step": step}, max((step + 1) * PLACES - 1, self.number))

    def _log(self, values: dict[str, Any], number: int) -> None:
        # W&B takes only rows whose own step is not below the last one's. Ours is made of the training step and the
        # place in it, so that what comes again after a resume has the number that it had: an online run, which knows
        # its last one, gets the rest and nothing twice; every offline folder is complete by itself, upload the newest.
        self.number = number
        if number < self.first:
            return
        self._check_disk()
        self.run.log(values, step=number)

    def finish(self, exit_code: int) -> None:
        """End the W&B run (finished, failed, or preempted) and deliver what waits."""
        if exit_code > 128 and exit_code != 128 + signal.SIGINT:
            self.run.mark_preempting()
        self.run.finish(exit_code=exit_code)
        self._check_disk()

    def _check_disk(self) -> None:
        if shutil.disk_usage(self.folder).free < MIN_FREE:  # W&B itself loses rows and says nothing
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))


def has_key(setup: Any) -> bool:
    """Whether there is a W&B login: an environment variable, or an entry of `wandb login` in .netrc for this server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    address = os.environ.get("WANDB_BASE_URL") or getattr(getattr(setup, "settings", None), "base_url", "")
    hosts = {urlsplit(address).hostname, None if os.environ.get("WANDB_BASE_URL") else HOST}
    for file in filter(None, (os.environ.get("NETRC"), "~/.netrc", "~/_netrc")):
        path = Path(file).expanduser()
        if path.exists():
            try:
                return not hosts.isdisjoint(netrc.netrc(str(path)).hosts)
            except (netrc.NetrcParseError, OSError) as error:
                logger.warning(f"{path} cannot be read: {error}")
                return False
    return False


def run_id(folder: Path) -> str:
    """The id of the W&B run of a folder: two runs of the same name, one after the other, are two runs in W&B."""
    file = folder / "wandb" / "id.txt"
    if file.exists():
        found = file.read_text().strip()
        if ID.fullmatch(found):
            return found
    before = sorted(folder.glob("wandb/*run-*/"), key=lambda path: path.name.partition("run-")[2])
    new = uuid.uuid4().hex[:12]  # not of a generator that training draws from
    if before:  # by a version that kept no id
        new = before[-1].name.split("-", 2 + before[-1].name.startswith("offline"))[-1]
    file.write_text(f"{new}\n")
    return new


def parent_of(folder: Path) -> Any:
    """Of a fork or rerun, which run and checkpoint it comes from; None of others."""
    file = folder / "provenance.json"
    if not file.exists():
        return None
    return json.loads(file.read_text()).get("parent")
