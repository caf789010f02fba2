"""How several processes train one run together, started by torchrun or srun. Yours to edit; imported only then.

`run.parallel=ddp`: each process has all weights, and gradients meet (DistributedDataParallel). `run.parallel=fsdp`:
each has a part of all weights, gradients and optimizer states (fully_shard, FSDP2).

A loss is wrapped, not a network: whatever it calls, in whatever order and how often, is one forward pass. So the model
stays as it is, and losses may call any part or method of it. With fsdp, they must not read weights by themselves, as a
penalty on their size does: each process has only a part of them.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from loguru import logger
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parallel import DistributedDataParallel

from .core.checks.trial import trial
from .core.errors import RunError, UserError
from .core.processes.ending import is_lost

if TYPE_CHECKING:
    from .experiment import Experiment

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # they are not called


def distribute(exp: "Experiment") -> dict[str, Any]:
    """The losses as the loop calls them. With `run.parallel=fsdp`, networks are sharded in place.

    Raises:
        UserError: a network cannot be sharded.
    """
    if exp.settings.parallel == "ddp":
        return {name: DataParallel(exp, name) for name in exp.losses}
    if exp.settings.memory_format != "contiguous":
        raise UserError(
            f"run.memory_format={exp.settings.memory_format}: weights in that format cannot be sharded"
            "\nset it to contiguous, or run.parallel to ddp"
        )
    names = entries(exp)
    mesh = init_device_mesh(exp.device.type, (exp.processes.count,))
    shard(exp.model, names, mesh)
    if exp.ema is not None:
        shard(exp.ema.module, names, mesh)
    for loss in exp.losses.values():
        if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
            shard(loss, [""], mesh)
    for name in ("trained", "optimizers", "schedulers"):  # they hold the parameters that were whole
        vars(exp).pop(name, None)
    return {name: Sharded(exp, name) for name in exp.losses}


class DataParallel:
    """A loss whose gradients are added up over all processes; its micro-batches' weights make the sum a mean."""

    def __init__(self, exp: "Experiment", name: str) -> None:
        unused = unused_parameters(exp, name)
        if unused:
            logger.info(
                f"{unused[0]} gets no gradient: DistributedDataParallel looks for such parameters in every step"
            )
        self.wrapped = DistributedDataParallel(
            Pass(exp.losses[name], exp.networks[name]),
            gradient_as_bucket_view=True,
            find_unused_parameters=bool(unused),
        )
        self.trained, self.have_met = exp.trained[name], True
        self.wrapped.register_comm_hook(self, add_up)
        self._settle(exp, name)

    def _settle(self, exp: "Experiment", name: str) -> None:
        """Make two passes, after which gradients lie in the order in which they become ready.

        Three or more processes add them up in an order that depends on where they lie, and torch arranges them after
        the first pass. A resumed run begins with such a pass, too, and must add up as the run that went through.
        """
        with trial(exp) as batch:
            exp.train_model.train()
            for _ in range(2):
                self.meet(True)
                loss, _ = self(exp.train_model, batch)
                loss.backward()
                self.check_met()
        clear_gradients(exp, name)

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return self.wrapped(batch, [model])

    def meet(self, now: bool) -> None:
        """Say whether gradients meet in the next backward pass."""
        self.wrapped.require_backward_grad_sync = now
        self.have_met = not now

    def check_met(self) -> None:
        """Called after the last backward pass of a step.

        Raises:
            RunError: not all gradients have met: a parameter, or a branch of the network, was not used.
        """
        if not self.have_met:
            unused = [key for key, parameter in self.trained.items() if parameter.grad is None]
            raise RunError(
                f"{(unused or ['a parameter'])[0]} was used before and is not used in this step, so gradients of this "
                "process did not meet those of the others\nwhere a branch is left out now and then, give "
                "DistributedDataParallel find_unused_parameters=True in parallel.py"
            )


class Pass(nn.Module):
    """A loss as the forward pass of the network that it trains."""

    def __init__(self, loss: Any, network: nn.Module) -> None:
        super().__init__()
        self.loss, self.network = loss, network

    def forward(self, batch: Any, models: list[nn.Module]) -> Any:
        """What the loss returns."""
        return self.loss(models[0], batch)


