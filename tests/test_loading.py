"""Loading: order, position and a sample's randomness are functions of (seed, epoch, index) and of nothing else."""

import copy
import errno
import gc
import multiprocessing
import os
import random
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import BASE, ENV, command, generators
from tiny import Draws
from torch import Tensor

from scaffolding.core.batches.loader import Loader
from scaffolding.core.batches.move import to_device
from scaffolding.core.batches.stream import StreamLoader
from scaffolding.core.errors import RunError, UserError
from scaffolding.core.state import keys
from scaffolding.core.state.progress import RunState
from scaffolding.core.tree import describe, tensors

CPU = torch.device("cpu")
NUM_ITEMS, BATCH_SIZE = 23, 4  # six batches an epoch, the last one of 3 items


class Noisy:
    """Items draw from all three global generators."""

    def __len__(self) -> int:
        return NUM_ITEMS

    def __getitem__(self, index: int) -> tuple[int, Tensor, float, float]:
        return index, torch.rand(2, dtype=torch.float64), float(np.random.rand()), random.random()


class NoisyInMemory(Noisy):
    """The same, a whole batch at a time; python's generator is not for vectorised code."""

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return indices, torch.rand(len(indices), 2), torch.from_numpy(np.random.rand(len(indices)))


class Items(Noisy):
    """Items that a function makes."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


class Mixed(Noisy):
    """Batches to which noise is added where they are put together."""

    @staticmethod
    def collate(samples: list[Any]) -> Tensor:
        return torch.tensor([index for index, *_ in samples]) + torch.rand(len(samples))


class Shaken(Noisy):
    """Batches that draw from python's generator."""

    def get_batch(self, indices: Tensor) -> Tensor:
        return indices + random.random()


class Graph:
    """Holds tensors, is none, and moves itself."""

    device = ""

    def to(self, device: torch.device) -> "Graph":
        self.device = device.type
        return self


class Point(NamedTuple):
    position: Tensor
    weight: Tensor


class Ordered(Noisy):
    """Its own order: every third item, twice, in a random order."""

    def order(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(14, generator=generator) // 2 * 3


class OrderedInMemory(Ordered, NoisyInMemory):
    """The same, a whole batch at a time."""


ON_LINUX = (
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),  # python 3.12 and later, with threads around
    pytest.mark.skipif(sys.platform != "linux", reason="forking is not safe here"),
)
both_kinds = pytest.mark.parametrize("dataset", [Noisy, NoisyInMemory])


def make(dataset: Any = None, **changes: Any) -> Loader:
    settings = {"batch_size": BATCH_SIZE, "shuffle": True, "seed": 5, "device": CPU} | changes
    return Loader(Noisy() if dataset is None else dataset, settings.pop("name", "train"), **settings)


def plain(batches: Iterator[Any]) -> list[Any]:
    """Batches as nested lists, to compare bit by bit."""

    def simple(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        return [simple(item) for item in value] if isinstance(value, list | tuple) else value

    return [simple(batch) for batch in batches]


def samples_of(batches: Iterator[Any]) -> list[Any]:
    """Samples one by one, as nested lists."""
    return [list(sample) for batch in plain(batches) for sample in zip(*batch, strict=True)]


def order(loader: Loader, epoch: int, start: int = 0) -> list[int]:
    return [index for indices in loader.indices(epoch, start) for index in indices.tolist()]


@pytest.fixture(autouse=True)
def generators_stay_as_they_were() -> Iterator[None]:
    """Whatever a test loads, the process's own generators do not move; tests of steps, which seed them, reset them."""
    keys.seed_all(123)
    before = generators()
    yield
    assert generators() == before


# --- order and position ---


def test_order_is_a_permutation_of_its_own_every_epoch() -> None:
    orders = [order(make(), epoch) for epoch in range(4)]
    assert all(sorted(one) == list(range(NUM_ITEMS)) for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(make(seed=6), 0) != orders[0]
    assert order(make(name="val"), 0) != orders[0]
    assert order(make(batch_size=7), 0) == orders[0]
    assert order(make(shuffle=False), 3) == list(range(NUM_ITEMS))


@both_kinds
@pytest.mark.parametrize("batch_size", [1, 22, 23, 1000])
def test_every_item_comes_once_whatever_the_batch_size(dataset: Callable[[], Any], batch_size: int) -> None:
    loader = make(dataset(), batch_size=batch_size)
    batches = plain(iter(loader))
    sizes = [len(batch[0]) for batch in batches]
    assert len(loader) == len(sizes) and set(sizes[:-1]) <= {batch_size}
    assert [index for batch in batches for index in batch[0]] == order(loader, 0)


@pytest.mark.parametrize("dataset", [Ordered, OrderedInMemory])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=ON_LINUX)])
def test_a_dataset_may_have_an_order(dataset: Callable[[], Any], num_workers: int) -> None:
    """Items that come again are read with other randomness; a restart in the middle finds the same batches."""
    loader = make(dataset(), num_workers=num_workers, start_method="fork")
    batches = plain(loader.batches(2))
    assert len(loader) == len(batches) == 4 and [len(batch[0]) for batch in batches] == [4, 4, 4, 2]
    assert sorted(order(loader, 2)) == sorted(2 * list(range(0, 21, 3))) != order(loader, 2)
    assert [index for batch in batches for index in batch[0]] == order(loader, 2) != order(loader, 1)
    drawn = [values for batch in batches for values in batch[1]]
    assert len({str(values) for values in drawn}) == 14
    assert plain(loader.batches(2, 2)) == batches[2:]
    assert order(make(dataset(), shuffle=False), 0) == list(range(NUM_ITEMS))  # evaluations read every item once
    loader.close()


