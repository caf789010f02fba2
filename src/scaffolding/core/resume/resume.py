"""Three ways on from a run: `resume=` carries it on, `fork=` starts another from it, `rerun=` repeats it to compare."""

from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from ..config.build import check_specs
from ..config.compose import Project, lasting, own_words, portable
from ..config.trust import read_config
from ..errors import DamagedError, Ended, UserError
from ..folder import folder
from ..folder.provenance import code_hash, numerics
from ..folder.reading import MAX_FACTS, read_bytes, read_json, read_yaml
from ..secrets import HIDDEN, hide_secrets
from ..state import checkpoint
from ..state.checkpoint import step_in
from ..state.files import CheckpointFiles, set_aside
from ..tree import changed_keys, leaves
from .rules import announce, refuse

PATIENCE = {"run.patience", "run.monitor", "run.monitor_mode"}


# --- what may be changed


def check(cfg: Any, verb: str, run: Path, given: dict[str, str], project: Project) -> None:
    """Note in the config which run it goes on from, and refuse what the command line may not change of it.

    A run to be resumed is locked from here on.

    Raises:
        UserError: the run is in use, a key may not be changed, or the code is not that of the run to be done again.
    """
    cfg[verb] = str(run)
    if cfg.fork_weights not in ("all", "partial") or (cfg.fork_state and cfg.fork_weights != "all"):
        raise UserError(
            f"fork_weights={cfg.fork_weights}: allowed: all, or partial, which takes over what fits; "
            "fork_state=true takes over the whole state"
        )
    if verb == "rerun":
        cfg.run.name = given.get("run.name")
        if "paths.output" not in given:
            cfg.paths.output = str(run.parent)  # next to it, wherever it was moved
    before = portable(read_config(run, project), project)
    if cfg.run.precision == "auto" and (verb != "fork" or cfg.fork_state):
        cfg.run.precision = before["run"]["precision"]  # a run keeps what `auto` meant
    after = portable(cfg, project)
    check_specs(after)
    for key, value in leaves(after):
        if isinstance(value, str) and (value.endswith(HIDDEN) or f":{HIDDEN}@" in value):
            raise UserError(f"{key}: {run.name} did not keep it, because it is a secret\ngive it again")
    changes = changed_keys(hide_secrets(before), hide_secrets(after))
    if changes:
        refuse(verb, run, changes, cfg, project)
    if verb == "rerun":
        _check_code(run, project)
    if verb == "resume":
        folder.acquire(run, note=False)  # the run may be finished, and then nothing of it changes


def _check_code(run: Path, project: Project) -> None:
    """UserError if the package is not what it was when the run began, with the way to get it back."""
    known = read_record(run)
    if "code" not in known:
        raise UserError(f"rerun={run.name}: it does not say which code it ran, because it ended before its first step")
    if known["code"] != code_hash(project.sources):
        raise UserError(
            f"rerun={run.name}: refused, the code in {project.sources} has changed since\n{_way_back(run, known)}"
        )


def _warn_of_code(run: Path, project: Project) -> None:
    """Say where a run goes on with other code than it ran last."""
    known = read_record(run)
    last = {"step": 0, **known}
    for again in known.get("resumed", ()):
        last = again
    if last.get("code", "") not in ("", code_hash(project.sources)):
        logger.warning(
            f"the code in {project.sources} has changed since {run.name} ran: it goes on with that of now"
            f"\n{_way_back(run, last)}"
        )


def _way_back(run: Path, known: dict[str, Any]) -> str:
    """How to get the code back of a start or resume, as provenance.json has it."""
    patch = run / "changes.patch"
    if known.get("step"):  # of a resume
        patch = run / f"changes_{known['step']}.patch"
    way = "check out the code it ran"
    if known.get("commit"):
        way = f"git worktree add ../again {known['commit']}"
    return f"get it back with: {way}; git -C ../again apply {patch}"


def read_record(run: Path) -> dict[str, Any]:
    """provenance.json of a run; empty where there is none."""
    file = run / "provenance.json"
    if not file.exists():
        return {}
    return read_json(file)


# --- when everything is built: where the run begins


