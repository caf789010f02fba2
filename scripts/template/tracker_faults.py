"""Seven faults of the tracker, each in the real train.py with the real W&B: none may change or hold up a run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shared import ON_PATH, TESTS, Row, content
from zygote import TRAIN

from scaffolding.core.folder.facts import Facts
from scaffolding.core.resume.rehearsal import first_difference

WORDS = (
    "--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "optimizer=fatal", "plots=none", "mode=prod",
    "run.log_every=1", "run.eval_every=5", "run.save_every=4", "loader.batch_size=16",
)  # fmt: skip
KEY = {"WANDB_API_KEY": 4 * "0123456789"}  # of nobody
VALUES = ("object", "undefined", "infinite", "tensor", "tensors", "nothing")
ODD = [w for n in VALUES for w in (f"+metrics.{n}._target_=tiny.OddMetric", f"+metrics.{n}.value={n}")]
IN_SMALL_DISK = "mount -t tmpfs -o size=256k,{} tmpfs {}; shift; exec $0 $@"  # in a mount namespace of its own


def train(root: Path, name: str, *words: str, env: dict[str, str], mount: str = "") -> tuple[float, str, Path]:
    """Run train.py; the seconds from its start to its first row, what it said on the console, and its folder."""
    command = [sys.executable, str(TRAIN), *WORDS, *words, f"paths.output_root={root}", f"run.name={name}"]
    if mount:
        (root / "disk").mkdir(exist_ok=True)
        shell = IN_SMALL_DISK.format(mount, root / "disk")
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, command[0], "-", *command[1:]]
    environment = {**os.environ, "WANDB_API_KEY": "", **ON_PATH, **env}
    start = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return Facts(root / name / "facts").rows()[0]["time"] - start, done.stderr, root / name


def tracker(quick: bool) -> Iterator[Row]:
    """The seven faults; `quick` trains fewer steps."""
    root, steps = Path("tracker").absolute(), f"run.budget={400 if quick else 3000}"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        train(root, "warm_up", steps, "tracker=none", env={})
        without, _, expected = train(root, "without", steps, "tracker=none", env={})
        faults: dict[str, tuple[dict[str, str], str, list[str], int]] = {  # environment, mount, overrides, warnings
            "no key": ({}, "", [], 0),
            "closed port": (KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "", [], 1),
            "mute server": (KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{mute.getsockname()[1]}"}, "", [], 1),
            "read-only folder": ({"PLANT": f"{root}/read-only_folder/wandb={root}/disk"}, "ro", [], 1),
            "full disk": ({"PLANT": f"{root}/full_disk/wandb={root}/disk"}, "rw", [], 1),
            "service killed": ({"KILL_AT": "200", "KILL_CHILD": "wandb-core"}, "", [], 1),
            "odd values": ({}, "", ODD, 3),  # one for each that is not a number
        }
        for fault, (env, mount, words, count) in faults.items():
            name = fault.replace(" ", "_")
            seconds, said, run = train(root, name, steps, "tracker=wandb", *words, env=env, mount=mount)
            weights = first_difference(*(content(path / "checkpoints" / "latest.pt") for path in (expected, run)))
            tables = [[(r["step"], r["split"], r["loss"]) for r in Facts(p / "facts").rows()] for p in (expected, run)]
            complete, warnings = tables[0] == tables[1], said.count(" WARNING ")
            spam = sum(not line.startswith("20") for line in said.splitlines())
            yield (
                f"tracker: {fault}",
                f"{weights or 'nothing'} differs, facts complete: {complete}, {warnings} warnings, {spam} other lines; "
                f"first row {seconds - without:+.1f} s",
                f"nothing, True, {count}, 0",
                weights is None and complete and warnings == count and not spam,
            )


SECTIONS: dict[str, Callable[[bool], Iterator[Row]]] = {"tracker": tracker}