def add_up(loss: DataParallel, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Add gradients up, where DistributedDataParallel would average them; buckets come in order."""
    loss.have_met |= bucket.is_last()
    future: Any = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    added: torch.futures.Future[Tensor] = future.then(lambda done: done.value()[0])
    return added


def unused_parameters(exp: "Experiment", name: str) -> list[str]:
    """Names of trained parameters that get no gradient from a loss in one of four passes with two items; waiting for
    one would never end.
    """
    unused: list[str] = []
    with trial(exp) as batch:
        exp.train_model.train()
        for _ in range(4):  # the network may leave branches out now and then
            loss, _ = exp.losses[name](exp.train_model, batch)
            loss.backward()
            unused += [key for key, parameter in exp.trained[name].items() if parameter.grad is None]
            clear_gradients(exp, name)
    return unused


def clear_gradients(exp: "Experiment", name: str) -> None:
    """Leave no gradients of a pass of a loss."""
    exp.model.zero_grad(set_to_none=True)
    for parameter in exp.trained[name].values():
        parameter.grad = None


class Sharded:
    """A loss whose network is sharded; gradients are added up as above."""

    def __init__(self, exp: "Experiment", name: str) -> None:
        self.exp, self.loss, self.network = exp, exp.losses[name], exp.networks[name]
        self.units: list[FSDPModule] = [part for part in self.network.modules() if isinstance(part, FSDPModule)]
        if isinstance(self.loss, FSDPModule):
            self.units.append(self.loss)
        self.is_first = True  # of the micro-batches of a step
        self._try(name)

    def _try(self, name: str) -> None:
        """UserError: a pass with parts of weights fails."""
        try:
            with trial(self.exp) as batch:
                self.exp.train_model.train()
                loss, _ = self(self.exp.train_model, batch)
                loss.backward()
        except (RuntimeError, ValueError, TypeError) as error:
            if is_lost(error):
                raise
            what = f"loss {name}" if name else "the loss"
            raise refusal(f"{what} fails: {first_line(error)}") from error
        clear_gradients(self.exp, name)

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        return self.loss(model, batch)

    def meet(self, now: bool) -> None:
        """Say whether gradients meet in the next backward pass."""
        if self.is_first:  # running statistics are the first process's, as in DistributedDataParallel
            self.exp.share_buffers()
        self.is_first = now
        for unit in self.units:
            unit.set_requires_gradient_sync(now, recurse=False)

    def check_met(self) -> None:
        """Do nothing: units meet by themselves."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 200 characters."""
    return str(error).partition("\n")[0][:200]


def refusal(what: str) -> UserError:
    """The error that says what cannot be sharded."""
    return UserError(f"run.parallel=fsdp: {what}\nrun.parallel=ddp trains such a model; or edit shard in parallel.py")


def shard(model: nn.Module, names: list[str], mesh: DeviceMesh) -> None:
    """Shard the parameters of some networks of a model over all processes; each block of a ModuleList is one unit.

    Args:
        model: changed in place.
        names: of the networks that losses call; "": the model itself.
        mesh: the processes.

    Raises:
        UserError: a parameter is in none of them, or is a scalar, or one of them is a part of another.
    """
    for name in names:
        inside = [other for other in names if other != name and (not name or other.startswith(f"{name}."))]
        if inside:
            raise refusal(f"losses call {name or 'the model'} as a whole, and {inside[0]} in it by itself")
    scalars = [key for key, parameter in model.named_parameters() if parameter.ndim == 0]
    if scalars:
        raise refusal(f"{scalars[0]} is a scalar, which has no parts; give it the shape (1,)")
    for name in names:
        network = model.get_submodule(name)
        lists = [
            part for part in reversed(list(network.modules())) if isinstance(part, nn.ModuleList)
        ]  # inner ones first
        units = dict.fromkeys(block for blocks in lists for block in blocks if not isinstance(block, CONTAINERS))
        for unit in [*units, network]:
            try:
                fully_shard(unit, mesh=mesh, reshard_after_forward=True)  # so that an evaluation leaves it sharded
            except ValueError as error:
                raise refusal(first_line(error)) from error
        for unit in network.modules():
            if isinstance(unit, FSDPModule):
                unit.set_gradient_divide_factor(1.0)  # gradients are added up ...
                unit.set_force_sum_reduction_for_comms(True)  # ... in a way that gloo knows, too
    for key, parameter in model.named_parameters():
        if not hasattr(parameter, "full_tensor"):
            raise refusal(f"no loss calls a network that has {key}, so it cannot be sharded")


def entries(exp: "Experiment") -> list[str]:
    """Names of the networks that losses call: the outermost modules with parameters that are entered; "": the model."""
    names = {module: name for name, module in exp.model.named_modules()}
    found: dict[str, None] = {}
    entered: list[nn.Module] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        if module in names:
            if not entered:
                found[names[module]] = None
            entered.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in names:
            entered.pop()

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        with trial(exp) as batch, torch.no_grad():
            for loss in exp.losses.values():
                loss(exp.model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name in found if any(True for _ in exp.model.get_submodule(name).parameters())]
