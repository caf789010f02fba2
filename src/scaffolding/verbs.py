"""Three ways on from a run: `resume` carries it on, `fork` starts another from it, `rerun` does it again to compare.

RULES says for every setting what a changed value does beside each verb. Add your own keys there.
"""

import json
import re
from pathlib import Path
from typing import Any

from loguru import logger

from .core.config.build import by_network, check_specs
from .core.config.compose import portable
from .core.config.trust import read_config
from .core.errors import RunError, UserError
from .core.folder import lock, provenance
from .core.folder.run_folder import TIMINGS, Facts, read_status
from .core.session.run import Run, write_config
from .core.state import checkpoint
from .experiment import PROJECT, Experiment
from .precision import choose_device, choose_precision
from .schedules import takes_total
from .states import objects

SOURCES = Path(__file__).parent  # of this package
APPLIES = ""  # instead of the reason why a change is refused
IS_THE_RUN = "it is part of what this run is"
ROWS_DIFFER = "the rows would not be comparable"
NAMED = "a run keeps its name"

# (settings, beside resume, beside fork, beside rerun); the first row that matches decides.
# With fork_state=true, a fork goes by the rules of resume, apart from its name.
RULES = (
    (r"run\.name", NAMED, APPLIES, APPLIES),
    (r"run\.(description|tags|plot_every|save_every|num_checkpoints|rehearse_resume)", APPLIES, APPLIES, APPLIES),
    (r"(paths|plots|tracker|imports)(\..*)?|loader\.(num_workers|start_method|timeout)", APPLIES, APPLIES, APPLIES),
    (r"run\.(log_every|eval_every|rollout_every|patience|target_loss|clip_grad_norm)", APPLIES, APPLIES, ROWS_DIFFER),
    (r"run\.(monitor|monitor_mode|device|compile|budget|schedule_budget)", APPLIES, APPLIES, ROWS_DIFFER),
    (r"optimizer\.[a-z]\w*", APPLIES, APPLIES, ROWS_DIFFER),
    (r".*", IS_THE_RUN, APPLIES, IS_THE_RUN),
)
IN_WORKERS = ("loader.num_workers", "loader.start_method", "loader.timeout")
SCHEDULED = ("lr", "momentum", "betas")  # of an optimizer: what a schedule sets from its own state


