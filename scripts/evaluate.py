"""The values of a run's checkpoint on any split, or on other data: those that the run itself would log, bit by bit.

python scripts/evaluate.py RUN                             # the test split; RUN: a name, its first letters, or a path
python scripts/evaluate.py RUN --split val --checkpoint latest --json
python scripts/evaluate.py RUN data=NAME data.KEY=VALUE    # other data with the same facts: classes, shapes, ...

Writes nothing. Another device, number of threads or batch size than the run had changes the last bits; so does
run.compile, which is left out here.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "evaluate":  # the installed package of this name is wanted, and this folder stands before it on the path
    sys.path.remove(str(Path(__file__).resolve().parent))
    del sys.modules["evaluate"]
    importlib.import_module("evaluate")  # the import system takes what is in sys.modules now
MACHINERY = ("dataset", "stream", "val_from_train", "val_arguments", "split_seed", "num_train", "num_items", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("words", nargs="*", metavar="data...", help="other data, as on the command line of train.py")
    parser.add_argument("--split", default="test", choices=("train", "val", "test"), help="(default: test)")
    parser.add_argument("--checkpoint", default="best", help="best, latest, or another in checkpoints/ (default: best)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where the runs are (default: paths.output_root)")
    parser.add_argument("--trust", action="append", default=[], metavar="NAME", help="a package the run may name")
    args = parser.parse_intermixed_args()  # words may stand between options
    others = [word for word in args.words if not word.lstrip("+~").startswith(("data=", "data."))]
    if others:
        parser.error(f"{others[0]}: the run keeps its settings\nallowed: data=NAME, data.KEY=VALUE")

    import torch

    from scaffolding.core.errors import RunError, UserError
    from scaffolding.core.find import open_run
    from scaffolding.evaluate import evaluate
    from scaffolding.experiment import PROJECT, Experiment

    try:
        path = open_run(args.run, args.output or PROJECT.output_root)
        exp = Experiment.from_path(path, args.checkpoint, args.device, trust=args.trust)
        if args.words:
            choose_data(exp, args.words)
        if args.split not in exp.datasets:
            parser.error(f"{path.name} has no {args.split} split\nthere are {', '.join(exp.datasets)}")
        torch.set_float32_matmul_precision(exp.settings.matmul)  # as `prepare` does for a run
        values = evaluate(exp, args.split)
    except (UserError, RunError) as error:
        parser.error(str(error))
    numbers = {name: float(value) for name, value in values.items()}
    num_items = exp.loaders[args.split].num_items
    if args.json:
        found = {"run": path.name, "checkpoint": args.checkpoint, "step": exp.state.step, "data": args.words}
        print(json.dumps({**found, "split": args.split, "items": num_items, "values": numbers}))
        return
    print(f"{path.name}, {args.checkpoint} (step {exp.state.step}), {args.split} split of {num_items} items")
    width = max(map(len, numbers), default=0)
    for name, value in numbers.items():
        print(f"{name:{width}}  {value:.6g}")


def choose_data(exp: Any, words: list[str]) -> None:
    """Give an experiment, whose datasets are not built yet, the data of the words.

    UserError: they state other facts. A fact is a number or a list, as networks take them; names of files may differ.
    """
    from omegaconf import OmegaConf

    from scaffolding.core.config.compose import COMPOSE_ERRORS, compose_unchecked, composing_error
    from scaffolding.core.errors import UserError
    from scaffolding.experiment import PROJECT

    if not any(word.startswith("data=") for word in words):
        raise UserError(f"{words[0]}: of which data?\ngive data=NAME, too")
    facts: Any = OmegaConf.to_container(exp.cfg.data, resolve=True)
    try:
        exp.cfg.data = OmegaConf.to_container(compose_unchecked(PROJECT, words).data)  # with ${paths.data}: the run's
        data: Any = OmegaConf.to_container(exp.cfg.data, resolve=True, throw_on_missing=True)
    except COMPOSE_ERRORS as error:
        raise composing_error(error, PROJECT, words) from error
    for name, value in facts.items():
        if name in MACHINERY or isinstance(value, str | bool) or value is None:
            continue
        if data.get(name) != value:
            raise UserError(
                f"data.{name}: {data.get(name)} of these data, and the run was trained with {value}"
                f"\ngive data with the same {name}"
            )


if __name__ == "__main__":
    main()
