"""Reading sample by sample: torch's DataLoader with a key for every sample, and what went wrong in a worker."""

import atexit
import ctypes
import inspect
import itertools
import multiprocessing
import signal
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from loguru import logger
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from ..errors import RunError, UserError
from ..signals import deaths_ignored, ignore, signals_blocked
from ..state import keys
from ..system import shorten_sockets
from .samples import Failed, KeyedSamples

if TYPE_CHECKING:
    from .loader import Loader

START_TIMEOUT = 60.0  # seconds to wait for workers that import the code
LIFE_TIMEOUT = 3.0  # seconds in which another forked worker must come to life
NUM_TRIES = 5  # to fork workers that all come to life

all_workers: "weakref.WeakSet[Workers]" = weakref.WeakSet()


@atexit.register  # python itself would end workers with a signal that they ignore, and wait for ever
def _end_workers() -> None:
    for workers in list(all_workers):
        workers.close()
    for process in multiprocessing.active_children():  # of loaders that are gone already
        if process.daemon:
            process.kill()


def worker_fault(error: BaseException) -> RunError | None:
    """What `error` says, if it is that a worker of one of this process's loaders died or hangs; else None.

    DataLoader raises it wherever the main thread is at that moment.
    """
    if "DataLoader" not in str(error):
        return None
    faults = [workers.fault(str(error)) for workers in list(all_workers)]
    return next((fault for fault in faults if fault is not None), None)


class Workers:
    """The DataLoader of a split whose dataset has no `get_batch`; its processes stay for all epochs."""

    def __init__(self, loader: "Loader", num_workers: int, start_method: str | None, timeout: float | None) -> None:
        self.name, self.dataset, self.timeout = loader.name, loader.dataset, timeout
        known = multiprocessing.get_all_start_methods()
        if start_method not in (None, *known):
            raise UserError(f"loader.start_method={start_method}: not on this system\nallowed: {', '.join(known)}")
        if num_workers:
            shorten_sockets()
        self.samples = KeyedSamples(loader.dataset, loader.name, loader.seed, num_workers)
        self.order = Order(weakref.proxy(loader))  # no cycle: workers end with the last reference
        self.loader: DataLoader[Any] = DataLoader(
            self.samples,  # type: ignore[arg-type]
            batch_sampler=self.order,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            multiprocessing_context=start_method if num_workers else None,
            persistent_workers=num_workers > 0,
            worker_init_fn=_begin,
            timeout=(timeout or 0) if num_workers else 0,
            pin_memory=loader.device.type == "cuda",
            generator=keys.generator(loader.seed, loader.name),  # else DataLoader draws from the global one
        )
        self.is_reading = False  # an epoch is being read with the worker processes
        self.runs_later_code = (
            num_workers > 0 and multiprocessing.get_context(start_method).get_start_method() != "fork"
        )
        all_workers.add(self)

    def batches(self, epoch: int, positions: Iterable[int]) -> Iterator[Any]:
        """Some batches of an epoch on the CPU, given by their positions in it, which ascend.

        While one iteration is under way, another reads in this process: the worker processes serve one at a time, and
        would forget the first.

        Raises:
            RunError: a sample could not be read, no batch came in `timeout` seconds, or no worker could be started.
        """
        is_first = not self.is_reading
        if is_first:
            self.order.epoch, self.order.positions = epoch, positions
            iterator = self._start()
            self.is_reading = True
        else:
            iterator = map(self.samples.__getitems__, Order(self.order.loader, epoch, positions))
        try:
            for batch in self._waited_for(iterator):
                yield _whole(batch)
        finally:
            if is_first:
                self.is_reading = False

    def read(self, epoch: int, indices: Tensor) -> Any:
        """A batch of these items, read in this process; RunError says which sample could not be read."""
        return _whole(self.samples.__getitems__([(epoch, index) for index in indices.tolist()]))

    def start(self) -> None:
        """Start worker processes that import the code anew, so that they run what the rest of the run runs.

        Otherwise those of a split that is read for the first time hours later would run what was edited since.
        """
        if self.runs_later_code and not self._processes():
            self.order.positions = range(len(self.order.loader))  # without a batch to read they would import nothing
            self._start()

    def _start(self) -> Iterator[Any]:
        """An iterator over an epoch; the first one starts the processes.

        A worker can hang while it is being forked, if another thread holds a lock at that moment. Gloo's threads, which
        run where several processes train together, briefly hold a lock of Python to free tensors, and Python 3.11 does
        not reset it in the child. So workers that do not come to life are forked again.
        """
        if self._processes():
            self.loader._iterator._timeout = self.timeout or 0  # type: ignore[union-attr]  # until all have answered
            return iter(self.loader)
        for _ in range(NUM_TRIES):
            self.order.positions, again = itertools.tee(self.order.positions)
            iterator = self._fork()
            if self.runs_later_code or self._are_alive():
                return iterator
            logger.debug(f"the workers of the {self.name} split did not come to life, and are started again")
            self.close()
            self.order.positions = again
        raise RunError(
            f"the workers of the {self.name} split hung {NUM_TRIES} times as they were forked"
            "\nset loader.start_method=forkserver, or loader.num_workers=0"
        )

    def _fork(self) -> Iterator[Any]:
        """An iterator over an epoch, which starts the processes."""
        self.samples.at_work.fill_(-1)
        before = set(multiprocessing.active_children())
        try:
            with signals_blocked():
                return iter(self.loader)
        except OSError as error:
            for process in set(multiprocessing.active_children()) - before:
                process.kill()  # python would end them with a signal that they ignore, and wait for ever
            raise RunError(
                f"the {self.loader.num_workers} workers of the {self.name} split could not be started: {error.strerror}"
                "\nlower loader.num_workers, or raise the limit (ulimit -a lists them)"
            ) from error

    def _waited_for(self, iterator: Any) -> Iterator[Any]:
        """The batches of an iterator. It waits in slices; each counts as the same time, however long it really took.

        While the process is stopped (Ctrl-Z, a scheduler that suspends it), hardly any time passes so. After each
        slice, DataLoader looks for workers that are gone.
        """
        waited, slice_ = 0.0, min(1.0, (self.timeout or 8) / 8)
        if iterator is self.loader._iterator:
            iterator._timeout = slice_  # type: ignore[union-attr]
        while True:
            try:
                yield next(iterator)
                waited = 0.0
            except StopIteration:
                return
            except RuntimeError as error:
                waited += slice_
                if "DataLoader timed out" not in str(error):
                    raise
                if self.timeout is not None and waited >= self.timeout:
                    why = f"the workers of the {self.name} split gave no batch in {waited:.0f} s (loader.timeout)"
                    raise self.fault(str(error)) or RunError(why) from error

    def _are_alive(self) -> bool:
        """Wait until the processes have come to life, or have ended; False: one of them does not."""
        alive, end = -1, 0.0
        while alive < len(self._processes()):
            has_begun = (self.samples.at_work[:, 1] >= 0).tolist()
            now = sum(
                begun or process.exitcode is not None
                for begun, process in zip(has_begun, self._processes(), strict=False)
            )
            if now > alive:
                alive, end = now, time.monotonic() + LIFE_TIMEOUT
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(0.001)
        return True

    def await_start(self) -> None:
        """Wait until the processes that `start` started have imported the code, and read a sample with it."""
        end = time.monotonic() + START_TIMEOUT
        num_busy = min(len(self._processes()), len(self.order.loader))  # more workers than batches have nothing to read
        while self.runs_later_code and time.monotonic() < end:
            if int((self.samples.at_work[:, 1] > 0).sum()) >= num_busy:
                return
            time.sleep(0.01)

    def fault(self, text: str) -> RunError | None:
        """What happened to a worker that died or hangs, and the sample it was reading; None: nothing did."""
        source = inspect.getsourcefile(type(getattr(self.dataset, "dataset", self.dataset)))
        for number, process in enumerate(self._processes()):
            index, since = self.samples.at_work[number].tolist()
            process.join(0.1)  # it may just be ending
            code = process.exitcode
            if code is None and not ("timed out" in text and index >= 0):
                continue
            how = f"ended with exit code {code}"
            if code is None:
                how = f"has been hanging for {time.monotonic() - since:.0f} s"
            what = "between two batches"
            if index >= 0:
                what = f"reading sample {index:.0f}"
            return RunError(
                f"worker {number} of the {self.name} split {how}, {what} of {source}"
                "\na negative code is a signal (-9: often out of memory); loader.timeout bounds the wait for a batch"
            )
        return None

    def _processes(self) -> list[Any]:
        return getattr(self.loader._iterator, "_workers", [])

    def close(self) -> None:
        """End the worker processes; those that are still at work after a second are killed."""
        processes = self._processes()
        if processes:
            timer = threading.Timer(1.0, lambda: [process.kill() for process in processes])
            timer.start()
            with deaths_ignored():
                self.loader._iterator._shutdown_workers()  # type: ignore[union-attr]
            timer.cancel()
        self.loader._iterator = None


