"""Splits: which items train, validate and test. A scientific decision, so it is yours to read and edit.

A split is a function of (data.split_seed, name) and the number of items: the same on every machine, whatever else was
drawn, and whatever `run.seed` is, so that runs with several seeds are compared on the same items.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor
from torch.utils.data import Dataset

from .core.errors import UserError
from .core.intervals import num_kept
from .core.state import keys
from .core.tree import leaves

NUM_HASHED = 5  # items of a split, by which a resume sees that data changed

NAMES_TEST = re.compile(r"(?<![\w/\\.-])test(?![\w/\\.-])")  # as a word, not as a part of a path


class Split:
    """Some items of a dataset, in a given order. It has `get_batch`, `collate` and `order` where the dataset has.

    The dataset's `order(positions, generator)` says in which order an epoch of the training split reads: int64 of shape
    (n,), indices into `positions`, which are this split's items as positions in the dataset. An item may be left out or
    come several times; n is the same every epoch; what is random is drawn from `generator`.

    A dataset with `state_dict` and `load_state_dict` (a vocabulary, statistics) is kept in checkpoints; the latter may
    raise a ValueError where the state is of other data. One with `fingerprint() -> str` says itself which data it has;
    of others, the files that they name are compared (core/provenance/data.py) where a run goes on or is loaded.

    Args:
        dataset: any map-style dataset.
        indices: int64 tensor of shape (n,), positions in `dataset`; None: all of it as it is.
        name: "train", "val" or "test".
    """

    def __init__(self, dataset: Any, indices: Tensor | None, name: str) -> None:
        self.dataset, self.indices, self.name = dataset, indices, name
        if hasattr(dataset, "get_batch"):
            self.get_batch = dataset.get_batch
            if indices is not None:
                self.get_batch = self._get_batch
        if hasattr(dataset, "collate"):
            self.collate = dataset.collate
        if hasattr(dataset, "order"):
            self.order = self._order
        if hasattr(dataset, "load_state_dict"):
            self.state_dict, self.load_state_dict = dataset.state_dict, self._load_state_dict

    def __len__(self) -> int:
        if self.indices is None:
            return len(self.dataset)
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        if self.indices is not None:
            index = int(self.indices[index])
        return self.dataset[index]

    def _item(self, index: int) -> Any:
        if getattr(type(self.dataset), "__getitem__", None) in (None, Dataset.__getitem__):  # it reads batches only
            return self.get_batch(torch.tensor([index]))
        return self[index]

    def _get_batch(self, indices: Tensor) -> Any:
        assert self.indices is not None
        return self.dataset.get_batch(self.indices.index_select(0, indices))

    def _order(self, generator: torch.Generator) -> Tensor:
        positions = self.indices
        if positions is None:
            positions = torch.arange(len(self.dataset))
        order: Tensor = self.dataset.order(positions, generator)
        return order

    def _load_state_dict(self, state: Any) -> None:
        try:
            self.dataset.load_state_dict(state)
        except ValueError as error:
            raise UserError(f"data: the {self.name} split is not the one of the checkpoint: {error}") from error

    def fingerprint(self) -> list[Any]:
        """[number of items, hash of their positions, hash of some items], kept in checkpoints, compared at resume."""
        positions = b"all"
        if self.indices is not None:
            positions = self.indices.numpy().tobytes()
        return [len(self), hashlib.sha256(positions).hexdigest()[:16], self._content]

    @cached_property
    def _content(self) -> str:
        """A hash of a few items from everywhere; empty where reading an item twice gives other values."""
        found = hashlib.sha256()
        for index in torch.linspace(0, len(self) - 1, min(len(self), NUM_HASHED)).long().tolist():
            contents = []
            for _ in range(2):
                with keys.keyed("fingerprint", index):
                    contents.append(content_bytes(self._item(index)))
            if contents[0] != contents[1]:
                return ""
            found.update(contents[0])
        return found.hexdigest()[:16]


def content_bytes(item: Any) -> bytes:
    """The tensors, arrays, numbers and texts of an item as bytes; what else it holds is left out."""
    content = b""
    for name, value in leaves(item):
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            content += np.ascontiguousarray(value).tobytes()
        elif isinstance(value, Tensor) and value.layout == torch.strided:
            value = value.detach().cpu().resolve_conj().resolve_neg()
            content += value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        elif isinstance(value, int | float | complex | str | bytes | np.datetime64 | np.timedelta64):
            content += f"{name}={value!r};".encode()
    return content


def split_seed(data: Mapping[str, Any]) -> int:
    """The seed of the splits of a data config."""
    return data.get("split_seed") or 0


def make_splits(
    read: Callable[..., Any], data: Mapping[str, Any], limit_train: int | float | None, limit_eval: int | float | None
) -> dict[str, Split]:
    """The splits by name. "train" and "val" are disjoint where `val_from_train` carves them from one dataset.

    "test" is left out where there is none: `test: null` in the data config, no items, or `read_test` found no split.

    Args:
        read: builds the dataset of a split: `read("train")`, `read("train", augment=False)`.
        data: the data config; `val_from_train` is the fraction of "train" kept for validation (null: the dataset has a
            own "val" split), `val_arguments` replaces arguments of the constructor for the validation items,
            `split_seed` is the seed of all that is drawn here (0 where it says none).
        limit_train, limit_eval: how much to keep: a number of items, or a fraction of them up to 1.0; None: all.

    Raises:
        UserError: a split would be empty, or a dataset is a stream.
    """
    read, seed = partial(read_items, read), split_seed(data)
    if data.get("stream"):
        splits = splits_besides_stream(read, data)
    else:
        splits = train_and_val(read, data)
    test = None
    if data.get("dataset") or not data.get("stream"):
        test = read_test(read, data)
    if test is not None:
        splits["test"] = Split(test, None, "test")
    for name, setting in (("train", limit_train), ("val", limit_eval), ("test", limit_eval)):
        if setting is not None and name in splits:
            splits[name] = limit(splits[name], setting, seed)
    return splits


def splits_besides_stream(read: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Split]:
    """The validation split, if there is a dataset for it: what is trained on comes from `data.stream`."""
    if data.get("val_from_train"):
        raise UserError(
            "data.val_from_train: no items can be kept of data.stream, which has no positions"
            "\ngive data.dataset, which validates, or remove val_from_train"
        )
    if not data.get("dataset"):
        return {}
    return {"val": Split(read("val"), None, "val")}


def train_and_val(read: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Split]:
    """The splits that are trained on and validated on.

    With `data.val_arguments` the dataset must have the same items in the same order. Another number of them is a
    UserError; another order cannot be seen here, and would validate on training items.
    """
    train, seed = read("train"), split_seed(data)
    fraction, changes = data.get("val_from_train"), data.get("val_arguments") or {}
    changes = {name: value for name, value in changes.items() if (data.get("dataset") or {}).get(name) != value}
    if fraction is None:
        splits = {"train": Split(train, None, "train"), "val": Split(read("val"), None, "val")}
    else:
        kept, held_out = carve(len(train), fraction, seed)
        splits = {"train": Split(train, kept, "train")}
        validation = train
        if changes:
            validation = read("train", **changes)
            if len(validation) != len(train):
                raise UserError(
                    f"data.val_arguments: with them the dataset has {len(validation)} items, without them {len(train)}"
                    "\nthey may change how an item is read, not which items there are"
                )
        splits["val"] = Split(validation, held_out, "val")
    return splits


def read_items(read: Callable[..., Any], split: str, **changes: Any) -> Any:
    """The dataset of a split; UserError: it has no length, or its items have no positions."""
    dataset = read(split, **changes)
    kind = type(dataset)
    is_stream = any(base.__name__ == "IterableDataset" for base in kind.__mro__)
    missing = [name for name in ("__len__", "__getitem__") if not hasattr(kind, name)]
    if is_stream or ("__len__" in missing) or (missing and not hasattr(dataset, "get_batch")):
        problem = f"has no {' and no '.join(missing)}"
        if is_stream:
            problem = "is a stream: it has no positions from which a run could be resumed"
        raise UserError(
            f"data.dataset: {kind.__name__}, the {split} split, {problem}"
            "\na dataset has __len__ and __getitem__; a stream stands in data.stream: see Streams in configs/README.md"
        )
    return dataset


def read_test(read: Callable[..., Any], data: Mapping[str, Any]) -> Any:
    """The test dataset, or None, with a line in the log, if the dataset has no test split.

    A constructor says that there is none by a ValueError or a KeyError that names "test", as classes with a fixed list
    of splits do. Anything else that it raises is an error: a missing file must not hide the test split.
    """
    if "test" in data and data["test"] is None:
        return None
    try:
        test = read("test")
    except (ValueError, KeyError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if type(cause) not in (ValueError, KeyError) or not NAMES_TEST.search(str(cause)):
            raise
        logger.warning(f"no test split: {error}".partition("\n")[0])
        return None
    if len(test) == 0:
        logger.warning("no test split: it has no items")
        return None
    return test


def carve(num_items: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Sorted positions (train, val) that cover `num_items` without overlap, val holding `fraction` of them."""
    if not isinstance(fraction, int | float) or not 0 < fraction < 1:
        raise UserError(f"data.val_from_train={fraction}: not a fraction between 0 and 1")
    num_val = round(num_items * fraction)
    if not 0 < num_val < num_items:
        raise UserError(f"data.val_from_train={fraction} of {num_items} items leaves train or val empty")
    order = torch.randperm(num_items, generator=keys.generator(seed, "val_from_train"))
    train, val = order[num_val:].sort().values, order[:num_val].sort().values
    return train, val


