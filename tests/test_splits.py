"""Splits: disjoint, a function of (seed, name) and the number of items, never the first ones only."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaffolding.core.errors import UserError
from scaffolding.splits import Split, carve, limit, make_splits, seen_in_training


class Numbers:
    """Items are their own positions."""

    def __init__(self, num_items: int = 100) -> None:
        self.num_items = num_items

    def __len__(self) -> int:
        return self.num_items

    def __getitem__(self, index: int) -> int:
        return index


class InMemory(Numbers):
    def get_batch(self, indices: Tensor) -> Tensor:
        return indices * 10

    def collate(self, samples: list[Any]) -> str:
        return f"collated {samples}"

    def order(self, positions: Tensor, generator: torch.Generator) -> Tensor:
        """The largest first."""
        return positions.argsort(descending=True)


def items(split: Split) -> list[int]:
    return [split[index] for index in range(len(split))]


@pytest.mark.parametrize(("num_items", "fraction"), [(2, 0.5), (10, 0.1), (100, 0.25), (1001, 0.37), (101, 0.99)])
def test_carve_is_disjoint_and_covers(num_items: int, fraction: float) -> None:
    train, val = carve(num_items, fraction, seed=3)
    assert len(val) == round(num_items * fraction)
    assert sorted(train.tolist() + val.tolist()) == list(range(num_items))
    assert train.tolist() == sorted(train.tolist()) and val.tolist() == sorted(val.tolist())


def test_carve_is_a_function_of_seed_and_size() -> None:
    first = carve(1000, 0.2, seed=3)
    torch.manual_seed(99)
    again, other = carve(1000, 0.2, seed=3), carve(1000, 0.2, seed=4)
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))
    assert not torch.equal(first[1], other[1])
    assert 100 < first[1].float().mean() < 900  # from everywhere, not one end


@pytest.mark.parametrize(("num_items", "fraction"), [(10, 0.0), (10, 0.04), (10, 1.0), (10, 0.96), (1, 0.5), (0, 0.5)])
def test_carve_refuses_an_empty_split(num_items: int, fraction: float) -> None:
    with pytest.raises(UserError, match="val_from_train"):
        carve(num_items, fraction, seed=0)


@pytest.mark.parametrize(
    ("setting", "count"), [(0.1, 10), (0.999, 100), (0.001, 1), (1, 1), (1.0, 100), (37, 37), (37.0, 37)]
)
def test_limit_takes_a_fraction_or_a_count(setting: float, count: int) -> None:
    whole = Split(Numbers(), None, "train")
    kept = items(limit(whole, setting, seed=0))
    assert len(kept) == len(set(kept)) == count
    assert set(kept) <= set(range(100))


def test_limit_leaves_what_is_small_enough() -> None:
    whole = Split(Numbers(), None, "train")
    assert limit(whole, 100, seed=0) is limit(whole, 1000, seed=0) is limit(whole, 1.0, seed=0) is whole


def test_limit_draws_by_seed_and_name() -> None:
    train, val = (Split(Numbers(), None, name) for name in ("train", "val"))
    kept = items(limit(train, 20, seed=0))
    assert kept == items(limit(train, 20, seed=0)) == sorted(kept)
    assert kept != items(limit(train, 20, seed=1))
    assert kept != items(limit(val, 20, seed=0))
    assert max(kept) > 50 and kept != list(range(20))  # data is often sorted by class


def test_limit_of_a_part_keeps_to_that_part() -> None:
    part = Split(Numbers(), torch.arange(1, 100, 2), "val")
    kept = items(limit(part, 10, seed=0))
    assert len(kept) == 10 and all(item % 2 == 1 for item in kept)


def test_split_forwards_what_the_dataset_has() -> None:
    positions = torch.tensor([7, 3, 5])
    plain, fast = Split(Numbers(), positions, "train"), Split(InMemory(), positions, "train")
    assert not hasattr(plain, "get_batch") and not hasattr(plain, "collate")
    assert items(plain) == [7, 3, 5]
    assert fast.get_batch(torch.tensor([2, 0])).tolist() == [50, 70]
    assert fast.collate([1]) == "collated [1]" and not hasattr(plain, "order")
    assert [items(fast)[index] for index in fast.order(torch.Generator())] == [7, 5, 3]
    assert Split(InMemory(), None, "train").get_batch(torch.tensor([2, 0])).tolist() == [20, 0]
    limited = limit(fast, 2, seed=0)
    assert limited.get_batch(torch.tensor([0, 1])).tolist() == [10 * item for item in items(limited)]


def test_fingerprint_tells_splits_apart() -> None:
    def fingerprint(num_items: int, seed: int) -> list[Any]:
        return Split(Numbers(num_items), carve(num_items, 0.2, seed)[0], "train").fingerprint()

    assert fingerprint(100, 0) == fingerprint(100, 0)
    assert fingerprint(100, 0)[0] == 80
    assert len({str(fingerprint(*one)) for one in ((100, 0), (101, 0), (100, 1))}) == 3
    whole = [Split(Numbers(size), None, "test").fingerprint() for size in (100, 100, 101)]
    assert whole[0] == whole[1] != whole[2]


def make(data: dict[str, Any], limit_train: float | None = None, limit_eval: float | None = None) -> dict[str, Split]:
    sizes = {"train": 100, "val": 40, "test": 30}

    def read(split: str, **changes: Any) -> Numbers:
        dataset: Any = Numbers(sizes[split])
        dataset.split, dataset.changes = split, changes
        return dataset

    return make_splits(read, data, limit_train, limit_eval)


def test_the_author_s_own_splits_are_kept() -> None:
    assert {name: (len(split), split.dataset.split) for name, split in make({}).items()} == {
        "train": (100, "train"), "val": (40, "val"), "test": (30, "test"),
    }  # fmt: skip


def test_val_is_carved_from_train() -> None:
    splits = make({"val_from_train": 0.1, "val_arguments": {"augment": False}})
    assert sorted(items(splits["train"]) + items(splits["val"])) == list(range(100))
    assert len(splits["val"]) == 10 and len(splits["test"]) == 30
    assert splits["val"].dataset.split == "train"  # the same items, read without augmentation
    assert (splits["train"].dataset.changes, splits["val"].dataset.changes) == ({}, {"augment": False})
    assert make({"val_from_train": 0.1})["val"].dataset.changes == {}


def test_val_arguments_may_not_change_which_items_there_are() -> None:
    """Fails where the positions kept for validation are others in a dataset of another length."""
    data = {"val_from_train": 0.2, "val_arguments": {"num_items": 40}}
    with pytest.raises(UserError, match=r"data.val_arguments: with them the dataset has 40 items, without them 20\n"):
        make_splits(lambda split, num_items=20: Numbers(num_items), data, None, None)


def test_limits_apply_after_carving() -> None:
    whole, limited = make({"val_from_train": 0.2}), make({"val_from_train": 0.2}, 10, 0.5)
    assert {name: len(split) for name, split in limited.items()} == {"train": 10, "val": 10, "test": 15}
    for name in whole:
        assert set(items(limited[name])) <= set(items(whole[name]))


def make_with_test(test: Any) -> dict[str, Split]:
    """The splits where reading the test split gives, or raises, `test`."""

    def read(split: str) -> Any:
        if split == "test" and isinstance(test, Exception):
            raise test
        if split == "test":
            return test
        return Numbers()

    return make_splits(read, {}, None, 5)


@pytest.mark.parametrize(
    "test",
    [Numbers(0), ValueError("there is no test split"), KeyError("test"), ValueError("'test' is not in list"),
     ValueError("Unknown value 'test' for argument split. Valid values are {'train', 'val'}.")],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_a_dataset_may_have_no_test_split(test: Any) -> None:
    assert set(make_with_test(test)) == {"train", "val"}


@pytest.mark.parametrize(
    "error",
    [FileNotFoundError("no test.npz"), ValueError("/data/test.npz is damaged"), KeyError("label"), UserError("no test"),
     UnicodeDecodeError("utf-8", b"", 0, 1, "test")],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_a_test_split_that_cannot_be_read_is_an_error(error: Exception) -> None:
    """Fails where a missing or damaged file is taken for a dataset without a test split."""
    with pytest.raises(type(error)):
        make_with_test(error)


def test_no_test_split_in_the_config() -> None:
    assert set(make({"test": None})) == {"train", "val"}


class NoLength:
    def __getitem__(self, index: int) -> int:
        return index


class IterableDataset(Numbers):
    """As torch's, some of which have a length."""


