"""MNIST: 70,000 grey images of handwritten digits, 28x28 pixels, in ten classes."""

import gzip
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from . import check_sum, download, read_image

MEAN, STD = 0.1307, 0.3081  # of the training pixels, scaled to 0..1

MD5 = {  # of the four published files, packed and unpacked
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class MNIST:
    """MNIST, held in memory as normalised float32: 60,000 training images (188 MB) and 10,000 test images.

    The four published files lie in `root/MNIST/raw`, packed (.gz) or unpacked. What is missing is downloaded from
    torchvision's mirrors; every file is checked against its MD5 sum each time it is read.

    Args:
        root: folder of downloaded data; not used with `sample`.
        split: "train" or "test".
        sample: take the first 2,000 training or the first 500 test images, which are shipped with the package.

    Raises:
        ValueError: another split, or a file whose MD5 sum is wrong.
        FileNotFoundError: a file is missing and cannot be downloaded.

    Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, "Gradient-based learning applied to document recognition",
    Proceedings of the IEEE, 1998.
    """

    normalisation: ClassVar = {"divisor": 255, "mean": [MEAN], "std": [STD]}

    def __init__(self, root: str, split: str, sample: bool = False) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: this dataset has no validation split; set data.val_from_train")
        if sample:
            with np.load(Path(__file__).with_name("mnist_sample.npz")) as arrays:
                images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        else:
            raw = Path(root, "MNIST", "raw")
            _download_missing(raw)
            prefix = {"train": "train", "test": "t10k"}[split]
            images, labels = _read(raw, f"{prefix}-images-idx3-ubyte"), _read(raw, f"{prefix}-labels-idx1-ubyte")
        pixels = torch.from_numpy(images.astype(np.float32)).unsqueeze(1)
        self.images = pixels.div_(255).sub_(MEAN).div_(STD)  # in place: the full set would else be held twice
        self.labels = torch.from_numpy(labels.astype(np.int64))

    @staticmethod
    def read_file(path: Path) -> Tensor:
        """An image file as one of shape (1, 28, 28), normalised; ValueError as in `read_image`."""
        return (read_image(path, (1, 28, 28), is_dark=True) - MEAN) / STD

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image of shape (1, 28, 28) and its label."""
        return self.images[index], int(self.labels[index])

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images of shape (B, 1, 28, 28), float32, and labels of shape (B,), int64."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)


def _read(raw: Path, name: str) -> np.ndarray:
    """The array in an IDX file: two zero bytes, element type, number of dimensions, their sizes, the elements."""
    path = raw / f"{name}.gz"
    if not path.exists():
        path = raw / name
    check_sum(path, "md5", MD5[path.name])
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    shape = np.frombuffer(content, dtype=">u4", count=content[3], offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * len(shape)).reshape(tuple(shape))


def _download_missing(raw: Path) -> None:
    """Download the files that `raw` holds neither packed nor unpacked."""
    packed = [name for name in MD5 if name.endswith(".gz")]
    missing = [name for name in packed if not Path(raw, name).exists() and not Path(raw, name).with_suffix("").exists()]
    if not missing:
        return
    from torchvision.datasets import MNIST as TorchvisionMNIST

    advice = f"put {', '.join(missing)} into {raw.resolve()}\nwithout them: mode=dev uses the sample in the package"
    for name in missing:
        urls = [mirror + name for mirror in TorchvisionMNIST.mirrors]
        download("MNIST", urls, raw / name, "md5", MD5[name], advice)
