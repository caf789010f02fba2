"""Vocabularies of token ids: characters or byte pairs, made of a text or read from a file."""

import functools
import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch import Tensor

FILE = "data.dataset.tokenizer_file"
CHUNK = 2**16  # characters that are encoded at a time


class Characters:
    """A token is a character: its id is its place in the vocabulary, a string of different characters, sorted."""

    def __init__(self, vocabulary: str) -> None:
        self.vocabulary = vocabulary
        self.ids = np.full(sys.maxunicode + 1, -1, dtype=np.int32)  # by code point
        self.ids[_codes(vocabulary)] = np.arange(len(vocabulary))

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> Tensor:
        """Ids, int32, shape (len(text),); ValueError: characters that the vocabulary does not have."""
        codes = _codes(text)
        ids = self.ids[codes]
        unknown = np.unique(codes[ids < 0])
        if len(unknown):
            names = ", ".join(repr(chr(code)) for code in unknown[:10])
            raise ValueError(f"characters that the vocabulary does not have: {names}")
        return torch.from_numpy(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; an id that stands for no character becomes U+FFFD."""
        known = dict(enumerate(self.vocabulary))
        return "".join(known.get(i, "\N{REPLACEMENT CHARACTER}") for i in ids)

    def state_dict(self) -> dict[str, str]:
        """Kind and vocabulary, for `load_tokenizer`."""
        return {"kind": "characters", "vocabulary": self.vocabulary}


class BytePairs:
    """Byte-pair encoding of UTF-8 bytes, by Hugging Face's `tokenizers`: it can encode any text.

    Source: R. Sennrich, B. Haddow and A. Birch, "Neural Machine Translation of Rare Words with Subword Units", 2016;
    over bytes: A. Radford et al., "Language Models are Unsupervised Multitask Learners", 2019.

    Args:
        vocabulary: what `tokenizers` reads and writes, JSON.
    """

    def __init__(self, vocabulary: str) -> None:
        from tokenizers import Tokenizer

        self.vocabulary, self.tokenizer = vocabulary, Tokenizer.from_str(vocabulary)

    @classmethod
    def trained(cls, texts: list[str], vocab_size: int) -> "BytePairs":
        """A vocabulary of at most `vocab_size` tokens; a function of the texts, and of the library's version."""
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator((chunk for text in texts for chunk in _chunks(text)), trainer)
        return cls(tokenizer.to_str())

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> Tensor:
        """Ids, int32, shape (num_tokens,); a long text in chunks, whose ends no token crosses."""
        chunks = _chunks(text)
        parts = [torch.zeros(0, dtype=torch.int32)]
        for at in range(0, len(chunks), 64):  # some at a time: the library's results are larger than the ids
            some = self.tokenizer.encode_batch_fast(chunks[at : at + 64])
            parts += [torch.tensor(encoding.ids, dtype=torch.int32) for encoding in some]
        return torch.cat(parts)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; bytes that are not UTF-8, such as half a character, become U+FFFD."""
        return str(self.tokenizer.decode(list(ids)))

    def state_dict(self) -> dict[str, str]:
        """Kind and vocabulary, for `load_tokenizer`."""
        return {"kind": "bpe", "vocabulary": self.vocabulary}


Tokenizer = Characters | BytePairs


def load_tokenizer(state: dict[str, str]) -> Tokenizer:
    """The tokenizer whose `state_dict` this is; a run keeps it in its checkpoints under objects, datasets.train."""
    if state["kind"] == "bpe":
        return BytePairs(state["vocabulary"])
    return Characters(state["vocabulary"])


def make_tokenizer(kind: str, text: str, training: list[str], vocab_size: int, folder: Path) -> Tokenizer:
    """Characters of the whole text, or byte pairs trained on what is for training, once (see `Text`)."""
    if kind == "characters":
        characters = sorted(set(text))
        if len(characters) > vocab_size:
            raise ValueError(
                f"the text has {len(characters)} different characters, and data.vocab_size leaves {vocab_size} ids\n"
                f"give data.vocab_size={len(characters)} and the special tokens, or data.tokenizer=bpe"
            )
        return Characters("".join(characters))
    if kind != "bpe":
        raise ValueError(f"tokenizer={kind!r}\nallowed: characters, bpe")
    if vocab_size < 257:
        raise ValueError(
            f"data.vocab_size leaves {vocab_size} ids: byte-pair encoding begins with 256 bytes\ngive 257 or more"
        )
    return stored_byte_pairs(training, vocab_size, folder)


def save_tokenizer(tokenizer: Tokenizer, file: str | Path) -> None:
    """Write a vocabulary, for `tokenizer_file` of another text; FileExistsError: there is such a file."""
    with open(file, "x", encoding="utf-8") as stream:
        json.dump(tokenizer.state_dict(), stream)


def read_tokenizer(file: Path, kind: str, vocab_size: int) -> Tokenizer:
    """The vocabulary in a file of `save_tokenizer`, or one of byte pairs that a training stored.

    Raises:
        ValueError: it is not a vocabulary, of another kind than asked for, or has more tokens than `vocab_size`.
    """
    text = file.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
        if "model" in content:  # what the library writes
            content = {"kind": "bpe", "vocabulary": text}
        found = load_tokenizer(content)
    except OSError:
        raise
    except Exception as error:  # the library raises plain ones
        raise ValueError(f"{FILE}={file}: it is not a vocabulary ({type(error).__name__}: {error})") from error
    if content["kind"] != kind:
        raise ValueError(f"{FILE}={file}: it holds {content['kind']}\ngive data.tokenizer={content['kind']}")
    if len(found) > vocab_size:
        raise ValueError(
            f"{FILE}={file}: it has {len(found)} tokens, and data.vocab_size leaves {vocab_size} ids\n"
            f"give data.vocab_size={len(found)} and the special tokens"
        )
    say(f"vocabulary: {len(found)} tokens from {file}")
    return found


def stored_byte_pairs(texts: list[str], vocab_size: int, folder: Path) -> BytePairs:
    """The vocabulary in `folder` that was trained on the same texts with the same settings; else trained and stored.

    The file's name holds a fingerprint of texts, settings and library version: with others it is another file.
    """
    from tokenizers import __version__

    key = digest([f"byte-level bpe, {vocab_size}, tokenizers {__version__}", *texts])[:16]
    file = folder / f"bpe-{vocab_size}-{key}.json"
    if file.exists():
        try:
            found = BytePairs(file.read_text(encoding="utf-8"))
        except OSError:
            raise
        except Exception as error:  # the library raises plain ones
            raise ValueError(f"{file} is damaged: {error}\ndelete it, and the next start trains it again") from error
        say(f"vocabulary: {len(found)} tokens from {file}")
        return found
    trained = BytePairs.trained(texts, vocab_size)
    folder.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")  # other runs may do the same at the same time
    aside.write_text(trained.vocabulary, encoding="utf-8")
    os.replace(aside, file)
    say(f"vocabulary: {len(trained)} tokens, trained on the training split, stored in {file}")
    return trained


def digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts, their borders included."""
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode()).digest())
    return total.hexdigest()


def _codes(text: str) -> Any:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _chunks(text: str) -> list[str]:
    return [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]


@functools.cache  # once per process, for all splits
def say(message: str) -> None:
    """Log a message once."""
    logger.info(message)
