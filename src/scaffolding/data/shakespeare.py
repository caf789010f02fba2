"""Tiny Shakespeare: 1,115,394 characters from his plays."""

import gzip
import hashlib
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


class TinyShakespeare:
    """The text as one segment, from `root/tinyshakespeare/input.txt`; a missing file is downloaded.

    Args:
        root: folder of downloaded data; not used with `sample`.
        sample: take the first 100,000 characters, which are shipped with the package.

    Source: A. Karpathy, "The Unreasonable Effectiveness of Recurrent Neural Networks", 2015.
    """

    def __init__(self, root: str, sample: bool = False) -> None:
        self.file, self.sample = Path(root, "tinyshakespeare", "input.txt"), sample

    def segments(self) -> list[str]:
        """The whole text.

        Raises:
            ValueError: the file's SHA-256 sum is wrong.
            FileNotFoundError: the file is missing and cannot be downloaded.
        """
        if self.sample:
            return [gzip.decompress(Path(__file__).with_name("shakespeare_sample.txt.gz").read_bytes()).decode()]
        if not self.file.exists():
            _download(self.file)
        content = self.file.read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256:
            raise ValueError(
                f"{self.file}: expected sha256 {SHA256}, found {found}\n"
                "delete this file, and the next start downloads it again"
            )
        return [content.decode()]


def _download(file: Path) -> None:
    """Download the text; it gets its name once it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with urllib.request.urlopen(URL, timeout=5) as answer:  # seconds without an answer
            content = answer.read()
        found = hashlib.sha256(content).hexdigest()
        if found != SHA256:
            raise ValueError(f"expected sha256 {SHA256}, found {found}")
    except (OSError, ValueError, HTTPException) as error:
        raise FileNotFoundError(
            f"Tiny Shakespeare could not be downloaded: {URL}: {error}\n"
            f"put it there as {file.resolve()}\n"
            "without it: mode=dev uses the sample in the package; data=text data.path=FILE takes any text"
        ) from error
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:  # what is cut short stays in here
        whole = Path(folder, file.name)
        whole.write_bytes(content)
        whole.replace(file)
