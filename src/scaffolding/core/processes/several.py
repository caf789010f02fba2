"""Several processes that train one run: what they agree on, who writes, and how they learn that one has failed.

Every process runs the same program. They differ in the micro-batches that they read, in the GPU that they have, and in
who writes: the first one. What is not shared out (figures, rollouts, metrics that are not means) all of them do alike.
"""

import contextlib
import hashlib
import math
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from loguru import logger
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..errors import Ended, RunError, UserError
from ..means import of_all
from ..signals import ends_at_once
from ..state.finite import numbers
from ..tree import map_parts
from .devices import check_gpus, choose_device
from .ending import follow, is_lost, who_failed
from .store import open_store

TIMEOUT = timedelta(minutes=30)  # for the slowest thing that one does while others wait: a download, a save
FOLDER_WAIT = 90.0  # seconds: a network file system may remember for so long that a folder was not there
NUMBERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE")


class Processes:
    """All processes of a run; this is one of them."""

    def __init__(self, cfg: Any, note: Callable[[Any], None]) -> None:
        """Connect them.

        Args:
            cfg: the config.
            note: called as soon as they are connected: from then on, this process ends by `leave`.

        Raises:
            UserError: there are fewer GPUs than processes, or the processes were started with different settings.
        """
        self.rank, self.local_rank, self.count = map(int, map(os.environ.__getitem__, NUMBERS))
        self.device = choose_device(cfg.run.device, self.count, self.local_rank)
        backend = "gloo"
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
            backend = "cpu:gloo,cuda:nccl"
        with ends_at_once():
            store = open_store(TIMEOUT)
            dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=self.rank, world_size=self.count)
        note(self)
        self.host: Any = dist.group.WORLD  # what is agreed on the CPU, without waiting for a GPU
        if backend != "gloo":
            self.host = dist.new_group(backend="gloo", timeout=TIMEOUT)
        self.peers: list[tuple[str, int]] = self.gather((socket.gethostname(), os.getpid()))
        if self.device.type == "cuda":
            gpu = str(torch.cuda.get_device_properties(self.device).uuid)
            check_gpus([host for host, _ in self.peers], self.gather(gpu))
        self._check_settings(cfg)
        if self.rank > 0:
            logger.remove()  # what the first one says is enough

    def _check_settings(self, cfg: Any) -> None:
        """UserError: the processes were started with different words."""
        plain: Any = OmegaConf.to_container(cfg)
        del plain["paths"]  # of a machine
        others = self.gather(hashlib.sha256(repr(plain).encode()).hexdigest())
        if len(set(others)) > 1:
            odd = next(rank for rank, other in enumerate(others) if other != others[0])
            raise UserError(
                f"process {odd} was started with other settings than process 0"
                "\nall processes of a run need the same words, configs and code"
            )

    # --- what they agree on

    def gather(self, value: Any) -> list[Any]:
        """What each process has, by rank: numbers, texts and tensors on the CPU."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.host)
        return found

    def agree(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        value = torch.tensor(number)
        dist.all_reduce(value, dist.ReduceOp.MAX, group=self.host)
        return int(value)

    def first(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """What `function` returns in the first process, which alone calls it, after all have come here: it writes.

        Raises:
            Ended: it failed there. The first process raises the error itself.
        """
        dist.barrier(group=self.host)
        result: list[Any] = [None, None]
        error: BaseException | None = None
        if self.rank == 0:
            try:
                result[0] = function(*arguments)
            except (Exception, SystemExit) as raised:
                error = raised
                result[1] = getattr(raised, "code", 2 if isinstance(raised, UserError) else 1)
        dist.broadcast_object_list(result, 0, group=self.host)
        if error is not None:
            raise error
        if result[1] is not None:
            raise Ended(result[1])
        return result[0]

    def in_turn(self, function: Callable[[], Any]) -> Any:
        """What `function` returns here: the first process calls it, then the first of each machine, then the rest."""
        hosts = [host for host, _ in self.peers]
        turn = 2
        if hosts.index(hosts[self.rank]) == self.rank:  # the first of its machine
            turn = min(self.rank, 1)
        result = None
        for number in range(3):
            error: BaseException | None = None
            if number == turn:
                try:
                    result = function()
                except (Exception, SystemExit) as raised:
                    error = raised
            self._all_or_none(error)
        return result

    def wait(self) -> None:
        """Wait until all are here, on the CPU: a read from a GPU that waits for a process which is gone never ends."""
        dist.barrier(group=self.host)

    def check(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call `function` in every process; where it raises in one, all raise."""
        self.wait()
        error: BaseException | None = None
        try:
            function(*arguments)
        except RunError as raised:
            error = raised
        self._all_or_none(error)

    def check_start(self, exp: Any) -> None:
        """Let all processes begin a run alike.

        Raises:
            RunError: one of them does not see the run's folder, or has another state of it.
        """
        self.check(self._check_folder, exp.path)
        states = self.gather(vars(exp.state))
        for rank, state in enumerate(states):
            if state != states[0]:
                raise RunError(
                    f"process {rank} begins at step {state['step']}, process 0 at step {states[0]['step']}"
                    f"\nthey must see the same files in {exp.path}"
                )
        self.check_same(exp.model)

    def _check_folder(self, path: Path) -> None:
        end = time.monotonic() + FOLDER_WAIT
        while not (path / "config.yaml").exists():
            if time.monotonic() > end:
                raise RunError(
                    f"process {self.rank} on {socket.gethostname()} does not see {path}"
                    "\nall machines of a run need the same paths.output, on a file system that they share"
                )
            time.sleep(0.1)

    def _all_or_none(self, error: BaseException | None) -> None:
        """Raise the error; where another process has one, raise that."""
        failed = self.gather(None if error is None else (type(error).__name__, str(error)))
        if error is not None:
            raise error
        for rank, found in enumerate(failed):
            if found is not None:
                kind = UserError if found[0] == "UserError" else RunError
                raise kind(f"process {rank}: {found[1]}")

    # --- tensors

    def sum(self, value: Any) -> Tensor:
        """The sum of a number or a scalar tensor over all processes, a float64 scalar; nobody waits for the device."""
        if isinstance(value, Tensor):
            total = value.detach().to(self.device, torch.float64, copy=True)
        else:
            total = torch.full((), value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total

    def mean(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The values over all processes, computed as one process would, to the last bit."""
        self.wait()
        return of_all(metrics, self.gather, self.device)

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the first one's buffers: running statistics, of which each has seen other batches."""
        for buffer in module.buffers():
            whole = buffer.contiguous()  # memory is sent as it lies
            dist.broadcast(whole, 0)
            if whole is not buffer:
                buffer.copy_(whole)

    def leave_alone(self, metric: Any) -> None:
        """Let a metric compute its value in each process by itself: each sees the whole split.

        Those of torchmetrics would otherwise add up what all have seen.
        """
        for part in (metric, *getattr(metric, "__dict__", {}).values()):
            for module in part.modules() if isinstance(part, nn.Module) else ():
                if hasattr(module, "sync_on_compute"):
                    module.sync_on_compute = module._to_sync = False  # type: ignore[assignment]

    def check_same(self, model: nn.Module) -> None:
        """Compare the norms of whole weights.

        Raises:
            RunError: they differ.
        """
        parts = [numbers(part.detach()) for part in model.parameters() if not hasattr(part, "full_tensor")]
        parts = [part for part in parts if part.is_floating_point() and part.numel()]
        norms = torch.stack([norm.double() for norm in torch._foreach_norm(parts)]).tolist() if parts else []
        for rank, theirs in enumerate(self.gather(norms)):
            for one, other in zip(norms, theirs, strict=True):
                if not math.isclose(one, other, rel_tol=1e-6) and (one == one or other == other):  # two NaNs are alike
                    raise RunError(
                        f"the weights of process {rank} differ from those of process {self.rank}: not all "
                        "gradients were added up\na backward pass must come from exp.train_losses; put a second loss "
                        "into the first"
                    )

    def full(self, state: Any) -> Any:
        """A nested state with whole tensors on the CPU in the place of sharded ones; None in all but the first process.

        All of them must call it, as it gathers the parts.
        """
        if hasattr(state, "full_tensor"):
            whole = state.full_tensor()
            return whole.cpu() if self.rank == 0 else None
        return map_parts(state, self.full)

    # --- how it ends

    @contextlib.contextmanager
    def following(self, run: Any) -> Iterator[None]:
        """The session of a process that writes nothing, unless it fails: then rank_<N>.txt says why."""
        with follow(self, run):
            yield

    def cause(self, error: BaseException, run: Path) -> BaseException:
        """The error to show where one ends the run: what another process says means more than that it is gone."""
        if is_lost(error):
            return RunError(who_failed(self, run, error))
        return error

    def tell(self, error: BaseException) -> None:
        """Print an error that nobody expected; the process that has failed prints its own."""
        if is_lost(error):
            print(f"error: process {self.rank}: another process has failed, and says why", file=sys.stderr)
        else:
            traceback.print_exception(error)

    def leave(self, code: int) -> None:
        """End this process. Orderly, all wait until everything is written: the first that ends has the others ended."""
        if code == 0 or code > 128:
            with contextlib.suppress(RuntimeError):  # one of them is gone
                dist.barrier(group=self.host)
                dist.destroy_process_group()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)  # torch's threads may abort a process that ends in the usual way
