"""Trackers follow the run's own files. They work in a thread of their own, so they can neither stop nor stall training."""

import os
import queue
import threading
from pathlib import Path
from typing import Any

from loguru import logger

STOP: tuple[str, Any] = ("stop", None)


class Tracker:
    """The stand-in where no tracker is configured: takes everything, does nothing."""

    def start(self, folder: Path, name: str, config: dict[str, Any], tracker_id: str) -> None: ...

    def log(self, row: dict[str, Any]) -> None: ...

    def log_figure(self, name: str, file: Path, step: int) -> None: ...

    def finish(self, exit_code: int) -> None: ...


class WandbTracker(Tracker):
    """Weights & Biases. Never prompts; without a key or a network it writes offline and says how to upload later.

    Args:
        project: W&B project.
        mode: "online", "offline", or "auto": online where WANDB_API_KEY is set, else offline.
        init_timeout: seconds to wait for the server before going offline.
        finish_timeout: seconds to wait at the end of the run for what is not yet delivered.
        max_waiting: rows kept for a slow server; more are dropped, counted, and still in facts/scalars.csv.
    """

    def __init__(
        self,
        project: str,
        mode: str = "auto",
        init_timeout: float = 10.0,
        finish_timeout: float = 60.0,
        max_waiting: int = 10_000,
    ) -> None:
        if mode not in ("auto", "online", "offline"):
            raise ValueError(f"tracker.mode={mode!r}: auto, online or offline is needed")
        self.project = project
        self.has_key = bool(os.environ.get("WANDB_API_KEY"))
        self.mode = mode if mode != "auto" else "online" if self.has_key else "offline"
        self.init_timeout, self.finish_timeout = init_timeout, finish_timeout
        self.waiting: queue.Queue[tuple[str, Any]] = queue.Queue(max_waiting)
        self.dropped = 0
        self.thread: threading.Thread | None = None

    def start(self, folder: Path, name: str, config: dict[str, Any], tracker_id: str) -> None:
        """Remember what the run is; W&B itself starts with the first row, off the path to the first step."""
        self.folder, self.name, self.config, self.tracker_id = folder, name, config, tracker_id

    def log(self, row: dict[str, Any]) -> None:
        """Hand over one row of scalars."""
        split = row["split"]
        axes = {"step", "epoch", "samples", "split", "time"}
        values = {f"{split}/{key}": value for key, value in row.items() if key not in axes}
        self._put(("log", values | {key: row[key] for key in ("step", "epoch", "samples")}))

    def log_figure(self, name: str, file: Path, step: int) -> None:
        """Hand over one figure."""
        self._put(("figure", (name, file, step)))

    def finish(self, exit_code: int) -> None:
        """Deliver what waits, for at most `finish_timeout` seconds."""
        if self.thread is None:
            return
        self._put(("finish", exit_code))
        self._put(STOP)
        self.thread.join(self.finish_timeout)
        if self.thread.is_alive():
            logger.warning(f"tracker: not done after {self.finish_timeout:.0f} s; the run's own files are complete")
        if self.dropped:
            logger.warning(f"tracker: {self.dropped} rows were dropped; facts/scalars.csv has them all")

    def _put(self, item: tuple[str, Any]) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self.thread.start()
        try:
            self.waiting.put_nowait(item)
        except queue.Full:
            self.dropped += 1

    def _work(self) -> None:
        """The thread: start W&B, deliver until told to stop. Whatever fails is said once and ends the tracking only."""
        try:
            import wandb

            run = self._init(wandb)
            run.define_metric("*", step_metric="step")
            while (item := self.waiting.get()) is not STOP:
                kind, value = item
                if kind == "log":
                    run.log(value)
                elif kind == "figure":
                    name, file, step = value
                    run.log({f"figures/{name}": wandb.Image(str(file)), "step": step})
                else:
                    run.finish(exit_code=value)
        except Exception as error:  # anything a tracker does wrong is a line in the log, never the end of a run
            first = str(error).splitlines()[0] if str(error) else ""
            logger.warning(f"tracker: stopped ({type(error).__name__}: {first}); training goes on, facts/ is complete")

    def _init(self, wandb: Any) -> Any:
        settings = {"silent": True, "init_timeout": self.init_timeout, "console": "off", "disable_git": True}
        common = {"project": self.project, "name": self.name, "id": self.tracker_id, "dir": str(self.folder)}
        if self.mode == "online" and self.has_key:
            try:
                return wandb.init(**common, config=self.config, resume="allow", settings=wandb.Settings(**settings))
            except Exception as error:
                first = str(error).splitlines()[0] if str(error) else ""
                logger.warning(f"tracker: W&B is out of reach ({type(error).__name__}: {first}); going on offline")
        run = wandb.init(**common, config=self.config, mode="offline", settings=wandb.Settings(**settings))
        logger.info(f"tracker: offline; upload later with: wandb sync {Path(run.dir).parent}")
        return run
