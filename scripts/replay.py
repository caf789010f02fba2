"""Find the step that broke a run: carry it on from its last good checkpoint, with a look at every gradient.

python scripts/replay.py RUN             # RUN: a name, its first letters, latest, or a path
python scripts/replay.py RUN --debug     # opens the debugger where it fails; before a bad update: exp, found.before

Works in a temporary folder and stops at the very step whose update is not finite, or in which the loss, the model or
the optimizer raises an error. Writes RUN/replay_<step>.pt: the batch
and its samples, the key of its random numbers, the weights and buffers, and the optimizers' states, as they were before
the forward pass. Load it with torch.load(file, "cpu", weights_only=True).
"""

import argparse
import contextlib
import io
import pdb
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaffolding.core.errors import CodeError, RunError, UserError


class BadUpdate(RunError):
    """An update that is about to happen is not finite; `before` holds what it would start from."""

    def __init__(self, what: str, exp: Any, before: dict[str, Any]) -> None:
        super().__init__(what)
        self.exp, self.before = exp, before


current: dict[str, Any] = {}  # what the micro-batch started from that is at work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--debug", action="store_true", help="open the debugger there")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()

    from loguru import logger

    from scaffolding.core.find import open_run
    from scaffolding.core.folder.folder import read_status
    from scaffolding.core.state.files import CheckpointFiles
    from scaffolding.core.trust.config import read_config
    from scaffolding.experiment import PROJECT

    try:
        path = open_run(args.run, PROJECT.output_root)
        cfg = read_config(path, PROJECT, args.trust)
        newest = CheckpointFiles(path).newest()
    except UserError as error:
        parser.error(str(error))
    first = newest[1]["state"]["step"] + 1 if newest else 1
    if read_status(path)["status"] == "finished":
        print(f"{path.name} is finished at step {first - 1}: there is nothing to replay")
        return
    print(f"replaying {path.name} from step {first}", flush=True)
    logger.remove()
    with tempfile.TemporaryDirectory(prefix="replay_") as folder:
        cfg.resume, cfg.loader.num_workers, cfg.run.rehearse_resume = folder, 0, False
        cfg.tracker, cfg.plots, cfg.rollout = {}, {}, None
        copy = Path(folder)
        for name in ("config.yaml", "provenance.json"):
            if (path / name).exists():
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
            write(found.before, path, str(found))
            if args.debug:
                exp = found.exp  # noqa: F841  (for whoever debugs)
                breakpoint()
            raise SystemExit(1) from None
        except CodeError as error:
            what = "\n".join(str(error).splitlines()[:3])
            if not current:
                parser.exit(1, f"{what}\nit is not in a step that can be repeated\n")
            write(current, path, what)
            if args.debug and error.__cause__ is not None:
                pdb.post_mortem(error.__cause__.__traceback__)
            raise SystemExit(1) from None
        except RunError as error:
            parser.exit(1, f"{str(error).partition(chr(10))[0]}: no gradient says why\n")
        last = read_status(copy)["step"]
    print(f"all updates of steps {first} to {last} are finite; the run ended at {read_status(path).get('step', '?')}")


def write(before: dict[str, Any], path: Path, what: str) -> None:
    """Write what a step starts from into the run, and say what is wrong with it."""
    import torch

    from scaffolding.core.folder.folder import replacing

    file = path / f"replay_{before['step']}.pt"
    try:
        with replacing(file) as stream:
            torch.save(before, stream)
    except (OSError, RuntimeError) as error:  # torch hides the first in the second
        print(f"error: {file} cannot be written: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    print(f"step {before['step']}: {what}\nwritten: {file}")


def run_watched(cfg: Any) -> None:
    """The owner's main, with an experiment that looks at the gradients of every micro-batch."""
    from scaffolding import train as program
    from scaffolding.core.state import keys
    from scaffolding.experiment import Experiment

    class Watched(Experiment):
        def keyed(self, network: str, micro_batches: list[Any]) -> Iterator[tuple[Any, float]]:
            for part, pair in zip(micro_batches, super().keyed(network, micro_batches), strict=True):
                weights = {name: value.clone() for name, value in self.model.state_dict().items()}
                current.update(self.before(network, part, weights))
                yield pair  # and the backward pass has been done
                for name, weight in self.trained[network].items():
                    is_bad = weight.grad is not None and not weight.grad.isfinite().all()
                    if is_bad and not self.scaler.is_enabled():  # a float16 scaler skips those updates itself
                        raise self.bad_update(name, network, part, weights)

        def before(self, network: str, part: Any, weights: dict[str, Any]) -> dict[str, Any]:
            samples = []  # of a stream nobody knows them
            if hasattr(self.train_loader, "indices"):
                samples = next(self.train_loader.indices(part.epoch, part.position)).tolist()
            optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
            key = [self.settings.seed, network, part.epoch, part.position]
            before = {"step": self.state.step + 1, "batch": part.batch, "samples": samples, "key": key}
            return before | {"model": weights, "optimizers": optimizers}

        def bad_update(self, name: str, network: str, part: Any, weights: dict[str, Any]) -> BadUpdate:
            before = self.before(network, part, weights)
            self.model.load_state_dict(weights)
            keys.seed_torch(self.device, keys.key(*before["key"]))
            with self.autocast:
                loss = float(self.losses[network](self.train_model, part.batch)[0].detach())
            what = f"the loss is {loss:.4g}, the gradient of {name} is not finite"
            return BadUpdate(f"{what}; {describe(part.batch, before['samples'])}", self, before)

    program.Experiment = Watched  # type: ignore[attr-defined]
    program.main(cfg)


def describe(batch: Any, samples: list[int]) -> str:
    """Which samples of a batch hold values that are not finite."""
    from scaffolding.core.tree import tensors

    if not samples:
        return "the batch came from a stream"
    bad: set[int] = set()
    for _, tensor in tensors(batch):
        if tensor.is_floating_point() and len(tensor) == len(samples):
            values = tensor.reshape(len(samples), -1)
            bad.update(sample for sample, row in zip(samples, values, strict=True) if not row.isfinite().all())
    if bad:
        return f"not finite in the batch: sample {', '.join(map(str, sorted(bad)))} of the train split"
    return f"the batch is finite: samples {', '.join(map(str, samples))}"


if __name__ == "__main__":
    main()
