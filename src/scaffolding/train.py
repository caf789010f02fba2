"""Train a model on a dataset. This file is yours: it is the whole run, read from top to bottom.

python src/scaffolding/train.py data=mnist mode=dev            # every branch of a run, in seconds
python src/scaffolding/train.py data=mnist mode=prod           # the real thing
python src/scaffolding/train.py resume=latest                  # carry a run on as if it had never stopped
python src/scaffolding/train.py fork=RUN optimizer.lr=1e-4     # a new run from the weights of another
python src/scaffolding/train.py --multirun run.seed=1,2,3      # one run per value
"""

import math
import sys
from pathlib import Path
from typing import Any

_folder = Path(__file__).resolve().parent
if sys.path[0] == str(_folder):  # started as a script: installed packages must not be hidden by our evaluate.py and the like
    sys.path[0] = str(_folder.parent)

from scaffolding.core.launch import launch  # isort: skip  (first: it imports torch and hydra the fast way)

import torch
from loguru import logger
from omegaconf import DictConfig
from torch import Tensor

from scaffolding.core import checkpoint, rng
from scaffolding.core.compose import portable
from scaffolding.core.console import command
from scaffolding.core.errors import RunError
from scaffolding.core.estimate import estimate, prod_overrides
from scaffolding.core.loading import Window, describe_batch
from scaffolding.core.resume import apply_changes, rehearse, set_optimizers
from scaffolding.core.run import Run, make_tracker, output_folder, overrides, write_config
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment

MAX_SKIPPED = 20  # float16 updates skipped in a row; the scale halves each time, so this many is no longer a search


def main(cfg: DictConfig) -> float | None:
    """Build or resume, train, test the best weights, report. Returns the best monitored value, for sweeps."""
    exp = start(cfg)
    with exp.run.session(exp.state, portable(cfg, PROJECT)):
        train(exp)
        test(exp)
        report(exp)
    return exp.state.best


def start(cfg: DictConfig) -> Experiment:
    """Build everything, claim the run's folder or reopen it, restore last: nothing is drawn before the first step."""
    changes = apply_changes(cfg, PROJECT) if cfg.resume else {}
    exp = Experiment(cfg)
    exp.prepare()  # data, optimizers, schedules: whatever is wrong with them shows before a folder is made
    tracker = make_tracker(cfg.tracker)
    cfg.run.precision = exp.precision  # the run keeps what `auto` meant
    if cfg.fork:
        parent = Path(cfg.fork) / "checkpoints"
        exp.load_weights(checkpoint.load(parent / ("best.pt" if (parent / "best.pt").exists() else "latest.pt")))
    path = Path(cfg.resume) if cfg.resume else Run.create(output_folder(cfg), portable(cfg, PROJECT), cfg.run.name)
    exp.path = path
    exp.run = Run(path, tracker, exp.num_steps, cfg.run.rehearse_resume)
    rng.seed_all(rng.key(cfg.run.seed, "train"))
    if cfg.resume:
        resume(exp, changes)
    return exp


def resume(exp: Experiment, changes: dict[str, Any]) -> None:
    """Restore the latest checkpoint of `exp.run` and take over what the command line changed."""
    run = exp.run
    if run.latest.exists():
        exp.load_state_dict(checkpoint.load(run.latest))
        set_optimizers(exp.optimizers, changes)
    logger.info(f"resuming {run.path} at step {exp.state.step} of {exp.num_steps}")
    for key, value in changes.items():
        logger.info(f"{key}={value} takes effect")
    if changes:
        write_config(run.path, portable(exp.cfg, PROJECT))


def train(exp: Experiment) -> None:
    """Step until the budget is used, the patience is at its end, the loss is gone, or a signal asks to stop."""
    state, run = exp.state, exp.run
    exp.model.train()
    windows = exp.train_loader.windows(state, exp.accumulate)  # starts where the checkpoint stopped
    while not exp.finished:
        window = next(windows)
        metrics = train_step(exp, window)
        best = False
        if state.step == 1:
            describe_start(exp, window, metrics)
        if state.batch == 0:
            run.facts.event("on_epoch_end", step=state.step, epoch=state.epoch)
            exp.advance_schedulers("epoch")
        if exp.due("log_every"):
            values = run.log(state, "train", metrics, exp.loss_watch)
            state.target_reached = exp.target_loss is not None and values.get("loss", math.inf) < exp.target_loss
        if exp.due("eval_every"):
            values = run.log(state, "val", evaluate(exp, "val"))
            best = exp.judge(values)
            exp.advance_schedulers("metric", values)
        if exp.rollout is not None and exp.due("rollout_every"):
            run.log(state, "rollout", exp.rollout(exp.eval_model, exp.val_loader))
        if exp.due("plot_every"):
            plot(exp, "val")
        if exp.due("save_every") or best or exp.finished or run.stop.received:
            run.save(state, exp.state_dict(), best or exp.monitor is None, exp.loss_watch)
        run.stop_if_asked(state)


