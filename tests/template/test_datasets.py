"""The shipped datasets: their contract, and torchvision's download code against a server on this machine.

Tests against the published files need SCAFFOLDING_TEST_DATA: a folder with mnist/*.gz and cifar10/*.tar.gz.
"""

import copy
import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from loguru import logger

from scaffolding.data import cifar10, mnist
from scaffolding.data.cifar10 import CIFAR10
from scaffolding.data.digits import Digits
from scaffolding.data.mnist import MNIST

pytest_plugins = ["servers"]
TEST_DATA = os.environ.get("SCAFFOLDING_TEST_DATA")
needs_published_files = pytest.mark.skipif(not TEST_DATA, reason="SCAFFOLDING_TEST_DATA is not set")
PACKED = [name for name in mnist.MD5 if name.endswith(".gz")]
MEMBERS = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch", "batches.meta"]


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(web_server, monkeypatch):
    """(folder, address) of a web server on this machine; torchvision's addresses lead there and nowhere else."""
    _, address = web_server
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address + "dead/", address])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address + cifar10.ARCHIVE)
    return web_server


@pytest.fixture
def no_network(dead_address, monkeypatch):
    """Torchvision's addresses lead to a port where nobody listens."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [dead_address, dead_address])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", dead_address + cifar10.ARCHIVE)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Folder with files of the two datasets' forms and a few images, whose MD5 sums replace the published ones."""
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
    with tarfile.open(folder / cifar10.ARCHIVE, "w:gz") as tar:
        for name in MEMBERS:
            content = {"label_names": [str(label) for label in range(10)]}
            if name != "batches.meta":
                images = random.integers(256, size=(4, 3072), dtype=np.uint8)
                content = {"data": images, "labels": random.integers(10, size=4).tolist()}
            packed = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(packed)
            tar.addfile(member, io.BytesIO(packed))
    accept_cifar10(folder / cifar10.ARCHIVE, monkeypatch)
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


@pytest.fixture
def warnings_of_loguru():
    cifar10._announce_stand_in.cache_clear()
    messages = []
    sink = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    yield messages
    logger.remove(sink)


def build(name, split, folder):
    if name == "digits":
        return Digits(split)
    return {"mnist": MNIST, "cifar10": CIFAR10}[name](str(folder), split, sample=True)


