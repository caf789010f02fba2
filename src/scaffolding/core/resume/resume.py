"""Three ways on from a run: `resume=` carries it on, `fork=` starts another from it, `rerun=` repeats it to compare."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from loguru import logger

from ..config.compose import Project, own_words, portable
from ..config.usage import change_of
from ..edits.replace import is_moved, pairs_of
from ..errors import ONE_LINE, Ended, UserError
from ..folder import folder
from ..folder.facts import Facts
from ..folder.reading import MAX_FACTS, read_bytes
from ..preflight.blocks import check_specs
from ..provenance.git import GitError
from ..provenance.patch import MAX_PATCH
from ..provenance.provenance import NUM_SAID, code_hash, read_record
from ..provenance.since import changed_since
from ..secrets import hide_secrets, is_hidden
from ..session.new import clear
from ..state import checkpoint
from ..state.checkpoint import step_in
from ..state.files import CheckpointFiles, set_aside
from ..tree import changed_keys, leaves
from ..trust.config import read_config
from .lineage import fork, rerun, start_like
from .restore import CHANGES, best_of, changes_since, check_data, config_of, load_state, words_of
from .rules import announce, refuse

HEX = re.compile(r"[0-9a-f]{7,64}")  # of a commit
PATIENCE = {"run.patience", "run.monitor", "run.monitor_mode"}


# --- what may be changed


def check(cfg: Any, verb: str, run: Path, given: dict[str, str], project: Project) -> None:
    """Note in the config which run it goes on from, and refuse what the command line may not change of it.

    Raises:
        UserError: a key may not be changed, or the code is not that of the run to be done again.
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
        if is_hidden(value):
            raise UserError(f"{key}: {run.name} did not keep it, because it is a secret\ngive it again")
    changes = changed_keys(hide_secrets(before), hide_secrets(after))
    pairs = list(pairs_of(own_words()))
    changes = {key: values for key, values in changes.items() if not is_moved(*values, pairs)}  # the same, elsewhere
    if changes:
        refuse(verb, run, changes, cfg, project)
    if verb == "rerun":
        _check_code(run, project)


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
            f"\n{_what_differs(run, last, project)}\n{_way_back(run, last)}"
        )


def _kept_code(run: Path, known: dict[str, Any]) -> tuple[Path, Path]:
    """The patch and, where git did not know it, the archive with the code of a start or resume."""
    suffix = ""
    if known.get("step"):  # of a resume
        suffix = f"_{known['step']}"
    return run / f"changes{suffix}.patch", run / f"sources{suffix}.tar.gz"


def _what_differs(run: Path, known: dict[str, Any], project: Project) -> str:
    """The files of code that differ from those of a start or resume, if git knows them; else the hashes."""
    patch, packed = _kept_code(run, known)
    try:
        if packed.exists() or not patch.is_file() or HEX.fullmatch(str(known.get("commit"))) is None:
            raise GitError("git did not know that code")
        content = read_bytes(patch, MAX_PATCH)
        names = changed_since(project.root, project.sources, known["commit"], content)
    except (GitError, UserError):  # the commit may have been dropped, the patch be damaged
        names = []
    if not names:
        return f"its hash is {code_hash(project.sources)}, was {known['code']!s:.100}"
    more = f" and {len(names) - NUM_SAID} more" if len(names) > NUM_SAID else ""
    return f"files that differ: {', '.join(name.translate(ONE_LINE) for name in names[:NUM_SAID])}{more}"


def _way_back(run: Path, known: dict[str, Any]) -> str:
    """How to get the code back of a start or resume, as provenance.json has it; commands that are fit to be pasted."""
    patch, packed = _kept_code(run, known)
    if packed.exists():  # git did not know it
        return f"get it back from: {packed}"
    has_changes = patch.is_file() and patch.stat().st_size > 0  # git refuses to apply an empty patch
    commit = str(known.get("commit"))
    if HEX.fullmatch(commit) is None:  # a stranger's
        return f"check out the code it ran{f', and apply {patch}' if has_changes else ''}"
    way = f"get it back with: git worktree add ../again {commit}"
    if has_changes:
        way += f"; git -C ../again apply {shlex.quote(str(patch))}"
    return way


