"""Text: windows that share no character across splits, vocabularies that are trained once, and what is refused."""

import itertools
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Train
from loguru import logger
from pairs import options

text = pytest.importorskip("scaffolding.data.text")
vocabulary = pytest.importorskip("scaffolding.data.vocabulary")

# every character is there once and in order, so the ids in a window are the positions of its characters in the text
POSITIONS = "".join(chr(0x4E00 + position) for position in range(3000))
PROSE = " ".join(f"the {word} of {word}s goes {word}ing" for word in ("cat", "dog", "bird", "tree") * 60)


def build(folder: Path, split: str, segments: list[str], **settings: Any) -> Any:
    defaults = {
        "seq_len": 8, "stride": 8, "tokenizer": "characters", "vocab_size": 3000, "root": str(folder), "seed": 0,
        "data_fraction": 1.0, "val_fraction": 0.1, "test_fraction": 0.05, "shuffle": False,
    }  # fmt: skip
    return text.Text(split, SimpleNamespace(segments=lambda: segments), **(defaults | settings))


def windows(dataset: Any) -> torch.Tensor:
    """All windows, shape (N, seq_len + 1)."""
    inputs, targets = dataset.get_batch(torch.arange(len(dataset)))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    return torch.cat([inputs, targets[:, -1:]], dim=1)


def random_segments(seed: int) -> list[str]:
    lengths = torch.randint(1, 120, (60,), generator=torch.Generator().manual_seed(seed)).tolist()
    ends = [*itertools.accumulate(lengths, initial=0)]
    return [POSITIONS[start:end] for start, end in itertools.pairwise(ends) if start < len(POSITIONS)]


@pytest.mark.parametrize("divided", [False, True], ids=["whole", "segments"])
@pytest.mark.parametrize("shuffle", [False, True], ids=["in_order", "shuffled"])
@pytest.mark.parametrize(("val", "test"), [(0.1, 0.05), (0.3, 0.3), (0.05, 0.5)])
def test_no_window_crosses_a_border(tmp_path: Path, divided: bool, shuffle: bool, val: float, test: float) -> None:
    for seed, (stride, seq_len) in enumerate([(1, 7), (7, 7), (3, 16), (50, 20)]):
        segments = random_segments(seed) if divided else [POSITIONS]
        settings = {"stride": stride, "seq_len": seq_len, "val_fraction": val, "test_fraction": test}
        parts = {s: build(tmp_path, s, segments, shuffle=shuffle, seed=seed, **settings) for s in text.SPLITS}
        bounds = [*itertools.accumulate(map(len, segments), initial=0)]
        spans = sorted(span for part in parts.values() for span in part.spans)
        assert [spans[0][0], *(end for _, end in spans)] == [0, *(start for start, _ in spans[1:]), bounds[-1]]
        seen: dict[str, set[int]] = {}
        for name, part in parts.items():
            found = windows(part)
            assert torch.equal(found - found[:, :1], torch.arange(seq_len + 1).expand_as(found))  # consecutive
            for first, last in found[:, [0, -1]].tolist():
                assert any(start <= first and last < end for start, end in part.spans)
                if divided:
                    assert not any(first < bound <= last for bound in bounds)
            seen[name] = set(found.flatten().tolist())
            share = sum(end - start for start, end in part.spans) / bounds[-1]
            assert share == pytest.approx({"val": val, "test": test}.get(name, 1 - val - test), abs=0.06)
        assert all(not one & other for one, other in itertools.combinations(seen.values(), 2))


def test_windows_cover_the_text(tmp_path: Path) -> None:
    """At a stride of `seq_len` every token is predicted once, but for the end of the text that fills no window."""
    train, val = (build(tmp_path, split, [POSITIONS]) for split in ("train", "val"))
    assert [train.spans, val.spans] == [[(0, 2550)], [(2700, 3000)]]
    assert windows(train)[:, 1:].flatten().tolist() == list(range(1, 2550 - 5))
    assert windows(val)[:, 1:].flatten().tolist() == list(range(2701, 2700 + 297))
    every = build(tmp_path, "train", [POSITIONS], stride=1)
    assert windows(every)[:, 0].tolist() == list(range(2550 - 8))
    overlapping = build(tmp_path, "val", [POSITIONS], stride=1)
    assert torch.equal(windows(overlapping), windows(val))  # evaluation does not change
    inputs, _ = val.get_batch(torch.tensor([3, 0, 3]))
    before = inputs.clone()
    inputs.zero_()
    assert torch.equal(val.get_batch(torch.tensor([3, 0, 3]))[0], before)  # a batch is a copy
    assert before.shape == (3, 8) and before.dtype == torch.int64
    with pytest.raises(IndexError):
        val[len(val)]


