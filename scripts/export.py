"""A run as files that need none of its training code: weights, what builds the model, what prepares its inputs.

python scripts/export.py RUN                               # RUN: a name, its first letters, latest, or a path
python scripts/export.py RUN --checkpoint latest --to exported
python scripts/export.py RUN --torch-export --onnx         # model.pt2 and model.onnx, too

Writes inference.json and model.safetensors (once: pdm install -G export), by default into the folder export/ of the
run. Every file is read again and compared with the run's model on items of its validation split; all files appear
together, or none does. scripts/README.md shows how to load them.
"""

import argparse
import contextlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FORMAT = 1  # of inference.json
NAMES = ("inference.json", "model.safetensors", "tokenizer.json", "model.pt2", "model.onnx", "model.onnx.data")
MACHINERY = ("dataset", "stream", "val_from_train", "val_arguments", "split_seed", "num_train", "num_items", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    parser.add_argument("--to", type=Path, metavar="DIR", help="a folder, new or of an export (default: RUN/export)")
    parser.add_argument("--torch-export", action="store_true", help="write model.pt2 (torch.export), for any batch")
    parser.add_argument("--onnx", action="store_true", help="write model.onnx, for any batch")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, metavar="X",
        help="largest difference of outputs, as a share of the largest output if that is above 1 (default: 1e-4)",
    )  # fmt: skip
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_args()
    packages = ["safetensors", *(["onnx", "onnxscript", "onnxruntime"] if args.onnx else [])]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"{', '.join(missing)}: not installed\nthe optional group has them: pdm install -G export")

    from scaffolding.core.errors import UserError
    from scaffolding.core.find import open_run
    from scaffolding.experiment import PROJECT, Experiment

    try:
        path = open_run(args.run, PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint, trust=args.trust)
        target = args.to or path / "export"
        check_target(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".export_", dir=target.parent))
        try:
            lines = list(write(exp, args, aside))
            put(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(*lines, *(target / name for name in NAMES if (target / name).exists()), sep="\n")


def check_target(target: Path) -> None:
    """UserError: a folder holds more than an export, or is a file."""
    from scaffolding.core.errors import UserError

    if target.exists() and not target.is_dir():
        raise UserError(f"--to {target}: it is a file\ngive a folder")
    others = [file.name for file in target.iterdir() if file.name not in NAMES] if target.exists() else []
    if others:
        raise UserError(f"--to {target}: it holds {others[0]}, which is not of an export\ngive a new folder")


def put(aside: Path, target: Path) -> None:
    """Give the folder with the new files its name; an older export in its place is deleted."""
    if target.exists():
        old = aside.with_name(f"{aside.name}_old")
        target.rename(old)
        aside.rename(target)
        shutil.rmtree(old)
    else:
        aside.rename(target)
    target.chmod(0o755)  # a temporary folder is for its owner alone


def write(exp: Any, args: Any, folder: Path) -> Iterator[str]:
    """Write and check the files one by one, with a line on each; UserError: which file cannot be written, and why."""
    from safetensors.torch import save_model

    from scaffolding.core.errors import UserError
    from scaffolding.core.inference.call import find_call
    from scaffolding.core.inference.traced import check_onnx, check_program, first_line, trace

    split = next((name for name in ("val", "test", "train") if name in exp.datasets), None)
    if split is None:
        raise UserError(f"{exp.path.name} was trained on a stream, and has no items on which outputs can be compared")
    exp.autocast = contextlib.nullcontext()  # outputs are compared in the types that the weights are in
    batch = next(iter(exp.loaders[split]))
    call = find_call(exp, batch)
    facts = describe(exp, args.checkpoint, call)
    facts["tokenizer"] = write_tokenizer(exp, folder)
    (folder / "inference.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    strange = [name for name, value in exp.eval_model.state_dict().items() if not is_dense(value)]
    if strange:
        raise UserError(f"model.safetensors: {strange[0]} is not a dense tensor, and it can hold nothing else")
    try:
        save_model(exp.eval_model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:  # parts of one tensor, ...
        raise UserError(f"model.safetensors: it cannot hold these weights: {first_line(error)}") from error
    (folder / "model.safetensors").chmod((folder / "inference.json").stat().st_mode)  # it would be for its owner alone
    yield f"model.safetensors: {check_weights(exp, folder)} tensors are those of {args.checkpoint}, bit by bit"
    if not (args.torch_export or args.onnx):
        return
    if call is None:
        losses = ", ".join(type(loss).__name__ for loss in exp.losses.values())
        raise UserError(
            f"{type(exp.model).__name__}: its forward takes something that no batch holds (noise?), and {losses} calls "
            "its parts alone: --torch-export and --onnx cannot be checked\nleave them out: model.safetensors is enough"
        )
    where = f"{call.num_items} items of the {split} split"
    program = trace(exp.eval_model, call)
    if args.torch_export:
        largest = check_program(exp.eval_model, call, program, folder / "model.pt2", args.tolerance)
        yield f"model.pt2: largest difference {largest:.2g} on {where} (tolerance {args.tolerance:g})"
    if args.onnx:
        largest = check_onnx(exp.eval_model, call, program, folder / "model.onnx", args.tolerance)
        yield f"model.onnx: largest difference {largest:.2g} on {where} (tolerance {args.tolerance:g})"


def is_dense(value: Any) -> bool:
    """Whether a part of a state_dict is a tensor that lies in memory as a whole: not sparse, and no extra state."""
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def describe(exp: Any, checkpoint: str, call: Any) -> dict[str, Any]:
    """What inference.json says: how the model is built, what it takes, and where it comes from."""
    import torch
    from omegaconf import OmegaConf

    from scaffolding.core.provenance.provenance import read_record
    from scaffolding.core.secrets import hide_secrets

    plain: Any = hide_secrets(OmegaConf.to_container(exp.cfg, resolve=True))
    record, data = read_record(exp.path), plain["data"]
    dataset = next(iter(exp.datasets.values())).dataset
    inputs, outputs = {}, None
    if call is not None:
        inputs = {name: shape_of(call, value) for name, value in call.named(exp.eval_model).items()}
        outputs = shape_of(call, call.output)
    return {
        "format": FORMAT,
        "run": {"name": exp.path.name, "checkpoint": checkpoint, "step": exp.state.step, "epoch": exp.state.epoch},
        "code": {"commit": record.get("commit"), "dirty": record.get("dirty"), "torch": torch.__version__},
        "weights": "model.safetensors",
        "precision": exp.precision,  # that the run computed in; the weights are in the types that they are in
        "averaged": exp.ema is not None,
        "imports": plain["imports"],
        "model": plain["model"],
        "inputs": inputs,
        "outputs": outputs,
        "dataset": (data.get("dataset") or {}).get("_target_"),
        "data": {name: value for name, value in data.items() if name not in MACHINERY},
        "normalisation": getattr(dataset, "normalisation", None),
    }


def shape_of(call: Any, value: Any) -> Any:
    """The shape and type of a value of a call; the dimension of the batch is called "batch"."""
    from torch import Tensor

    from scaffolding.core.tree import map_parts

    if not isinstance(value, Tensor):
        parts = map_parts(value, lambda part: shape_of(call, part))
        return parts if isinstance(value, dict | list | tuple) else repr(value)
    shape = ["batch" if index == 0 and call.is_batched(value) else size for index, size in enumerate(value.shape)]
    return {"shape": shape, "dtype": str(value.dtype).removeprefix("torch.")}


def write_tokenizer(exp: Any, folder: Path) -> dict[str, str] | None:
    """The vocabulary of a text, if the run has one: what inference.json says of it; byte pairs get a file."""
    kept = exp.saved["objects"].get("datasets.train")
    state = kept.get("tokenizer") if isinstance(kept, dict) else None
    if not isinstance(state, dict) or state.get("kind") != "bpe":
        return state
    (folder / "tokenizer.json").write_text(state["vocabulary"], encoding="utf-8")
    return {"kind": "bpe", "file": "tokenizer.json"}  # of the package `tokenizers`


def check_weights(exp: Any, folder: Path) -> int:
    """Load the files as a user does; how many tensors are the same. UserError: one is not."""
    from hydra.utils import instantiate
    from safetensors.torch import load_model

    from scaffolding.core.checks.rehearsal import first_difference
    from scaffolding.core.errors import UserError

    facts = json.loads((folder / "inference.json").read_text(encoding="utf-8"))
    model = instantiate(facts["model"], _convert_="all").eval()
    load_model(model, folder / facts["weights"])
    ours, theirs = (dict(part.named_parameters()) | dict(part.named_buffers()) for part in (exp.eval_model, model))
    difference = first_difference(ours, theirs)
    if difference is not None:
        raise UserError(
            f"model.safetensors: built again, the model is another one: {difference}"
            "\nlet a persistent buffer hold it, or let the constructor compute it from its arguments"
        )
    return len(ours)


if __name__ == "__main__":
    main()
