"""An error of the owner's code in words: where it is, what the config calls it, with which items, and how to go on."""

import functools
import shlex
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from ..clock import TRAINING
from ..errors import ONE_LINE, CodeError, is_of_library
from ..provenance.policy import NOTHING_KEPT
from ..state.files import CheckpointFiles

CORE = str(Path(__file__).resolve().parents[1])
MAX_ITEMS, MAX_LENGTH = 16, 300  # that are named; of a line
WORDS = {
    "data": "reading the batch of step {next}",
    "forward": "the forward pass of step {next}",
    "backward": "the backward pass of step {next}",
    "step": "step {next}",
    "evaluate": "an evaluation after step {step}",
    "rollout": "the rollout after step {step}",
    "plot": "the figures of step {step}",
    "save": "saving step {step}",
}


def explain(exp: Any, error: BaseException) -> BaseException:
    """What to show of an error that ends a run; the error itself, where it is not one of the owner's code."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [entry for entry in traceback.extract_tb(error.__traceback__) if not is_of_library(entry.filename)]
    if not own or own[-1].filename.startswith(CORE):
        return error
    at = own[-1]
    said = str(error).strip().partition("\n")[0].translate(ONE_LINE)
    lines = [f"{type(error).__name__}: {said:.{MAX_LENGTH}}".rstrip(": ")]
    lines.append(f"at {at.filename}:{at.lineno} in {at.name}: {at.line}")
    where = WORDS.get(exp.clock.phase, "step {step}").format(step=exp.state.step, next=exp.state.step + 1)
    part = named_part(exp, frames)
    lines.append(f"in {f'{part}, in ' * bool(part)}{where}{items_of(exp)}")
    return CodeError("\n".join([*lines, *ways_on(exp)]))


def ways_on(exp: Any) -> list[str]:
    """The last good checkpoint, and what to do now."""
    if not exp.run.is_kept:
        return [NOTHING_KEPT]
    latest = CheckpointFiles(exp.path).latest
    good, effect = f"last good checkpoint: {latest}", "goes on from it"
    if not latest.exists():
        good, effect = "the run has not saved a checkpoint yet", "restarts it"
    lines = [f"{good}; after a change of the code, the resume command above {effect}"]
    if exp.clock.phase in ("forward", "backward", "step"):
        trust = "".join(f" --trust {shlex.quote(name)}" for name in exp.run.trust)
        command = f"python scripts/replay.py {shlex.quote(str(exp.path))}{trust} --debug"
        lines.append(f"{command} takes this step again and stops where it fails")
    lines.append(f"the traceback is in {exp.path / 'log.txt'}")
    return lines


def named_part(exp: Any, frames: list[FrameType]) -> str:
    """The key in the config, and the class, of the innermost object that was at work; "": of none."""
    parts = list(parts_of(exp))
    for frame in reversed(frames):
        here = frame.f_locals.get("self")
        for key, part in parts:
            if here is not None and here is part:
                return f"{key} ({_name(part)})"
            function = part.func if isinstance(part, functools.partial) else part
            if getattr(function, "__code__", None) is frame.f_code:
                return f"{key} ({_name(function)})"
        if isinstance(here, nn.Module):
            for key, part in parts:
                names = [name for name, module in getattr(part, "named_modules", list)() if module is here]
                if names:
                    return f"{key} ({_name(part)}), its {names[0]} ({_name(here)})"
    return ""


def parts_of(exp: Any) -> Iterator[tuple[str, Any]]:
    """The objects that the config names, by key, as far as they have been built."""
    built = vars(exp)
    yield "model", exp.model
    for name, loss in exp.losses.items():
        yield f"loss.{name}".rstrip("."), loss
    for group in ("metrics", "plots"):
        for name, part in built.get(group, {}).items():
            yield f"{group}.{name}", part
    if built.get("rollout") is not None:
        yield "rollout", built["rollout"]
    for name, optimizer in built.get("optimizers", {}).items():
        yield f"optimizer.{name}".rstrip("."), optimizer
    for name, schedule in built.get("schedulers", {}).items():
        yield f"scheduler.{name}".rstrip("."), schedule.scheduler
    for split in built.get("datasets", {}).values():
        yield "data.dataset", split.dataset
    for loader in built.get("loaders", {}).values():
        if hasattr(loader, "stream"):
            yield "data.stream", loader.stream


def _name(part: Any) -> str:
    kind = part if hasattr(part, "__qualname__") else type(part)
    return f"{kind.__module__}.{kind.__qualname__}"


def items_of(exp: Any) -> str:
    """The items that were at work, as positions in their split."""
    name = "train"
    if exp.clock.phase not in TRAINING:
        looking = [name for name, loader in exp.loaders.items() if name != "train" and loader.reading]
        if not looking:
            return ""
        name = looking[0]
    loader = exp.loaders[name]
    if not hasattr(loader, "indices_of"):  # of a stream nobody knows them
        return ""
    if exp.clock.phase in ("forward", "backward", "step"):
        positions = range(exp.state.position, min(exp.state.position + exp.settings.accumulate, len(loader)))
        epoch = exp.state.epoch
    elif loader.reading:
        epoch, position = loader.reading
        positions = range(position, position + 1)
    else:
        return ""
    items = [item for _, indices in loader.indices_of(epoch, positions) for item in indices.tolist()]
    more = f" and {len(items) - MAX_ITEMS} more" if len(items) > MAX_ITEMS else ""
    return f", with items {', '.join(map(str, items[:MAX_ITEMS]))}{more} of the {loader.name} split"
