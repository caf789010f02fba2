"""What a run left, and giving it to an experiment: config, words, record, whole states, weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from ..config.compose import lasting, portable
from ..errors import DamagedError, UserError
from ..folder.reading import MAX_FACTS, read_text, read_yaml
from ..intervals import in_steps
from ..optimizers import spare
from ..provenance.data import of_experiment, recorded, warn_of_data
from ..provenance.provenance import numerics
from ..secrets import hide_secrets
from ..state.checkpoint import step_in
from ..state.files import CheckpointFiles
from ..tree import changed_keys, leaves
from ..trust.config import read_config, version_of

CHANGES = "changes"  # in an event: what a resume= changed of the course of a run
STATEFUL = ("amsgrad", "centered", "momentum")  # settings of optimizers for which they keep averages
ORDERS = "the order may differ in each process: sort what comes from a set, os.listdir, glob or hash()"


def config_of(exp: Any, run: Path) -> Any:
    """The config of a run as config.yaml would hold it today."""
    return hide_secrets(portable(read_config(run, exp.project), exp.project))


def words_of(run: Path) -> list[str]:
    """The overrides that made a run; none for a rehearsal."""
    file = run / "overrides.yaml"
    if not file.exists():
        return []
    words = read_yaml(file)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{file} is damaged: it is not a list of settings")
    return words


def resumed_with(run: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(step, {setting: value}) of each `resume=` that changed the course of a run after its start."""
    file = run / "facts" / "events.jsonl"
    if not file.exists():
        return
    for line in read_text(file, MAX_FACTS).splitlines():
        if '"on_change"' not in line:
            continue
        try:
            event = json.loads(line)
            step, changes = event.get("step"), dict(event[CHANGES])
        except (ValueError, LookupError, AttributeError, TypeError):  # a stranger's, or damaged
            continue
        yield step, changes


