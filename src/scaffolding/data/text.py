"""Text as windows of token ids, in characters or byte-pair encoding; no window crosses a border between splits."""

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .vocabulary import FILE, digest, make_tokenizer, read_tokenizer, say

SPLITS = ("train", "test", "val")  # in the order of the text: its end validates
NUM_BLOCKS = 100  # of a text without segments that is to be shuffled

Span = tuple[int, int]  # characters of the text: first, and one beyond the last


class Source(Protocol):
    """Where a text comes from."""

    def segments(self) -> list[str]:
        """What belongs together, such as documents: no window reaches from one into the next."""


class TextFiles:
    """Text files in UTF-8. Each is one segment, or several if it is divided.

    Args:
        path: a file or a list of files; relative to the working folder, or else to the project's folder.
        segment_delimiter: what stands between segments, and is left out; "\\n" and "\\t" may be written as two
            characters. None: a file is one segment.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: they hold no text, or one is not UTF-8.
    """

    def __init__(self, path: str | Sequence[str], segment_delimiter: str | None = None) -> None:
        if isinstance(path, str):
            path = [path]
        self.paths = [_find(Path(name).expanduser()) for name in path]
        self.delimiter = segment_delimiter and segment_delimiter.replace("\\n", "\n").replace("\\t", "\t")

    def segments(self) -> list[str]:
        """The segments of all files, without empty ones."""
        parts: list[str] = []
        for path in self.paths:
            try:
                text = path.read_text("utf-8-sig")  # line ends become \n, a byte order mark goes
            except UnicodeDecodeError as error:
                raise ValueError(f"{path} is not UTF-8: byte {error.start}\nsave it as UTF-8") from error
            if self.delimiter:
                parts += text.split(self.delimiter)
            else:
                parts.append(text)
        if not any(part.strip() for part in parts):
            raise ValueError(f"there is no text in {', '.join(map(str, self.paths))}")
        return [part for part in parts if part]


class Text:
    """Windows of a text, which is held in memory as one row of token ids: `seq_len` tokens, and the one after each.

    The text is divided into training, test and validation, in this order; then each part is encoded by itself, so a
    window of one split shares no character with any of another. Without segments the text is cut at two characters;
    with segments, each belongs to one split as a whole, and no window reaches from one into the next.

    Args:
        split: "train", "val" or "test".
        source: gives the segments of the text.
        seq_len: tokens in a window.
        stride: tokens from a training window to the next: `seq_len` uses each token once an epoch, 1 every window
            there is. Validation and test windows always lie side by side.
        tokenizer: "characters", those of the whole text; or "bpe", byte-pair encoding, trained on the training split.
        vocab_size: number of token ids, at least the number of characters; 257 or more for "bpe".
        root: folder of downloaded data; vocabularies that were trained are kept and found again in its `vocabularies`.
        data_fraction: how much of the text to use, from its beginning, 0..1.
        val_fraction, test_fraction: how much of it is held out, 0..1.
        shuffle: hold out segments (hundredths of a text without them) drawn with `seed`, not the end of the text.
        seed: of the shuffle.
        tokenizer_file: a vocabulary that `save_tokenizer` or a training wrote, which is read in place of making one, so
            that several texts share their ids; relative to the working folder, or else to the project's folder.
        num_special_tokens: ids that no text has, the last ones of `vocab_size`, for padding, masks, users.

    Raises:
        ValueError: a number is out of its range, there are more characters than ids for them, the vocabulary of the
            file is of another kind or larger, or does not have all characters, or too little text.
        FileNotFoundError: `tokenizer_file` is missing.

    Attributes:
        special_ids: the ids that no text has.
        spans: the parts of the text that the split consists of, in characters.
        tokens: their ids, one after the other, int32, shape (num_tokens,).
        starts: position of each window in `tokens`, int64, shape (num_windows,).
    """

    def __init__(
        self, split: str, source: Source, seq_len: int, stride: int, tokenizer: str, vocab_size: int, root: str,
        data_fraction: float, val_fraction: float, test_fraction: float, shuffle: bool, seed: int,
        tokenizer_file: str | None = None, num_special_tokens: int = 0,
    ) -> None:  # fmt: skip
        for name, number, least in (
            ("seq_len", seq_len, 1),
            ("stride", stride, 1),
            ("num_special_tokens", num_special_tokens, 0),
        ):
            if number < least:
                raise ValueError(f"{name}={number}: {least} or more is needed")
        self.special_ids = range(vocab_size - num_special_tokens, vocab_size)
        self.split, self.source, self.data_fraction, self.seq_len = split, source, data_fraction, seq_len
        text, segments = self._read()
        spans = divide(segments, val_fraction, test_fraction, shuffle, seed)
        self.spans, self.training_spans = spans[split], spans["train"]
        training = [text[start:end] for start, end in self.training_spans]
        num_ids = vocab_size - num_special_tokens
        if tokenizer_file is None:
            self.tokenizer = make_tokenizer(tokenizer, text, training, num_ids, Path(root, "vocabularies"))
        else:
            self.tokenizer = read_tokenizer(_find(Path(tokenizer_file).expanduser(), FILE), tokenizer, num_ids)
        self.digest = digest(text[start:end] for start, end in self.spans)
        encoded = [self.tokenizer.encode(text[start:end]) for start, end in self.spans]
        lengths = [len(ids) for ids in encoded]
        self._check_lengths(lengths)
        self.tokens = torch.cat(encoded)
        ends = itertools.accumulate(lengths, initial=0)
        step = stride if split == "train" else seq_len
        self.starts = torch.cat([torch.arange(a, max(a, b - seq_len), step) for a, b in itertools.pairwise(ends)])
        self.windows = self.tokens.unfold(0, seq_len + 1, 1)  # a view: every window of the row, used or not

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One window: tokens of shape (seq_len,), int64, and the token after each, of the same shape."""
        inputs, targets = self.get_batch(torch.tensor([range(len(self))[index]]))
        return inputs[0], targets[0]

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of shape (B, seq_len), int64, and the token after each, of the same shape."""
        windows = self.windows.index_select(0, self.starts.index_select(0, indices)).long()
        return windows[:, :-1], windows[:, 1:]

    def read_file(self, path: Path) -> Tensor:
        """The last `seq_len` tokens of a text file, or all of a shorter one, int64, shape (num_tokens,).

        ValueError: it is empty or not UTF-8, or has characters that the vocabulary does not have.
        """
        try:
            tokens = self.tokenizer.encode(path.read_text("utf-8-sig")).long()
        except UnicodeDecodeError as error:
            raise ValueError(f"not a text in UTF-8: byte {error.start}") from error
        if not len(tokens):
            raise ValueError("the file has no text")
        say(f"{path}: {len(tokens)} tokens, of which the last {min(len(tokens), self.seq_len)} are used")
        return tokens[-self.seq_len :]

    def state_dict(self) -> dict[str, Any]:
        """What tells this text from another; that of the training split holds the vocabulary."""
        state: dict[str, Any] = {"text": self.digest}
        if self.split == "train":
            state["tokenizer"] = self.tokenizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """ValueError unless the text and the vocabulary are those of the state: weights mean nothing with others."""
        here = self.state_dict()
        for name in [name for name in ("tokenizer", "text") if name in here]:
            if here[name] != state[name]:
                raise ValueError(f"the {name} has changed")

    @functools.cached_property
    def words(self) -> set[str]:
        """The words of the training split, in lower case."""
        text, _ = self._read()
        return set(find_words("\n".join(text[start:end] for start, end in self.training_spans)))

    def share_of_known_words(self, text: str) -> float:
        """How many of the words of another text are in the training split, 0..1; 0 if it has none."""
        words = find_words(text)
        return sum(word in self.words for word in words) / max(1, len(words))

    def _read(self) -> tuple[str, list[Span]]:
        """The text that is used, and its segments."""
        if not 0 < self.data_fraction <= 1:
            raise ValueError(f"data_fraction={self.data_fraction}: above 0, and 1 at most, is needed")
        segments = self.source.segments()
        text = "".join(segments)
        length = max(1, int(len(text) * self.data_fraction))
        ends = itertools.accumulate(map(len, segments), initial=0)
        return text[:length], [(start, min(end, length)) for start, end in itertools.pairwise(ends) if start < length]

    def _check_lengths(self, lengths: list[int]) -> None:
        """ValueError if no segment fills a window; a line in the log if some of them are too short."""
        short = [n for n in lengths if n <= self.seq_len]
        if len(short) == len(lengths):
            raise ValueError(
                f"the {self.split} split is too short: {len(lengths)} segments, the longest of "
                f"{max(lengths, default=0)} tokens; a window takes data.seq_len + 1 = {self.seq_len + 1}\n"
                f"lower data.seq_len, give more text, or another data.dataset.val_fraction or test_fraction"
            )
        if short:
            say(
                f"{self.split}: {len(short)} of {len(lengths)} segments, {sum(short) / sum(lengths):.1%} of the tokens,"
                f" are shorter than a window of {self.seq_len + 1} and left out; lower data.seq_len to use more"
            )


