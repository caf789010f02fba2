"""The proof that a run resumes bit by bit, from before and after the end of an epoch, and in another process."""

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from loguru import logger
from omegaconf import open_dict
from torch import Tensor

from ..config.compose import portable
from ..errors import RunError
from ..find import of_machine
from ..folder.facts import Facts
from ..output import silence
from ..resume.restore import ORDERS, resumed_with
from ..session.console import command, program
from ..state import checkpoint
from ..state.files import CheckpointFiles
from ..tree import leaves
from .estimate import config_dirs, estimate, prod_words

Main = Callable[[Any], Any]


def rehearse(exp: Any, main: Main) -> list[str]:
    """Prove that a run which has just reached its last step resumes bit by bit, and look ahead to the real thing.

    It is carried on from a checkpoint of its second epoch by another process, which starts while this one carries it on
    from one before the end of its first epoch. Where several processes train together, they do both.

    Returns:
        The last lines of the run: what was compared, what prod mode would take, and its command.

    Raises:
        RunError: names the first state that differs.
    """
    processes = exp.processes
    proof = "none: no earlier checkpoint that was made with these settings is left"
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        folder = processes.first(tempfile.mkdtemp, "", ".rehearsal_", exp.path)
        if processes.rank == 0:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
        steps: dict[Path, int] = processes.first(_copies, exp, Path(folder))  # none: it was resumed after them
        others = copies = list(steps)
        if copies and program() and processes.count == 1:
            process, others = stack.enter_context(_process(exp, copies[0])), copies[1:]
            if exp.device.type != "cpu":  # two processes may not fit its memory
                _wait(exp, process, copies[0])
        for path in others:
            logger.info(f"rehearsing the resume from step {steps[path]}")
            with silence():
                main(_config(exp, path))
            proof = f"{processes.first(compare, exp.path, path, steps[path])} tensors identical"
        if others != copies:
            logger.info(f"rehearsing the resume from step {steps[copies[0]]} in another process")
            _wait(exp, process, copies[0])
            proof = f"{compare(exp.path, copies[0], steps[copies[0]], 'in another process, ')} tensors identical"
        # the words of a resume or rerun say little, and a notebook has none; last, as nothing else may run
        if program() and not (exp.cfg.resume or exp.cfg.rerun) and processes.count == 1:
            words = [word for folder in config_dirs() for word in ("--config-dir", folder)]
            if exp.cfg.fork:
                words += [f"fork={exp.cfg.fork}", *exp.run.trust_words]
            words += prod_words()
            lines.append(f"in prod mode: {estimate(exp, main, [exp.path, *others])}")
            lines.append(f"next:     {command()} {shlex.join(words)}")
    return [f"resume rehearsal: {proof}", *lines]


def _copies(exp: Any, folder: Path) -> dict[Path, int]:
    """Runs like the one at hand that stand at the checkpoints which it kept for that, and the step of each."""
    files = CheckpointFiles(exp.path)
    # with another budget or interval, what came before would have looked at other steps
    changed = max((step for step, _ in resumed_with(exp.path) if isinstance(step, int)), default=0)
    kept = [file for file in (files.later_epoch, files.halfway) if file.exists()]
    kept = [file for file in kept if checkpoint.load(file)["state"]["step"] >= changed]
    return dict(_copy(exp, file, folder) for file in kept)


def _copy(exp: Any, file: Path, folder: Path) -> tuple[Path, int]:
    """A run like the one at hand, which stands at a checkpoint of it, and the step of that."""
    again = folder / file.stem
    (again / "checkpoints").mkdir(parents=True)
    (again / "config.yaml").write_text(yaml.safe_dump(portable(_config(exp, again), exp.project), sort_keys=False))
    (again / "provenance.json").write_text("{}")
    shutil.copytree(exp.path / "facts", again / "facts")
    files, content = CheckpointFiles(again), checkpoint.load(file)
    checkpoint.link_checkpoint(file, files.latest)
    state = content["state"]
    if state["best_step"] is not None:  # of its best the step is known, and any weights will do: tests are not compared
        checkpoint.save(files.best, content | {"state": state | {"step": state["best_step"]}})
    return again, state["step"]