class NoPositions:
    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize("dataset", [NoLength(), IterableDataset(), NoPositions()], ids=lambda one: type(one).__name__)
def test_a_dataset_without_length_or_positions_is_refused(dataset: Any) -> None:
    with pytest.raises(UserError, match=r"data.dataset: \w+, the train split, (has no|is a stream)"):
        make_splits(lambda split: dataset, {}, None, None)


def test_a_split_has_a_seed_of_its_own() -> None:
    val = [items(make({"val_from_train": 0.2, **seed})["val"]) for seed in ({}, {"split_seed": 0}, {"split_seed": 1})]
    assert val[0] == val[1] != val[2]


def test_validation_items_that_were_trained_on_are_counted() -> None:
    """Fails where a fork with another split is validated on what its weights have learned."""
    data = {"dataset": {"_target_": "x"}, "val_from_train": 0.2}

    def count(changes: dict[str, Any], other: dict[str, Any], limit_train: float | None = None) -> int:
        config = {"data": {**data, **other}, "loader": {"limit_train": limit_train}}
        return seen_in_training(make({**data, **changes}), {**data, **changes}, config)

    assert count({}, {}) == count({"val_from_train": 0.1}, {}) == 0  # the first half of the same validation items
    assert count({"val_from_train": 0.3}, {}) == 10
    assert 10 <= count({"split_seed": 1}, {}) <= 20
    assert count({}, {"val_from_train": None}) == 20 > count({}, {"val_from_train": None}, 0.1) > 0
    for same in ({"_target_": "y"}, {"_target_": "x", "augment": False}):  # a subclass, other numbers: the same items
        assert count({"dataset": same, "split_seed": 1}, {}) >= 10
    elsewhere = {"_target_": "x", "root": "elsewhere"}
    assert count({"val_from_train": None}, {}) == count({"dataset": elsewhere, "split_seed": 1}, {}) == 0
    for dataset in ({}, {"dataset": data["dataset"]}):  # the other was trained on a stream, perhaps validated on these
        config = {"data": {"stream": {"_target_": "x"}, **dataset}, "loader": {"limit_train": None}}
        assert seen_in_training(make(data), data, config) == 0