def seen_in_training(splits: dict[str, Split], data: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """How many validation items of `splits`, made from `data`, are training items of a run with another `config`."""
    if not {"train", "val"} <= splits.keys() or config["data"].get("stream"):  # which items it gave is not known
        return 0
    other, positions = config["data"], splits["val"].indices
    paths = [
        [part for name, part in leaves(each["dataset"]) if isinstance(part, str) and not name.endswith("_target_")]
        for each in (data, other)
    ]
    if paths[0] != paths[1] or positions is None or data.get("val_from_train") is None:
        return 0  # other data; or the dataset's author split them
    num_items = len(splits["train"].dataset)
    trained = make_splits(lambda *_, **__: range(num_items), other, config["loader"]["limit_train"], None)["train"]
    kept = torch.arange(num_items)
    if trained.indices is not None:
        kept = trained.indices
    return int(torch.isin(positions, kept).sum())


def limit(split: Split, setting: int | float, seed: int) -> Split:
    """The split with only some of its items, drawn by (seed, name) rather than the first ones."""
    count = num_kept(len(split), setting)
    if count == len(split):
        return split
    chosen = torch.randperm(len(split), generator=keys.generator(seed, "limit", split.name))[:count].sort().values
    if split.indices is not None:
        chosen = split.indices[chosen]
    return Split(split.dataset, chosen, split.name)
