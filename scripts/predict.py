"""What the model of a run says of your files: images, texts, and arrays of inputs.

python scripts/predict.py RUN cat.png dog.jpg              # RUN: a name, its first letters, latest, or a path
python scripts/predict.py RUN scans/*.png --to said.csv    # or .jsonl: lines of JSON
python scripts/predict.py RUN inputs.npy --raw             # what the model returns, number by number

Images and texts are read as `read_file` of the run's dataset reads them, and the log says what was done to each.
Arrays (.npy, .npz, .pt, and .csv with an item in each row) hold inputs as the model takes them, normalised: of one item
or of several. A classifier says class and probability (the softmax of what it returns), a language model the token
after the text; of any other model there are the outputs.
"""

import argparse
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ARRAYS = (".npy", ".npz", ".pt", ".csv")
BATCH = 64  # items that are computed together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--raw", action="store_true", help="what the model returns, whatever it is")
    parser.add_argument("--to", type=Path, metavar="FILE", help="a file .csv or .jsonl (default: CSV on the screen)")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()
    if args.to is not None and args.to.suffix not in (".csv", ".jsonl"):
        parser.error(f"--to {args.to}: give a file .csv or .jsonl")

    from scaffolding.core.errors import UserError
    from scaffolding.core.find import open_run
    from scaffolding.core.folder.folder import write_text
    from scaffolding.experiment import PROJECT, Experiment

    try:
        path = open_run(args.run, PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint, args.device, trust=args.trust)
        rows = list(predict(exp, args.files, args.raw))
        text = as_text(rows, is_json=args.to is not None and args.to.suffix == ".jsonl")
        if args.to is None:
            print(text, end="")
        else:
            write_text(args.to, text)
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


def predict(exp: Any, files: list[Path], is_raw: bool) -> Iterator[dict[str, Any]]:
    """A row for each item of each file; UserError: what is wrong with which file."""
    reader = Reader(exp)
    for file in files:
        items = reader.read(file)
        for at in range(0, len(items), BATCH):
            for index, output in enumerate(reader.compute(file, items[at : at + BATCH]), at):
                place = {"file": str(file), "item": index}
                yield place | ({"output": output.tolist()} if is_raw else reader.name(output))


