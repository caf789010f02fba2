"""Which device each of several processes has."""

import torch

from ..errors import UserError


def choose_device(name: str, num_processes: int, local_rank: int) -> torch.device:
    """The device of a process.

    Args:
        name: `run.device`.
        num_processes: that train together.
        local_rank: which of those on this machine this is.

    Raises:
        UserError: it is a device that all would share.
    """
    num_gpus = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and num_gpus == 0):
        return torch.device("cpu")
    if name == "cuda" and num_gpus == 0:
        raise UserError("run.device=cuda: this machine has no GPU that torch can use\nset it to cpu, or to auto")
    if name not in ("auto", "cuda"):
        raise UserError(
            f"run.device={name}: {num_processes} processes cannot share a device"
            "\nauto or cuda gives each process a GPU, cpu gives it none"
        )
    return torch.device("cuda", local_rank % num_gpus)  # a queue may show each process its own GPU alone


def check_gpus(hosts: list[str], gpus: list[str]) -> None:
    """Each process needs a GPU to itself.

    Args:
        hosts: the machine of each process.
        gpus: the identity of the GPU that each process has.

    Raises:
        UserError: on a machine there are more processes than GPUs.
    """
    for host in dict.fromkeys(hosts):
        found = [gpu for other, gpu in zip(hosts, gpus, strict=True) if other == host]
        if len(set(found)) < len(found):
            raise UserError(
                f"run.device: {len(found)} processes on {host} share {len(set(found))} GPUs"
                f"\nstart {len(set(found))} there, or give run.device=cpu"
            )
