"""UCI handwritten digits: 1,797 grey images of 8x8 pixels in ten classes, shipped with the package."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from . import read_image

MEAN, STD = 4.89, 6.02  # of the training pixels, which range from 0 to 16


class Digits:
    """Handwritten digits, held in memory as normalised float32.

    The file is not split. Every sixth row (0, 6, 12, ...) is the test split: 300 images, 25 to 33 of a
    class. The other 1,497 are the training split. Both hold the same writers.

    Args:
        split: "train" or "test".

    Raises:
        ValueError: another split.

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
    1998; the test part.
    """

    normalisation: ClassVar = {"divisor": 255 / 16, "mean": [MEAN], "std": [STD]}

    def __init__(self, split: str) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split={split!r}: this dataset has no validation split; set data.val_from_train")
        rows = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
        is_test = np.arange(len(rows)) % 6 == 0
        rows = rows[is_test == (split == "test")]
        pixels = torch.from_numpy(rows[:, :64].astype(np.float32)).reshape(-1, 1, 8, 8)
        self.images = pixels.sub_(MEAN).div_(STD)
        self.labels = torch.from_numpy(rows[:, 64].copy())

    @staticmethod
    def read_file(path: Path) -> Tensor:
        """An image file as one of shape (1, 8, 8), normalised; ValueError as in `read_image`."""
        return (16 * read_image(path, (1, 8, 8), is_dark=True) - MEAN) / STD

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One image of shape (1, 8, 8) and its label."""
        return self.images[index], int(self.labels[index])

    def get_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images of shape (B, 1, 8, 8), float32, and labels of shape (B,), int64."""
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)
