"""Tiny Shakespeare: 1,115,394 characters from his plays."""

import gzip
from pathlib import Path

from . import check_sum, download

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
            advice = (
                f"put it there as {self.file.resolve()}\n"
                "without it: mode=dev uses the sample in the package; data=text data.path=FILE takes any text"
            )
            download("Tiny Shakespeare", [URL], self.file, "sha256", SHA256, advice)
        check_sum(self.file, "sha256", SHA256)
        return [self.file.read_bytes().decode()]
