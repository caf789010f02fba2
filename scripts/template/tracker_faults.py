"""Seven faults of the tracker, each in the real train.py with the real W&B: none may change or hold up a run."""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.facts import Facts
from scaffolding.core.resume.rehearsal import first_difference
from scaffolding.core.state import checkpoint
from scaffolding.experiment import PROJECT

TESTS = PROJECT_ROOT / "tests"
TRAIN = PROJECT_ROOT / "src" / PROJECT.package / "train.py"
WORDS = (
    "--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "optimizer=fatal", "plots=none", "mode=prod",
    "run.log_every=1", "run.eval_every=5", "run.save_every=4", "loader.batch_size=16",
)  # fmt: skip
KEY = {"WANDB_API_KEY": 4 * "0123456789"}  # of nobody
VALUES = ("object", "undefined", "infinite", "tensor", "tensors", "nothing")
ODD = [w for n in VALUES for w in (f"+metrics.{n}._target_=tiny.OddMetric", f"+metrics.{n}.value={n}")]
IN_SMALL_DISK = "mount -t tmpfs -o size=256k,{} tmpfs {}; shift; exec $0 $@"  # in a mount namespace of its own

Check = tuple[str, str, str, bool]  # what, measured, the figure to reach, whether it is


def train(root: Path, name: str, *words: str, env: dict[str, str], mount: str = "") -> tuple[float, str, Path]:
    """Run train.py; the seconds from its start to its first row, what it said on the console, and its folder."""
    command = [sys.executable, str(TRAIN), *WORDS, *words, f"paths.output_root={root}", f"run.name={name}"]
    if mount:
        (root / "disk").mkdir(exist_ok=True)
        shell = IN_SMALL_DISK.format(mount, root / "disk")
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", shell, command[0], "-", *command[1:]]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    start = time.time()
    done = subprocess.run(
        command, env={**os.environ, "WANDB_API_KEY": "", "PYTHONPATH": path, **env}, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{name}: exit code {done.returncode}\n{done.stderr}")
    return Facts(root / name / "facts").rows()[0]["time"] - start, done.stderr, root / name


def tracker(quick: bool) -> Iterator[Check]:
    """The seven faults; `quick` trains fewer steps."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as mute:
        root = Path(folder)
        steps = f"run.budget={400 if quick else 3000}"
        train(root, "warm_up", steps, "tracker=none", env={})
        without, _, expected = train(root, "without", steps, "tracker=none", env={})

        def link(name: str) -> dict[str, str]:
            return {"PLANT": f"{root / name}/wandb={root}/disk"}

        faults: dict[str, tuple[dict[str, str], str, list[str], int]] = {  # environment, mount, overrides, warnings
            "no key": ({}, "", [], 0),
            "closed port": (KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "", [], 1),
            "mute server": (KEY | {"WANDB_BASE_URL": f"http://127.0.0.1:{mute.getsockname()[1]}"}, "", [], 1),
            "read-only folder": (link("read-only_folder"), "ro", [], 1),
            "full disk": (link("full_disk"), "rw", [], 1),
            "service killed": ({"KILL_AT": "200", "KILL_CHILD": "wandb-core"}, "", [], 1),
            "odd values": ({}, "", ODD, 3),  # one for each that is no number
        }
        harmless = 0
        for fault, (env, mount, words, count) in faults.items():
            name = fault.replace(" ", "_")
            seconds, said, run = train(root, name, steps, "tracker=wandb", *words, env=env, mount=mount)
            contents = [checkpoint.load(path / "checkpoints" / "latest.pt") for path in (expected, run)]
            tables = [[(r["step"], r["split"], r["loss"]) for r in Facts(p / "facts").rows()] for p in (expected, run)]
            warnings = said.count(" WARNING ")
            spam = sum(not line.startswith("20") for line in said.splitlines())
            same, complete = first_difference(*contents) is None, tables[0] == tables[1]
            reached = same and complete and warnings == count and not spam and seconds - without <= 10
            harmless += reached
            yield (
                f"tracker: {fault}",
                f"{'same' if same else 'OTHER'} weights, facts {'complete' if complete else 'NOT COMPLETE'}, first row "
                f"{seconds - without:+.1f} s, {warnings} warnings, {spam} other lines",
                f"same, complete, <= 10 s, {count}, 0",
                reached,
            )
        yield "tracker faults that are harmless", f"{harmless} of {len(faults)}", "7 of 7", harmless == len(faults) == 7


SECTIONS: dict[str, Callable[[bool], Iterator[Check]]] = {"tracker": tracker}

if __name__ == "__main__":
    for row in tracker("--quick" in sys.argv):
        print(*row, sep=" | ", flush=True)