def train_step(exp: Experiment, window: Window) -> dict[str, Tensor]:
    """One update of every network from the micro-batches of a window, weighted by items: equal to one big batch.

    Returns metrics as tensors; nothing is read from the device here.
    """
    total = sum(items for _, items in window)
    scale = exp.scaler.get_scale()
    metrics: dict[str, Tensor] = {}
    for name, optimizer in exp.optimizers.items():
        optimizer.zero_grad()
        for batch, items in window:
            with exp.autocast:
                loss, values = exp.losses[name](exp.train_model, batch)
            share = items / total
            exp.scaler.scale(loss if share == 1 else loss * share).backward()
            add_metrics(metrics, name, {"loss": loss, **values}, share)
        exp.scaler.unscale_(optimizer)
        if exp.clip_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(exp.networks[name].parameters(), exp.clip_grad_norm)
            add_metrics(metrics, name, {"grad_norm": norm}, 1)
        exp.scaler.step(optimizer)
    exp.scaler.update()
    count_step(exp, window, total, exp.scaler.get_scale() >= scale, metrics)  # the scale falls where a step was skipped
    return metrics


def add_metrics(metrics: dict[str, Tensor], name: str, values: dict[str, Tensor], share: float) -> None:
    """Add a micro-batch's values, weighted by its share of the window's items, under "<network>/<key>"."""
    for key, value in values.items():
        key = f"{name}/{key}" if name else key
        value = value.detach() if share == 1 else value.detach() * share
        metrics[key] = metrics[key] + value if key in metrics else value


def count_step(exp: Experiment, window: Window, items: int, applied: bool, metrics: dict[str, Tensor]) -> None:
    """Count an attempted update; averages and schedules follow applied ones only."""
    state = exp.state
    state.advance(len(window), items, len(exp.train_loader))
    if not applied:
        state.skipped_in_row += 1
        if state.skipped_in_row > MAX_SKIPPED:
            raise RunError(f"{MAX_SKIPPED} updates in a row had infinite gradients in float16 (step {state.step})")
        return
    state.applied += 1
    state.skipped_in_row = 0
    for name in exp.losses:  # an infinite or NaN loss stays in this sum, which is read at the next log or save point
        exp.loss_watch += metrics[f"{name}/loss" if name else "loss"]
    if exp.ema is not None:
        exp.ema.update_parameters(exp.model)
    exp.advance_schedulers("step")


def describe_start(exp: Experiment, window: Window, metrics: dict[str, Tensor]) -> None:
    """What went in and came out of the very first step, before anything was learnt."""
    num_classes = exp.cfg.data.get("num_classes")
    known = f" (ln {num_classes} = {math.log(num_classes):.4f})" if num_classes else ""
    losses = ", ".join(f"{name} {float(value):.4f}{known}" for name, value in metrics.items() if name.endswith("loss"))
    logger.info(f"{exp!r}")
    logger.info(f"batch: {describe_batch(window[0][0])}")
    logger.info(f"initial {losses}")
    exp.run.describe(PROJECT.root, parent=exp.cfg.fork)
    plot(exp, "start")


def plot(exp: Experiment, moment: str) -> None:
    """Draw the figures that belong to a moment: "start" or "val". Training cannot tell that it happened."""
    exp.eval_model.eval()
    with rng.keyed(exp.cfg.run.seed, "plot"), torch.no_grad():
        for name, draw in exp.plots.items():
            if getattr(draw, "moment", "val") == moment:
                exp.run.draw(name, draw, exp, moment)
    exp.eval_model.train()


def test(exp: Experiment) -> None:
    """Evaluate the best weights on the test split, once."""
    run = exp.run
    exp.load_weights(checkpoint.load(run.best if run.best.exists() else run.latest))
    run.log(exp.state, "test", evaluate(exp, "test"))


def report(exp: Experiment) -> None:
    """Rehearse the resume where the config asks for it, and say what to do next."""
    run, cfg = exp.run, exp.cfg
    run.closing = [f"run:      {run.path}"]
    if cfg.run.target_loss is not None:
        gone = "is gone" if exp.state.target_reached else "did NOT go: a model that cannot learn one batch has a bug"
        run.closing.append(f"overfit:  the loss {gone} (below {cfg.run.target_loss} wanted, step {exp.state.step})")
    if cfg.run.rehearse_resume:
        count = rehearse(run, portable(cfg, PROJECT), lambda again: carry_on(cfg, again))
        run.closing.append(f"resume rehearsal: {count} tensors identical")
        words = overrides()
        run.closing.append(f"in prod mode: {estimate(PROJECT, words, Experiment, train_step, exp)}")
        run.closing.append(f"next:     {command()} {' '.join(prod_overrides(words))}")
    run.raise_failed_figures()


def carry_on(cfg: DictConfig, run: Run) -> None:
    """For the rehearsal: resume in another folder, in this process, as `resume=` does in a new one."""
    exp = Experiment(cfg)
    exp.prepare()
    exp.plots.clear()
    exp.run = run
    resume(exp, {})
    train(exp)


def run() -> None:
    """The console command."""
    launch(main, PROJECT)


if __name__ == "__main__":
    run()