# --- when everything is built: where the run begins


def resume(exp: Any, create: Any) -> Path:
    """Give an experiment the state of the newest checkpoint of the run that it carries on; returns the run's folder.

    Raises:
        UserError: the checkpoint and the experiment do not fit.
        Ended: with code 0, if there is nothing left to do; only what a kill left half-written is removed.
    """
    run = Path(exp.cfg.resume)
    files = CheckpointFiles(run)
    newest = files.newest()
    if newest is None:  # killed before its first save
        events = run / "facts" / "events.jsonl"
        if events.is_file() and b'"on_save"' in read_bytes(events, MAX_FACTS):
            raise UserError(f"{run} has saved checkpoints, and none is there\nstart it again with rerun={run.name}")
        changes = changed_keys(config_of(exp, run), exp.config)
        start_like(exp, run)
    else:
        file, content = newest
        changes = changes_since(exp, run, content)
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
                exp.processes.first(clear, run)  # a kill came after the status, while the page was being written
                logger.info(f"{run} is finished at step {step}; {what} would carry it on")
                raise Ended(0)
        exp.processes.first(check_data, exp, run)  # first: it names the files, if items are refused
        # with what an earlier resume= changed, too, if it was killed before it saved: config.yaml says it already
        load_state(exp, content, run.name, changes)
        is_start = (read_record(run).get("parent") or {}).get("kept") == "state" and step_in(files.parent) == step
        if is_start:  # a fork that was killed before its first save: its parent's target is not its own
            exp.state.target_reached = False
        bests = []
        if exp.state.best_step is not None:
            bests = [best_of(exp, files)]
        exp.processes.first(_repair, exp, files, file, bests)
    if changes:
        announce(exp, changes)
    exp.processes.first(_warn_of_code, run, exp.project)
    logger.info(f"resuming {run} at step {exp.state.step} of {exp.num_steps}")
    exp.processes.first(_note_changes, exp, run, changes)
    return run


def _repair(exp: Any, files: CheckpointFiles, latest: Path, bests: list[Path | None]) -> None:
    """Leave the checkpoints of a run as they were when the newest whole one was written; `bests`: what is best.pt."""
    _replace(files.latest, latest)  # the look at this step is repeated, and may make it the best
    if bests:
        _replace(files.best, bests[0])
    elif exp.monitor is None:  # a kill came between the checkpoint and its link
        files.keep_best()
    if files.best.exists():  # a kill came between best.pt and model.pt
        files.point_to_best()
    files.prune(exp.state.step, exp.settings.num_checkpoints)  # a kill came before the end of older ones


def _note_changes(exp: Any, run: Path, changes: dict[str, Any]) -> None:
    """Write down the settings that a run goes on with, if it is others."""
    if not changes:
        return
    words = [*words_of(run), *own_words()]
    folder.write_text(run / "overrides.yaml", yaml.safe_dump(words, allow_unicode=True))
    folder.write_text(run / "config.yaml", yaml.safe_dump(exp.config, sort_keys=False, allow_unicode=True))
    course = {key: new for key, (_, new) in changes.items() if change_of(exp.project.schema, key) == "course"}
    if course and exp.state.step > 0:
        (run / "facts").mkdir(exist_ok=True)
        Facts(run / "facts").event("on_change", step=exp.state.step, **{CHANGES: hide_secrets(course)})


def _replace(path: Path, file: Path | None) -> None:
    """Make a checkpoint the same as the whole one that was found in its place; what it was is kept aside."""
    if file == path:
        return
    if path.exists():
        set_aside(path)
    if file is not None:
        checkpoint.link_checkpoint(file, path)


WAYS = {"resume": resume, "fork": fork, "rerun": rerun}