class Order:
    """The batch sampler of a loader: a list of (epoch, index) for each batch at some positions of an epoch.

    Where the dataset has an order, an epoch may hold an item several times: (epoch, index, times it was read before).
    """

    def __init__(self, loader: "Loader", epoch: int = 0, positions: Iterable[int] = ()) -> None:
        self.loader, self.epoch, self.positions = loader, epoch, positions

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        epoch = self.epoch
        if not self.loader.has_order:
            for _, indices in self.loader.indices_of(epoch, self.positions):
                yield [(epoch, index) for index in indices.tolist()]
            return
        times: Counter[int] = Counter()  # that an item was read in this epoch
        all_batches = enumerate(self.loader.indices(epoch))
        for wanted in self.positions:
            for position, indices in all_batches:
                batch: list[tuple[int, ...]] = []
                for index in indices.tolist():
                    batch.append((epoch, index, times[index]))
                    times[index] += 1
                if position == wanted:
                    yield batch
                    break


def _whole(batch: Any) -> Any:
    """A batch that could be read; RunError: it could not."""
    if isinstance(batch, Failed):
        logger.debug(batch.details)
        raise RunError(batch.message)
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(worker: int) -> None:
    """A run that is killed leaves no worker behind, not even one that hangs (Linux). Then the worker says it lives."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    elif sys.platform == "win32":
        ignore()
    info: Any = get_worker_info()
    info.dataset.at_work[worker, 1] = 0
