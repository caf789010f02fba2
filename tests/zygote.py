"""Starts train.py quickly: a process that has imported everything once and forks for every run.

Reads one JSON object a line ({"argv", "cwd", "env", "stdout", "stderr"}) and answers with the exit code, negative for a
signal. What is run is the real file, as `python src/.../train.py` runs it; only the imports are there already.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import sys

TIMEOUT = 1200  # seconds a run may take
LATE = ("matplotlib.backends.backend_agg", "matplotlib.figure", "wandb")  # what a run imports where it is used


def run(job: dict) -> None:
    """In the child: become `python train.py ...`."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    sys.path[:0] = job["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = job["argv"]
    signal.alarm(TIMEOUT)
    runpy.run_path(job["argv"][0], run_name="__main__")


def main(train_file: str) -> None:
    import torch
    from hydra.core.plugins import Plugins

    runpy.run_path(train_file, run_name="imported")
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # imports half of torch
    Plugins.instance()  # imports hydra's own
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection would touch, and so copy, all of this process's memory in every child
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
            break
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
