"""Train a model on a dataset. This file is yours: it is the whole run, read from top to bottom.

python src/scaffolding/train.py data=mnist mode=dev            # every branch of a run, in seconds
python src/scaffolding/train.py data=mnist mode=prod           # the real thing
python src/scaffolding/train.py resume=latest                  # carries a run on as if it had never stopped
python src/scaffolding/train.py fork=RUN optimizer.lr=1e-4     # a new run from the weights of another
python src/scaffolding/train.py rerun=RUN                      # the same run again, compared row by row
python src/scaffolding/train.py --multirun run.seed=1,2,3      # one run per value
"""

from scaffolding.core.launch import launch  # isort: skip  (first: sets the path, handles early signals, speeds up imports)

from typing import Any

import torch
from loguru import logger
from omegaconf import DictConfig

from scaffolding import plot
from scaffolding.core.batches.loader import MicroBatch
from scaffolding.core.means import Means
from scaffolding.core.modes import evaluating
from scaffolding.core.optimizers import average_gradients, clip_gradients, learning_rates
from scaffolding.core.processes.connect import connect
from scaffolding.core.session.report import describe_start, report
from scaffolding.core.session.run import Run
from scaffolding.core.state import keys
from scaffolding.evaluate import evaluate
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.schedules import advance, read, split_of


def main(cfg: DictConfig) -> float | None:
    """What a command line asks for. Returns the best monitored value, for sweeps."""
    exp = Experiment(cfg, processes=connect(cfg))  # this process, or all those that torchrun or srun started
    fit(exp)
    return exp.state.best


def fit(exp: Experiment) -> None:
    """Begin or resume a run, train, test the best weights, report. Python may call it: scripts/README.md shows how."""
    exp.prepare()  # whatever is wrong with data, optimizers or schedules shows before a folder is made
    keys.seed_all(keys.key(exp.settings.seed, "train"))
    exp.run = Run.begin(exp)  # a new folder, or that of `resume=`
    with exp.run.session():
        train(exp)
        test(exp)
        plot.draw(exp, "end")
        report(exp, main)


def train(exp: Experiment) -> None:
    """Save and look at the last step, then take the next, until budget or patience runs out or a signal comes."""
    state, clock = exp.state, exp.clock
    exp.model.train()
    plot.watch(exp)
    steps = exp.train_loader.steps(state, exp.settings.accumulate)  # starts where `state` stands
    while True:
        finish_step(exp)
        if exp.is_done():
            break
        clock.enter("data")  # time counts for a phase from here to the next
        micro_batches = next(steps)
        metrics = train_step(exp, micro_batches)
        exp.meter.add(metrics, micro_batches.num_items)  # a row has means over the steps since the last one
        state.advance(micro_batches.num_batches, micro_batches.num_items, len(exp.train_loader))
        if exp.run.is_first_step():
            clock.enter("log")
            describe_start(exp, micro_batches, metrics)
        if state.step == 1:
            plot.draw(exp, "start")
        if exp.due("log"):
            # YOURS: put your own numbers into `metrics`; logger.info(...) and print(...) reach the console and log.txt
            exp.run.log("train", metrics)
            state.target_reached = exp.is_below_target()
        if state.is_new_epoch:
            exp.run.end_epoch()
            # YOURS: what happens once per epoch
            advance(exp.schedulers, "epoch")


def finish_step(exp: Experiment) -> None:
    """Save if due, then look: evaluate, roll out, draw. A resumed run repeats the looks that its checkpoint lists.

    The checkpoint is the state before anything looked at it: a crash in a look loses nothing.
    """
    run, state = exp.run, exp.state
    is_asked_to_stop = run.stop.look() is not None  # read once, so that a run that stops here has saved
    if state.step != run.start.step:  # where a session starts, the checkpoint says what is due
        state.looks = [look for look in ("eval", "rollout", "plot") if exp.due(look)]
        is_last = exp.is_done() or is_asked_to_stop
        if exp.due("save") or state.looks or is_last:
            run.save(exp.state_dict(), is_last)
            if exp.monitor is None:
                run.keep_best()
    if is_asked_to_stop:
        run.leave_if_asked()
    if "eval" in state.looks:
        exp.clock.enter("evaluate")
        judge(exp, "val", run.log("val", evaluate(exp, "val")))
    if "rollout" in state.looks and exp.rollout is not None:
        exp.clock.enter("rollout")
        parts = (exp.eval_model, exp.rollout)
        with torch.no_grad(), evaluating(*parts), keys.keyed(exp.settings.seed, "rollout"), exp.autocast:
            values = exp.rollout(exp.eval_model, exp.rollout_loader)
        judge(exp, "rollout", run.log("rollout", values))
    if "plot" in state.looks:
        plot.draw(exp, "val")


