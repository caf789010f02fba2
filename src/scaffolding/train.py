"""Train a model on a dataset. This file is yours: it is the whole run, read from top to bottom.

python src/scaffolding/train.py data=mnist mode=dev            # every branch of a run, in seconds
python src/scaffolding/train.py data=mnist mode=prod           # the real thing
python src/scaffolding/train.py resume=latest                  # carry a run on as if it had never stopped
python src/scaffolding/train.py fork=RUN optimizer.lr=1e-4     # a new run from the weights of another
python src/scaffolding/train.py rerun=RUN                      # the same run again, compared row by row
python src/scaffolding/train.py --multirun run.seed=1,2,3      # one run per value
"""

from pathlib import Path

from scaffolding.core.launch import launch  # isort: skip  (first: it finds our modules and imports torch the fast way)

import torch
from loguru import logger
from omegaconf import DictConfig
from torch import Tensor

from scaffolding import plot
from scaffolding.core.batches.loader import Window
from scaffolding.core.config.build import build
from scaffolding.core.config.compose import portable
from scaffolding.core.errors import RunError
from scaffolding.core.session.run import Run
from scaffolding.core.session.signals import Interrupted
from scaffolding.core.state import checkpoint, keys
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.report import describe_start, report
from scaffolding.schedules import advance, read
from scaffolding.verbs import check, restore, start_from

MAX_SKIPPED = 20  # float16 updates skipped in a row; the scale halves each time, so this many is no longer a search


def main(cfg: DictConfig) -> float | None:
    """Build or resume, train, test the best weights, report. Returns the best monitored value, for sweeps."""
    exp = start(cfg)
    with exp.run.session(exp.state, portable(cfg, PROJECT)):
        train(exp)
        test(exp)
        report(exp, train, train_step)
    return exp.state.best


def start(cfg: DictConfig) -> Experiment:
    """Build everything, claim the run's folder or reopen it, restore last: nothing is drawn before the first step."""
    changes = check(cfg)
    exp = Experiment(cfg)
    exp.prepare()  # data, optimizers, schedules: whatever is wrong with them shows before a folder is made
    trackers = [build(spec, f"tracker.{name}") for name, spec in cfg.tracker.items()]
    tracker = trackers[0] if trackers else None
    cfg.run.precision, cfg.run.monitor = exp.precision, exp.monitor  # the run keeps what `auto` meant
    keys.seed_all(keys.key(cfg.run.seed, "train"))
    if cfg.resume:
        exp.path = Path(cfg.resume)
        restore(exp, changes)
    else:
        parent = start_from(exp, changes)
        exp.path = Run.create(Path(cfg.paths.output), portable(cfg, PROJECT), cfg.run.name, parent)
    exp.run = Run(exp.path, tracker, exp.num_steps, cfg.run.num_checkpoints, cfg.run.rehearse_resume)
    return exp


def train(exp: Experiment) -> None:
    """Step until the budget is used, the patience is at its end, the loss is gone, or a signal asks to stop."""
    state, run = exp.state, exp.run
    exp.model.train()
    if not state.completed:  # a signal cut the last step's evaluation short
        complete_step(exp)
    windows = exp.train_loader.windows(state, exp.accumulate)  # starts where the checkpoint stopped
    first = state.step + 1
    while state.step < exp.num_steps and not state.stopped:
        window = next(windows)
        metrics = train_step(exp, window)
        if state.step == first:
            describe_start(exp, window, metrics)
        if state.batch == 0:
            run.facts.event("on_epoch_end", step=state.step, epoch=state.epoch)
            advance(exp.schedulers, "epoch")
        if exp.intervals.due("log_every", state.step):
            values = run.log(state, "train", metrics, exp.watch)
            state.stopped = exp.target_loss is not None and values["loss"] < exp.target_loss
        complete_step(exp)


def complete_step(exp: Experiment) -> None:
    """Evaluate, draw and save where it is due. A signal cuts an evaluation short; a resumed run makes up for it."""
    state, run, due = exp.state, exp.run, exp.intervals.due
    best = False
    try:
        if due("eval_every", state.step):
            values = run.log(state, "val", evaluate(exp, "val", run.stop))
            best = exp.monitor is not None and state.judge(read(values, exp.monitor), exp.cfg.run.monitor_mode)
            state.stopped |= exp.patience is not None and state.evaluations_since_best >= exp.patience
            advance(exp.schedulers, "metric", values)
        if exp.rollout is not None and due("rollout_every", state.step):
            run.log(state, "rollout", exp.rollout(exp.eval_model, exp.val_loader))
        if due("plot_every", state.step):
            plot.draw(exp, "val")
        state.completed = True
    except Interrupted:
        logger.info("evaluation cut short: it is made up for when the run is resumed")
    is_last = state.step == exp.num_steps or state.stopped or run.stop.received is not None
    if due("save_every", state.step) or best or is_last:
        run.save(state, exp.state_dict(), best or exp.monitor is None, exp.watch)
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
    exp.state.advance(len(window), total, len(exp.train_loader))
    after_update(exp, metrics, applied=exp.scaler.get_scale() >= scale)  # the scale falls where a step was skipped
    return metrics


def add_metrics(metrics: dict[str, Tensor], name: str, values: dict[str, Tensor], share: float) -> None:
    """Add a micro-batch's values, weighted by its share of the window's items, under "<network>/<key>"."""
    for key, value in values.items():
        key = f"{name}/{key}" if name else key
        value = value.detach() if share == 1 else value.detach() * share
        metrics[key] = metrics[key] + value if key in metrics else value


def after_update(exp: Experiment, metrics: dict[str, Tensor], applied: bool) -> None:
    """What follows applied updates only: averaged weights and schedules. A few skipped in a row are an error."""
    state = exp.state
    state.skipped_in_row = 0 if applied else state.skipped_in_row + 1
    if state.skipped_in_row > MAX_SKIPPED:
        raise RunError(f"{MAX_SKIPPED} updates in a row had infinite gradients in float16, up to step {state.step}")
    if not applied:
        return
    state.applied += 1
    for name in exp.losses:  # an infinite or NaN loss stays in this sum, which is read at the next log or save point
        exp.watch.add(metrics[f"{name}/loss" if name else "loss"])
    if exp.ema is not None:
        exp.ema.update_parameters(exp.model)
    advance(exp.schedulers, "step")


def test(exp: Experiment) -> None:
    """Evaluate the best weights on the test split, once."""
    exp.load_weights(checkpoint.load(checkpoint.best_of(exp.run.path)))
    exp.run.log(exp.state, "test", evaluate(exp, "test", exp.run.stop))


def run() -> None:
    """The console command."""
    launch(main, PROJECT)


if __name__ == "__main__":
    run()