def test_shuffle_depends_on_the_seed_alone(tmp_path: Path) -> None:
    one, same, other = (build(tmp_path, "val", [POSITIONS], shuffle=True, seed=seed).spans for seed in (1, 1, 2))
    assert one == same != other
    assert len(one) > 5 and one[0][0] < 1500  # from all over the text


def test_data_fraction_takes_the_beginning(tmp_path: Path) -> None:
    segments = random_segments(0)
    parts = [build(tmp_path, split, segments, data_fraction=0.5) for split in text.SPLITS]
    length = len("".join(segments)) // 2
    assert sum(end - start for part in parts for start, end in part.spans) == length
    assert max(int(windows(part).max()) for part in parts) < length


def test_files_and_delimiters(tmp_path: Path) -> None:
    texts = {"one": b"\xef\xbb\xbfa b\r\n\r\nc\n\n\n\nd", "two": "é".encode(), "empty": b" ", "bad": b"abc\xff"}
    for name, content in texts.items():
        (tmp_path / name).write_bytes(content)
    one, two, empty, bad = (str(tmp_path / name) for name in texts)
    assert text.TextFiles([one, two]).segments() == ["a b\n\nc\n\n\n\nd", "é"]
    assert text.TextFiles(one, r"\n\n").segments() == ["a b", "c", "d"]
    with pytest.raises(ValueError, match=r"there is no text in .*empty"):
        text.TextFiles(empty).segments()
    with pytest.raises(ValueError, match="bad is not UTF-8: byte 3"):
        text.TextFiles(bad).segments()


def test_characters_round_trip_and_name_what_they_do_not_know() -> None:
    tokenizer = vocabulary.Characters("".join(sorted("abc é🙂\n")))
    assert tokenizer.decode(tokenizer.encode("é🙂 cab\n").tolist()) == "é🙂 cab\n"
    assert tokenizer.decode([99]) == "\N{REPLACEMENT CHARACTER}"
    with pytest.raises(ValueError, match="does not have: 'd', 'ß'"):
        tokenizer.encode("ad ßd")


def test_byte_pairs_encode_any_text_and_are_deterministic() -> None:
    tokenizer = vocabulary.BytePairs.trained([PROSE], 300)
    for sample in ("", "plain", "naïve — 日本語 \r\n\t\x00 🙂  a", " lead", "x" * 200_001):
        assert tokenizer.decode(tokenizer.encode(sample).tolist()) == sample
    code = f"from scaffolding.data.vocabulary import *; print(digest([BytePairs.trained([{PROSE!r}], 300).vocabulary]))"
    elsewhere = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert elsewhere == vocabulary.digest([tokenizer.vocabulary]) + "\n"


def test_byte_pairs_are_trained_once_on_the_training_split(tmp_path: Path) -> None:
    settings = {"tokenizer": "bpe", "vocab_size": 300}
    train = build(tmp_path, "train", [PROSE], **settings)
    (file,) = (tmp_path / "vocabularies").iterdir()
    stamp = file.stat().st_mtime_ns
    val = build(tmp_path, "val", [PROSE], **settings)
    assert [*(tmp_path / "vocabularies").iterdir()] == [file] and file.stat().st_mtime_ns == stamp
    assert val.tokenizer.vocabulary == train.tokenizer.vocabulary == file.read_text()
    assert int(train.tokens.max()) < 300 and len(train.tokens) < len(PROSE) / 2
    end = train.spans[-1][1]
    other = PROSE[:end] + "#" * (len(PROSE) - end)  # what is held out has no say
    assert build(tmp_path, "val", [other], **settings).tokenizer.vocabulary == train.tokenizer.vocabulary
    assert [*(tmp_path / "vocabularies").iterdir()] == [file]
    build(tmp_path, "train", [PROSE], **(settings | {"vocab_size": 301}))
    build(tmp_path, "train", [PROSE.replace("cat", "cow")], **settings)
    assert len([*(tmp_path / "vocabularies").iterdir()]) == 3  # other settings, another text: other files
    file.write_text(file.read_text()[:1000])
    with pytest.raises(ValueError, match=r"is damaged: .*\ndelete it"):
        build(tmp_path, "train", [PROSE], **settings)