@pytest.mark.parametrize("name, shape", [("digits", (1, 8, 8)), ("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))])
def test_contract(name, shape, tmp_path):
    """What the batteries do not know: sizes, shapes, classes, scale, that a batch is a copy, and no image in both."""
    sizes = {"digits": (1497, 300), "mnist": (2000, 500), "cifar10": (1000, 200)}
    seen = []
    for split, size in zip(("train", "test"), sizes[name], strict=True):
        dataset = build(name, split, tmp_path)
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


@pytest.mark.parametrize("split", ["val", "Train", ""])
def test_other_splits_are_refused(split, tmp_path):
    for name in ("digits", "mnist", "cifar10"):
        with pytest.raises(ValueError, match=r"no validation split of its own; set data\.val_from_train"):
            build(name, split, tmp_path)
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


def test_mnist_downloads_through_torchvision(server, small, tmp_path):
    shutil.copytree(small, server[0], dirs_exist_ok=True)
    root = tmp_path / "data"
    train, test = MNIST(str(root), "train"), MNIST(str(root), "test")
    assert (len(train), len(test)) == (20, 10)
    pixels = gzip.decompress((small / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    expected = (np.frombuffer(pixels, np.uint8) / 255 - 0.1307) / 0.3081
    assert np.allclose(train.images.flatten().numpy(), expected, atol=1e-5)
    raw = root / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(PACKED)  # and nothing temporary

    shutil.rmtree(server[0])  # from here on there is nothing to download
    assert torch.equal(MNIST(str(root), "train").images, train.images)
    for name in PACKED:
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress((raw / name).read_bytes()))
        (raw / name).unlink()
    assert torch.equal(MNIST(str(root), "train").images, train.images)  # files unpacked by hand


@pytest.mark.parametrize("damage", ["truncated", "html", "wrong"])
@pytest.mark.parametrize("dataset, file", [(MNIST, PACKED[0]), (CIFAR10, cifar10.ARCHIVE)])
def test_a_bad_download_is_never_taken(dataset, file, damage, server, small, tmp_path):
    shutil.copytree(small, server[0], dirs_exist_ok=True)
    whole = (small / file).read_bytes()
    bad = {"truncated": whole[:1000], "html": b"<html>log in first</html>", "wrong": gzip.compress(b"other")}[damage]
    (server[0] / file).write_bytes(bad)
    root = tmp_path / "data"
    with pytest.raises(FileNotFoundError) as caught:
        dataset(str(root), "train")
    assert f"expected md5 {md5(whole)}, found {md5(bad)}" in str(caught.value)
    assert not [path for path in root.rglob("*") if path.is_file()]

    (server[0] / file).write_bytes(whole)  # the next start is none the worse for it
    assert len(dataset(str(root), "train")) == 20


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_mnist_names_a_damaged_file(suffix, no_network, small, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(small, raw)
    bad = raw / f"train-labels-idx1-ubyte{suffix}"
    (raw / "train-labels-idx1-ubyte.gz").unlink()
    bad.write_bytes(b"half a file")
    with pytest.raises(ValueError) as caught:
        MNIST(str(tmp_path), "train")
    assert str(bad) in str(caught.value)
    assert f"expected md5 {mnist.MD5[bad.name]}, found {md5(b'half a file')}" in str(caught.value)
    assert len(MNIST(str(tmp_path), "test")) == 10


@pytest.mark.parametrize("dataset, files", [(MNIST, PACKED), (CIFAR10, [cifar10.ARCHIVE])])
def test_impossible_download_says_what_to_do(dataset, files, no_network, tmp_path):
    timeout = socket.getdefaulttimeout()
    with pytest.raises(FileNotFoundError) as caught:
        dataset(str(tmp_path / "data"), "train")
    assert socket.getdefaulttimeout() == timeout
    message = str(caught.value)
    assert 2 <= len(message.splitlines()) <= 4
    folder = tmp_path / "data" / "MNIST" / "raw" if dataset is MNIST else tmp_path / "data"
    for part in (*files, str(folder), "refused", "mode=dev"):
        assert part in message
    assert not list(folder.iterdir())


def test_cifar10_downloads_through_torchvision(server, small, tmp_path, warnings_of_loguru):
    shutil.copy(small / cifar10.ARCHIVE, server[0])
    root = tmp_path / "data"
    train, test = CIFAR10(str(root), "train"), CIFAR10(str(root), "test")
    assert (len(train), len(test)) == (20, 4)
    assert [path.name for path in root.iterdir()] == [cifar10.FOLDER]
    reference = torchvision.datasets.CIFAR10(root, train=True)
    for (image, label), (reference_image, reference_label) in zip(train, reference, strict=True):
        expected = (np.asarray(reference_image) / 255 - cifar10.MEAN) / cifar10.STD
        assert np.allclose(image.permute(1, 2, 0).numpy(), expected, atol=1e-5) and label == reference_label
    shutil.rmtree(server[0])
    assert len(CIFAR10(str(root), "train", sample=True)) == 20  # real files win over the stand-in
    assert not warnings_of_loguru


def test_cifar10_archive_and_files_put_there_by_hand(no_network, small, tmp_path):
    archive = tmp_path / cifar10.ARCHIVE
    archive.write_bytes(b"half a file")
    with pytest.raises(ValueError) as caught:
        CIFAR10(str(tmp_path), "train", sample=True)
    assert str(archive) in str(caught.value)
    assert f"expected md5 {md5((small / cifar10.ARCHIVE).read_bytes())}, found {md5(b'half a file')}" in str(
        caught.value
    )

    shutil.copy(small / cifar10.ARCHIVE, archive)
    assert len(CIFAR10(str(tmp_path), "train")) == 20
    member = tmp_path / cifar10.FOLDER / "data_batch_3"
    whole = member.read_bytes()
    for bad, found in ((b"half a file", md5(b"half a file")), (None, "no file")):
        member.unlink() if bad is None else member.write_bytes(bad)
        with pytest.raises(ValueError) as caught:
            CIFAR10(str(tmp_path), "test")
        assert str(member) in str(caught.value)
        assert f"expected md5 {md5(whole)}, found {found}" in str(caught.value)


def test_samples_need_no_network_and_the_stand_in_is_announced_once(no_network, tmp_path, warnings_of_loguru):
    assert len(MNIST(None, "train", sample=True)) == 2000
    first = CIFAR10(str(tmp_path), "train", sample=True)
    second = CIFAR10(str(tmp_path), "train", sample=True)
    CIFAR10(str(tmp_path), "test", sample=True)
    assert torch.equal(first.images, second.images)
    assert len(warnings_of_loguru) == 1 and len(warnings_of_loguru[0].splitlines()) == 1
    assert cifar10.ARCHIVE in warnings_of_loguru[0]
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


@needs_published_files
def test_mnist_sample_is_the_first_published_images(no_network, tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in PACKED:
        (raw / name).symlink_to(Path(TEST_DATA, "mnist", name))
    for split, size, sample_size in (("train", 60_000, 2000), ("test", 10_000, 500)):
        full, sample = MNIST(str(tmp_path), split), MNIST(None, split, sample=True)
        assert (len(full), len(sample)) == (size, sample_size)
        assert torch.equal(sample.images, full.images[:sample_size])
        assert torch.equal(sample.labels, full.labels[:sample_size])
        if split == "train":
            assert abs(float(full.images.mean())) < 1e-3 and abs(float(full.images.std()) - 1) < 1e-3


@needs_published_files
def test_published_mnist_downloads(server, tmp_path):
    server[0].rmdir()
    server[0].symlink_to(Path(TEST_DATA, "mnist"))
    assert MNIST(str(tmp_path / "data"), "test").labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert sorted(path.name for path in (tmp_path / "data" / "MNIST" / "raw").iterdir()) == sorted(PACKED)


@needs_published_files
def test_published_cifar10_images_download(server, tmp_path, monkeypatch):
    archive = next(Path(TEST_DATA, "cifar10").glob("*.tar.gz"))
    accept_cifar10(archive, monkeypatch)
    (server[0] / cifar10.ARCHIVE).symlink_to(archive)
    train, test = (CIFAR10(str(tmp_path / "data"), split) for split in ("train", "test"))
    assert train.labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    images, _ = train.get_batch(torch.arange(len(train)))
    assert images.mean(dim=(0, 2, 3)).abs().max() < 0.02
    assert (images.std(dim=(0, 2, 3)) - 1).abs().max() < 0.02
