"""A text corpus of Hugging Face, through its `datasets` package (optional group `text`)."""

from pathlib import Path
from typing import Any


class HuggingFaceText:
    """The rows of one column; each is a segment.

    Args:
        path: a dataset on the hub ("owner/name"), a folder that `save_to_disk` wrote, or a format ("text", "json",
            "parquet", ...) of `data_files`.
        name: configuration of the dataset, such as "wikitext-2-raw-v1"; None: its only one.
        data_files: files to read, where `path` is a format.
        part: the author's part, "train" or, for some of it, "train[:10%]"; validation and test are held out of it.
        column: column with the text.
        revision: tag or commit of a dataset on the hub; None: its newest.
        root: folder of downloaded data; the package keeps its files in `root/huggingface`.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """

    def __init__(
        self, path: str, name: str | None, data_files: str | list[str] | None, part: str, column: str,
        revision: str | None, root: str,
    ) -> None:  # fmt: skip
        self.path, self.name, self.data_files, self.part = path, name, data_files, part
        self.column, self.revision, self.cache = column, revision, Path(root, "huggingface")

    def segments(self) -> list[str]:
        """The rows that are not empty; ValueError: the part or column does not exist, or holds no text."""
        table = self._load()
        if self.column not in table.column_names:
            raise ValueError(f"column={self.column!r}\n{self.path} has the columns {', '.join(table.column_names)}")
        rows = [row for row in table[self.column] if row]
        if not any(row.strip() for row in rows):
            raise ValueError(f"there is no text in column {self.column!r} of {self.path}")
        return rows

    def _load(self) -> Any:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(f"{error}: it is in an optional group\npdm install -G text") from error
        datasets.disable_progress_bars()
        if Path(self.path, "state.json").exists() or Path(self.path, "dataset_dict.json").exists():
            found = datasets.load_from_disk(self.path)
            if not isinstance(found, datasets.DatasetDict):
                return found
            if self.part not in found:
                raise ValueError(f"part={self.part!r}\n{self.path} has the parts {', '.join(found)}")
            return found[self.part]
        return datasets.load_dataset(
            self.path, self.name, data_files=self.data_files, split=self.part, revision=self.revision,
            cache_dir=str(self.cache),
        )  # fmt: skip
