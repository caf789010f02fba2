"""Seven faults of the tracker, each in the real train.py with the real W&B: none may change or hold up a run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from shared import ON_PATH, TESTS, Row, content
from zygote import TRAIN

from scaffolding.core.folder.facts import Facts
from scaffolding.core.resume.rehearsal import first_difference

WORDS = f"""--config-dir {TESTS / "configs"} data=noisy model=tiny optimizer=fatal plots=none mode=prod run.log_every=1
    run.eval_every=5 run.save_every=4 loader.batch_size=16""".split()
KEY = {"WANDB_API_KEY": 4 * "0123456789"}  # of nobody
VALUES = ("object", "undefined", "infinite", "tensor", "tensors", "nothing")
ODD = [w for n in VALUES for w in (f"+metrics.{n}._target_=tiny.OddMetric", f"+metrics.{n}.value={n}")]
MOUNT = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
         'mount -t tmpfs -o "$0" tmpfs "$1" && shift && exec "$@"']  # fmt: skip


def train(root: Path, name: str, *words: str, disk: str = "", env: dict[str, str]) -> tuple[Path, float, str]:
    """Run train.py, with W&B's folder on a small `disk` if its options are given.

    Returns the run, the seconds from its start to its first row, and what it said on the console.
    """
    run, environment = root / name.replace(" ", "_"), {**os.environ, "WANDB_API_KEY": "", **ON_PATH, **env}
    command = [sys.executable, TRAIN, *WORDS, *words, f"paths.output_root={root}", f"run.name={run.name}"]
    if disk:
        (root / "disk").mkdir(exist_ok=True)
        command = [*MOUNT, disk, root / "disk", *command]
        environment["PLANT"] = f"{run}/wandb={root}/disk"
    start = time.time()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{name}: exit code {done.returncode}\n{done.stderr}"
    return run, Facts(run / "facts").rows()[0]["time"] - start, done.stderr


def tracker(quick: bool) -> Iterator[Row]:
    """The seven faults; `quick` trains fewer steps."""
    root, steps = Path("tracker").absolute(), f"run.budget={400 if quick else 3000}"
    with socket.create_server(("127.0.0.1", 0)) as mute:
        train(root, "warm up", steps, "tracker=none", env={})
        whole, without, _ = train(root, "without", steps, "tracker=none", env={})
        faults: dict[str, tuple[int, dict[str, str], str, list[str]]] = {  # warnings, environment, disk, overrides
            "no key": (0, {}, "", []),
            "closed port": (1, KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "", []),
            "mute server": (1, KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{mute.getsockname()[1]}"}, "", []),
            "read-only folder": (1, {}, "ro,size=256k", []),
            "full disk": (1, {}, "rw,size=256k", []),
            "service killed": (1, {"KILL_AT": "200", "KILL_CHILD": "wandb-core"}, "", []),
            "odd values": (3, {}, "", ODD),  # a warning for each that is not a number
        }
        for fault, (count, env, disk, words) in faults.items():
            run, seconds, said = train(root, fault, steps, "tracker=wandb", *words, disk=disk, env=env)
            weights = first_difference(*(content(path / "checkpoints" / "latest.pt") for path in (whole, run)))
            tables = [[(r["step"], r["split"], r["loss"]) for r in Facts(p / "facts").rows()] for p in (whole, run)]
            complete, warnings = tables[0] == tables[1], said.count(" WARNING ")
            spam = sum(not line.startswith("20") for line in said.splitlines())
            measured = f"{weights or 'nothing'} differs, facts complete: {complete}, {warnings} warnings, {spam} other"
            reached = weights is None and complete and warnings == count and not spam
            first = f"first row {seconds - without:+.1f} s"
            yield f"tracker: {fault}", f"{measured} lines; {first}", f"nothing, True, {count}, 0", reached


SECTIONS = {"tracker": tracker}
