"""The shipped datasets: their contract, and their downloads, from a server on this machine.

Tests against the published files need SCAFFOLDING_TEST_DATA: a folder with mnist/*.gz, cifar10/*.tar.gz and
tinyshakespeare/input.txt.
"""

import copy
import gzip
import hashlib
import os
import pickle
import shutil
import socket
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from loguru import logger
from pairs import build

from scaffolding.data import cifar10, mnist, shakespeare
from scaffolding.data.cifar10 import CIFAR10
from scaffolding.data.digits import Digits
from scaffolding.data.mnist import MNIST
from scaffolding.data.shakespeare import TinyShakespeare

TEST_DATA = os.environ.get("SCAFFOLDING_TEST_DATA")
needs_published_files = pytest.mark.skipif(not TEST_DATA, reason="SCAFFOLDING_TEST_DATA is not set")
PACKED = [name for name in mnist.MD5 if name.endswith(".gz")]
MEMBERS = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]
PLAY = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
FILES = {"mnist": PACKED, "cifar10": [cifar10.ARCHIVE], "shakespeare": ["input.txt"]}
PLACES = {"mnist": "MNIST/raw", "cifar10": "", "shakespeare": "tinyshakespeare"}
NUM_READ = {"mnist": 20, "cifar10": 20, "shakespeare": 1}  # images or texts, of `small`
for_downloads = pytest.mark.parametrize("name", FILES)


def read(name, root):
    """The training images of a dataset in `root`, or its text."""
    if name == "shakespeare":
        return TinyShakespeare(str(root)).segments()
    return {"mnist": MNIST, "cifar10": CIFAR10}[name](str(root), "train").images.tolist()


def mismatch(name, whole, found):
    """What messages say of a file of a dataset that is not whole."""
    kind = "sha256" if name == "shakespeare" else "md5"
    expected, found = (hashlib.new(kind, content).hexdigest() for content in (whole, found))
    return f"expected {kind} {expected}, found {found}"


def md5(content):
    return hashlib.md5(content).hexdigest()


def lead_to(address, monkeypatch):
    """All downloads come from there, or not at all."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address + "dead/", address])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address + cifar10.ARCHIVE)
    monkeypatch.setattr(shakespeare, "URL", address + "input.txt")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The folder of a web server on this machine, from which all downloads come."""
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder)) as httpd:
        lead_to(f"http://127.0.0.1:{httpd.server_port}/", monkeypatch)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        httpd.shutdown()
        thread.join()


@pytest.fixture
def no_network(monkeypatch):
    """All downloads lead to a port that is bound, but not listened at: connections are refused."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        lead_to(f"http://127.0.0.1:{unused.getsockname()[1]}/", monkeypatch)
        yield


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Folder with files of the datasets' forms and a few items, whose sums replace the published ones."""
    folder = tmp_path / "small"
    folder.mkdir()
    random = np.random.default_rng(0)
    for prefix, count in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", random.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", random.integers(10, size=count, dtype=np.uint8))
    for name in PACKED:
        content = (folder / name).read_bytes()
        monkeypatch.setitem(mnist.MD5, name, md5(content))
        monkeypatch.setitem(mnist.MD5, name.removesuffix(".gz"), md5(gzip.decompress(content)))
    (tmp_path / cifar10.FOLDER).mkdir()
    for name in MEMBERS:
        content = {"data": random.integers(256, size=(4, 3072), dtype=np.uint8), "labels": [0, 1, 2, 3]}
        if name == "batches.meta":
            content = {"label_names": [str(label) for label in range(10)]}
        (tmp_path / cifar10.FOLDER / name).write_bytes(pickle.dumps(content, protocol=2))
    shutil.make_archive(folder / cifar10.ARCHIVE.removesuffix(".tar.gz"), "gztar", tmp_path, cifar10.FOLDER)
    accept_cifar10(folder / cifar10.ARCHIVE, monkeypatch)
    (folder / "input.txt").write_bytes(PLAY)
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(PLAY).hexdigest())
    return folder


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def accept_cifar10(archive, monkeypatch):
    """Let torchvision take `archive` for the official one."""
    with tarfile.open(archive) as tar:
        sums = {name: md5(tar.extractfile(f"{cifar10.FOLDER}/{name}").read()) for name in MEMBERS}
    official = torchvision.datasets.CIFAR10
    monkeypatch.setattr(official, "tgz_md5", md5(archive.read_bytes()))
    monkeypatch.setattr(official, "train_list", [(name, sums[name]) for name in MEMBERS[:5]])
    monkeypatch.setattr(official, "test_list", [("test_batch", sums["test_batch"])])
    monkeypatch.setattr(official, "meta", official.meta | {"md5": sums["batches.meta"]})


