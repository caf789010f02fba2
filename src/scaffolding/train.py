"""Train a model on a dataset. This file is yours: it is the whole run, read from top to bottom.

python src/scaffolding/train.py data=mnist mode=dev            # every branch of a run, in seconds
python src/scaffolding/train.py data=mnist mode=prod           # the real thing
python src/scaffolding/train.py resume=latest                  # carries a run on as if it had never stopped
python src/scaffolding/train.py fork=RUN optimizer.lr=1e-4     # a new run from the weights of another
python src/scaffolding/train.py rerun=RUN                      # the same run again, compared row by row
python src/scaffolding/train.py --multirun run.seed=1,2,3      # one run per value
"""

from scaffolding.core.launch import launch  # isort: skip  (first: sets the path, handles early signals, speeds up imports)

import torch
from loguru import logger
from omegaconf import DictConfig
from torch import Tensor

from scaffolding import plot
from scaffolding.core.batches.loader import MicroBatch
from scaffolding.core.session.report import describe_start, report
from scaffolding.core.session.run import Run
from scaffolding.core.state import keys
from scaffolding.evaluate import evaluate, widened
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.schedules import advance, read


def main(cfg: DictConfig) -> float | None:
    """Build or resume, train, test the best weights, report. Returns the best monitored value, for sweeps."""
    exp = Experiment(cfg)
    exp.prepare()  # whatever is wrong with data, optimizers or schedules shows before a folder is made
    keys.seed_all(keys.key(exp.settings.seed, "train"))
    exp.run = Run.begin(exp)  # a new folder, or that of `resume=`
    with exp.run.session():
        train(exp)
        test(exp)
        report(exp, main)
    return exp.state.best


def train(exp: Experiment) -> None:
    """Save and look at the last step, then take the next, until budget or patience runs out or a signal comes."""
    state = exp.state
    exp.model.train()
    steps = exp.train_loader.steps(state, exp.settings.accumulate)  # starts where `state` stands
    while True:
        finish_step(exp)
        if exp.is_done():
            break
        micro_batches = next(steps)
        metrics = train_step(exp, micro_batches)
        state.advance(len(micro_batches), sum(part.num_items for part in micro_batches), len(exp.train_loader))
        if exp.run.is_first_step():
            describe_start(exp, micro_batches, metrics)
        if state.step == 1:
            plot.draw(exp, "start")
        if exp.due("log"):
            # YOURS: put your own numbers into `metrics`; logger.info(...) and print(...) reach the console and log.txt
            values = exp.run.log("train", metrics)
            state.target_reached = exp.settings.target_loss is not None and values["loss"] < exp.settings.target_loss
        if state.is_new_epoch:
            # YOURS: what happens once per epoch
            advance(exp.schedulers, "epoch")


def finish_step(exp: Experiment) -> None:
    """Save if due, then look: evaluate, roll out, draw. A resumed run repeats the looks that its checkpoint lists.

    The checkpoint is the state before anything looked at it: a crash in a look loses nothing.
    """
    run, state = exp.run, exp.state
    is_asked_to_stop = run.stop.received is not None  # read once, so that a run that stops here has saved
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
        values = run.log("val", evaluate(exp, "val"))
        judge(exp, values)
        advance(exp.schedulers, "metric", values)
    if "rollout" in state.looks and exp.rollout is not None:
        with keys.keyed(exp.settings.seed, "rollout"), exp.autocast:
            values = exp.rollout(exp.eval_model, exp.val_loader)
        run.log("rollout", values)
    if "plot" in state.looks:
        plot.draw(exp, "val")


def judge(exp: Experiment, values: dict[str, float]) -> None:
    """Make this step's checkpoint the best one if its monitored value is better than all before."""
    state = exp.state
    if exp.monitor is None:
        return
    value = read(values, exp.monitor)
    if state.is_better(value, exp.settings.monitor_mode) and exp.run.keep_best():
        state.best, state.best_step, state.evaluations_since_best = value, state.step, 0
    else:
        state.evaluations_since_best += 1


def train_step(exp: Experiment, micro_batches: list[MicroBatch]) -> dict[str, Tensor]:
    """One update of every network. The weights of the micro-batches add up to 1: together they equal one big batch.

    Returns metrics as tensors; nothing is read from the device here.
    """
    metrics: dict[str, Tensor] = {}
    for name, optimizer in exp.optimizers.items():
        # YOURS: to update a network only every fifth step: if name == "generator" and exp.state.step % 5: continue
        optimizer.zero_grad()
        for batch, weight in exp.keyed(name, micro_batches):  # noise depends on seed, network, epoch and position alone
            with exp.autocast:
                loss, values = exp.losses[name](exp.train_model, batch)
            add_metrics(metrics, name, {"loss": loss, **values}, weight)
            if weight != 1:  # multiplying by 1 would cost a kernel here and one in the backward pass
                loss = loss * weight
            exp.scaler.scale(loss).backward()  # YOURS: a second loss of this network gets its own backward here
        exp.scaler.unscale_(optimizer)
        if exp.settings.clip_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(exp.networks[name].parameters(), exp.settings.clip_grad_norm)
            add_metrics(metrics, name, {"grad_norm": norm}, 1)
        exp.scaler.step(optimizer)
    exp.scaler.update()
    if exp.scaler.took_step():  # False: float16 overflowed, and the update was skipped
        after_update(exp, metrics)
    return metrics


def add_metrics(metrics: dict[str, Tensor], name: str, values: dict[str, Tensor], weight: float) -> None:
    """Add a micro-batch's values, with its weight, under "<network>/<key>"."""
    for key, value in values.items():
        if name:
            key = f"{name}/{key}"
        value = value.detach()
        if weight != 1:
            value = widened(value) * weight
        if key in metrics:
            value = metrics[key] + value
        metrics[key] = value


def after_update(exp: Experiment, metrics: dict[str, Tensor]) -> None:
    """What follows every applied update: averaged weights and schedules. YOURS: target networks, projections, ..."""
    exp.watch.add(metrics)  # an infinite or NaN loss stays in its sum, which is read at the next log or save point
    if exp.ema is not None:
        exp.ema.update_parameters(exp.model)
    advance(exp.schedulers, "step")


def test(exp: Experiment) -> None:
    """Evaluate the best weights on the test split, once, if the dataset has one."""
    exp.load_best_weights()
    if "test" not in exp.datasets:
        logger.info("no test split: nothing is tested")
        return
    exp.run.log("test", evaluate(exp, "test"))


def run() -> None:
    """The console command."""
    launch(main, PROJECT)


if __name__ == "__main__":
    run()
