"""Find the update that broke a run: carry it on from its last good checkpoint, with a look at every gradient.

python scripts/replay.py RUN             # RUN: a name, its first letters, latest, or a path
python scripts/replay.py RUN --debug     # opens the debugger before the update that fails: exp, found.before

Works in a folder of its own and stops before the very update that is not finite. Writes RUN/replay_<step>.pt: the batch
and its samples, the key of its random numbers, the weights and buffers, and the optimizers' states, as they were before
the forward pass. Load it with torch.load(file, weights_only=True).
"""

import argparse
import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class BadUpdate(Exception):
    """An update that is about to happen is not finite; `before` holds what it would start from."""

    def __init__(self, what: str, exp: Any, before: dict[str, Any]) -> None:
        super().__init__(what)
        self.exp, self.before = exp, before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--debug", action="store_true", help="open the debugger there")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()

    import torch
    from loguru import logger

    from scaffolding.core.config.trust import read_config
    from scaffolding.core.errors import UserError
    from scaffolding.core.folder.folder import open_run, read_status
    from scaffolding.core.state.checkpoint import CheckpointFiles
    from scaffolding.experiment import PROJECT

    try:
        path = open_run(args.run, PROJECT.output_root)
        cfg = read_config(path, PROJECT, args.trust)
        newest = CheckpointFiles(path).newest()
    except UserError as error:
        parser.error(str(error))
    first = newest[1]["state"]["step"] + 1 if newest else 1
    print(f"replaying {path.name} from step {first}", flush=True)
    logger.remove()
    with tempfile.TemporaryDirectory(prefix="replay_") as folder:
        cfg.resume, cfg.loader.num_workers, cfg.run.rehearse_resume = folder, 0, False
        cfg.tracker, cfg.plots, cfg.rollout = {}, {}, None
        copy = Path(folder)
        for name in ("config.yaml", "provenance.json"):
            shutil.copy(path / name, copy)
        (copy / "checkpoints").mkdir()
        if newest:
            shutil.copy(newest[0], CheckpointFiles(copy).latest)
        if CheckpointFiles(path).parent.exists():
            shutil.copy(CheckpointFiles(path).parent, copy / "checkpoints")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                run_watched(cfg)
        except BadUpdate as found:
            file = path / f"replay_{found.before['step']}.pt"
            torch.save(found.before, file)
            print(f"step {found.before['step']}: {found}\nwritten: {file}")
            if args.debug:
                exp = found.exp  # noqa: F841  (for whoever debugs)
                breakpoint()
            raise SystemExit(1) from None
        last = read_status(copy)["step"]
    print(f"all updates of steps {first} to {last} are finite; the run ended at {read_status(path)['step']}")


def restored(path: Path, trust: list[str]) -> Any:
    """The experiment as the run's newest whole checkpoint left it, or as it began; the run itself is not touched."""
    from scaffolding.core.config.trust import read_config
    from scaffolding.core.errors import UserError
    from scaffolding.core.state import checkpoint, keys
    from scaffolding.experiment import PROJECT, Experiment
    from scaffolding.verbs import load_state

    cfg = read_config(path, PROJECT, trust)
    cfg.loader.num_workers, cfg.plots, cfg.rollout, cfg.run.save_every = 0, {}, None, None
    specs = [cfg.scheduler] if "schedule" in cfg.scheduler else cfg.scheduler.values()
    if all(spec.get("monitor") is None for spec in specs):
        cfg.run.eval_every = None  # training cannot tell
    cfg.run.monitor = cfg.run.patience = None
    exp = Experiment(cfg)
    exp.prepare()
    keys.seed_all(keys.key(cfg.run.seed, "train"))
    if any((path / "checkpoints").glob("*.pt")):
        load_state(exp, checkpoint.load_newest(path / "checkpoints")[1], path.name, {})
    elif '"fork"' in (path / "provenance.json").read_text():
        raise UserError(f"{path.name} is a fork without a checkpoint of its own: start it again instead")
    return exp


def is_finite(gradient: Any) -> bool:
    return gradient is None or bool(gradient.isfinite().all())


def describe(batch: Any, samples: list[int]) -> str:
    """Which samples of a batch hold values that are not finite."""
    from scaffolding.core.tree import tensors

    bad: set[int] = set()
    for _, tensor in tensors(batch):
        if tensor.is_floating_point() and len(tensor) == len(samples):
            wrong = (~tensor.isfinite()).reshape(len(samples), -1).any(dim=1)
            bad.update(samples[position] for position in wrong.nonzero().flatten().tolist())
    if bad:
        return f"not finite in the batch: sample {', '.join(map(str, sorted(bad)))} of the train split"
    return f"the batch is finite: samples {', '.join(map(str, samples))}"


if __name__ == "__main__":
    main()
