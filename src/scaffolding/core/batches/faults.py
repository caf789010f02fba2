"""What was being read when reading failed: by a worker that died or hangs, or with an error. Imported only then."""

import inspect
import time
import traceback

from ..errors import RunError
from .loader import Loader, with_workers


def worker_fault(error: BaseException) -> RunError | None:
    """What `error` says, if it is that a worker of one of this process's loaders died or hangs; else None."""
    found = (_fault(loader, str(error)) for loader in list(with_workers) if "DataLoader" in str(error))
    return next((fault for fault in found if fault is not None), None)


def _fault(loader: Loader, text: str) -> RunError | None:
    if loader.workers is None or loader.workers._iterator is None:
        return None
    source = inspect.getsourcefile(type(getattr(loader.dataset, "dataset", loader.dataset)))
    for number, process in enumerate(loader.workers._iterator._workers):  # type: ignore[attr-defined]
        index, since = loader.samples.at_work[number].tolist()
        process.join(0.1)  # it may just be ending
        if process.exitcode is None and not ("timed out" in text and index >= 0):
            continue
        code = process.exitcode
        how = f"ended with exit code {code}" if code else f"hangs since {time.monotonic() - since:.0f} s"
        what = f"reading sample {index:.0f}" if index >= 0 else "between two batches"
        return RunError(
            f"worker {number} of the {loader.name} split {how}, {what} of {source}"
            "\na negative code is a signal (-9: often out of memory); loader.timeout bounds the wait for a batch"
        )
    return None


def describe(error: Exception, what: str) -> str:
    """`what` failed; the last frame of the user's own code comes last."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    frame = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1] if frames else None)
    where = f"\nat {frame.filename}:{frame.lineno} in {frame.name}: {frame.line}" if frame else ""
    return f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}{where}"
