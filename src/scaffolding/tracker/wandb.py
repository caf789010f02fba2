"""Weights & Biases."""

import errno
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from loguru import logger

MIN_FREE = 1 << 17  # bytes of its disk
PLACES = 100  # for the rows and figures of one training step


class Wandb:
    """A W&B run. Never prompts; without a key or a server it writes offline and says how to upload later.

    Args:
        project: W&B project.
        mode: "online", "offline", or "auto": online where WANDB_API_KEY is set, else offline.
        init_timeout: seconds to wait for the server before going offline.
    """

    def __init__(self, project: str, mode: str, init_timeout: int) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"mode={mode}: auto, online or offline is needed")
        self.project, self.mode, self.init_timeout = project, mode, init_timeout
        self.number = -1  # W&B's own step of the last row or figure

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Begin, or carry on, the W&B run that has the name of the run's folder."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # where there is no network, it holds up the end
        import wandb

        (folder / "wandb").mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder / "wandb").close()  # W&B itself would go to the system's temporary folder
        wandb.setup(wandb.Settings(silent=True))  # from the first line on
        is_online, why = self.mode != "offline" and bool(os.environ.get("WANDB_API_KEY")), ""
        if is_online:
            try:
                wandb.Api(timeout=self.init_timeout)  # asks the server about the key: init would hang and never let go
            except Exception as error:
                is_online, why = False, f", its server is out of reach ({type(error).__name__})"
        self.run = wandb.init(
            project=self.project,
            name=folder.name,
            id=folder.name,
            dir=folder,
            config=config,
            mode="online" if is_online else "offline",
            resume="allow" if is_online else None,
            settings=wandb.Settings(silent=True, init_timeout=self.init_timeout, console="off", disable_git=True),
        )
        self.folder = Path(self.run.dir).parent
        self.where = self.run.url if is_online else self.folder  # for sync.py
        if not is_online:
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
