"""One file per dataset, and the download that they share.

A dataset is any map-style class built with `split="train" | "val" | "test"` plus the arguments in its YAML file in
`configs/data/`: `__len__` and `__getitem__` are enough. One that is held in memory may add `get_batch(indices)`, which
takes an int64 tensor of shape (B,) and returns the whole batch; it is then read without workers or collation.

One that can read a file of a user for `scripts/predict.py` has `read_file(path)`, which returns what the model is given
of one item; as a static method it works where the data are not. `normalisation` says what is done to pixels of
0 to 255: (pixel / divisor - mean) / std, for each channel; the run's `provenance.json` and its exports hold it.
"""

import functools
import hashlib
import socket
import tempfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from loguru import logger
from torch import Tensor
from torch.hub import download_url_to_file

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # of 8 bits a channel; others would be cut off


def download(name: str, urls: Sequence[str], file: Path, kind: str, expected: str, advice: str) -> None:
    """Download a file from the first address that gives it; the file gets its name once its sum is right.

    Args:
        name: of the dataset, for the message.
        urls: addresses, tried in this order.
        file: where it goes.
        kind: of the sum, "md5" or "sha256".
        expected: the sum in hexadecimal digits.
        advice: what to do if it cannot be downloaded.

    Raises:
        FileNotFoundError: no address gives it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(5)  # seconds without an answer; torch sets none
    try:
        for url in urls:
            with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # a download that is cut short stays in here
                whole = Path(folder, file.name)
                try:
                    download_url_to_file(url, str(whole))
                    problem = wrong_sum(whole, kind, expected)
                    if problem is None:
                        whole.replace(file)
                        return
                except (OSError, RuntimeError, HTTPException) as error:
                    problem = str(error)
                failures.append(f"{url}: {problem}")
    finally:
        socket.setdefaulttimeout(timeout)
    raise FileNotFoundError(f"{name} could not be downloaded: {'; '.join(failures)}\n{advice}")


def check_sum(file: Path, kind: str, expected: str) -> None:
    """ValueError unless a file has the sum that it should have."""
    problem = wrong_sum(file, kind, expected)
    if problem is not None:
        raise ValueError(f"{file}: {problem}\ndelete this file, and the next start downloads it again")


def wrong_sum(file: Path, kind: str, expected: str) -> str | None:
    """The sum that a file should have and the one that it has, in words; None: they are the same."""
    found = "no file"
    if file.exists():
        new = functools.partial(hashlib.new, kind, usedforsecurity=False)
        with file.open("rb") as content:
            found = hashlib.file_digest(content, new).hexdigest()
    if found == expected:
        return None
    return f"expected {kind} {expected}, found {found}"


def read_image(path: Path, shape: Sequence[int], is_dark: bool = False) -> Tensor:
    """An image file as pixels in 0..1, float32; the log says what was done to it.

    Args:
        path: a file of any format that Pillow reads.
        shape: channels (1: grey, 3: red, green, blue), height, width; an image of another size is scaled to it.
        is_dark: the dataset's images are light on dark, so a light one is warned of.

    Raises:
        ValueError: it is not an image, or holds what has no place in `shape`: transparent pixels, 16 bits.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)  # a photograph lies as it was taken, and says how it stands
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"not an image that can be read: {error}") from error
    if image.mode not in MODES:
        raise ValueError(f"an image of mode {image.mode}: save it with 8 bits for each channel")
    if "A" in image.mode or "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA"))[..., 3]
        if int(alpha.min()) < 255:
            raise ValueError("an image with transparent pixels: save it on the background that it is to have")
    before = f"{image.width}x{image.height} {image.mode}"
    image = image.convert({1: "L", 3: "RGB"}[channels])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32)).div_(255).reshape(height, width, channels)
    logger.info(f"{path}: {before} -> {width}x{height} {image.mode}, normalised")
    if is_dark and float(pixels.mean()) > 0.5:
        logger.warning(f"{path}: mostly light, and the images of this dataset are light on dark: invert it")
    return pixels.permute(2, 0, 1).contiguous()