class Reader:
    """Reads files as inputs of a run's model, and says what its outputs mean.

    What the model takes, and whether it is a classifier, is seen on a batch of the run's own data. Where they are not
    here, the facts in its config must do.
    """

    def __init__(self, exp: Any) -> None:
        from loguru import logger
        from omegaconf import OmegaConf

        from scaffolding.core.config.build import locate
        from scaffolding.core.errors import UserError
        from scaffolding.core.inference.call import find_call

        self.exp, self.model = exp, exp.eval_model
        self.data: Any = OmegaConf.to_container(exp.cfg.data, resolve=True)
        self.dataset: Any = None
        self.like: Any = None  # an item as the model takes it
        self.range, self.labels = 0.0, None
        try:
            split = next((name for name in ("val", "test", "train") if name in exp.datasets), None)
        except UserError as error:
            logger.warning(f"{str(error).partition(chr(10))[0]}: the shape of inputs is that of data.image_shape")
            self.dataset = locate(str(exp.cfg.data.dataset._target_), "data.dataset")  # its read_file may be static
            return
        if split is None:
            return
        self.dataset = exp.datasets[split].dataset
        batch = next(iter(exp.loaders[split]))
        call = find_call(exp, batch)
        name = type(self.model).__name__
        if call is None:
            raise UserError(
                f"{name}: its forward takes something that a batch does not hold (noise?), so it cannot predict"
            )
        inputs = call.named(self.model)
        (value, *others) = inputs.values()
        if others or not call.is_batched(value):
            raise UserError(f"{name} takes {', '.join(inputs)}: this script can give it one tensor")
        self.like, self.range = value[0].cpu(), float(value.abs().max())
        if isinstance(batch, list | tuple) and len(batch) == 2:
            self.labels = batch[1]

    def read(self, file: Path) -> Any:
        """The items of a file, a tensor (N, ...); UserError: what is wrong with it."""
        import inspect

        import torch

        from scaffolding.core.errors import UserError

        if not file.is_file():
            raise UserError(f"{file}: the file does not exist")
        kind = self.dataset if isinstance(self.dataset, type) else type(self.dataset)
        try:
            if file.suffix in ARRAYS:
                return self.fit(file, read_array(file))
            if not hasattr(self.dataset, "read_file"):
                raise ValueError(
                    f"{kind.__name__} has no read_file(path), which says how such a file becomes an input"
                    f"\nwrite it (configs/README.md), or give arrays: {', '.join(ARRAYS)}"
                )
            if self.dataset is kind and not isinstance(inspect.getattr_static(kind, "read_file"), staticmethod):
                raise ValueError(f"read_file of {kind.__name__} needs the run's data, which are not here")
            return torch.as_tensor(self.dataset.read_file(file))[None]
        except (ValueError, OSError, RuntimeError, EOFError) as error:
            raise UserError(f"{file}: {error}") from error

    def fit(self, file: Path, values: Any) -> Any:
        """An array as inputs (N, ...) of the model's shape and type; ValueError: it is of another one."""
        import torch
        from loguru import logger

        like = self.like
        if like is None:
            if "image_shape" not in self.data:
                raise ValueError("which arrays the model takes is seen on the run's data, which are not here")
            like = torch.zeros(self.data["image_shape"])
        if file.suffix == ".csv" and values[0].numel() == like.numel():
            values = values.reshape(-1, *like.shape)
        if values.shape == like.shape:
            values = values[None]
        if values.shape[1:] != like.shape or not len(values):
            raise ValueError(
                f"an array of {tuple(values.shape)}: {type(self.model).__name__} takes {tuple(like.shape)}, "
                f"or several of them, {('N', *like.shape)}".replace("'", "")
            )
        if values.is_complex() or not bool(values.isfinite().all()):
            raise ValueError("it holds values that are complex or not finite")
        if not like.is_floating_point() and bool((values != values.round()).any()):
            raise ValueError(f"{type(self.model).__name__} takes whole numbers ({like.dtype})")
        largest = float(values.abs().max())
        if like.is_floating_point() and self.range and largest > 3 * self.range:
            logger.warning(
                f"{file}: values up to {largest:.4g}, those of the run's data are up to {self.range:.4g}: normalised?"
            )
        return values.to(like.dtype)

    def compute(self, file: Path, inputs: Any) -> Any:
        """What the model returns for inputs (N, ...), float32 on the CPU; UserError: it fails, or returns no tensor."""
        import torch

        from scaffolding.core.errors import UserError, failure
        from scaffolding.core.tree import describe

        try:
            with torch.no_grad(), self.exp.autocast:
                outputs = self.model(inputs.to(self.exp.device))
        except Exception as error:
            raise UserError(
                f"{file}: {failure(error, type(self.model).__name__)}\nit was given {describe(inputs)}"
            ) from error
        if not isinstance(outputs, torch.Tensor) or len(outputs) != len(inputs):
            raise UserError(
                f"{type(self.model).__name__} returns {describe(outputs)}, not a tensor with a row for each item"
            )
        return outputs.float().cpu()

    def name(self, output: Any) -> dict[str, Any]:
        """What an output means: class and probability, the token after a text, or the numbers."""
        tokenizer = getattr(self.dataset, "tokenizer", None)
        if tokenizer is not None and output.ndim == 2 and output.shape[1] == self.data.get("vocab_size"):
            probability, token = output[-1].softmax(dim=0).max(dim=0)
            return {"next_token": tokenizer.decode([int(token)]), "probability": float(probability)}
        if output.ndim != 1 or len(output) != self.data.get("num_classes") or not self.is_classifier():
            return {"output": output.tolist()}
        shares = output
        if float(output.min()) < 0 or abs(float(output.sum()) - 1) > 1e-3:  # else it returns probabilities
            shares = output.softmax(dim=0)
        probability, index = shares.max(dim=0)
        names = self.data.get("class_names") or range(len(output))
        return {"class": str(names[int(index)]), "probability": float(probability)}

    def is_classifier(self) -> bool:
        """Whether labels of the run's data are numbers of classes: where an item has several, softmax is wrong."""
        labels = self.labels
        return labels is None or (hasattr(labels, "ndim") and labels.ndim == 1 and not labels.is_floating_point())


def read_array(file: Path) -> Any:
    """The tensor in an array file; ValueError: it holds something else."""
    import numpy as np
    import torch

    if file.suffix == ".pt":
        values = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(values, torch.Tensor):
            raise ValueError(f"it holds a {type(values).__name__}, not a tensor")
        return values
    if file.suffix == ".csv":
        with open(file, encoding="utf-8-sig") as stream:
            cells = stream.readline().split(",")
        return torch.from_numpy(np.loadtxt(file, delimiter=",", ndmin=2, skiprows=int(not any(map(is_number, cells)))))
    try:
        found = np.load(file)
    except ValueError as error:  # its own words recommend to run what is in the file
        raise ValueError("it is not an array of numbers that numpy saved") from error
    if file.suffix == ".npz":
        if len(found.files) != 1:
            raise ValueError(f"it holds {len(found.files)} arrays ({', '.join(found.files):.200}): save one")
        found = found[found.files[0]]
    if found.dtype.kind not in "biuf":
        raise ValueError(f"an array of {found.dtype}, not of numbers")
    return torch.from_numpy(np.ascontiguousarray(found))


def is_number(cell: str) -> bool:
    """Whether a cell of a table holds a number; a header holds none."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def as_text(rows: list[dict[str, Any]], is_json: bool) -> str:
    """Rows as lines of JSON, or as CSV, with a column for each number of an output."""
    from scaffolding.core.tree import leaves

    if is_json:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    flat = [dict(leaves(row)) for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(dict.fromkeys(key for row in flat for key in row)))
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


if __name__ == "__main__":
    main()
