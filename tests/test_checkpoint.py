"""Checkpoints: whole or absent, plain values only, and what a run keeps of them."""

import contextlib
import errno
import os
import random
import shutil
import stat
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.errors import DamagedError, RunError, StorageError, UserError
from scaffolding.core.folder import folder
from scaffolding.core.state import checkpoint
from scaffolding.core.state.files import CheckpointFiles
from scaffolding.core.state.finite import FiniteWatch, nonfinite
from scaffolding.core.state.progress import RunState


def content(value: float = 1.0) -> dict[str, Any]:
    weights = {"layer.weight": torch.full((64, 64), value), "layer.bias": torch.arange(8)}
    return {"format": checkpoint.FORMAT, "model": weights, "state": vars(RunState(step=int(value)))}


def step_of(path: Path) -> int:
    return int(checkpoint.load(path)["state"]["step"])


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "tmp" in path.name]


def test_a_checkpoint_holds_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "latest.pt"
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoint.save(path, content() | {"model": model.state_dict(), "counter": Counter([3, 3])})
    loaded = checkpoint.load(path)
    assert list(loaded["model"]) == list(model.state_dict()) and loaded["counter"] == {3: 2}
    assert not leftovers(tmp_path)
    fresh = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    checkpoint.load_model(fresh, loaded["model"])
    assert torch.equal(fresh[0].weight, model[0].weight)
    with pytest.raises(UserError, match=r"1\.running_mean"):
        checkpoint.load_model(nn.Sequential(nn.Linear(2, 3)), loaded["model"])
    with pytest.raises(UserError, match="has no 'optimizers'"):
        loaded["optimizers"]


def test_a_checkpoint_of_a_device_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a run of a GPU, resumed without one, loses its best checkpoint, as nobody can say its step."""
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:99")
    torch.save(content(7.0), tmp_path / "best.pt")
    monkeypatch.undo()
    assert checkpoint.step_in(tmp_path / "best.pt") == step_of(tmp_path / "best.pt") == 7


@pytest.mark.parametrize("value", [np.float64(1), {np.int64(3): 1}, object(), nn.Linear(1, 1), defaultdict(int)])
def test_what_could_not_be_loaded_again_is_not_saved(tmp_path: Path, value: Any) -> None:
    with pytest.raises(RunError, match=r"part\.here.*(numpy|object|Linear|defaultdict)"):
        checkpoint.save(tmp_path / "latest.pt", content() | {"part": {"here": value}})
    assert not list(tmp_path.iterdir())


@contextlib.contextmanager
def failing(call: str, number: int) -> Iterator[None]:
    """Meanwhile a system call fails; "write 100": no file may grow beyond 100 bytes."""

    def fail(*arguments: Any) -> Any:
        raise OSError(number, os.strerror(number))

    name, _, size = call.partition(" ")
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        if name == "write":
            import resource  # Windows lacks it

            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE, limits)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), limits[1]))
        else:
            patch.setattr(folder if name == "open" else os, name, fail, raising=False)
        yield


@pytest.mark.parametrize(
    ("call", "number"),
    [
        ("open", errno.EROFS), ("write 0", errno.EFBIG), ("write 9000", errno.EFBIG), ("write 34000", errno.EFBIG),
        ("fsync", errno.EIO), ("replace", errno.ENOSPC),
    ],
)  # fmt: skip
def test_a_write_that_fails_leaves_the_one_before(tmp_path: Path, call: str, number: int) -> None:
    path = tmp_path / "latest.pt"
    checkpoint.save(path, content(1))
    checkpoint.save(path, content(2))
    with failing(call, number), pytest.raises(StorageError) as caught:
        checkpoint.save(path, content(3))
    for part in ("latest.pt: ", os.strerror(number), "0.0 MB needed, ", "MB free", "untouched"):
        assert part in str(caught.value)
    assert step_of(path) == 2 and not leftovers(tmp_path)
    checkpoint.save(path, content(4))
    assert step_of(path) == 4


def test_link_is_the_same_checkpoint(tmp_path: Path) -> None:
    latest, best, copy = (tmp_path / f"{name}.pt" for name in ("latest", "best", "copy"))
    for value in (1, 2):
        checkpoint.save(latest, content(value))
        checkpoint.link_checkpoint(latest, best)
        assert step_of(best) == value
    checkpoint.save(latest, content(3))
    assert (step_of(latest), step_of(best)) == (3, 2)
    with failing("link", errno.EPERM):  # a file system without links
        checkpoint.link_checkpoint(latest, copy)
    assert step_of(copy) == 3 and not leftovers(tmp_path)


def cut(path: Path) -> None:
    """Damage a file, and no other name of it."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-9])


def test_the_files_of_a_run(tmp_path: Path) -> None:
    files = CheckpointFiles(tmp_path)
    files.folder.mkdir()
    assert files.newest() is None
    for step in (1, 2, 3, 4):
        files.save(content(step), step - 1 or None, num_kept=3)
        if step == 2:
            assert files.best_or_latest() == files.latest
            files.keep_best()
    shutil.copy(files.latest, files.folder / "step_22_keep.pt")  # somebody keeps a copy: it is of step 4
    assert [file.name for file in files.steps()] == ["step_2.pt", "step_3.pt"]
    assert [step_of(path) for path in (files.latest, files.best_or_latest(), files.model)] == [4, 2, 2]
    (files.folder / "step_22_keep.pt").unlink()
    os.utime(files.folder / "step_2.pt")  # a copy of a run may have any times
    cut(files.latest)
    found = files.newest()
    assert found is not None and (found[0].name, found[1]["state"]["step"]) == ("step_3.pt", 3)
    assert files.find_best(2) == files.best
    cut(files.best)
    assert files.find_best(2).name == "step_2.pt"
    with pytest.raises(DamagedError, match=r"best\.pt .* damaged"):
        files.find_best(1)
    assert files.best_or_newest(1)[0].name == "step_3.pt"
    shutil.copy(files.folder / "step_2.pt", files.folder / "step_2_keep.pt")
    files.save(content(5), 4, num_kept=1)
    assert files.steps() == [] and (files.folder / "step_2_keep.pt").exists()