def resume(exp: Any, create: Any) -> Path:
    """Give an experiment the state of the newest checkpoint of the run that it carries on; returns the run's folder.

    Raises:
        UserError: the checkpoint and the experiment do not fit.
        Ended: with code 0 and nothing changed, if there is nothing left to do.
    """
    run = Path(exp.cfg.resume)
    files = CheckpointFiles(run)
    newest = files.newest()
    if newest is None:  # killed before its first save
        events = run / "facts" / "events.jsonl"
        if events.is_file() and b'"on_save"' in read_bytes(events, MAX_FACTS):
            raise UserError(f"{run} has saved checkpoints, and none is there\nstart it again with rerun={run.name}")
        changes = changed_keys(_config_of(exp, run), exp.config)
        _start_like(exp, run)
    else:
        file, content = newest
        changes = _changes(exp, run, content)
        step, status = content["state"]["step"], folder.read_status(run)
        if exp.num_steps < step:
            raise UserError(f"run.budget: {exp.num_steps} steps are fewer than the {step} that {run.name} has done")
        if status["status"] == "finished":
            what, keys = "a larger run.budget", {"run.budget"}
            if status.get("step", 0) < status.get("num_steps", 0):
                what, keys = "more run.patience, or another run.monitor,", PATIENCE
                if content["state"]["target_reached"]:
                    what, keys = "a lower run.target_loss", {"run.target_loss"}
            if exp.num_steps == step or not keys & changes.keys():
                logger.info(f"{run} is finished at step {step}; {what} would carry it on")
                raise Ended(0)
        # with what an earlier resume= changed, too, if it was killed before it saved: config.yaml says it already
        load_state(exp, content, run.name, changes)
        _replace(files.latest, file)  # the look at this step is repeated, and may make it the best
        if exp.state.best_step is not None:
            _replace(files.best, _best_of(exp, files))
    if changes:
        announce(exp, changes)
    _warn_of_code(run, exp.project)
    logger.info(f"resuming {run} at step {exp.state.step} of {exp.num_steps}")
    if changes:
        words = [*_words_of(run), *own_words()]
        folder.write_text(run / "overrides.yaml", yaml.safe_dump(words, allow_unicode=True))
        folder.write_text(run / "config.yaml", yaml.safe_dump(exp.config, sort_keys=False, allow_unicode=True))
    return run


def _replace(path: Path, file: Path | None) -> None:
    """Make a checkpoint the same as the whole one that was found in its place; what it was is kept aside."""
    if file == path:
        return
    if path.exists():
        set_aside(path)
    if file is not None:
        checkpoint.link_checkpoint(file, path)


