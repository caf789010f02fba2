"""What ended a run, as the error to show."""

import traceback
from pathlib import Path
from typing import Any

from ..errors import RunError, UserError, ended_early
from ..provenance.policy import EPHEMERAL, NOTHING_KEPT
from ..state.files import CheckpointFiles

NO_MEMORY = ("can't allocate memory", "CUDA out of memory", "MPS backend out of memory")  # in words of torch


def cause_of(error: BaseException, run: Any) -> BaseException:
    """The error to show where one ends a run."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return ended_early(error)
    if "DataLoader" in str(error):
        from ..batches.workers import worker_fault  # only where samples are read one by one

        return worker_fault(error) or error
    if is_out_of_memory(error):
        return out_of_memory(error, run.path, run.config)
    if isinstance(error, UserError | RunError | OSError):  # they say it themselves
        return error
    explained: BaseException = run.explain(error)
    return explained


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, has no more memory."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)


def out_of_memory(error: BaseException, path: Path, config: dict[str, Any]) -> RunError:
    """What happened, what needs less memory, and how to go on."""
    traceback.clear_frames(error.__traceback__)  # they hold what filled the memory, which the next run of a sweep needs
    run, size = config["run"], config["loader"]["batch_size"]
    said = str(error).partition("\n")[0].partition(". ")
    what = f"{said[0]}{said[1]}{said[2].partition('. ')[0]}".rstrip(". ") or type(error).__name__
    ways = []
    if size > 1:
        ways.append(f"loader.batch_size={size // 2} run.accumulate={2 * run['accumulate']}")
    if run["precision"] == "float32":
        ways.append("run.precision=bfloat16")
    ways.append("torch.utils.checkpoint in the model")
    known = f"out of memory with batches of {size} items: {what}\nless memory is needed with {' or '.join(ways)}"
    if run["provenance"] == EPHEMERAL:
        return RunError(f"{known}\n{NOTHING_KEPT}")
    go_on = f"a new run; after a change of the code alone, resume={path.name} carries this one on"
    if CheckpointFiles(path).latest.exists():
        go_on = f"fork={path.name}, a new run from these weights; after a change of the code alone, resume={path.name}"
    return RunError(f"{known}\nnew settings need {go_on}")