def changes_since(exp: Any, run: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Settings in which an experiment differs from what a run's config.yaml says, and from what its weights know.

    They are not the same where a run was resumed with a change, and killed before it saved again.
    """
    changes = changed_keys(config_of(exp, run), exp.config)
    if content.get("config"):
        known, now = content["config"], lasting(exp.config, exp.project)
        if known.get("version") != now["version"]:
            known = exp.project.upgrade(known, version_of(known, run))
        known = lasting(known, exp.project) | {"version": now["version"]}
        for section in ("run", "loader"):  # settings that the run did not know yet, or that no longer exist
            known[section] = {name: known[section].get(name, value) for name, value in now[section].items()}
        changes |= changed_keys(known, now)
    return changes


def load_state(exp: Any, content: dict[str, Any], run: str, changes: dict[str, Any]) -> None:
    """Restore a checkpoint of a run, with the settings that were changed since it was written.

    Raises:
        UserError: the data are not those of the run, or its state cannot take over a changed setting.
    """
    for name, split in exp.datasets.items():
        saved, now = content["splits"].get(name, [0]), split.fingerprint()
        if saved[:2] != now[:2]:
            raise UserError(f"data: the {name} split is not the one of {run}: {saved[0]} items, now {now[0]}")
    _check_totals(exp, run, changes)
    if content["format"] == 1:
        logger.warning(
            f"{run} was made by an older version, whose dropout and noise came from generators that were saved: "
            "it goes on, but not with the numbers that it would have drawn"
        )
    built = {name: [dict(group) for group in part.param_groups] for name, part in exp.optimizers.items()}
    exp.load_state_dict(content)
    _check_content(exp, content, run)
    position, there = exp.state.position, len(exp.loaders["train"])
    if position >= there:
        raise UserError(
            f"data: {run} stands at batch {position} of an epoch, which now has {there}"
            f"\ngive back the data or its order(), or start a new run with fork={run}"
        )
    for key, (_, value) in changes.items():
        if key.startswith("optimizer."):
            _set_optimizers(exp.optimizers, built, key, value)
    if {"run.monitor", "run.monitor_mode"} & changes.keys() or exp.monitor is None:  # they cannot be compared
        exp.state.best = exp.state.best_step = None
        exp.state.evaluations_since_best = 0
    if "run.target_loss" in changes:
        exp.state.target_reached = False


def _check_totals(exp: Any, run: str, changes: dict[str, Any]) -> None:
    """UserError: another total of steps was chosen, and a schedule keeps what it made of the old one in its state."""
    budgets = [changes.get(f"run.{name}", (getattr(exp.settings, name),))[0] for name in ("schedule_budget", "budget")]
    before = in_steps(str(budgets[0] or budgets[1]), exp.steps_per_epoch)
    if before == exp.schedule_steps:
        return
    for name, schedule in exp.schedulers.items():
        now, then = (
            dict(leaves(exp.make_schedule(name, steps, spare(exp.optimizers[name])).scheduler.state_dict()))
            for steps in (exp.schedule_steps, before)
        )
        for key in then:
            if "_last_lr" not in key and repr(now.get(key)) != repr(then[key]):
                raise UserError(
                    f"run.schedule_budget: refused, the {type(schedule.scheduler).__name__} of {run} keeps {key}="
                    f"{then[key]}, which would now be {now.get(key)}"
                    f"\nkeep run.schedule_budget={before}: it cannot be stretched"
                )


def _check_content(exp: Any, content: dict[str, Any], run: str) -> None:
    """UserError: some items of a split have other values than when the checkpoint was written; on another machine,
    whose last bits may differ, a warning.
    """
    for name, split in exp.datasets.items():
        saved, now = content["splits"][name], split.fingerprint()
        if len(saved) < 3 or saved[2] == now[2]:  # older checkpoints do not hold it
            continue
        text = f"data: the {name} split is not the one of {run}: its items have other values now"
        known = {"processes": 1, **content["numerics"]}
        if known == numerics(exp.device, known["processes"]):
            raise UserError(
                f"{text}\ngive back the data that it was trained on, or start a new run with fork={run}; "
                f"if nothing has changed, {ORDERS}"
            )
        logger.warning(f"{text}, or another machine computes other last bits")


def check_data(exp: Any, run: Path) -> None:
    """Compare the data with those of a run, which goes on or is repeated: a warning names the files that changed.

    Raises:
        UserError: a dataset says by its `fingerprint()` that it is another one.
    """
    before, now = recorded(run), of_experiment(exp)
    for key in [key for key in before if isinstance(before[key], str) and before[key] != now.get(key, before[key])]:
        raise UserError(
            f"data: {key} is {now[key]}, and was {before[key]:.100} when {run.name} ran"
            f"\ngive back the data that it was trained on, or start a new run with fork={run.name}"
        )
    warn_of_data(run.name, before, now)


def _set_optimizers(optimizers: dict[str, Any], built: dict[str, list[dict[str, Any]]], key: str, value: Any) -> None:
    """Give restored optimizers a changed setting, except for groups that set it themselves.

    Args:
        optimizers: by network; those that are not named in `key` keep what they have.
        built: their groups as the config makes them.
        key: "optimizer.lr", or "optimizer.<network>.lr".
        value: what the config says now.

    Raises:
        UserError: an optimizer has no such setting, or would need a state for it that it does not have.
    """
    network, _, name = key.removeprefix("optimizer.").rpartition(".")
    chosen = [network] if network in optimizers else list(optimizers)
    for which in chosen:
        for group, made in zip(optimizers[which].param_groups, built[which], strict=True):
            if name not in group or network not in ("", *optimizers):
                raise UserError(f"{key}: refused, an optimizer at work cannot take it over")
            is_sgd = isinstance(optimizers[which], torch.optim.SGD)  # begins a momentum at any step
            if name in STATEFUL and made[name] and not group[name] and not is_sgd:
                raise UserError(
                    f"{key}={made[name]}: refused, the optimizer would need averages that it has not kept so far"
                    "\nstart a new run from these weights with fork="
                )
            if made[name] == value or (isinstance(value, list) and list(made[name]) == value):
                group[name] = made[name]


def load_weights(exp: Any, content: dict[str, Any], run: str, is_partial: bool) -> None:
    """Take over weights; warn if they were trained on other data: with another vocabulary they know nothing."""
    exp.load_weights(content, is_partial)
    for name, part in exp.objects().items():
        if name.startswith("datasets.") and name in content["objects"]:
            try:
                part.load_state_dict(content["objects"][name])
            except UserError as error:
                logger.warning(f"{error}; the weights of {run} were trained on that one")


def best_of(exp: Any, files: CheckpointFiles) -> Path | None:
    """The checkpoint of the best step that a restored state claims; None: it claims none, or no more, as that is gone.

    best.pt may also be of the restored step: the look that made it the best one is then repeated.
    """
    state = exp.state
    step = state.best_step
    if step is None:
        return None
    if state.looks and step_in(files.best) == state.step:
        step = state.step
    try:
        return files.find_best(step)
    except DamagedError as error:
        logger.warning(f"{error}; the best weights are gone, and the best of what comes counts from here on")
        state.best = state.best_step = None
        state.evaluations_since_best = 0
        return None
