"""Does your own data and model resume exactly? Runs whole, runs and kills, resumes, compares; names what differs.

python scripts/verify_resume.py data=NAME model=NAME       # any overrides; dev mode where they say nothing else

Dev mode rehearses a resume in one other process. Here a run is killed, and each start has another order of hashes.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRAIN = next(Path(__file__).resolve().parents[1].glob("src/*/train.py"))
DEFAULTS = ("mode=dev", "tracker=none", "plots=none", "run.rehearse_resume=false", "run.save_every=1",
            "loader.num_workers=0")  # fmt: skip


def start(root: Path, number: int, *words: str) -> "subprocess.Popen[bytes]":
    """A process that runs train.py; its output goes to a file."""
    environment = {**os.environ, "PYTHONHASHSEED": str(number)}
    with open(root / f"{number}.txt", "w") as log:
        command = [sys.executable, str(TRAIN), *words, f"paths.output_root={root}/runs"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def finish(root: Path, number: int, *words: str) -> Path:
    """Run train.py to its end; the folder of its run."""
    code = start(root, number, *words).wait()
    if code:
        sys.exit("\n".join([*(root / f"{number}.txt").read_text().splitlines()[-20:], f"error: exit code {code}"]))
    return next(root.glob(f"runs/**/{words[-1].partition('=')[2]}/config.yaml")).parent


def num_saves(root: Path, name: str) -> int:
    """How many checkpoints a run has written."""
    return sum(file.read_text().count('"on_save"') for file in root.glob(f"runs/**/{name}/facts/events.jsonl"))


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(f"usage: verify_resume.py [OVERRIDE ...]\n\n{__doc__}")
        return
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    words = sys.argv[1:] + [word for word in DEFAULTS if word.partition("=")[0] not in given]
    with tempfile.TemporaryDirectory(prefix="verify_resume_") as folder:
        root = Path(folder)
        whole = finish(root, 1, *words, "run.name=whole")
        kill_after, killed, number = random.randint(1, max(1, num_saves(root, "whole") // 2)), None, 1
        while killed is None:
            number += 1
            process = start(root, number, *words, f"run.name=killed{number}")
            while process.poll() is None and num_saves(root, f"killed{number}") < kill_after:
                time.sleep(0.002)
            process.kill()
            if process.wait() != 0:  # else it was over before
                killed = next(root.glob(f"runs/**/killed{number}/config.yaml")).parent
        verify(root, whole, killed, number + 1)


def verify(root: Path, whole: Path, killed: Path, number: int) -> None:
    """Resume the killed run and compare it with the other; exit code 1 if they differ."""
    import yaml

    from scaffolding.core.checks.rehearsal import compare
    from scaffolding.core.errors import RunError
    from scaffolding.core.state.files import CheckpointFiles
    from scaffolding.core.trust.targets import needed_trust
    from scaffolding.experiment import PROJECT

    found = CheckpointFiles(killed).newest()
    step = found[1]["state"]["step"] if found else 0
    trust = needed_trust(yaml.safe_load((killed / "config.yaml").read_text()), PROJECT)
    finish(root, number, *(f"trust={','.join(trust)}" for _ in trust[:1]), f"resume={killed.name}")
    try:
        print(f"identical: killed and resumed at step {step}, {compare(whole, killed, step)} tensors and all rows")
    except RunError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
