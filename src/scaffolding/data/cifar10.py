"""CIFAR-10: 60,000 colour photographs of 32x32 pixels in ten classes."""

import functools
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor

from . import check_sum, download, read_image, wrong_sum

MEAN = (0.4914, 0.4822, 0.4465)  # red, green, blue of the training pixels, scaled to 0..1
STD = (0.2470, 0.2435, 0.2616)

ARCHIVE = "cifar-10-python.tar.gz"
FOLDER = "cifar-10-batches-py"  # in the archive


class CIFAR10:
    """CIFAR-10, held in memory as uint8 and normalised a batch at a time: 50,000 training and 10,000 test images.

    The files lie in the folder `cifar-10-batches-py` of `scratch` or `root`; if they are missing,
    `root/cifar-10-python.tar.gz` is unpacked or else downloaded. Torchvision's MD5 sums are checked at every start.

    Args:
        root: folder of downloaded data.
        split: "train" or "test".
        augment: crop and flip the images of the training split at random.
        sample: where there are no files, take generated images (1,000 training, 200 test) and say so.
        scratch: folder to unpack the archive in, which then stays in `root` for other machines; None: `root`.

    Raises:
        ValueError: another split, or a file whose MD5 sum is wrong.
        FileNotFoundError: the files are missing and cannot be downloaded.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    normalisation: ClassVar = {"divisor": 255, "mean": list(MEAN), "std": list(STD)}

    def __init__(
        self, root: str, split: str, augment: bool = False, sample: bool = False, scratch: str | None = None
    ) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: this dataset has no validation split; set data.val_from_train")
        places = [Path(place) for place in (scratch, root) if place is not None]  # where it may be unpacked
        unpacked = [place for place in places if (place / FOLDER).exists()]
        if sample and not unpacked and not Path(root, ARCHIVE).exists():
            self.images, self.labels = _stand_in(split)
        else:
            if not unpacked:
                _unpack(Path(root), places[0])
            self.images, self.labels = _read((unpacked or places)[0], split)
        self.augment = augment and split == "train"
        self.scale = 1 / (255 * torch.tensor(STD).view(3, 1, 1))
        self.shift = -torch.tensor(MEAN).view(3, 1, 1) / torch.tensor(STD).view(3, 1, 1)

    @staticmethod
    def read_file(path: Path) -> Tensor:
        """An image file as one of shape (3, 32, 32), normalised; ValueError as in `read_image`."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
        return (read_image(path, (3, 32, 32)) - mean) / std

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image of shape (3, 32, 32), float32, and its label."""
        images, labels = self.get_batch(torch.tensor([range(len(self))[index]]))
        return images[0], int(labels[0])

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images of shape (B, 3, 32, 32), float32, and labels of shape (B,), int64."""
        images = self.images.index_select(0, indices)
        if self.augment:
            images = crop_and_flip(images)
        return images.to(torch.float32).mul_(self.scale).add_(self.shift), self.labels.index_select(0, indices)


def crop_and_flip(images: Tensor, padding: int = 4) -> Tensor:
    """A random crop of each zero-padded image, mirrored with probability 1/2; draws from torch's global generator.

    Source: K. He, X. Zhang, S. Ren and J. Sun, "Deep Residual Learning for Image Recognition", 2016, section 4.2.
    """
    num_images, _, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of every crop: (B, C, 9, 9, height, width)
    tops, lefts = torch.randint(2 * padding + 1, (2, num_images))
    images = crops[torch.arange(num_images), :, tops, lefts]
    is_mirrored = torch.rand(num_images, 1, 1, 1) < 0.5
    return torch.where(is_mirrored, images.flip(3), images)


def _read(place: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images of shape (N, 3, 32, 32), uint8, and labels of shape (N,), int64."""
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10

    try:
        cifar10 = TorchvisionCIFAR10(place, train=split == "train")  # loads pickles, once their MD5 sums are right
    except RuntimeError as error:
        meta = TorchvisionCIFAR10.meta
        sums = [*TorchvisionCIFAR10.train_list, *TorchvisionCIFAR10.test_list, (meta["filename"], meta["md5"])]
        for name, expected in sums:
            path = place / FOLDER / name
            problem = wrong_sum(path, "md5", expected)
            if problem is not None:
                advice = f"delete {path.parent}, and the next start unpacks or downloads it again"
                raise ValueError(f"{path}: {problem}\n{advice}") from error
        raise
    images = np.ascontiguousarray(cifar10.data.transpose(0, 3, 1, 2))
    return torch.from_numpy(images), torch.tensor(cifar10.targets)


def _unpack(root: Path, place: Path) -> None:
    """Unpack the archive in `root`, downloaded if need be, in a place; the folder gets its name once it is whole."""
    from torchvision.datasets import CIFAR10 as TorchvisionCIFAR10
    from torchvision.datasets.utils import extract_archive

    for folder in (root, place):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{folder}: {error.strerror}\nset paths.data and paths.scratch to folders") from error
    url, expected = TorchvisionCIFAR10.url, TorchvisionCIFAR10.tgz_md5
    with tempfile.TemporaryDirectory(dir=place) as new:
        archive = root / ARCHIVE
        if archive.exists():
            check_sum(archive, "md5", expected)
        else:
            if place == root:
                archive = Path(new, ARCHIVE)  # not needed any more, once it is unpacked
            advice = f"put {ARCHIVE} into {root.resolve()}\nwithout it: mode=dev uses a generated stand-in"
            download("CIFAR-10", [url], archive, "md5", expected, advice)
        extract_archive(archive, new)
        if not (place / FOLDER).exists():  # another run may have been faster
            Path(new, FOLDER).rename(place / FOLDER)


def _stand_in(split: str) -> tuple[Tensor, Tensor]:
    """Generated images of CIFAR-10's shape: a coarse pattern per class under noise, so there is something to learn."""
    _announce_stand_in()
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randint(256, (10, 3, 4, 4), generator=generator)
    seed, num_images = {"train": (1, 1000), "test": (2, 200)}[split]
    generator.manual_seed(seed)
    labels = torch.arange(num_images) % 10
    images = patterns[labels].repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    noise = torch.randint(-64, 65, images.shape, generator=generator)
    return (images + noise).clamp(0, 255).to(torch.uint8), labels


@functools.cache  # once per process
def _announce_stand_in() -> None:
    logger.warning(
        f"CIFAR-10 is not in paths.data: generated images of its shape stand in (the real ones: put {ARCHIVE} there)"
    )
