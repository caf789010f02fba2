"""One file per dataset, and the download that they share.

A dataset is any map-style class built with `split="train" | "val" | "test"` plus the arguments in its YAML file in
`configs/data/`: `__len__` and `__getitem__` are enough. One that is held in memory may add `get_batch(indices)`, which
takes an int64 tensor of shape (B,) and returns the whole batch; it is then read without workers or collation.
"""

import functools
import hashlib
import socket
import tempfile
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from torch.hub import download_url_to_file


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
