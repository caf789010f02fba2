"""The figures of a run, to be embedded in its page."""

import base64
from pathlib import Path
from typing import Any

from ..errors import CONTROL, UserError
from ..folder.reading import read_bytes

MAX_FIGURES = 12  # of a kind: the first, the last and evenly chosen ones between
MAX_FIGURE = 5_000_000  # bytes of one
ONLY_LAST = ("curves",)  # kinds of figures of which each shows all that those before showed


def read_figures(folder: Path, problems: list[str]) -> list[dict[str, Any]]:
    """The figures of each kind, oldest first, as data; at most MAX_FIGURES of a kind.

    Args:
        folder: figures/ of a run.
        problems: gets a line for each file that cannot be read.
    """
    kinds: dict[str, list[tuple[int, str, Path]]] = {}
    for file in folder.glob("*.png"):
        parts = file.stem.rsplit("-", 2)
        if len(parts) == 3 and parts[2].isdecimal():
            kinds.setdefault(parts[0], []).append((int(parts[2]), parts[1], file))
    found = []
    for kind, files in sorted(kinds.items(), key=lambda pair: (pair[0] in ONLY_LAST, pair[0])):
        files.sort()
        chosen = files
        if kind in ONLY_LAST:
            chosen = files[-1:]
        elif len(files) > MAX_FIGURES:
            chosen = [files[round(index * (len(files) - 1) / (MAX_FIGURES - 1))] for index in range(MAX_FIGURES)]
        images = [_image(*each, problems) for each in chosen]
        shown = [image for image in images if image is not None]
        if shown:
            found.append({"kind": kind.translate(CONTROL), "images": shown, "left_out": len(files) - len(shown)})
    return found


def _image(step: int, moment: str, file: Path, problems: list[str]) -> dict[str, Any] | None:
    try:
        content = read_bytes(file, MAX_FIGURE)
    except UserError as error:
        problems.append(str(error).partition("\n")[0])
        return None
    source = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"step": step, "moment": moment.translate(CONTROL), "source": source}
