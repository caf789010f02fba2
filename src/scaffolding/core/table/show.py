"""Tables as text for a terminal, CSV, Markdown and LaTeX. Does not import torch.

Texts of runs may be a stranger's: what a terminal would obey is shown as it is written, and each format gets its own
characters escaped. CSV has numbers in full; the other formats round them to four digits.
"""

import csv
import io
import json
import re
import shutil
import sys
import unicodedata
from dataclasses import dataclass, field
from typing import Any

from ..errors import ONE_LINE

FORMATS = ("text", "csv", "md", "latex")
COLORS = {"finished": 32, "running": 36, "interrupted": 33, "preempted": 33, "failed": 31, "died": 31, "damaged": 31}
WIDEST = 40  # of a cell on a terminal
LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "…": r"\ldots{}",
}  # fmt: skip
MARKDOWN = re.compile(r"([\\`*_|<>\[\]~])")


@dataclass
class Table:
    """Rows of cells, which may be numbers, texts, lists or None.

    Where a terminal is too narrow, the columns of the highest rank are left out; without ranks, the table is shown in
    parts, each with the key columns.

    Args:
        head: the names of the columns.
        rows: the cells.
        ranks: of each column, how much it matters, 0 the most; or empty.
        num_keys: how many columns each part begins with.
    """

    head: list[str]
    rows: list[list[Any]] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    num_keys: int = 1

    def in_format(self, name: str) -> str:
        """The table as text for a terminal or a pipe, or in another one of FORMATS."""
        if name == "text":
            return self.as_text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
        return {"csv": self.as_csv, "md": self.as_markdown, "latex": self.as_latex}[name]()

    def lines(self, is_full: bool = False) -> list[list[str]]:
        """The head and the rows as texts."""
        return [[cell(part, is_full) for part in row] for row in [self.head, *self.rows]]

    def as_text(self, width: int | None = None) -> str:
        """The table for a terminal of `width` columns, in colour, or, without one, as wide as it is."""
        texts = self.lines()
        if width is not None:
            texts = self._cut(texts, width)
        widths = [max(map(width_of, column)) for column in zip(*texts, strict=True)]
        if width is None:
            return self._part(texts, widths, list(range(len(widths))), is_colored=False)
        if not self.ranks:
            parts = self._in_parts(widths, width)
            return "\n\n".join(self._part(texts, widths, places, is_colored=True) for places in parts)
        kept = self._fitting(widths, width)
        text = self._part(texts, widths, kept, is_colored=True)
        left_out = [name for place, name in enumerate(texts[0]) if place not in kept]
        if left_out:
            text += f"\nnot shown, as the terminal is too narrow: {', '.join(left_out)}"
        return text

    def _cut(self, texts: list[list[str]], width: int) -> list[list[str]]:
        """Cells that are not too long for a terminal. Of a run's name the end stays: jobs of a sweep differ there."""
        widest = WIDEST
        if not self.ranks:
            keys = [max(len(row[place]) for row in texts) for place in range(self.num_keys)]
            widest = max(WIDEST, width - sum(keys) - 2 * self.num_keys)
        cut = []
        for row in texts:
            row = [text if len(text) <= widest else f"{text[: widest - 1]}…" for text in row]
            cut.append(row)
        if self.head[0] == "run":
            for row, whole in zip(cut, texts, strict=True):
                most = max(24, width // 2)
                row[0] = whole[0] if len(whole[0]) <= most else f"…{whole[0][1 - most :]}"
        return cut

    def _part(self, texts: list[list[str]], widths: list[int], places: list[int], is_colored: bool) -> str:
        """The lines of some columns."""
        is_right = [any(isinstance(row[place], int | float) for row in self.rows) for place in range(len(self.head))]
        lines = []
        for number, row in enumerate(texts):
            parts = []
            for place in places:
                gap = " " * (widths[place] - width_of(row[place]))
                text = gap + row[place] if is_right[place] else row[place] + gap
                if is_colored and number and self.head[place] == "status":
                    text = f"\x1b[{COLORS.get(row[place], 39)}m{text}\x1b[0m"
                parts.append(text)
            lines.append("  ".join(parts).rstrip())
        return "\n".join(lines)

    def _fitting(self, widths: list[int], width: int) -> list[int]:
        """The places of the columns that fit into a width, those of low ranks first."""
        kept, room = list[int](), width
        for place in sorted(range(len(widths)), key=lambda place: self.ranks[place]):
            needed = widths[place] + 2 * bool(kept)
            if not kept or needed <= room:
                kept.append(place)
                room -= needed
        return sorted(kept)

    def _in_parts(self, widths: list[int], width: int) -> list[list[int]]:
        """The places of the columns of each part: the keys, and as many others as fit."""
        keys = list(range(self.num_keys))
        begin = sum(widths[place] + 2 for place in keys)
        parts, room = [list(keys)], width - begin
        for place in range(self.num_keys, len(widths)):
            if widths[place] > room and len(parts[-1]) > len(keys):
                parts.append(list(keys))
                room = width - begin
            parts[-1].append(place)
            room -= widths[place] + 2
        return parts

    def as_csv(self) -> str:
        """Every number in full, what is not there as an empty cell."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(self.lines(is_full=True))
        return text.getvalue().rstrip("\n")

    def as_markdown(self) -> str:
        lines = [[MARKDOWN.sub(r"\\\1", text) for text in row] for row in self.lines()]
        lines.insert(1, ["---"] * len(self.head))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def as_latex(self) -> str:
        """A tabular with the rules of the package booktabs."""
        lines = [["".join(LATEX.get(letter, letter) for letter in text) for text in row] for row in self.lines()]
        body = [f"{' & '.join(line)} \\\\" for line in lines]
        rules = [rf"\begin{{tabular}}{{{'l' * len(self.head)}}}", r"\toprule", body[0], r"\midrule", *body[1:]]
        return "\n".join([*rules, r"\bottomrule", r"\end{tabular}"])


def cell(content: Any, is_full: bool = False) -> str:
    """A value as it is shown, on one line; None as nothing."""
    if content is None:
        return ""
    if isinstance(content, bool):
        return str(content).lower()
    if isinstance(content, float):
        return repr(content) if is_full else f"{content:.4g}"
    if not isinstance(content, int | str):
        content = json.dumps(content, default=str, ensure_ascii=False)
    return str(content).encode(errors="replace").decode().translate(ONE_LINE)


def duration(seconds: float) -> str:
    """Seconds as a number of the largest unit that is in them."""
    unit, size = next((pair for pair in (("d", 86400), ("h", 3600), ("min", 60)) if seconds >= pair[1]), ("s", 1))
    return f"{seconds / size:.0f} {unit}"


def width_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(one) else 1 + (unicodedata.east_asian_width(one) in "WF") for one in text)