def test_words_of_the_training_text(tmp_path: Path) -> None:
    dataset = build(tmp_path, "val", [PROSE + " unseen" * 100])
    assert {"cat", "cats", "cating", "the", "of", "goes"} < dataset.words and "unseen" not in dataset.words
    assert dataset.share_of_known_words("The Cat, unseen!") == pytest.approx(2 / 3)
    assert dataset.share_of_known_words("...") == 0


def test_short_segments_are_said(tmp_path: Path) -> None:
    messages: list[str] = []
    sink = logger.add(lambda message: messages.append(message.record["message"]))
    vocabulary.say.cache_clear()
    build(tmp_path, "train", [POSITIONS[:400], *[POSITIONS[400:405]] * 20, POSITIONS[500:600]], val_fraction=0.1)
    logger.remove(sink)
    assert messages == [
        "train: 20 of 21 segments, 20.0% of the tokens, are shorter than a window of 9 and left out; "
        "lower data.seq_len to use more"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokenizer": "words"}, "allowed: characters, bpe"),
        ({"tokenizer": "bpe", "vocab_size": 256}, "give 257 or more"),
        (
            {"vocab_size": 2999},
            "3000 different characters, and data.vocab_size leaves 2999 ids\ngive data.vocab_size=3000",
        ),
        ({"val_fraction": 0.96}, "together below 1"),
        ({"test_fraction": 0}, "both above 0"),
        ({"stride": 0}, "stride=0: 1 or more"),
        ({"seq_len": 0}, "seq_len=0: 1 or more"),
        ({"data_fraction": 2}, "data_fraction=2: above 0"),
        ({"data_fraction": 0.05}, "the val split is too short: 1 segments, the longest of 15 tokens; a window takes"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build(tmp_path, "val", [POSITIONS], **({"seq_len": 16} | settings))
    assert message in str(caught.value)


@pytest.mark.skipif("text" not in options("data"), reason="configs/data/text.yaml has been deleted")
def test_a_wrong_text_is_named(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("scaffolding.model.transformer")
    (tmp_path / "my.txt").write_text("some words")
    for file, message in (("no.txt", ": no such file"), ("my.txt", "a window takes data.seq_len + 1 = 129")):
        own = ["data=text", f"data.path={tmp_path / file}", "model=transformer", f"paths.data={tmp_path / 'data'}"]
        said = train(*own, "mode=dev", code=2).stderr
        assert message in said and "data.dataset: " in said
        assert len(said.splitlines()) <= 4 and "Traceback" not in said


@pytest.mark.filterwarnings("default")  # of the libraries that datasets imports
def test_corpus_of_hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf_text = pytest.importorskip("scaffolding.data.hf_text")
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    names = ("name", "data_files", "revision")
    settings = dict.fromkeys(names) | {"part": "train", "column": "text", "root": str(tmp_path / "data")}
    corpus = datasets.Dataset.from_dict({"text": ["the first row", "", "the second"], "number": [1, 2, 3]})
    corpus.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": corpus, "validation": corpus.select([2])}).save_to_disk(tmp_path / "parts")
    (tmp_path / "lines.txt").write_text("the first row\n\nthe second\n")

    def read(path: str, **changes: Any) -> list[str]:
        return hf_text.HuggingFaceText(path, **(settings | changes)).segments()

    saved, parts = str(tmp_path / "saved"), str(tmp_path / "parts")
    assert read(saved) == read(parts) == ["the first row", "the second"]
    assert read("text", data_files=str(tmp_path / "lines.txt")) == ["the first row", "the second"]
    assert read(parts, part="validation") == ["the second"]
    with pytest.raises(ValueError, match="has the columns text, number"):
        read(parts, column="body")
    with pytest.raises(ValueError, match="the parts train, "):
        read(parts, part="dev")


def test_special_tokens_take_the_last_ids(tmp_path: Path) -> None:
    """They change no id of the text, and a text never has them."""
    for tokenizer, segments, vocab_size in (("characters", [POSITIONS], 3000), ("bpe", [PROSE * 3], 300)):
        parts = [
            build(tmp_path, "train", segments, tokenizer=tokenizer, vocab_size=vocab_size + num, num_special_tokens=num)
            for num in (0, 5)
        ]
        assert torch.equal(parts[0].tokens, parts[1].tokens)
        assert list(parts[1].special_ids) == list(range(vocab_size, vocab_size + 5)) and not parts[0].special_ids
        assert int(parts[1].tokens.max()) < parts[1].special_ids[0]
    with pytest.raises(ValueError, match=r"data.vocab_size leaves 2999 ids"):
        build(tmp_path, "train", [POSITIONS], num_special_tokens=1)
    with pytest.raises(ValueError, match=r"data.vocab_size leaves 256 ids"):
        build(tmp_path, "train", [PROSE], tokenizer="bpe", vocab_size=300, num_special_tokens=44)
    with pytest.raises(ValueError, match="num_special_tokens=-1: 0 or more"):
        build(tmp_path, "train", [POSITIONS], num_special_tokens=-1)


@pytest.mark.parametrize("kind", ["characters", "bpe"])
def test_two_texts_share_a_vocabulary(tmp_path: Path, kind: str) -> None:
    first = build(tmp_path, "train", [PROSE], tokenizer=kind, vocab_size=300)
    file = tmp_path / "shared.json"
    vocabulary.save_tokenizer(first.tokenizer, file)
    with pytest.raises(FileExistsError):
        vocabulary.save_tokenizer(first.tokenizer, file)
    other = " ".join(reversed(PROSE.split(" ")))[: 2 * len(PROSE) // 3]
    shared = {"tokenizer": kind, "vocab_size": 300, "tokenizer_file": str(file)}
    second = build(tmp_path, "train", [other], **shared)
    own = build(tmp_path, "train", [other], tokenizer=kind, vocab_size=300)
    assert second.state_dict()["tokenizer"] == first.state_dict()["tokenizer"]
    assert torch.equal(second.tokenizer.encode("the cat"), first.tokenizer.encode("the cat"))
    assert kind == "characters" or own.state_dict()["tokenizer"] != first.state_dict()["tokenizer"]
    size = len(first.tokenizer)
    with pytest.raises(ValueError, match=f"{size} tokens, and data.vocab_size leaves {size - 1} ids"):
        build(tmp_path, "train", [other], **(shared | {"vocab_size": size + 1, "num_special_tokens": 2}))
    wrong = "bpe" if kind == "characters" else "characters"
    with pytest.raises(ValueError, match=f"it holds {kind}\ngive data.tokenizer={kind}"):
        build(tmp_path, "train", [other], **(shared | {"tokenizer": wrong}))


def test_a_vocabulary_that_a_training_stored_is_a_file_too(tmp_path: Path) -> None:
    first = build(tmp_path, "train", [PROSE], tokenizer="bpe", vocab_size=300)
    (file,) = (tmp_path / "vocabularies").glob("*.json")
    second = build(tmp_path, "train", [PROSE[::-1]], tokenizer="bpe", vocab_size=300, tokenizer_file=str(file))
    assert second.state_dict()["tokenizer"] == first.state_dict()["tokenizer"]
    assert len([*(tmp_path / "vocabularies").iterdir()]) == 1  # nothing was trained


def test_what_is_not_a_vocabulary_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    with pytest.raises(FileNotFoundError, match="no such file"):
        build(tmp_path, "train", [POSITIONS], tokenizer_file=str(file))
    for content in ("", "[]", "{}", '{"kind": "characters"}', '{"model": 3}'):
        file.write_text(content)
        with pytest.raises(ValueError, match="it is not a vocabulary"):
            build(tmp_path, "train", [POSITIONS], tokenizer_file=str(file))
    file.write_text('{"kind": "characters", "vocabulary": "ab"}')
    with pytest.raises(ValueError, match="characters that the vocabulary does not have"):
        build(tmp_path, "train", [POSITIONS], tokenizer_file=str(file))
