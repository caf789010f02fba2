"""Checkpoints: the state after a step, before anything looked at it; whole or absent; tensors and plain values only.

A crash at any moment leaves either the old file or the new one. The zip container says whether a file is whole: it
holds a CRC-32 of every record.
"""

import re
import warnings
import zipfile
from collections import Counter, OrderedDict
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from ..errors import DamagedError, RunError, UserError
from ..folder.folder import link, replacing, storage_error
from ..tree import tensors, walk
from .progress import RunState

FORMAT = 3
# 1: written after the looks at a step, with the states of generators; 1 and 2: the raw weights under "model"
READABLE = (1, 2, 3)
PLAIN = (type(None), bool, int, float, complex, str, bytes, set, torch.Size, torch.dtype, torch.device)
CONTAINERS = (list, tuple, dict, OrderedDict, Counter)  # a Counter: MultiStepLR's


class Parts(dict[str, Any]):
    """What a checkpoint holds; UserError where it lacks a part."""

    def __missing__(self, part: str) -> Any:
        raise UserError(f"the checkpoint has no {part!r}; it has {', '.join(map(str, self)):.200}")


# --- writing


def save(path: Path, content: dict[str, Any]) -> None:
    """Replace the checkpoint `path` by `content`.

    Raises:
        RunError: a value could be saved, but not loaded again.
        StorageError: the disk is full or the folder cannot be written; the checkpoint before is untouched.
    """
    check_plain(content)
    try:
        with replacing(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise storage_error(path, error, sum(value.nbytes for _, value in tensors(content))) from error


def link_checkpoint(path: Path, other: Path) -> None:
    """Make `other` the same checkpoint as `path` without writing it again; StorageError as `save`."""
    try:
        link(path, other)
    except OSError as error:
        raise storage_error(other, error) from error


def check_plain(content: Any) -> None:
    """RunError with the name of the first value that could be saved but, with weights_only=True, not loaded again."""
    for name, node in walk(content):
        if type(node) not in (*PLAIN, *CONTAINERS) and not isinstance(node, Tensor):  # a numpy scalar is a float, too
            raise _not_plain(name, node)
        if isinstance(node, dict):
            for key in node:
                if type(key) not in PLAIN:
                    raise _not_plain(f"a key of {name}", key)


def _not_plain(name: str, value: Any) -> RunError:
    return RunError(
        f"{name} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors, numbers, "
        "strings, lists and dicts of them"
        "\nconvert it in state_dict (float(), torch.from_numpy(), str()), and back in load_state_dict"
    )


# --- reading


def check_whole(path: Path) -> None:
    """Read a checkpoint file and compare the CRC-32 of every record; DamagedError: it is missing or damaged."""
    if not path.is_file():
        raise DamagedError(f"{path}: no such checkpoint\ncheckpoints there: {others(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:  # ours are not compressed
                raise zipfile.BadZipFile("it would unpack to more than its size")
            if any(entry.external_attr & 0x10 for entry in archive.infolist()):  # torch would take it for a folder, and
                raise zipfile.BadZipFile("a record is marked as a folder")  # leave its tensor as the memory was
            bad = archive.testzip()
            if bad is not None:
                raise zipfile.BadZipFile(f"the checksum of {bad!r:.60} does not fit")
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}\ngive yourself the right to read it") from error
    except (zipfile.BadZipFile, EOFError, OSError) as error:  # a bad sector cannot be read: OSError
        why = getattr(error, "strerror", None) or str(error)
        raise DamagedError(
            f"{path} ({path.stat().st_size} bytes) is damaged, or not a checkpoint: {why:.100}"
            f"\nother checkpoints there: {others(path)}"
        ) from error
    except Exception as error:
        raise _not_loaded(path, error) from error


def load(path: Path) -> Parts:
    """The content of a checkpoint, on the CPU; UserError if it is missing, damaged or holds more than plain values."""
    check_whole(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # on formats that are not ours: refused in words of our own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _not_loaded(path, error) from error
    try:
        version = int(content.get("format", 0))
        _check_names(content)
        state = dict(content.get("state", {}))
        if version == 1:
            state = _state_of_format_1(state)
        content["state"] = vars(RunState(**state))
        _check_state(content["state"])
        if version < 3 and content.get("ema"):
            averaged = content["ema"]["model"]
            content["ema"] = {"raw": content["model"], "count": content["ema"]["count"]}
            content["model"] = averaged
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{path} is not a checkpoint of this template: {error!s:.200}") from error
    if version not in READABLE:
        raise UserError(f"{path} is a checkpoint of format {version}; this code reads {READABLE[0]} to {READABLE[-1]}")
    return Parts(content)


def _check_state(state: dict[str, Any]) -> None:
    """ValueError: what a checkpoint says of where its run stands is of another kind than `RunState` has."""
    for name, value in state.items():
        is_fit = isinstance(value, int) and value >= 0
        if name == "looks":
            is_fit = isinstance(value, list) and all(isinstance(look, str) for look in value)
        elif name == "best":
            is_fit = isinstance(value, int | float | None)
        elif name == "best_step" and value is None:
            is_fit = True
        if not is_fit:
            raise ValueError(f"state.{name} is {value!r:.50}")


def _check_names(content: dict[str, Any]) -> None:
    """ValueError: a name in a checkpoint, which a message may show, would break a line or speak to the terminal."""
    shown = {part: value for part, value in content.items() if part not in ("objects", "config")}
    for name, node in walk(shown | {"parts": list(content), "objects": list(content.get("objects") or ())}):
        names = list(node) if isinstance(node, dict) else [node]
        if not all(key.isprintable() for key in names if isinstance(key, str)):
            raise ValueError(f"a name at {name!r:.50} holds characters that cannot be printed")


def _not_loaded(path: Path, error: Exception) -> UserError:
    foreign, text = re.search(r"GLOBAL ([\w.]+)", str(error)), str(error).partition("\n")[0][:200]
    if "eights" in text or not text:  # torch's own words recommend to run what is in the file
        text = type(error).__name__
        if foreign:
            text = foreign[1]
    return UserError(
        f"{path}: refused, only tensors and plain values are loaded: {text}"
        "\nwhere it was written, convert numbers with float(), arrays with torch.as_tensor(), the rest with str()"
    )


def _state_of_format_1(state: dict[str, Any]) -> dict[str, Any]:
    known = {name.name for name in fields(RunState)}
    return {name: value for name, value in state.items() if name in known} | {"position": state.get("batch", 0)}


def others(path: Path) -> str:
    """The other checkpoints in a file's folder, as "best (step 7), latest (step 9)"; without a step: not readable."""
    found = {file.stem: step_in(file) for file in sorted(path.parent.glob("*.pt"))[:20] if file != path}
    return ", ".join(name if step is None else f"{name} (step {step})" for name, step in found.items()) or "none"


def step_in(path: Path) -> int | None:
    """The step that a checkpoint is of, without reading its tensors; None where it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"):
            # on the CPU: the device that wrote it may not be here, and nothing is to be copied there
            return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["state"]["step"])
    except Exception:  # damaged in whichever way; `load` says how
        return None


# --- restoring: exactly what was saved


def load_model(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load weights that must fit exactly; UserError with the first names that do not and how many there are."""
    here = model.state_dict()
    try:
        model.load_state_dict({name: placed(value, here.get(name)) for name, value in weights.items()})
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(_misfits(here, weights) or str(error)) from error


def load_fitting(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Load the weights that fit by name and shape, and log what fits and what does not; UserError if nothing fits."""
    here = model.state_dict()
    fits = [name for name, value in here.items() if _shape(value) == _shape(weights.get(name)) != "none"]
    parts = {
        "new here": [name for name in here if name not in weights],
        "left out": [name for name in weights if name not in here],
        "of another shape": [
            f"{name} (saved {_shape(weights[name])}, here {_shape(value)})"
            for name, value in here.items()
            if name in weights and name not in fits
        ],
    }
    listed = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
    if not fits:
        raise UserError(f"none of the {len(weights)} weights fits {type(model).__name__}\n{'; '.join(listed):.2000}")
    model.load_state_dict({name: placed(weights[name], here[name]) for name in fits}, strict=False)
    logger.info("; ".join([f"{len(fits)} of {len(here)} weights taken over: {', '.join(fits)}", *listed]))


def _shape(value: Any) -> str:
    """The shape of a weight, in words; "none" of what is not one."""
    return str(list(value.shape)) if isinstance(value, Tensor) else "none"


def placed(value: Any, like: Any) -> Any:
    """A whole tensor as a parameter of its shape is: sharded over processes where that is."""
    if not hasattr(like, "placements") or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor  # only where something is sharded

    whole = value.to(like.device)
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load an optimizer's state in the types that it had (torch casts it to those of the parameters), laid out in
    memory as the parameters are: fused kernels want that. It goes on as it was, fused or not, but where parameters are
    sharded, for which some optimizers cannot be fused.
    """
    here, groups = optimizer.param_groups, saved["param_groups"]
    parameters = [parameter for group in here for parameter in group["params"]]
    is_sharded = any(hasattr(parameter, "full_tensor") for parameter in parameters)
    if is_sharded and len(groups) == len(here) and "fused" in here[0]:  # torch says it where groups do not fit
        groups = [group | {"fused": own["fused"]} for group, own in zip(groups, here, strict=True)]
    states = {
        index: {name: placed(value, parameters[index]) for name, value in state.items()}
        for index, state in saved["state"].items()
    }
    optimizer.load_state_dict(saved | {"state": states, "param_groups": groups})
    for index, state in states.items():
        own = optimizer.state[parameters[index]]
        for name, value in state.items():
            if isinstance(value, Tensor) and own[name].dtype != value.dtype:
                own[name] = value.to(own[name].device)
            if isinstance(value, Tensor) and not _is_laid_out_alike(own[name], parameters[index]):
                own[name] = torch.empty_like(parameters[index], dtype=own[name].dtype).copy_(own[name])
    if hasattr(optimizer, "_step_supports_amp_scaling"):  # a fused step does the work of the gradient scaler
        optimizer._step_supports_amp_scaling = all(group.get("fused") for group in optimizer.param_groups)


def _is_laid_out_alike(value: Tensor, parameter: Tensor) -> bool:
    """Whether a state is in memory as its parameter is; a state of another shape has a layout for itself."""
    if value.shape != parameter.shape or value.layout != torch.strided or parameter.layout != torch.strided:
        return True
    return value.stride() == parameter.stride()


def _misfits(here: dict[str, Any], saved: Any) -> str:
    """How many weights of a checkpoint do not fit those of a model, the first by name and shape; "" where all do."""
    if not isinstance(saved, dict):
        saved = {}
    shapes, others = ({n: list(getattr(value, "shape", ())) for n, value in part.items()} for part in (here, saved))
    odd = [name for name in [*shapes, *(set(others) - set(shapes))] if shapes.get(name) != others.get(name)]
    if not odd:
        return ""
    first = ", ".join(f"{n} (saved {others.get(n, 'not')}, here {shapes.get(n, 'not')})" for n in odd[:5])
    return f"{len(odd)} names of weights do not fit the model: {first}"
