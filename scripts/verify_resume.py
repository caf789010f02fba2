"""Does your own data and model resume exactly? Runs whole, runs and kills, resumes, compares; names what differs.

python scripts/verify_resume.py data=NAME model=NAME       # any overrides; dev mode where they say nothing else

The rehearsal of dev mode resumes within one process. Here each start is a process with another order of hashes.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__" and {"-h", "--help"} & set(sys.argv[1:]):  # before torch, which takes seconds
    print(f"usage: verify_resume.py [OVERRIDE ...]\n\n{__doc__}")
    sys.exit(0)

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from scaffolding import train
from scaffolding.core.batches.loader import Loader
from scaffolding.core.config.trust import needed_trust
from scaffolding.core.folder.run_folder import Facts
from scaffolding.core.state import checkpoint, keys
from scaffolding.core.state.checkpoint import leaves
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.rehearsal import first_difference, logged_values

DEFAULTS = ("mode=dev", "tracker=none", "run.rehearse_resume=false", "run.plot_every=null", "run.log_every=1",
            "run.save_every=1", "loader.num_workers=0")  # fmt: skip
LIBRARIES = (Path(sysconfig.get_path("stdlib")), Path(train.__file__).parent / "core")
ROOTS = {"losses": "loss", "metrics": "metrics", "datasets": "data", "rollout": "rollout"}  # of an experiment
STATES: tuple[tuple[Any, Any], ...] = (  # how to read what is no plain value
    (nn.Module, lambda module: module.state_dict()),
    (torch.Generator, lambda generator: generator.get_state()),
    (np.random.Generator, lambda generator: generator.bit_generator.state),
    (np.random.RandomState, lambda generator: generator.get_state()),
    (random.Random, lambda generator: generator.getstate()),
    (Tensor, lambda tensor: tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()),
    (np.ndarray, lambda array: array.tolist() if array.dtype.hasobject else array.tobytes()),
    (dict, lambda mapping: list(mapping.items())),
    (set | frozenset, lambda parts: sorted(map(repr, parts))),
    (list | tuple | deque, lambda parts: " ".join(str(digest(part)) for part in parts)),
)
PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic, itertools.count)
Pair = tuple[dict[str, Any], dict[str, Any]]  # of the same step's line in the traces of two runs
GENERATORS = ("Generator", "RandomState", "Random")
GLOBAL = "draw from torch's, numpy's or python's global generator: keyed by the sample, and saved with the checkpoint"
SORT = "it is another in every process: sort what comes from a set, os.listdir, glob or hash()"
SAVE = (
    "make it part of the model (register_buffer, a submodule), or give the object that has it state_dict and "
    "load_state_dict; for averaged weights there is run.ema_decay"
)


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


def hidden(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, list[str | None]]]:
    """(name, [type, digest]) of what a value and the own objects in it hold."""
    if id(value) in seen:
        return
    if is_own(type(value).__module__) and not isinstance(value, type):
        seen.add(id(value))
        for key, part in getattr(value, "__dict__", {}).items():
            if not isinstance(value, nn.Module) or key not in vars(nn.Module()):
                yield from hidden(part, f"{name}.{key}", seen)
    if (found := digest(value)) is not None:
        yield name, [type(value).__name__, found]


def all_hidden(exp: Experiment) -> dict[str, list[str | None]]:
    """What the experiment's objects and the owner's modules hold beside what a checkpoint does."""
    seen = {id(each) for each in (*exp.model.modules(), torch.default_generator, vars(np.random.mtrand)["_rand"])}
    values: list[tuple[str, Any]] = []
    for name, network in exp.model.named_modules(prefix="model"):
        more = network._non_persistent_buffers_set
        keys = [key for key in vars(network) if key not in vars(nn.Module())]
        values += [(f"{name}.{key}", getattr(network, key)) for key in (*keys, *more)]
    for key, name in ROOTS.items():
        parts = value if isinstance(value := getattr(exp, key), dict) else {"": value}
        values += [(f"{name}.{part}".rstrip("."), each) for part, each in parts.items()]
    for name in filter(is_own, list(sys.modules)):
        for key, value in vars(sys.modules[name]).items():
            if isinstance(value, type) and value.__module__ == name:  # a class may count its instances, say
                values += [(f"{name}.{key}.{each}", part) for each, part in vars(value).items() if each[:2] != "__"]
            elif key[:2] != "__":
                values.append((f"{name}.{key}", value))
    return {key: found for name, value in values for key, found in hidden(value, name, seen)}


def child(trace: str, share: str, *words: str) -> None:
    """Run train.py, tracing all there is before each step; killed after a `share` of its steps, within an epoch."""
    step = train.train_step

    def traced(exp: Experiment, window: Any) -> Any:
        state, loader, kept = exp.state, exp.train_loader, keys.capture()
        data = type(loader.dataset.dataset)
        again = Loader(loader.dataset, "train", loader.batch_size, shuffle=True, seed=loader.seed, device=exp.device)
        twice = {digest(next(again.batches(state.epoch, state.batch))) for _ in range(2)}
        line = {
            "step": state.step, "batch": digest([batch for batch, _ in window]), "steady": len(twice) == 1,
            "data": f"{data.__module__}.{data.__qualname__}", "hidden": all_hidden(exp),
            "state": {name: digest(value) for name, value in leaves(exp.state_dict())},
        }  # fmt: skip
        with open(trace, "a") as file:
            file.write(json.dumps(line) + "\n")
        kill_at = int(float(share) * exp.num_steps)
        if kill_at and state.step == kill_at + (kill_at % exp.steps_per_epoch == 0):
            os.kill(os.getpid(), signal.SIGKILL)
        keys.restore(kept)
        return step(exp, window)

    train.train_step = traced
    sys.argv = [train.__file__, *words]
    train.run()


def start(root: Path, name: str, share: float, *words: str) -> list[dict[str, Any]]:
    """Run a child to its end; its trace. Each has another order of hashes, as processes have."""
    file, log, seed = root / f"{name}.jsonl", root / f"{name}.txt", len(list(root.glob("*.txt")))
    command = [sys.executable, __file__, "--child", str(file), str(share), *words, f"paths.output_root={root}/runs"]
    with open(log, "w") as out:
        code = subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": str(seed)}, stdout=out, stderr=out
        ).returncode
    if code != (-signal.SIGKILL if share else 0):
        sys.exit("\n".join([*log.read_text().splitlines()[-20:], f"error: the {name} run ended with exit code {code}"]))
    return [json.loads(line) for line in file.read_text().splitlines()]


def trust(run: Path) -> list[str]:
    """The word that lets a resume build what the config names outside of the project."""
    words = needed_trust(yaml.safe_load((run / "config.yaml").read_text()), PROJECT)
    return [f"trust={','.join(words)}"] if words else []


def why(pair: Pair, first: Pair, resumed: bool = True) -> str:
    """The cause of a difference, looked for in what was held at the `first` steps beside what is saved; its mend."""
    (ours, theirs), (one, other) = pair, (line["hidden"] for line in first)
    held = {name: (one.get(name) or other[name])[0] for name in one | other if one.get(name) != other.get(name)}
    names, mend = list(held), SAVE
    if ours["batch"] != theirs["batch"]:
        names, mend = [name for name in held if held[name] in GENERATORS], GLOBAL
        if not names and not ours["steady"]:
            return f"cause: {ours['data']} gives another item each time, by the clock perhaps\nmend: {GLOBAL}"
        if not names:
            names, mend = (
                [name for name in held if name.startswith("data.")] or [ours["data"]],
                SAVE if resumed else SORT,
            )
    elif not names:
        return "cause: not found; an operation that gives another result each time?"
    more = f"; also changed: {', '.join(names[1:4])}" if names[1:] else ""
    return f"cause: {names[0]} ({held.get(names[0], 'dataset')}) is in no checkpoint{more}\nmend: {mend}"


def difference(pair: Pair, first: Pair, resumed: bool) -> str | None:
    """What differs between two runs before a step, and why; None if nothing does."""
    ours, theirs = pair
    names = [name for name in ours["state"] | theirs["state"] if ours["state"].get(name) != theirs["state"].get(name)]
    if ours["batch"] != theirs["batch"]:
        names = ["the batch"]
    elif names and resumed and ours["step"] == first[0]["step"]:
        return f"step {ours['step']}: {names[0]}\ncause: it is not restored as it was\nmend: its load_state_dict"
    return f"step {ours['step']}: {names[0]}\n{why(pair, first, resumed)}" if names else None


def verify(words: list[str]) -> str | None:
    """Run whole, run and kill, resume; the first that differs and why, or None."""
    given = {word.partition("=")[0] for word in words}
    words = words + [word for word in DEFAULTS if word.partition("=")[0] not in given]  # options have to come first
    with tempfile.TemporaryDirectory(prefix="verify_resume_") as folder:
        root = Path(folder)
        whole, killed = (start(root, n, s, *words, f"run.name={n}") for n, s in (("whole", 0), ("killed", 0.6)))
        for pair in zip(whole, killed, strict=False):
            if found := difference(pair, pair, resumed=False):
                return found
        runs = [next(root.glob(f"runs/**/{name}/config.yaml")).parent for name in ("whole", "killed")]
        resumed = start(root, "resumed", 0, f"resume={runs[1]}", *trust(runs[1]))
        after = whole[resumed[0]["step"] :]
        first = after[0], resumed[0]
        for pair in zip(after, resumed, strict=True):
            if found := difference(pair, first, resumed=True):
                return found
        contents = [checkpoint.load(run / "checkpoints" / "latest.pt") for run in runs]
        if name := first_difference(*contents):
            return f"the last checkpoint: {name}\n{why(first, first)}"
        tables = [logged_values(Facts(run / "facts")) for run in runs]
        for ours, theirs in itertools.zip_longest(*tables, fillvalue={}):
            if names := [name for name in ours | theirs if repr(ours.get(name)) != repr(theirs.get(name))]:
                return f"step {ours['step']}: the logged {ours['split']}/{names[0]}\n{why(first, first)}"
    num_tensors = sum(isinstance(value, Tensor) for _, value in leaves(contents[0]))
    what = f"{num_tensors} tensors, {len(tables[0])} rows and {len(after)} batches are the same"
    print(f"identical: killed after step {resumed[0]['step']} of {len(whole)} and resumed, {what}")
    return None


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
            process.send_signal(signal.SIGKILL)
            if process.wait() == -signal.SIGKILL:  # else it was over before the signal came
                killed = next(root.glob(f"runs/**/killed{number}/config.yaml")).parent
        verify(root, whole, killed, number + 1)


def verify(root: Path, whole: Path, killed: Path, number: int) -> None:
    """Resume the killed run and compare it with the other; exit code 1 if they differ."""
    import yaml

    from scaffolding.core.config.trust import needed_trust
    from scaffolding.core.errors import RunError
    from scaffolding.core.resume.rehearsal import compare
    from scaffolding.core.state.checkpoint import CheckpointFiles
    from scaffolding.experiment import PROJECT

    found = CheckpointFiles(killed).newest()
    step = found[1]["state"]["step"] if found else 0
    trust = needed_trust(yaml.safe_load((killed / "config.yaml").read_text()), PROJECT)
    finish(root, number, *(f"trust={','.join(trust)}" for _ in trust[:1]), f"resume={killed.name}")
    try:
        print(f"identical: killed and resumed at step {step}, {compare(whole, killed, step)} tensors and all rows")
    except RunError as error:
        print(f"{error}\n{HINT}")
        sys.exit(1)


if __name__ == "__main__":
    main()