@pytest.mark.parametrize("name, shape", [("digits", (1, 8, 8)), ("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_contract(name, shape, tmp_path):
    """What the batteries do not know: sizes, shapes, classes, scale, that a batch is a copy, and no image in both."""

    def make(split):
        if name == "digits":
            return Digits(split)
        return {"mnist": MNIST, "cifar10": CIFAR10}[name](str(tmp_path), split, sample=True)

    sizes = {"digits": (1497, 300), "mnist": (2000, 500), "cifar10": (1000, 200)}
    seen = []
    for split, size in zip(("train", "test"), sizes[name], strict=True):
        dataset = make(split)
        images, labels = dataset.get_batch(torch.arange(size))
        assert images.shape == (size, *shape) and images.dtype == torch.float32 and images.is_contiguous()
        assert labels.shape == (size,) and labels.dtype == torch.int64
        assert labels.unique().tolist() == list(range(10))
        if name != "cifar10":  # the stand-in does not have the statistics of the photographs
            assert abs(float(images.mean())) < 0.1 and abs(float(images.std()) - 1) < 0.1
        seen.append({image.numpy().tobytes() for image in images})
        before = images.clone()
        images.zero_()
        assert torch.equal(dataset.get_batch(torch.arange(size))[0], before)
        assert len(dataset) == size
        with pytest.raises(IndexError):
            dataset[size]
    assert not seen[0] & seen[1]
    for split in ("val", "Train"):
        with pytest.raises(ValueError, match=r"no validation split; set data\.val_from_train"):
            make(split)
    assert not list(tmp_path.iterdir())


def test_digits_match_the_file():
    with gzip.open(Path(mnist.__file__).with_name("digits.csv.gz"), "rt") as file:
        rows = [[int(value) for value in line.split(",")] for line in file]
    test = Digits("test")
    assert test.labels.tolist() == [row[-1] for row in rows[::6]]
    assert (test.images[7] * 6.02 + 4.89).flatten().tolist() == pytest.approx(rows[42][:64], abs=1e-4)
    assert test.labels.bincount().min() >= 25


def test_sum_table_is_torchvisions():
    assert {name: mnist.MD5[name] for name in PACKED} == dict(torchvision.datasets.MNIST.resources)


@for_downloads
def test_downloads_once(name, server, small, tmp_path):
    shutil.copytree(small, server, dirs_exist_ok=True)
    root = tmp_path / "data"
    first = read(name, root)
    kept = [cifar10.FOLDER] if name == "cifar10" else sorted(FILES[name])
    assert sorted(path.name for path in (root / PLACES[name]).iterdir()) == kept  # and nothing temporary
    shutil.rmtree(server)
    assert read(name, root) == first


@pytest.mark.parametrize("damage", ["truncated", "another file"])
@for_downloads
def test_a_bad_download_is_never_taken(name, damage, server, small, tmp_path):
    shutil.copytree(small, server, dirs_exist_ok=True)
    file, root = server / FILES[name][0], tmp_path / "data"
    whole = file.read_bytes()
    bad = whole[: len(whole) // 2] if damage == "truncated" else gzip.compress(b"other")
    file.write_bytes(bad)
    with pytest.raises(FileNotFoundError) as caught:
        read(name, root)
    assert mismatch(name, whole, bad) in str(caught.value)
    assert not [path for path in root.rglob("*") if path.is_file()]
    file.write_bytes(whole)
    assert len(read(name, root)) == NUM_READ[name]  # the next start downloads it again


@pytest.mark.parametrize(
    "name, file",
    [
        ("mnist", "train-labels-idx1-ubyte.gz"),
        ("mnist", "train-labels-idx1-ubyte"),
        ("cifar10", cifar10.ARCHIVE),
        ("shakespeare", "input.txt"),
    ],
)
def test_a_damaged_file_is_named(name, file, no_network, small, tmp_path):
    root = tmp_path / "data"
    folder = root / PLACES[name]
    shutil.copytree(small, folder)
    if file == "train-labels-idx1-ubyte":  # unpacked by hand
        packed = folder / f"{file}.gz"
        (folder / file).write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(b"half a file")
    with pytest.raises(ValueError) as caught:
        read(name, root)
    assert f"{folder / file}: {mismatch(name, whole, b'half a file')}\ndelete this file" in str(caught.value)
    (folder / file).write_bytes(whole)
    assert len(read(name, root)) == NUM_READ[name]


@for_downloads
def test_impossible_download_says_what_to_do(name, no_network, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read(name, tmp_path / "data")
    assert socket.getdefaulttimeout() is None
    message, folder = str(caught.value), tmp_path / "data" / PLACES[name]
    assert len(message.splitlines()) == 3
    for part in (*FILES[name], str(folder), "could not be downloaded", "refused", "mode=dev"):
        assert part in message
    assert not list(folder.iterdir())


def test_mnist_images_are_those_of_the_files(no_network, small, tmp_path):
    shutil.copytree(small, tmp_path / PLACES["mnist"])
    train = MNIST(str(tmp_path), "train")
    pixels = gzip.decompress((small / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = (np.frombuffer(pixels, np.uint8) / 255 - 0.1307) / 0.3081
    assert np.allclose(train.images.flatten().numpy(), expected, atol=1e-5)
    assert len(MNIST(str(tmp_path), "test")) == 10


def test_cifar10_is_unpacked_on_the_disk_of_each_machine(server, small, tmp_path):
    shutil.copytree(small, server, dirs_exist_ok=True)
    root, scratch = tmp_path / "data", tmp_path / "fast/me"
    first = CIFAR10(str(root), "train", scratch=str(scratch))
    shutil.rmtree(server)
    assert [path.name for path in root.iterdir()] == [cifar10.ARCHIVE]  # for other machines
    assert [path.name for path in scratch.iterdir()] == [cifar10.FOLDER]
    other = CIFAR10(str(root), "train", sample=True, scratch=str(tmp_path / "other"))
    (root / cifar10.ARCHIVE).unlink()
    again = CIFAR10(str(root), "train", sample=True, scratch=str(scratch))
    assert first.images.tolist() == other.images.tolist() == again.images.tolist()


def test_cifar10_images_are_those_of_torchvision(no_network, small, tmp_path):
    shutil.copy(small / cifar10.ARCHIVE, tmp_path)  # put there by hand
    train = CIFAR10(str(tmp_path), "train", sample=True)  # the real files win over the stand-in
    for (image, label), (reference, true_label) in zip(train, torchvision.datasets.CIFAR10(tmp_path), strict=True):
        expected = (np.asarray(reference) / 255 - cifar10.MEAN) / cifar10.STD
        assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5) and label == true_label
    assert len(CIFAR10(str(tmp_path), "test")) == 4
    member = tmp_path / cifar10.FOLDER / "data_batch_3"
    whole = member.read_bytes()
    member.write_bytes(b"half a file")
    with pytest.raises(ValueError, match=f"{member}: {mismatch('cifar10', whole, b'half a file')}"):
        CIFAR10(str(tmp_path), "test")
    member.unlink()
    with pytest.raises(ValueError, match=f"{member}: expected md5 {md5(whole)}, found no file"):
        CIFAR10(str(tmp_path), "test")


def test_samples_need_no_network_and_the_stand_in_is_announced_once(no_network, tmp_path):
    cifar10._announce_stand_in.cache_clear()
    messages = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    assert len(MNIST(None, "train", sample=True)) == 2000
    first, second, _ = (CIFAR10(str(tmp_path), split, sample=True) for split in ("train", "train", "test"))
    logger.remove(sink)
    assert torch.equal(first.images, second.images)
    assert len(messages) == 1 and len(messages[0].splitlines()) == 1 and cifar10.ARCHIVE in messages[0]
    assert not list(tmp_path.iterdir())


def test_cifar10_stand_in_can_be_learned(tmp_path):
    train, test = (CIFAR10(str(tmp_path), split, sample=True) for split in ("train", "test"))
    train_images, test_images = train.images.float().flatten(1), test.images.float().flatten(1)
    means = torch.stack([train_images[train.labels == label].mean(dim=0) for label in range(10)])
    assert (torch.cdist(test_images, means).argmin(dim=1) == test.labels).float().mean() > 0.9


def test_augmentation_spares_copies_and_the_test_split(tmp_path):
    plain = CIFAR10(str(tmp_path), "train", sample=True)
    augmented = CIFAR10(str(tmp_path), "train", augment=True, sample=True)
    indices = torch.arange(8)
    assert not torch.equal(augmented.get_batch(indices)[0], plain.get_batch(indices)[0])
    validation = copy.copy(augmented)
    validation.augment = False
    assert torch.equal(validation.get_batch(indices)[0], plain.get_batch(indices)[0])
    assert validation.images.data_ptr() == augmented.images.data_ptr()
    test = CIFAR10(str(tmp_path), "test", augment=True, sample=True)
    assert torch.equal(test.get_batch(indices)[0], test.get_batch(indices)[0])


def test_crops_and_flips_are_what_they_say():
    image = torch.arange(1, 1025, dtype=torch.int16).view(1, 32, 32)
    padded = torch.nn.functional.pad(image, [4] * 4)
    possible = {}
    for top in range(9):
        for left in range(9):
            crop = padded[:, top : top + 32, left : left + 32]
            possible[crop.numpy().tobytes()] = (top, left, False)
            possible[crop.flip(2).numpy().tobytes()] = (top, left, True)
    torch.manual_seed(0)
    crops = cifar10.crop_and_flip(image.expand(2000, 1, 32, 32))
    drawn = [possible[crop.numpy().tobytes()] for crop in crops]
    assert len(set(drawn)) == 2 * 9 * 9  # every crop occurs, mirrored and not
    assert 900 < sum(is_mirrored for *_, is_mirrored in drawn) < 1100


def text_splits(*words):
    """The splits of data=shakespeare, as its YAML says."""
    return build("shakespeare", "transformer", "loader.limit_train=null", "loader.limit_eval=null", *words).datasets


def test_the_sample_of_shakespeare_makes_three_splits(no_network):
    splits = text_splits()
    assert {split: len(part) for split, part in splits.items()} == {"train": 1328, "val": 156, "test": 78}
    inputs, _ = splits["train"].get_batch(torch.arange(2))
    text = splits["train"].dataset.tokenizer.decode(inputs.flatten().tolist())
    assert text.startswith("First Citizen:\nBefore we proceed")


@needs_published_files
def test_published_shakespeare():
    words = ("loader.sample=false", f"paths.data={TEST_DATA}")
    (text,) = TinyShakespeare(TEST_DATA).segments()
    assert len(text) == 1_115_394 and len(set(text)) == 65
    assert TinyShakespeare("", sample=True).segments() == [text[:100_000]]
    splits = text_splits(*words)
    assert splits["val"].dataset.spans == [(1_003_854, 1_115_394)]  # the last 10 %
    assert len(splits["train"]) == 14_813
    assert len(text_splits(*words, "data.dataset.stride=1")["train"]) == 948_020


@needs_published_files
def test_published_mnist(server, tmp_path):
    """Downloads; the first images are the sample."""
    for name in PACKED:
        (server / name).symlink_to(Path(TEST_DATA, "mnist", name))
    for split, size, sample_size in (("train", 60_000, 2000), ("test", 10_000, 500)):
        full, sample = MNIST(str(tmp_path / "data"), split), MNIST(None, split, sample=True)
        assert (len(full), len(sample)) == (size, sample_size)
        assert torch.equal(sample.images, full.images[:sample_size])
        assert torch.equal(sample.labels, full.labels[:sample_size])
        if split == "train":
            assert abs(float(full.images.mean())) < 1e-3 and abs(float(full.images.std()) - 1) < 1e-3
    assert full.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@needs_published_files
def test_published_cifar10(server, tmp_path, monkeypatch):
    archive = next(Path(TEST_DATA, "cifar10").glob("*.tar.gz"))
    accept_cifar10(archive, monkeypatch)
    (server / cifar10.ARCHIVE).symlink_to(archive)
    train, test = (CIFAR10(str(tmp_path / "data"), split) for split in ("train", "test"))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    images, _ = train.get_batch(torch.arange(len(train)))
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02