def test_a_last_batch_may_be_left_out() -> None:
    loader = make(drop_last=True)
    assert len(loader) == 5 and [len(batch[0]) for batch in plain(iter(loader))] == 5 * [BATCH_SIZE]
    assert order(loader, 0) == order(make(), 0)[:20] and list(loader.indices(0, 5)) == []
    with pytest.raises(UserError, match="drop_last=true: the train split has 23 items, a batch 24"):
        make(drop_last=True, batch_size=24)


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=ON_LINUX)])
def test_two_iterations_over_one_loader_do_not_meet(num_workers: int) -> None:
    """Fails where a figure that reads training data moves the epoch under way: workers serve one iteration."""
    loader = make(num_workers=num_workers, start_method="fork")
    whole = plain(loader.batches(3))
    epoch = loader.batches(3)
    batches = [next(epoch), next(epoch)]
    assert plain([next(iter(loader))]) == plain(make().batches(0))[:1]
    inner = loader.batches(1)
    next(inner)
    assert plain(iter([*batches, *epoch])) == whole
    assert plain(loader.batches(3)) == whole
    loader.close()


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(UserError, match="val split is empty"):
        make([], name="val")


# --- a sample's randomness ---


@pytest.mark.parametrize(
    ("start_method", "num_workers"), [(None, 0), ("spawn", 1), pytest.param("fork", 2, marks=ON_LINUX)]
)
def test_randomness_is_keyed_by_sample(start_method: str | None, num_workers: int) -> None:
    """Worker count, prefetching, a restart in the middle of an epoch: none can be told from the samples."""
    expected: dict[tuple[int, int], list[Any]] = {}
    for epoch in (0, 1):
        for index in range(NUM_ITEMS):
            keys.seed_host(keys.key(5, "train", epoch, index))
            number, *drawn = Noisy()[index]
            expected[epoch, index] = [number, drawn[0].tolist(), *drawn[1:]]
    assert len({str(sample[1:]) for sample in expected.values()}) == 2 * NUM_ITEMS
    keys.seed_all(123)
    loader = make(num_workers=num_workers, start_method=start_method)
    next(loader.batches(9))  # an epoch that is left after one batch, with others on their way
    for epoch, start in ((0, 0), (1, 0), (0, 4), (1, 2)):
        samples = samples_of(loader.batches(epoch, start))
        assert samples == [expected[epoch, index] for index in order(loader, epoch, start)]
    loader.close()


def test_a_batch_read_at_once_is_keyed_by_its_position() -> None:
    for epoch in (0, 3):
        batches = plain(make(NoisyInMemory()).batches(epoch))
        for position, indices in enumerate(make(NoisyInMemory()).indices(epoch)):
            keys.seed_host(keys.key(5, "train", epoch, position), with_python=False)
            assert plain([NoisyInMemory().get_batch(indices)]) == [batches[position]]
    keys.seed_all(123)


@both_kinds
def test_what_the_process_draws_meanwhile_does_not_matter(dataset: Callable[[], Any]) -> None:
    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    batches, drawn = [], []
    for batch in make(dataset()).batches(0):
        batches.append(batch)
        drawn.append(draw())
    assert plain(iter(batches)) == plain(make(dataset()).batches(0))
    keys.seed_all(123)
    assert drawn == [draw() for _ in batches]
    keys.seed_all(123)


@pytest.mark.parametrize("how", [pytest.param(how, marks=ON_LINUX) for how in ("closed", "forgotten")])
def test_workers_end_with_their_loader(how: str) -> None:
    """Without waiting for time-outs, and without a signal: they ignore signals."""
    loader = make(num_workers=2, start_method="fork")
    held = weakref.ref(loader)
    plain(loader.batches(0))
    assert len(multiprocessing.active_children()) == 2
    start = time.monotonic()
    if how == "closed":
        loader.close()
    del loader
    gc.collect()
    left = multiprocessing.active_children()
    if (loader := held()) is not None:
        loader.close()  # or this process would wait for them when it ends
    assert not left
    assert time.monotonic() - start < 20  # waiting for them to end by themselves takes longer


