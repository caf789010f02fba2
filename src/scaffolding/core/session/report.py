"""What a run says of itself: after the first step of a session, and in its last lines."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger
from torch import Tensor

from ..errors import ONE_LINE, RunError
from ..folder.facts import Facts
from ..provenance import provenance
from ..state.checkpoint import check_plain
from ..state.files import CheckpointFiles
from ..tree import describe


def describe_start(exp: Any, micro_batches: list[Any], metrics: dict[str, Tensor]) -> None:
    """Record where the numbers come from; of a new run, say what went into its first step and what came out.

    Raises:
        RunError: the experiment's state is of a type that could not be loaded again.
    """
    metrics = exp.processes.mean(metrics)  # first: it notices a process that has failed in this step
    exp.start_workers()
    check_plain(exp.state_dict())
    _ = exp.run.trust  # read now: at the end, the YAML files of this checkout may be others
    for name, before in exp.restored_numerics.items():
        now = provenance.numerics(exp.device, exp.processes.count).get(name)
        if now != before:
            logger.warning(
                f"{name} is {now}, was {str(before).translate(ONE_LINE):.100}: from here on the last bits may differ"
            )
    exp.processes.first(provenance.record, exp.path, exp)
    if exp.state.step > 1:
        return
    losses = ", ".join(_describe_loss(exp, metrics, name) for name in metrics if name.endswith("loss"))
    logger.info(f"{exp!r}; batch: {describe(micro_batches[0].batch)}; initial {losses}")


def _describe_loss(exp: Any, metrics: dict[str, Tensor], name: str) -> str:
    """A loss and, of a cross-entropy, what guessing gives."""
    text = f"{name} {float(metrics[name]):.4f}"
    fact = ""
    if "accuracy" in metrics:
        fact = "num_classes"
    if "bits_per_token" in metrics:
        fact = "vocab_size"
    count = exp.cfg.data.get(fact)
    if count:
        text += f" (ln {count} = {math.log(count):.4f})"
    return text


def report(exp: Any, main: Callable[[Any], Any]) -> None:
    """Add to the last lines of a run, fit to be pasted; where the config asks for it, rehearse the resume with `main`.

    Raises:
        RunError: the rehearsal, or the comparison with the run that is repeated, found a difference; a figure failed.
    """
    run, settings = exp.run, exp.settings
    exp.clock.enter("log")
    trust = ""
    if run.trust:
        trust = f", trust={tuple(run.trust)}"
    if run.is_kept:
        checkpoint = CheckpointFiles(run.path).best_or_latest().stem
        run.closing.append(f'load:     exp = Experiment.from_path("{run.path}", checkpoint="{checkpoint}"{trust})')
    if settings.target_loss is not None:
        outcome = (
            f"did NOT fall below {settings.target_loss} in {exp.state.step} steps: a bug, unless noise keeps it above"
        )
        if exp.state.target_reached:
            outcome = f"fell below {settings.target_loss} at step {exp.state.step}"
        run.closing.append(f"overfit:  the loss {outcome}")
    if settings.rehearse_resume:
        from ..checks.rehearsal import rehearse  # only in rehearsals

        exp.clock.enter("rehearse")
        run.closing += rehearse(exp, main)
    run.closing += exp.processes.first(_compare_with_parent, run.path)
    failed = [figures for figures in exp.processes.gather(exp.failed_figures) if figures]
    if failed:
        raise RunError(f"trained to the end, but figures failed: {failed[0]}")


def _compare_with_parent(path: Path) -> list[str]:
    """Of a `rerun=`, a line on how many logged rows are identical; RunError: the first difference."""
    parent = provenance.read_record(path).get("parent") or {}
    if parent.get("verb") != "rerun":
        return []
    original = Path(parent["run"])
    before, after = _rows_by_step(original), _rows_by_step(path)
    common = [key for key in before if key in after]
    for step, split in common:
        old, new = before[step, split], after[step, split]
        for name in {**old, **new}:
            if repr(old.get(name)) != repr(new.get(name)):
                values = f"{old.get(name)} in {original.name}, {new.get(name)} now"
                raise RunError(f"rerun: first difference at step {step}, {split}/{name}: {values}")
    line = f"rerun:    {len(common)} rows identical to {original.name}"
    if len(common) < len(before):
        line += f"; {len(before) - len(common)} rows of the original have no counterpart"
    return [line]


def _rows_by_step(run: Path) -> dict[Any, dict[str, Any]]:
    return {(row["step"], row["split"]): row for row in Facts(run / "facts").values()}