def _config(exp: Any, again: Path) -> Any:
    """The config that carries a copy of the run on."""
    cfg = exp.cfg.copy()
    with open_dict(cfg):
        cfg.resume, cfg.fork, cfg.rerun = str(again), None, None
        cfg.tracker, cfg.plots, cfg.run.rehearse_resume = {}, {}, False
        cfg.run.provenance = "allow"  # that has been settled
        cfg.loader.num_workers = 0  # nothing may depend on it, and workers take seconds to start
    return cfg


@contextlib.contextmanager
def _process(exp: Any, again: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """The same program, carrying a copy of the run on in a process with another order of hashes."""
    words = [f"resume={again.name}", f"paths.output_root={again.parent}", *exp.run.trust_words]
    here = {name: exp.cfg.paths[name] for name in of_machine(exp.project.schema)}  # which a run does not keep
    words += [f"paths.{name}={path}" for name, path in here.items() if path is not None]
    environment = {"PYTHONHASHSEED": str(os.getpid()), **os.environ}
    environment.pop("HYDRA_FULL_ERROR", None)  # launch.py sets it; it hides the one-line message
    with open(again / "output.txt", "wb") as output:
        process = subprocess.Popen(
            [*program(), *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait(exp: Any, process: "subprocess.Popen[bytes]", again: Path) -> None:
    """Wait until the other process is done; RunError: it failed."""
    while process.poll() is None:
        exp.run.leave_if_asked()
        time.sleep(0.02)
    exp.run.leave_if_asked()  # a Ctrl-C reaches both
    if process.returncode != 0:
        said = (again / "output.txt").read_text(errors="replace").splitlines()
        why = [line for line in said if line.startswith("error: ")] or said[-1:] or ["it says nothing"]
        raise RunError(
            f"resume rehearsal: another process could not carry the run on (exit code {process.returncode}): {why[0]}"
            f"\n{ORDERS}"
        )


def compare(run: Path, again: Path, step: int, how: str = "") -> int:
    """The number of tensors in the last checkpoints of two runs, which are identical, as are all logged values.

    Args:
        run: that went through.
        again: that was carried on.
        step: at which.
        how: said in the message, too.

    Raises:
        RunError: names the first that differs.
    """
    expected, found = (checkpoint.load(CheckpointFiles(path).latest) for path in (run, again))
    expected.pop("config", None)
    found.pop("config", None)
    for name in expected["objects"].keys() - found["objects"].keys():
        if name.startswith("plots."):  # a rehearsal draws nothing
            del expected["objects"][name]
    difference = first_difference(expected, found)
    rows, others = ([row for row in Facts(path / "facts").values() if row["split"] != "test"] for path in (run, again))
    if difference is None and first_difference(rows, others) is not None:
        difference = "a logged value (facts/scalars.csv)"
    if difference is not None:
        message = (
            f"resume rehearsal: continued from step {step}, {how}{difference} differs from the run that went through"
            "\nsomething keeps state that is not in the checkpoint, or draws random numbers outside of a step"
            f"\nor {ORDERS}"
        )
        if torch.cuda.is_initialized():
            message += "; on a GPU it may also be a kernel that sums in no fixed order (the manual, What is exact)"
        raise RunError(message)
    return sum(isinstance(value, Tensor) for _, value in leaves(expected))


def first_difference(left: Any, right: Any) -> str | None:
    """The name of the first value in which two nested states differ, bit for bit; None where they are equal."""
    ours, theirs = dict(leaves(left)), dict(leaves(right))
    for name in [*ours, *theirs]:
        if name not in ours or name not in theirs or _bits(ours[name]) != _bits(theirs[name]):
            return name
    return None


def _bits(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return repr(value)  # NaN equals itself here
    flat = value.detach().cpu().to_dense().contiguous().flatten()
    return value.layout, value.dtype, value.shape, flat.view(torch.uint8).numpy().tobytes()
