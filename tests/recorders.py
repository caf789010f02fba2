"""Trackers that remember in a file what they are told, and misbehave. They import nothing heavy."""

import atexit
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Recorder:
    """Adds a line of JSON to `file` for each call: its name and arguments.

    At the first call of the method `at` it misbehaves, as `how` says; "slow" is at each.
    """

    def __init__(self, file: str, at: str = "", how: str = "") -> None:
        self.file, self.at, self.how = file, at, how

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        self.take("start", str(folder), config, os.getpid(), "torch" in sys.modules)
        if self.how == "exact":
            self.take("exact", repr(config))

    def log(self, row: dict[str, Any]) -> None:
        self.take("log", row)

    def log_figure(self, kind: str, file: Path, step: int) -> None:
        self.take("log_figure", kind, file.name, step)

    def finish(self, exit_code: int) -> None:
        self.take("finish", exit_code)

    def take(self, method: str, *arguments: Any) -> None:
        """Remember a call."""
        with open(self.file, "a") as stream:
            stream.write(json.dumps([method, *arguments]) + "\n")
        if method == self.at:
            getattr(self, f"be_{self.how}")()

    def be_failing(self) -> None:
        atexit.register(time.sleep, 100)  # as W&B does
        raise ConnectionError("no route\nto the server")

    def be_leaving(self) -> None:
        sys.exit()

    def be_hanging(self) -> None:
        time.sleep(100)

    def be_slow(self) -> None:
        time.sleep(0.02)

    def be_talkative(self) -> None:
        from loguru import logger

        from scaffolding.core.tracking.follow import MARK

        self.how = "silent"
        print("an error", file=sys.stderr)
        print("half a line \u2713", end="")
        logger.log(15, "its own level")
        print(f"\n{MARK} a broken report")

    def be_printing(self) -> None:
        print("before")
        time.sleep(100)

    def be_crashing_at_exit(self) -> None:
        atexit.register(os._exit, 3)

    def be_silent(self) -> None:
        """Do nothing."""

    be_exact = be_silent


class Drawing(Recorder):
    """Draws all the time from the generators that training uses."""

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        threading.Thread(target=self.draw, daemon=True).start()
        super().start(folder, config)

    def draw(self) -> None:
        import random

        import numpy as np
        import torch

        while True:
            random.random(), np.random.rand(), torch.rand(())
            time.sleep(1e-4)
