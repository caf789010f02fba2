"""Weights & Biases."""

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loguru import logger

FLUSH_TIMEOUT = 5.0  # seconds that W&B may take to write its file when it is through


class Wandb:
    """A W&B run. Never prompts; without a key or a server it writes offline and says how to upload later.

    Its methods are called in a thread of their own, where an exception ends the tracking and nothing else
    (core/following.py). Online W&B says what it has got already; each offline folder is complete by itself.

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
        self.ordinals: set[int] = set()  # of the rows handed over
        self.abandoned = False

    def start(self, folder: Path, config: dict[str, Any]) -> int:
        """Begin, or carry on, the W&B run that has the name of the run's folder. Returns its next step."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # where there is no network, it holds up the end
        import wandb

        (folder / "wandb").mkdir(exist_ok=True)
        tempfile.TemporaryFile(dir=folder / "wandb").close()  # W&B itself would go to the system's temporary folder
        wandb.setup(wandb.Settings(silent=True))  # from the first line on
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
                if self.abandoned:
                    raise
                logger.warning(f"W&B is out of reach ({type(error).__name__}); going on offline")
                self.is_online = False
                self._end_service()  # it still tries, and holds the id
        if not self.is_online:
            self.run = wandb.init(**common, mode="offline")
        self.folder = Path(self.run.dir).parent
        if not self.folder.is_relative_to(folder):
            raise OSError(f"W&B writes to {self.folder}")
        if not self.is_online:
            logger.info(f"W&B is offline; upload later with: wandb sync {self.folder}")
        self.run.define_metric("*", step_metric="step")
        return int(self.run.step)

    @property
    def where(self) -> str:
        """Where the rows went."""
        return str(self.run.url if self.is_online else self.folder)

    def delivered(self, folder: Path) -> tuple[set[int], str]:
        """The ordinals in the newest offline folder of a run, and where it is; none, where W&B itself can tell."""
        copies = sorted((folder / "wandb").glob("offline-run-*")) if not self.is_online else []
        return (set(read_steps(copies[-1])), str(copies[-1])) if copies else (set(), "")

    def log(self, row: dict[str, Any], ordinal: int) -> None:
        """One row of scalars.csv, its values under <split>/<name>."""
        axes = {name: row[name] for name in ("step", "epoch", "samples")}
        values = {f"{row['split']}/{name}": row[name] for name in row if name not in (*axes, "split", "time")}
        self.run.log(axes | values, step=ordinal)
        self.ordinals.add(ordinal)

    def log_figure(self, kind: str, file: Path, step: int, ordinal: int) -> None:
        """One figure of the run's folder."""
        import wandb

        self.run.log({f"figures/{kind}": wandb.Image(str(file)), "step": step}, step=ordinal)

    def finish(self, exit_code: int) -> None:
        """End the W&B run (finished, failed, or preempted) and deliver what waits; OSError where rows got lost."""
        if exit_code > 128 and exit_code != 128 + signal.SIGINT:
            self.run.mark_preempting()
        self.run.finish(exit_code=exit_code)
        if exit_code > 128:  # it will be carried on, and there is no time to look
            return
        lost, end = self.ordinals, time.monotonic() + FLUSH_TIMEOUT
        while lost and time.monotonic() < end:
            time.sleep(0.1)
            lost = self.ordinals - set(read_steps(self.folder))
        if lost:  # W&B says nothing of a full disk
            raise OSError(f"W&B lost {len(lost)} of {len(self.ordinals)} rows, is its disk full?")

    def abandon(self) -> None:
        """Leave W&B as it is: at the end of our process it would wait for its own, or complain that it is gone."""
        self.abandoned = True
        self._end_service()

    def _end_service(self) -> None:
        import wandb

        connection: Any = wandb.setup()._connection  # W&B has no public way
        if connection is not None:
            connection._cleanup()
            connection._proc._process.kill()
            with contextlib.suppress(Exception, SystemExit):  # it is gone; with its exit code
                wandb.teardown()


def read_steps(folder: Path) -> Iterator[int]:
    """The W&B steps in a W&B folder, in the order in which they were written."""
    return (record.history.step.num for record in read_records(folder) if record.HasField("history"))


def read_records(folder: Path) -> Iterator[Any]:
    """The records in the log of a W&B folder, up to where it is torn. The format is LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    block, header = 32768, 7
    data = b"".join(file.read_bytes() for file in folder.glob("*.wandb"))  # one, or none yet
    position, parts = header, b""
    while position + header <= len(data):
        if block - position % block < header:  # the rest of a block is padding
            position += block - position % block
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + header : position + header + length]
        position += header + length
        if position > len(data) or kind == 0:
            return
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(parts)
            parts = b""
