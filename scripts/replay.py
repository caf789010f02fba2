"""Find the update that broke a run: carry it on from its last good checkpoint, with a check on every step.

python scripts/replay.py RUN             # RUN: a name, its first letters, latest, or a path
python scripts/replay.py RUN --debug     # opens the debugger before the update that fails: exp, found.before

Stops before the very update that is not finite and writes RUN/replay_<step>.pt: the batch and its samples, the weights
and buffers, the optimizers' states, and the random generators as they were before the forward pass. Load it with
torch.load(file, weights_only=True).
"""

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--debug", action="store_true", help="open the debugger there")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()

    import torch

    from scaffolding import train as program
    from scaffolding.core.errors import UserError
    from scaffolding.core.folder.find import find_run
    from scaffolding.core.folder.run_folder import read_status
    from scaffolding.core.session.console import setup
    from scaffolding.core.session.run import Run
    from scaffolding.experiment import PROJECT

    setup()
    try:
        here = Path(args.run)
        path = here if (here / "config.yaml").is_file() else find_run(args.run, PROJECT.output_root)
        exp = restored(path, args.trust)
    except UserError as error:
        parser.error(str(error))
    first = exp.state.step + 1
    print(f"replaying {path.name} from step {first}")
    replay = Replay(program.train_step)
    with tempfile.TemporaryDirectory(prefix=".replay_") as folder:
        exp.run = Run(Path(folder), None, exp.num_steps)
        try:
            with patch.object(program, "train_step", replay.step):
                program.train(exp)
        except BadUpdate as found:
            file = path / f"replay_{found.before['step']}.pt"
            torch.save(found.before, file)
            print(f"step {found.before['step']}: {found}\nwritten: {file}")
            if args.debug:
                breakpoint()
            raise SystemExit(1) from None
    print(f"all updates of steps {first} to {exp.state.step} are finite; the run ended at {read_status(path)['step']}")


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


class BadUpdate(Exception):
    """An update that is about to happen is not finite; `before` holds what it would start from."""

    def __init__(self, what: str, before: dict[str, Any]) -> None:
        super().__init__(what)
        self.before = before


class Replay:
    """Training steps that stop before an update that is not finite. A float16 scaler skips those by itself."""

    def __init__(self, train_step: Any) -> None:
        self.train_step = train_step

    def step(self, exp: Any, window: Any) -> Any:
        """As the program's train_step; BadUpdate instead of the update."""
        from torch.optim.optimizer import register_optimizer_step_pre_hook

        from scaffolding.core.state import keys

        state, loader = exp.state, exp.train_loader
        indices = [part.tolist() for part in islice(loader.indices(state.epoch, state.batch), len(window))]
        before = {"step": state.step + 1, "epoch": state.epoch, "samples": indices, "window": window}
        before |= {"generators": keys.capture(), "model": {k: v.clone() for k, v in exp.model.state_dict().items()}}
        before["optimizers"] = {name: optimizer.state_dict() for name, optimizer in exp.optimizers.items()}

        def check(optimizer: Any, arguments: Any, more: Any) -> None:
            for name, parameter in exp.model.named_parameters():
                if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                    raise BadUpdate(f"the gradient of {name} is not finite; {describe(window, indices)}", before)

        def watched(loss_fn: Any) -> Any:
            def call(model: Any, batch: Any) -> Any:
                loss, values = loss_fn(model, batch)
                if not exp.scaler.is_enabled() and not bool(loss.isfinite()):
                    raise BadUpdate(f"the loss is {float(loss.detach())}; {describe(window, indices)}", before)
                return loss, values

            return call

        handle = register_optimizer_step_pre_hook(check)
        try:
            with patch.object(exp, "losses", {name: watched(loss_fn) for name, loss_fn in exp.losses.items()}):
                return self.train_step(exp, window)
        finally:
            handle.remove()


def describe(window: Any, indices: list[list[int]]) -> str:
    """Which samples of the window hold values that are not finite."""
    from scaffolding.core.batches.loader import map_tensors

    bad: set[int] = set()
    for (batch, items), numbers in zip(window, indices, strict=True):

        def look(tensor: Any, items: int = items, numbers: list[int] = numbers) -> Any:
            if tensor.is_floating_point() and len(tensor) == items:
                wrong = (~tensor.isfinite()).reshape(items, -1).any(dim=1)
                bad.update(numbers[position] for position in wrong.nonzero().flatten().tolist())
            return tensor

        map_tensors(batch, look)
    if bad:
        return f"not finite in the batch: sample {', '.join(map(str, sorted(bad)))} of the train split"
    return f"the batch is finite: samples {', '.join(str(number) for part in indices for number in part)}"


if __name__ == "__main__":
    main()