@both_kinds
def test_a_loader_that_is_forgotten_frees_its_data(dataset: Callable[[], Any]) -> None:
    data = dataset()
    loader, held = make(data), weakref.ref(data)
    plain(loader.batches(0))
    del data, loader
    gc.collect()
    assert held() is None


def test_a_dataset_that_fails_leaves_the_generators_alone() -> None:
    def fail(index: int) -> Any:
        raise ZeroDivisionError(Noisy()[index])

    with pytest.raises(RunError, match=r"sample \d+ of the train split: ZeroDivisionError"):
        next(make(Items(fail)).batches(0))


# --- the form of batches ---


def test_nested_batches() -> None:
    def nested(index: int) -> Any:
        return {"point": Point(torch.full((3,), index), torch.tensor(1.0)), "pair": (torch.tensor(index), index)}

    loader = make(Items(nested))
    batch = next(loader.batches(0))
    indices = next(loader.indices(0))
    assert isinstance(batch["point"], Point) and isinstance(batch["pair"], list | tuple)
    assert batch["point"].position.tolist() == [[index] * 3 for index in indices.tolist()]
    assert batch["pair"][0].equal(indices) and batch["pair"][1].equal(indices)


def test_a_batch_is_described_whatever_its_tensors_are() -> None:
    batch = {"x": torch.eye(3).to_sparse(), "y": torch.tensor([1, 2]), "z": torch.zeros(2, dtype=torch.complex64)}
    assert describe(batch) == "{x: (3, 3) float32, y: (2,) int64 in [1, 2], z: (2,) complex64}"


def test_every_tensor_moves_to_the_device() -> None:
    batch = {"point": Point(torch.ones(2), torch.ones(2)), "list": [torch.ones(2), "word"], "pair": (torch.ones(2), 3)}
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved["point"], Point) and isinstance(moved["pair"], tuple)
    assert [tensor.device.type for _, tensor in tensors(moved)] == ["meta"] * 4
    assert moved["list"][1] == "word" and moved["pair"][1] == 3
    assert to_device(batch, CPU)["pair"][0] is batch["pair"][0]
    packed = torch.nn.utils.rnn.pack_sequence([torch.ones(2), torch.ones(1)])
    moved = to_device({"graph": Graph(), "packed": packed}, torch.device("meta"))  # as they move themselves
    assert moved["graph"].device == "meta" and moved["packed"].data.device.type == "meta"
    assert moved["packed"].batch_sizes.device.type == "cpu"


def test_items_are_what_was_drawn_not_what_stands_first_in_a_batch() -> None:
    """Fails where graphs, packed sequences or lists of images count for the length of their first tensor."""

    class Graphs(Noisy):
        def __getitem__(self, index: int) -> Tensor:
            return torch.full((3,), index)

        def collate(self, samples: list[Tensor]) -> dict[str, Any]:
            return {"names": ["a graph"] * 9, "nodes": torch.cat(samples)}

    parts = next(make(Graphs()).steps(RunState(epoch=0, position=4), 2))  # 4 and 3 items
    assert [(part.num_items, part.weight) for part in parts] == [(4, 4 / 7), (3, 3 / 7)]
    keys.seed_all(123)


# --- steps ---


def steps(loader: Loader, state: RunState, accumulate: int, count: int) -> list[tuple[int, int, Any, list[int]]]:
    """(epoch, position, batches, numbers of items) of the next steps; the state advances as in training."""
    found = []
    stream = loader.steps(state, accumulate)
    for _ in range(count):
        epoch, start = state.epoch, state.position
        parts = next(stream)
        sizes = [part.num_items for part in parts]
        assert [(part.epoch, part.position) for part in parts] == [(epoch, start + i) for i in range(len(parts))]
        assert sum(part.weight for part in parts) == pytest.approx(1)
        found.append((epoch, start, plain(iter([part.batch for part in parts])), sizes))
        state.advance(len(parts), sum(sizes), len(loader))
    keys.seed_all(123)
    return found


@pytest.mark.parametrize(
    ("accumulate", "sizes"),
    [(1, [[4], [4], [4], [4], [4], [3]]), (4, [[4, 4, 4, 4], [4, 3]]), (6, [[4, 4, 4, 4, 4, 3]]),
     (100, [[4, 4, 4, 4, 4, 3]])],
)  # fmt: skip
def test_steps_end_with_the_epoch(accumulate: int, sizes: list[list[int]]) -> None:
    state = RunState()
    found = steps(make(), state, accumulate, 3 * len(sizes))
    assert [step[3] for step in found] == 3 * sizes
    for epoch in range(3):
        assert [batch for step in found if step[0] == epoch for batch in step[2]] == plain(make().batches(epoch))
    assert (state.epoch, state.position, state.samples, state.step) == (3, 0, 3 * NUM_ITEMS, 3 * len(sizes))


