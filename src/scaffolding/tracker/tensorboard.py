"""TensorBoard."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import yaml

from ..core.tree import leaves

AXES = ("step", "epoch", "samples", "split", "time")
MACHINE = ("paths", "plots", "tracker", "imports")  # parts of the config that are not hyperparameters

PLAIN = (bool, int, float, str)  # what a hyperparameter may be
MAX_QUEUE, FLUSH_EVERY = 1000, 5  # events, seconds
RGBA = 4  # TensorBoard's number for the colour space of our figures


class TensorBoard:
    """Event files in tensorboard/ of the run's folder; to look at them: `tensorboard --logdir _output`.

    Values are called <split>/<name>, figures figures/<kind>; the text `config` is the run's config. The HPARAMS tab has
    the config's values and the last values of the validation and test rows, once the run has ended; only a run that
    finished has an end there.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("tensorboard is in an optional group\npdm install -G tensorboard")

    def start(self, folder: Path, config: dict[str, Any]) -> None:
        """Begin from the first row, without what an earlier session of the run wrote: event files cannot be cut."""
        from torch.utils.tensorboard import FileWriter
        from torch.utils.tensorboard.summary import text

        self.where = folder / "tensorboard"
        if self.where.exists():
            shutil.rmtree(self.where)
        self.config, self.results = config, set[str]()
        self.writer: Any = FileWriter(str(self.where), MAX_QUEUE, FLUSH_EVERY)
        indented = yaml.safe_dump(config, sort_keys=False, allow_unicode=True).replace("\n", "\n    ")
        self.writer.add_summary(text("config", f"    {indented}"))  # the four spaces make it code in Markdown

    def log(self, row: dict[str, Any]) -> None:
        """One row of scalars.csv."""
        from torch.utils.tensorboard.summary import scalar

        for name in row.keys() - AXES:
            tag = f"{row['split']}/{name}"
            if row["split"] != "train":
                self.results.add(tag)
            self.writer.add_summary(scalar(tag, row[name]), row["step"], row.get("time"))

    def log_figure(self, kind: str, file: Path, step: int) -> None:
        """One figure of the run's folder: the bytes of its file, which is not drawn or decoded again."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        content = file.read_bytes()
        width, height = (int.from_bytes(content[start : start + 4], "big") for start in (16, 20))  # of the PNG's header
        image = Summary.Image(width=width, height=height, colorspace=RGBA, encoded_image_string=content)
        self.writer.add_summary(Summary(value=[Summary.Value(tag=f"figures/{kind}", image=image)]), step)

    def finish(self, exit_code: int) -> None:
        """Add what the HPARAMS tab shows, and close the files."""
        from torch.utils.tensorboard.summary import hparams

        # not SummaryWriter.add_hparams: it would log the metrics again, at step 0
        settings = {name: part for name, part in self.config.items() if name not in MACHINE}
        values = {key: value if isinstance(value, PLAIN) else str(value) for key, value in leaves(settings)}
        *begin, end = hparams(values, dict.fromkeys(sorted(self.results), 0.0))
        for summary in [*begin, end] if exit_code == 0 else begin:
            self.writer.add_summary(summary)
        self.writer.close()
