"""Tiny Shakespeare: its download, against a server on this machine, and what is shipped of it.

Tests against the published file need SCAFFOLDING_TEST_DATA: a folder with tinyshakespeare/input.txt.
"""

import hashlib
import os
from pathlib import Path

import pytest
import torch

from scaffolding.data import shakespeare
from scaffolding.data.shakespeare import TinyShakespeare
from scaffolding.data.text import Text

pytest_plugins = ["servers"]
TEST_DATA = os.environ.get("SCAFFOLDING_TEST_DATA")
needs_the_file = pytest.mark.skipif(not TEST_DATA, reason="SCAFFOLDING_TEST_DATA is not set")
PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
DEFAULTS = {"seq_len": 64, "stride": 64, "tokenizer": "characters", "vocab_size": 65, "root": "", "data_fraction": 1.0}
DEFAULTS |= {"val_fraction": 0.1, "test_fraction": 0.05, "shuffle": False, "seed": 0}


@pytest.fixture
def server(web_server: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a web server on this machine, where the address of the text leads; PLAY is taken for the text."""
    folder, address = web_server
    monkeypatch.setattr(shakespeare, "URL", f"{address}input.txt")
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(PLAY).hexdigest())
    return folder


def test_downloads_once(server: Path, tmp_path: Path) -> None:
    (server / "input.txt").write_bytes(PLAY)
    root = tmp_path / "data"
    assert TinyShakespeare(str(root)).segments() == [PLAY.decode()]
    (server / "input.txt").unlink()  # from here on there is nothing to download
    assert TinyShakespeare(str(root)).segments() == [PLAY.decode()]
    assert [path.name for path in (root / "tinyshakespeare").iterdir()] == ["input.txt"]  # and nothing temporary


@pytest.mark.parametrize("bad", [PLAY[:20], b"<html>log in first</html>", b""])
def test_never_takes_a_bad_download(server: Path, tmp_path: Path, bad: bytes) -> None:
    (server / "input.txt").write_bytes(bad)
    with pytest.raises(FileNotFoundError, match=f"found {hashlib.sha256(bad).hexdigest()}"):
        TinyShakespeare(str(tmp_path / "data")).segments()
    assert not list((tmp_path / "data" / "tinyshakespeare").iterdir())
    (server / "input.txt").write_bytes(PLAY)
    assert TinyShakespeare(str(tmp_path / "data")).segments() == [PLAY.decode()]


def test_names_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "tinyshakespeare" / "input.txt"
    file.parent.mkdir()
    file.write_bytes(PLAY)
    with pytest.raises(ValueError) as caught:
        TinyShakespeare(str(tmp_path)).segments()
    assert f"{file}: expected sha256 {shakespeare.SHA256}, found " in str(caught.value)


def test_impossible_download_says_what_to_do(
    dead_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shakespeare, "URL", f"{dead_address}input.txt")
    with pytest.raises(FileNotFoundError) as caught:
        TinyShakespeare(str(tmp_path)).segments()
    message = str(caught.value)
    assert len(message.splitlines()) == 3
    for part in ("refused", str(tmp_path / "tinyshakespeare" / "input.txt"), "mode=dev", "data=text"):
        assert part in message


def test_the_sample_makes_three_splits() -> None:
    source = TinyShakespeare("", sample=True)
    splits = {split: Text(split, source, **DEFAULTS) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in splits.items()} == {"train": 1328, "val": 156, "test": 78}
    inputs, targets = splits["train"].get_batch(torch.arange(2))
    assert splits["train"].tokenizer.decode(inputs.flatten().tolist()).startswith("First Citizen:\nBefore we proceed")
    assert torch.equal(inputs[0, 1:], targets[0, :-1])


@needs_the_file
def test_the_published_file() -> None:
    (text,) = TinyShakespeare(str(TEST_DATA)).segments()
    assert len(text) == 1_115_394 and len(set(text)) == 65
    assert TinyShakespeare("", sample=True).segments() == [text[:100_000]]
    val = Text("val", TinyShakespeare(str(TEST_DATA)), **DEFAULTS)
    assert val.spans == [(1_003_854, 1_115_394)]  # the last 10 %
    train = Text("train", TinyShakespeare(str(TEST_DATA)), **DEFAULTS)
    assert len(train) == 14_813
    assert len(Text("train", TinyShakespeare(str(TEST_DATA)), **(DEFAULTS | {"stride": 1}))) == 948_020