class ByBatch(Dataset[Any]):
    """Items that are read as batches only, of kinds that torch does not know."""

    items: Any = np.array(["a", "b", "c"])

    def __len__(self) -> int:
        return 3

    def get_batch(self, indices: torch.Tensor) -> Any:
        return self.items[indices]


@pytest.mark.parametrize(
    "items",
    [
        np.array(["a", "b", "c"]),
        np.array([1, 2, 3], "datetime64[D]"),
        np.array([{}, 1, "x"], object),
        torch.tensor([1j, 2, 3]).conj(),
        torch.arange(3),
    ],
    ids=lambda items: str(items.dtype),
)
def test_the_fingerprint_takes_every_kind_of_item(items: Any) -> None:
    dataset = ByBatch()
    dataset.items = items
    found = Split(dataset, None, "train").fingerprint()
    assert found == Split(dataset, None, "train").fingerprint() and found[0] == 3
    if getattr(items, "dtype", None) != np.dtype(object):
        dataset.items = items[[1, 0, 2]] if isinstance(items, np.ndarray) else items.flip(0)
        assert Split(dataset, None, "train").fingerprint() != found


def test_a_fingerprint_sees_changed_values() -> None:
    """Fails where only the number of items is compared; items that are random in themselves are not compared."""

    class Tensors(Numbers):
        def __init__(self, scale: float = 1.0) -> None:
            super().__init__()
            self.scale = scale

        def __getitem__(self, index: int) -> Any:
            return {"x": torch.ones(3) * index * self.scale + torch.rand(1), "object": object()}

    def fingerprint(dataset: Any) -> list[Any]:
        return Split(dataset, torch.arange(1, 100, 2), "train").fingerprint()

    assert fingerprint(Tensors()) == fingerprint(Tensors()) != fingerprint(Tensors(1.001))
    stream = torch.Generator()
    unsteady: Any = Tensors()
    unsteady.__class__ = type("Unsteady", (Tensors,), {"__getitem__": lambda *_: torch.rand(1, generator=stream)})
    assert fingerprint(unsteady)[2] == ""
