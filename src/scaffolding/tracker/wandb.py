"""Weights & Biases."""

import os
from pathlib import Path
from typing import Any

from loguru import logger


class Wandb:
    """A W&B run. Never prompts; without a key or a server it writes offline and says how to upload later.

    Its methods are called in a thread of their own, where an exception ends the tracking and nothing else.

    Args:
        project: W&B project.
        mode: "online", "offline", or "auto": online where WANDB_API_KEY is set, else offline.
        init_timeout: seconds to wait for the server before going offline.
    """

    def __init__(self, project: str, mode: str, init_timeout: float) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"tracker.mode={mode}: auto, online or offline is needed")
        self.project, self.init_timeout = project, init_timeout
        self.is_online = mode != "offline" and bool(os.environ.get("WANDB_API_KEY"))

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Begin, or carry on, the W&B run that has the name of the run's folder."""
        import wandb

        settings = wandb.Settings(silent=True, init_timeout=self.init_timeout, console="off", disable_git=True)
        common: dict[str, Any] = {
            "project": self.project,
            "name": folder.name,
            "id": folder.name,
            "dir": str(folder),
            "config": config,
            "settings": settings,
        }
        if self.is_online:
            try:
                self.run = wandb.init(**common, resume="allow")
            except Exception as error:  # no server, no network, a wrong key: none of them is worth a run
                logger.warning(f"W&B is out of reach ({type(error).__name__}); going on offline")
                self.is_online = False
                common["id"] += "-offline"  # the first attempt still holds the id
        if not self.is_online:
            self.run = wandb.init(**common, mode="offline")
            logger.info(f"W&B is offline; upload later with: wandb sync {Path(self.run.dir).parent}")
        self.run.define_metric("*", step_metric="step")

    def log(self, row: dict[str, Any]) -> None:
        """One row of scalars.csv, its values under <split>/<name>."""
        axes = {name: row[name] for name in ("step", "epoch", "samples")}
        values = {f"{row['split']}/{name}": row[name] for name in row if name not in (*axes, "split", "time")}
        self.run.log(axes | values)

    def log_figure(self, name: str, file: Path, step: int) -> None:
        """One figure of the run's folder."""
        import wandb

        self.run.log({f"figures/{name}": wandb.Image(str(file)), "step": step})

    def finish(self, exit_code: int) -> None:
        """End the W&B run and deliver what waits."""
        self.run.finish(exit_code=exit_code)