def judge(exp: Experiment, split: str, values: dict[str, float]) -> None:
    """Let schedules see the values of a look. If the monitored one is better than all before, keep the checkpoint."""
    advance(exp.schedulers, "metric", values, split)
    state = exp.state
    if exp.monitor is None or split_of(exp.monitor) != split:
        return
    value = read(values, exp.monitor)
    if state.is_better(value, exp.settings.monitor_mode) and exp.run.keep_best():
        state.best, state.best_step, state.evaluations_since_best = value, state.step, 0
    else:
        state.evaluations_since_best += 1


def train_step(exp: Experiment, micro_batches: list[MicroBatch]) -> dict[str, Any]:
    """One update of every network.

    Micro-batches are weighted by their items, or by the loss's `weight`: together they equal one big batch.
    Returns metrics, most of them as tensors; nothing is read from the device here.
    """
    means, numbers, enter = Means(), dict[str, Any](), exp.clock.enter
    is_split = len(micro_batches) * exp.processes.count > 1  # else the only weight is 1: nothing to multiply
    for name, optimizer in exp.optimizers.items():
        # YOURS: to update one only every fifth step: if name == "generator" and (exp.state.step + 1) % 5: continue
        enter("step")
        optimizer.zero_grad()
        total: Any = 0
        for batch, share in exp.keyed(name, micro_batches):  # noise depends on seed, network, epoch and position alone
            enter("forward")
            with exp.autocast:
                loss, values = exp.train_losses[name](exp.train_model, batch)
            weight = means.add(name, loss, values, share)
            if is_split:
                loss, total = loss * weight, total + weight
            enter("backward")
            exp.scaler.scale(loss).backward()  # YOURS: a second loss of this network gets its own backward here
        enter("step")
        exp.scaler.unscale_(optimizer)
        if is_split:
            average_gradients(exp.trained[name].values(), exp.processes.sum(total))
        numbers |= learning_rates(optimizer, name)
        if exp.settings.clip_grad_norm is not None or exp.logs_next():
            norm = clip_gradients(exp.trained[name].values(), exp.settings.clip_grad_norm)  # the norm before clipping
            numbers[f"{name}/grad_norm".lstrip("/")] = norm
        exp.scaler.step(optimizer)
    metrics = means.values()
    metrics |= numbers
    exp.scaler.update()
    if exp.scaler.took_step():  # False: gradients overflowed in float16; the update and all of this are skipped
        after_update(exp, metrics)
    return metrics


def after_update(exp: Experiment, metrics: dict[str, Any]) -> None:
    """What follows every applied update: averaged weights and schedules. YOURS: target networks, projections, ..."""
    exp.watch.add(metrics)  # an infinite or NaN loss stays in its sum, which is read at the next log or save point
    if exp.ema is not None:
        exp.ema.update_parameters(exp.model)
    advance(exp.schedulers, "step")


def test(exp: Experiment) -> None:
    """Evaluate the best weights on the test split, once, if the dataset has one."""
    exp.clock.enter("evaluate")
    best = exp.load_best_weights()  # where the run stood when they were saved
    if "test" not in exp.datasets:
        logger.info("no test split: nothing is tested")
        return
    exp.run.log("test", evaluate(exp, "test"), best)


def run() -> None:
    """The console command."""
    launch(main, PROJECT)


if __name__ == "__main__":
    run()