def changed_keys(before: Any, after: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted keys in which two plain configs differ, with both values."""
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {key: (before, after)}
    changes: dict[str, tuple[Any, Any]] = {}
    for part in [*before, *(name for name in after if name not in before)]:
        changes |= changed_keys(before.get(part), after.get(part), f"{key}.{part}" if key else part)
    return changes


def verb_of(cfg: Any) -> str | None:
    """ "resume", "fork" or "rerun", where the command line has one."""
    return next((verb for verb in ("resume", "fork", "rerun") if cfg[verb]), None)


def check(cfg: Any) -> dict[str, Any]:
    """Check what the command line changes of the run it goes on from; a run to be resumed is locked from here on.

    Returns:
        Changed keys with their new values; empty without a verb.

    Raises:
        UserError: the run is in use, a key may not be changed, or the code is not that of the run to be done again.
    """
    verb = verb_of(cfg)
    if verb is None:
        return {}
    check_specs(portable(cfg, PROJECT))
    run = Path(cfg[verb])
    precision = choose_precision(cfg.run.precision, choose_device(cfg.run.device))  # a run keeps what `auto` meant
    after = portable(cfg, PROJECT)
    after["run"]["precision"] = precision
    if hidden := [key for key, value in checkpoint.leaves(after) if value == "***"]:
        raise UserError(f"{hidden[0]}: {run.name} did not keep it, its name says that it is a secret\ngive it again")
    saved = portable(read_config(run, PROJECT), PROJECT)
    changes = {key: pair for key, pair in changed_keys(saved, after).items() if pair[0] != "***"}
    for key, (before, after) in changes.items():
        if (why := reason_against(verb, key, changes, cfg)) != APPLIES:
            raise UserError(
                f"{key}={after}: refused, {run.name} has {key}={before} and {why}"
                + ("" if "\n" in why else f"\nstart a new run from its weights with fork={run.name} {key}={after}")
            )
    if verb == "rerun":
        check_code(run)
    if verb == "resume":
        lock.acquire(run)
        if read_status(run)["status"] != "finished":
            lock.announce(run)
    return {key: after for key, (_, after) in changes.items()}


def reason_against(verb: str, key: str, changes: dict[str, tuple[Any, Any]], cfg: Any) -> str:
    """Why a changed setting is refused beside a verb; APPLIES where it is not."""
    column = {"resume": 1, "fork": 2, "rerun": 3}[verb]
    keeps_state = verb == "resume" or (verb == "fork" and cfg.fork_state)
    if verb == "fork" and keeps_state and key != "run.name":
        column = 1
    why = next(row[column] for row in RULES if re.fullmatch(row[0], key))
    if why != APPLIES or not keeps_state:
        return why
    schedules = schedule_targets(cfg)
    if key.startswith("optimizer.") and schedules and key.rpartition(".")[2] in SCHEDULED:
        return "a schedule sets it"
    if key == "run.budget" and any(map(takes_total, schedules)):
        before, after = changes[key]
        if "run.schedule_budget" not in changes and cfg.run.schedule_budget is None:
            return (
                "a schedule depends on the total\nsay which total it goes by: "
                f"run.schedule_budget={before} (as until now) or run.schedule_budget={after} (stretched)"
            )
    return APPLIES


def idle(exp: Experiment, key: str) -> bool:
    """Whether a setting has no effect in this experiment, because of others."""
    cfg = exp.cfg
    return (
        (key in IN_WORKERS and all(loader.workers is None for loader in exp.loaders.values()))
        or (key in ("loader.start_method", "loader.timeout") and cfg.loader.num_workers == 0)
        or (key in ("run.monitor_mode", "run.patience") and (exp.monitor is None or cfg.run.eval_every is None))
        or (key == "run.rollout_every" and exp.rollout is None)
        or (key == "run.plot_every" and not exp.plots)
        or (key == "run.schedule_budget" and not any(map(takes_total, schedule_targets(cfg))))
    )


def announce(exp: Experiment, changes: dict[str, Any]) -> None:
    """Say of every changed setting what it does."""
    for key, value in changes.items():
        if (key, value) != ("run.name", None):  # a rerun has a name of its own
            logger.info(
                f"{provenance.masked(f'{key}={value}')} {'has no effect here' if idle(exp, key) else 'takes effect'}"
            )


def schedule_targets(cfg: Any) -> list[str]:
    """Dotted names of the schedules of a config."""
    specs = by_network(cfg.scheduler, "scheduler", marker="schedule").values()
    return [spec.schedule._target_ for spec in specs if spec.schedule is not None]


def restore(exp: Experiment, changes: dict[str, Any]) -> None:
    """Load the newest checkpoint of the run in `exp.path`, and take over what the command line changed.

    Raises:
        SystemExit: with code 0 and nothing changed, if the run is finished.
    """
    assert exp.path is not None
    folder = exp.path / "checkpoints"
    if any(folder.glob("*.pt")):
        file, content = checkpoint.load_newest(folder)
        load_state(exp, content, exp.path.name, changes)
        check_budget(exp, exp.path)
        latest = folder / "latest.pt"
        if file != latest and latest.exists():  # damaged: kept aside
            latest.rename(folder / "latest.pt.damaged")
    announce(exp, changes)
    logger.info(f"resuming {exp.path} at step {exp.state.step} of {exp.num_steps}")
    if changes:
        write_config(exp.path, portable(exp.cfg, PROJECT))


def load_state(exp: Experiment, content: dict[str, Any], run: str, changes: dict[str, Any]) -> None:
    """Restore a checkpoint of a run, with the settings that the command line changed.

    Raises:
        UserError: the data are not those of the run, or its state cannot take over a changed setting.
    """
    for name, split in exp.datasets.items():
        if (saved := content["splits"][name]) != (now := split.fingerprint()):
            raise UserError(f"data: the {name} split is not the one of {run}: {saved[0]} items, now {now[0]}")
    for schedule in content["schedulers"].values():
        if schedule.get("total_steps", exp.schedule_steps) != exp.schedule_steps:
            raise UserError(f"run.budget: refused, the schedule of {run} keeps its {schedule['total_steps']} steps")
    exp.load_state_dict(content)
    set_optimizers(exp.optimizers, {key: value for key, value in changes.items() if key.startswith("optimizer.")})
    if {"run.monitor", "run.monitor_mode"} & changes.keys():  # values of another kind cannot be compared
        exp.state.best = exp.state.best_step = None
        exp.state.evaluations_since_best = 0


def check_budget(exp: Experiment, run: Path) -> None:
    """Whether there is anything left to do.

    Raises:
        UserError: the budget asked for is smaller than what is already done.
        SystemExit: with code 0; the budget is used, and the end recorded.
    """
    if exp.num_steps < exp.state.step:
        raise UserError(
            f"run.budget: {exp.num_steps} steps are fewer than the {exp.state.step} that {run.name} has done"
        )
    if read_status(run)["status"] == "finished" and (exp.num_steps == exp.state.step or exp.state.stopped):
        logger.info(f"{run} is finished at step {exp.state.step}; a larger run.budget would carry it on")
        raise SystemExit(0)


def set_optimizers(optimizers: dict[str, Any], changes: dict[str, Any]) -> None:
    """Give restored optimizers the settings that the command line changed.

    Raises:
        UserError: an optimizer has no such setting.
    """
    for key, value in changes.items():
        name = key.removeprefix("optimizer.")
        for group in (g for optimizer in optimizers.values() for g in optimizer.param_groups):
            if name not in group:
                raise UserError(f"{key}: refused, an optimizer at work cannot take it over")
            group[name] = value


def start_from(exp: Experiment, changes: dict[str, Any]) -> dict[str, Any] | None:
    """A fork starts from another run's best weights or, with fork_state=true, from the whole of its newest state.

    Returns:
        What provenance.json keeps of the parent, if there is one.
    """
    verb = verb_of(exp.cfg)
    if verb != "fork":
        announce(exp, changes)
        return None if verb is None else {"verb": verb, "run": exp.cfg[verb]}
    run = Path(exp.cfg.fork)
    if exp.cfg.fork_state:
        file, content = checkpoint.load_newest(run / "checkpoints")
        load_state(exp, content, run.name, changes)
        if exp.num_steps <= exp.state.step:
            raise UserError(
                f"run.budget: {exp.num_steps} steps, and {run.name} has done {exp.state.step}\ngive a larger run.budget"
            )
        exp.state.stopped = False
    else:
        file = checkpoint.best_of(run)
        content = checkpoint.load(file)
        exp.load_weights(content)
        for name, part in objects(exp).items():
            if name.startswith("datasets.") and name in content["objects"]:
                warn_if_changed(part, content["objects"][name], run.name)
    announce(exp, changes)
    kept = "state" if exp.cfg.fork_state else "weights"
    return {"verb": "fork", "run": str(run), "checkpoint": file.name, "step": content["state"]["step"], "kept": kept}


def warn_if_changed(split: Any, state: dict[str, Any], run: str) -> None:
    """Say so where weights go on with other data: with another vocabulary they know nothing."""
    try:
        split.load_state_dict(state)
    except UserError as error:
        logger.warning(f"{error}; the weights of {run} were trained on that one")


def check_code(run: Path) -> None:
    """UserError if the package is not what it was when the run began, with the way to get it back."""
    file = run / "provenance.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    if "code" not in known:
        raise UserError(f"rerun={run.name}: it does not say which code it ran: it ended before its first step")
    if known["code"] != provenance.code_hash(SOURCES):
        way = f"git worktree add ../again {known['commit']}" if known["commit"] else "check out the code of then"
        raise UserError(
            f"rerun={run.name}: refused, the code in {SOURCES} has changed since"
            f"\nget it back with: {way}; git -C ../again apply {run / 'changes.patch'}"
        )


def compare_with_parent(run: Run) -> list[str]:
    """Of a run that does another again, a line on how many logged rows are identical.

    Raises:
        RunError: the first value that differs.
    """
    record = run.path / "provenance.json"
    parent = json.loads(record.read_text())["parent"] if record.exists() else None
    if parent is None or parent["verb"] != "rerun":
        return []
    original = Path(parent["run"])

    def rows(run: Path) -> dict[Any, dict[str, Any]]:
        found = Facts(run / "facts").rows()
        return {(row["step"], row["split"]): {k: v for k, v in row.items() if k not in TIMINGS} for row in found}

    before, after = rows(original), rows(run.path)
    common = [key for key in before if key in after]
    for step, split in common:
        old, new = before[step, split], after[step, split]
        for name in {**old, **new}:
            if repr(old.get(name)) != repr(new.get(name)):
                values = f"{old.get(name)} in {original.name}, {new.get(name)} now"
                raise RunError(f"rerun: first difference at step {step}, {split}/{name}: {values}")
    more = f"; {len(before) - len(common)} rows of the original have no counterpart" * (len(common) < len(before))
    return [f"rerun:    {len(common)} rows identical to {original.name}{more}"]