def test_a_sector_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = CheckpointFiles(tmp_path)
    files.folder.mkdir()
    for step in (1, 2):
        files.save(content(step), step - 1, num_kept=2)
    real = zipfile.ZipFile.testzip

    def read(archive: zipfile.ZipFile) -> str | None:
        if archive.filename == str(files.latest):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(archive)

    monkeypatch.setattr(zipfile.ZipFile, "testzip", read)
    with pytest.raises(DamagedError, match=r"damaged.*Input/output error"):
        checkpoint.load(files.latest)
    assert (files.newest() or [None])[0] == files.folder / "step_1.pt"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    real = os.fsync

    def flush(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", flush)
    path = folder.claim(tmp_path, "run")
    checkpoint.save(path / "latest.pt", content(3))
    assert step_of(path / "latest.pt") == 3
    folder.release(path)


def test_damage_is_noticed(tmp_path: Path) -> None:
    """Any cut, and any flipped bit that means something: the container has a checksum of every record."""
    path = tmp_path / "latest.pt"
    checkpoint.save(path, content())
    checkpoint.save(tmp_path / "best.pt", content())
    whole, before = path.read_bytes(), checkpoint.load(path)
    generator = random.Random(0)
    for part in range(16):
        path.write_bytes(whole[: len(whole) * part // 16])
        with pytest.raises(DamagedError, match=r"(?s)latest\.pt .*is damaged.*best"):
            checkpoint.load(path)
    num_noticed = 0
    for _ in range(300):
        position, bit = generator.randrange(len(whole)), generator.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
        try:
            found = checkpoint.load(path)
        except UserError:
            num_noticed += 1
        else:
            assert first_difference(before, found) is None, position  # it was in the space between records
    assert num_noticed > 100
    with pytest.raises(DamagedError, match=r"(?s): no such checkpoint.*best .*latest"):
        checkpoint.load(tmp_path / "other.pt")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_nonfinite() -> None:
    state = {"a": torch.ones(3), "count": torch.tensor(5), "empty": torch.ones(0), "big": torch.full((2, 2), 1e38)}
    for bad in (float("nan"), float("inf"), -float("inf")):
        kinds = {
            "dense": torch.tensor([0, bad]), "scalar": torch.tensor(bad), "half": torch.tensor([bad]).half(),
            "coo": torch.tensor([0, bad]).to_sparse(), "csr": torch.tensor([[0, bad]]).to_sparse_csr(),
            "complex": torch.tensor([1 + 1j * bad]), "conjugate": torch.tensor([1 + 1j * bad]).conj(),
            "float8": torch.tensor([float("nan")]).to(torch.float8_e5m2),
        }  # fmt: skip
        assert list(nonfinite(state | kinds)) == list(kinds)
        assert list(nonfinite(state | kinds, {"dense", "coo"})) == [n for n in kinds if n not in ("dense", "coo")]
    finite = {"coo": torch.ones(2).to_sparse(), "csr": torch.eye(2).to_sparse_csr(), "complex": torch.ones(1) * 1j}
    assert not nonfinite(state | finite) and not nonfinite({})  # a norm that overflows is not an infinite value


def test_what_is_infinite_on_purpose_ends_no_run() -> None:
    """A mask, a running minimum, an optimizer that begins at infinity; but not what becomes so later."""
    weight, mask, lowest = torch.ones(2), torch.tensor([0, -torch.inf]), torch.full((2,), torch.inf)
    states = {"model": {"weight": weight}, "buffers": {"mask": mask, "lowest": lowest, "mean": torch.zeros(2)}}
    watch = FiniteWatch(torch.device("cpu"), states | {"optimizers": {}})
    states["optimizers"] = {"lowest_loss": torch.tensor(torch.inf), "moment": torch.zeros(2)}
    for step in (1, 2):
        watch.check(states, step)
    for part, name in (("model", "weight"), ("buffers", "mean"), ("optimizers", "moment")):
        states[part][name][0] = torch.inf
        with pytest.raises(RunError, match=rf"{part}\.{name} was not finite at or before step 3"):
            watch.check(states, 3)
        states[part][name][0] = 0
    for part, name in (("model", "weight"), ("buffers", "mean")):  # at the first look of a run
        watch = FiniteWatch(torch.device("cpu"), states)
        states[part][name][0] = torch.nan
        with pytest.raises(RunError, match=rf"{part}\.{name} "):
            watch.check(states, 1)
        states[part][name][0] = 0


def test_state_counts_and_judges() -> None:
    state = RunState()
    for _ in range(3):
        state.advance(num_batches=2, num_items=16, batches_per_epoch=4)
    assert (state.step, state.samples, state.epoch, state.position) == (3, 48, 1, 2)
    assert not RunState().is_better(float("nan"), "max") and RunState().is_better(3.0, "min")
    state.best = 2.0
    assert [value for value in (1.0, 2.0, float("nan"), 3.0) if state.is_better(value, "min")] == [1.0]
    assert [value for value in (1.0, 2.0, 3.0) if state.is_better(value, "max")] == [3.0]
