"""One run on a Ray cluster, or on this machine as one: a process per GPU, or per CPU where there is none.

    pdm install -G cluster                                     # once
    python scripts/jobs/ray.py 4 data=mnist mode=prod run.accumulate=4 job=first
    python scripts/jobs/ray.py 4 --cpus 8 --gpus 1 --restarts 20 data=mnist mode=prod run.accumulate=4 job=first

Yours to edit. All nodes see this folder. A run that fails, or loses a node, is started again and carries on (job=NAME),
at most --restarts times.
"""

import argparse
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRAIN = next(ROOT.glob("src/*/train.py"))
if sys.path[0] == str(Path(__file__).resolve().parent):
    del sys.path[0]  # this file must not hide the library of its name

if find_spec("ray") is None:
    print("error: ray is not installed\nonce: pdm install -G cluster", file=sys.stderr)
    sys.exit(2)

import ray  # noqa: E402
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy  # noqa: E402


@ray.remote(max_retries=0)
def find_address() -> tuple[str, int]:
    """Where the processes meet: the node of the first one, and a port that is free there."""
    with socket.socket() as file:
        file.bind(("", 0))
        return ray.util.get_node_ip_address(), file.getsockname()[1]


@ray.remote(max_retries=0)
def find_node() -> str:
    """The node that a bundle of resources is on."""
    return str(ray.get_runtime_context().get_node_id())


@ray.remote(max_retries=0)
def train(variables: dict[str, str], words: list[str]) -> int:
    """One process of the run; its exit code."""
    command = [sys.executable, str(TRAIN), *words]
    return subprocess.run(command, env=os.environ | variables, cwd=ROOT).returncode


def start_once(num_processes: int, cpus: int, gpus: int, words: list[str]) -> int:
    """Train until the run ends; the largest exit code of its processes, 1 where one was lost with its node."""
    group = placement_group([{"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}] * num_processes, strategy="PACK")
    ray.get(group.ready())

    def place(task: Any, rank: int, **resources: int) -> Any:
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
        return task.options(scheduling_strategy=strategy, **resources)

    host, port = ray.get(place(find_address, 0, num_cpus=1).remote())
    nodes = ray.get([place(find_node, rank, num_cpus=1).remote() for rank in range(num_processes)])
    started = []
    for rank, node in enumerate(nodes):
        variables = {
            "RANK": str(rank),
            "LOCAL_RANK": "0" if gpus else str(nodes[:rank].count(node)),  # Ray shows each task its own GPUs only
            "WORLD_SIZE": str(num_processes),
            "MASTER_ADDR": host,
            "MASTER_PORT": str(port),
        }
        started.append(place(train, rank, num_cpus=cpus, num_gpus=gpus).remote(variables, words))
    try:
        return max(map(abs, ray.get(started)))
    except ray.exceptions.RayError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        remove_placement_group(group)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("processes", metavar="N", type=int, help="of the run")
    parser.add_argument("words", metavar="WORDS", nargs="+", help="of train.py, job=NAME among them")
    parser.add_argument("--cpus", metavar="N", type=int, default=1, help="of each process")
    parser.add_argument("--gpus", metavar="N", type=int, default=0, help="of each process")
    parser.add_argument("--restarts", metavar="N", type=int, default=10, help="at most so many times again")
    args = parser.parse_intermixed_args()
    ray.init(include_dashboard=False)
    for _ in range(args.restarts + 1):
        code = start_once(args.processes, args.cpus, args.gpus, args.words)
        if code in (0, 2):  # finished; wrong words, which are wrong the next time, too
            break
    return code


if __name__ == "__main__":
    sys.exit(main())