def divide(
    segments: list[Span], val_fraction: float, test_fraction: float, shuffle: bool, seed: int
) -> dict[str, list[Span]]:
    """Which spans of a text belong to which split: all of it, and nothing twice.

    Args:
        segments: side by side, the first from character 0.
        val_fraction, test_fraction: share of the characters, as nearly as whole segments allow.
        shuffle: draw which segments are held out; else the last ones validate, those before them test.
        seed: of the draws.

    Raises:
        ValueError: the fractions leave nothing to train on.
    """
    train_fraction = 1 - val_fraction - test_fraction
    if min(val_fraction, test_fraction) <= 0 or train_fraction <= 0:
        raise ValueError(
            f"val_fraction={val_fraction}, test_fraction={test_fraction}: both above 0 and together below 1 are needed"
        )
    length = segments[-1][1]
    borders = [int(length * train_fraction), int(length * (1 - val_fraction))]
    if len(segments) == 1:
        cuts = borders
        if shuffle:
            cuts = [length * block // NUM_BLOCKS for block in range(1, NUM_BLOCKS)]
        segments = [span for span in itertools.pairwise([0, *cuts, length]) if span[0] < span[1]]
    order = list(range(len(segments)))
    if shuffle:
        order = torch.randperm(len(segments), generator=torch.Generator().manual_seed(seed)).tolist()
    spans: dict[str, list[Span]] = {name: [] for name in SPLITS}
    position = 0
    for index in order:
        start, end = segments[index]
        middle = position + (end - start) / 2
        spans[SPLITS[sum(middle >= border for border in borders)]].append((start, end))
        position += end - start
    return {name: sorted(found) for name, found in spans.items()}


def find_words(text: str) -> list[str]:
    """The words of a text, in lower case: letters in a row."""
    return re.findall(r"[^\W\d_]+", text.lower())


def _find(path: Path, key: str = "data.path") -> Path:
    root = Path(__file__).resolve().parents[3]  # a run may be loaded from any folder
    places = dict.fromkeys((path.absolute(), root / path))
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"{path}: no such file ({key}), looked for {' and '.join(map(str, places))}")