@pytest.mark.parametrize("dataset", [Noisy, NoisyInMemory, Mixed, Shaken])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_steps_carry_on_from_a_position(dataset: Callable[[], Any], accumulate: int) -> None:
    whole = steps(make(dataset()), RunState(), accumulate, 14)
    for done in range(14):
        state = RunState()
        steps(make(dataset()), state, accumulate, done)
        assert steps(make(dataset()), state, accumulate, 14 - done) == whole[done:]


def test_what_collate_draws_does_not_depend_on_the_workers() -> None:
    one, other = (make(Mixed(), num_workers=number, start_method="fork") for number in (0, 2))
    assert plain(one.batches(1, 2)) == plain(other.batches(1))[2:]
    other.close()


def test_what_a_step_draws_on_the_host_is_keyed_by_the_step() -> None:
    """Fails where python's and numpy's generators run on from what was drawn before a resume."""
    drawn = []
    for _ in range(2):
        random.random(), np.random.rand()
        next(make().steps(RunState(step=7, epoch=1, position=2), 1))
        drawn.append((random.random(), float(np.random.rand())))
    assert drawn[0] == drawn[1]
    keys.seed_all(123)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of DataLoader, which is half made
def test_workers_that_cannot_be_started_are_no_reason_to_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = multiprocessing.get_context("fork").Process
    begin, started = kind.start, list[Any]()

    def start(process: Any) -> None:
        if len(started) == 1:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        begin(process)
        started.append(process)

    monkeypatch.setattr(kind, "start", start)
    loader = Loader(Noisy(), "train", BATCH_SIZE, shuffle=True, seed=1, device=CPU, num_workers=2, start_method="fork")
    with pytest.raises(RunError, match="2 workers of the train split could not be started: Too many open files"):
        next(loader.batches(0))
    for process in started:
        process.join(5)
        assert process.exitcode is not None
    monkeypatch.setattr(kind, "start", begin)
    assert len(next(loader.batches(0))[0]) == BATCH_SIZE  # it is not spoilt
    loader.close()


def streamed(stream: Any, num_items: int | None = 20, limit: float | None = 18) -> StreamLoader:
    """Five batches an epoch."""
    return StreamLoader(stream, num_items, limit, BATCH_SIZE, 0, CPU)


def test_a_stream_goes_on_where_it_stood() -> None:
    loader, state, seen = streamed(Draws()), RunState(), []
    steps = loader.steps(state, 2)
    for _ in range(7):
        parts = next(steps)
        state.advance(len(parts), sum(part.num_items for part in parts), len(loader))
        seen.append((parts, loader.state_dict(), copy.copy(state), random.random(), float(torch.rand(()))))
    assert [len(parts) for parts, *_ in seen] == [2, 2, 1, 2, 2, 1, 2]  # no step crosses an epoch's end
    assert [(part.epoch, part.position, part.weight) for part in seen[5][0]] == [(1, 4, 1.0)]
    _, saved, at, _, _ = seen[3]
    again = streamed(Draws())
    again.load_state_dict(saved)
    (batch, *_), *_ = next(again.steps(at, 2))
    assert torch.equal(batch, seen[4][0][0].batch)
    assert (random.random(), float(torch.rand(()))) == seen[4][3:]
    keys.seed_all(123)


def test_a_limit_makes_the_epoch_of_a_stream_shorter() -> None:
    assert [len(streamed(Draws(), 20, limit)) for limit in (None, 0.5, 9, 100)] == [5, 3, 3, 5]


def test_a_stream_that_cannot_be_resumed_is_refused() -> None:
    with pytest.raises(UserError, match="Noisy has no __iter__, state_dict, load_state_dict"):
        streamed(Noisy())
    with pytest.raises(UserError, match=r"data\.num_items"):
        streamed(Draws(), None)
    steps = streamed(Draws(1)).steps(RunState(), 1)
    next(steps)
    with pytest.raises(RunError, match="Draws ended after step 0"):
        next(steps)
    keys.seed_all(123)


@pytest.mark.posix
@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_workers_start_where_the_temporary_folder_has_a_long_name(tmp_path: Path, method: str) -> None:
    """Their sockets cannot be there: a path of more than 107 letters is refused by the system."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    words = ("loader.num_workers=1", f"loader.start_method={method}", "loader.timeout=20", "run.budget=2")
    program = command(*BASE, *words, f"paths.output_root={tmp_path / 'runs'}")  # no child of one that knows a folder
    done = subprocess.run(program, env=os.environ | ENV | {"TMPDIR": str(folder)}, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
