"""What a loader worker that died or hangs was doing. Imported only when a run fails."""

import inspect
import time

from .errors import RunError
from .loading import Loader, with_workers


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