def _changes(exp: Any, run: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Settings in which an experiment differs from what a run's config.yaml says, and from what its weights know.

    They are not the same where a run was resumed with a change, and killed before it saved again.
    """
    changes = changed_keys(_config_of(exp, run), exp.config)
    if content.get("config"):
        configs = (exp.project.upgrade(content["config"]), exp.config)
        known, now = (lasting(config, exp.project) for config in configs)
        for section in ("run", "loader"):  # settings that the run did not know yet, or that are no more
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
        if len(saved) > 2 and saved[2] != now[2]:  # older checkpoints do not hold it
            text = f"data: the {name} split is not the one of {run}: its items have other values now"
            if content["numerics"] == numerics(exp.device):
                raise UserError(
                    f"{text}\ngive back the data that it was trained on, or start a new run with fork={run}"
                )
            logger.warning(f"{text}, or another machine computes other last bits")
    for schedule in content["schedulers"].values():
        if schedule.get("total_steps", exp.schedule_steps) != exp.schedule_steps:
            raise UserError(
                f"run.schedule_budget: refused, the schedule of {run} was made for {schedule['total_steps']} steps"
                f"\nkeep run.schedule_budget={schedule['total_steps']}: it cannot be stretched"
            )
    if content["format"] == 1:
        logger.warning(
            f"{run} was made by an older version, whose dropout and noise came from generators that were saved: "
            "it goes on, but not with the numbers that it would have drawn"
        )
    built = {name: [dict(group) for group in part.param_groups] for name, part in exp.optimizers.items()}
    exp.load_state_dict(content)
    for key, (_, value) in changes.items():
        if key.startswith("optimizer."):
            _set_optimizers(exp.optimizers, built, key, value)
    if {"run.monitor", "run.monitor_mode"} & changes.keys():  # values of another kind cannot be compared
        exp.state.best = exp.state.best_step = None
        exp.state.evaluations_since_best = 0
    if "run.target_loss" in changes:
        exp.state.target_reached = False


def _set_optimizers(optimizers: dict[str, Any], built: dict[str, list[dict[str, Any]]], key: str, value: Any) -> None:
    """Give restored optimizers a changed setting, except for groups that set it themselves.

    Args:
        optimizers: by network; those that are not named in `key` keep what they have.
        built: their groups as the config makes them.
        key: "optimizer.lr", or "optimizer.<network>.lr".
        value: what the config says now.

    Raises:
        UserError: an optimizer has no such setting.
    """
    network, _, name = key.removeprefix("optimizer.").rpartition(".")
    chosen = [network] if network in optimizers else list(optimizers)
    for which in chosen:
        for group, made in zip(optimizers[which].param_groups, built[which], strict=True):
            if name not in group or network not in ("", *optimizers):
                raise UserError(f"{key}: refused, an optimizer at work cannot take it over")
            if made[name] == value or (isinstance(value, list) and list(made[name]) == value):
                group[name] = made[name]


def fork(exp: Any, create: Any) -> Path:
    """Start from a run's best weights or, with fork_state=true, from the whole of its newest state.

    With fork_weights=partial, weights that do not fit are left out, and the log lists them.

    Args:
        exp: built from the config that `check` accepted.
        create: `create(exp, parent, words, links)` makes the new run's folder, which is returned.
    """
    run = Path(exp.cfg.fork)
    files, kept = CheckpointFiles(run), "weights"
    config = _config_of(exp, run)
    changes = changed_keys(config, exp.config)
    if exp.cfg.fork_state:
        kept = "state"
        newest = files.newest()
        if newest is None:
            raise UserError(f"fork={run.name}: it has no checkpoint yet\nfork_state=true needs one")
        file, content = newest
        load_state(exp, content, run.name, _changes(exp, run, content))
        if exp.num_steps <= exp.state.step:
            raise UserError(
                f"run.budget: {exp.num_steps} steps, and {run.name} has done {exp.state.step}\ngive a larger run.budget"
            )
        exp.state.target_reached = False
    else:
        if exp.cfg.fork_weights == "partial":
            kept = "partial"
        _check_validation(exp, config, run.name)
        file, content = files.best_or_newest(None)
        _load_weights(exp, content, run.name, is_partial=kept == "partial")
    if changes:
        announce(exp, changes)
    parent = {"verb": "fork", "run": str(run), "checkpoint": file.name, "step": content["state"]["step"], "kept": kept}
    links = {"parent": file}
    if exp.cfg.fork_state:
        links["latest"] = file
        best = _best_of(exp, files)
        if best is not None:
            links |= {"best": best, "parent_best": best}
    path: Path = create(exp, parent, [], links)
    return path


def _best_of(exp: Any, files: CheckpointFiles) -> Path | None:
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


def _check_validation(exp: Any, config: dict[str, Any], run: str) -> None:
    """UserError: a fork would be validated on items that its weights were trained on, and look better than it is."""
    num_seen = exp.num_seen(config)
    if num_seen:
        kept = " ".join(f"++data.{name}={config['data'].get(name) or 0}" for name in ("split_seed", "val_from_train"))
        raise UserError(
            f"data: {run} was trained on {num_seen} of the {len(exp.datasets['val'])} validation items"
            f"\nkeep its split: {kept}"
        )


def _load_weights(exp: Any, content: dict[str, Any], run: str, is_partial: bool) -> None:
    """Take over weights; warn if they were trained on other data: with another vocabulary they know nothing."""
    exp.load_weights(content, is_partial)
    for name, part in exp.objects().items():
        if name.startswith("datasets.") and name in content["objects"]:
            try:
                part.load_state_dict(content["objects"][name])
            except UserError as error:
                logger.warning(f"{error}; the weights of {run} were trained on that one")


def rerun(exp: Any, create: Any) -> Path:
    """Start where another run started. Arguments are those of `fork`."""
    run = Path(exp.cfg.rerun)
    announce(exp, changed_keys(_config_of(exp, run), exp.config))
    parent = {"verb": "rerun", "run": str(run), "kept": (read_record(run).get("parent") or {}).get("kept")}
    links = _start_like(exp, run)
    path: Path = create(exp, parent, _words_of(run), links)
    return path


def _start_like(exp: Any, run: Path) -> dict[str, Path]:
    """Start where a run started: from nothing, or as a fork from the checkpoint that it keeps as parent.pt.

    Returns:
        The checkpoints that another such run keeps, by name.
    """
    files, parent = CheckpointFiles(run), read_record(run).get("parent") or {}
    kept = parent.get("kept")
    if not files.parent.exists():
        if kept is not None:
            raise UserError(
                f"{files.parent} is gone, from which {run.name} started\nstart it anew: fork={parent.get('run')}"
            )
        return {}
    content = checkpoint.load(files.parent)
    links = {"parent": files.parent}
    if kept == "state":
        load_state(exp, content, run.name, _changes(exp, run, content))
        exp.state.target_reached = False
        links["latest"] = files.parent
        if files.parent_best.exists():
            links |= {"best": files.parent_best, "parent_best": files.parent_best}
    else:
        _load_weights(exp, content, run.name, is_partial=kept == "partial")
    return links


def _config_of(exp: Any, run: Path) -> Any:
    """The config of a run as config.yaml would hold it today."""
    return hide_secrets(portable(read_config(run, exp.project), exp.project))


def _words_of(run: Path) -> list[str]:
    """The overrides that made a run; none for a rehearsal."""
    file = run / "overrides.yaml"
    if not file.exists():
        return []
    words = read_yaml(file)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{file} is damaged: it is not a list of settings")
    return words


WAYS = {"resume": resume, "fork": fork, "rerun": rerun}
