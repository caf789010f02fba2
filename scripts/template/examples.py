"""Train every recipe of configs/experiment through train.py, and write the results into configs/README.md.

    python scripts/template/examples.py                           # all of them, one after the other; minutes each
    python scripts/template/examples.py digits_mlp --write        # one, and its row in the table
    python scripts/template/examples.py --data /scratch/data      # where downloads lie (paths.data)

The result is what the test split gave at the end, and the last rollout. Steps per second are the median over the logged
rows, and the time is that of the whole process. Lines are those of code and YAML that would go with the example.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tables import read_table, write_table

from scaffolding.core.config.compose import compose_config, portable
from scaffolding.core.folder.facts import AXES, TIMINGS
from scaffolding.core.tree import specs
from scaffolding.experiment import PROJECT, Experiment

KINDS = ("data", "model")
RECIPES = {file.stem: file for file in sorted((PROJECT.configs / "experiment").glob("*.yaml"))}
RESULT = "result (test split; of rollouts: validation split)"
HEADER = f"| `experiment=` | {RESULT} | parameters | steps | steps/s | time | lines |"


def num_lines(recipe: Path) -> int:
    """Lines of code and YAML, without empty ones, that go with an example."""
    config = portable(compose_config(PROJECT, [f"experiment={recipe.stem}"]), PROJECT)
    targets = [str(spec["_target_"]).split(".") for _, spec in specs(config)]
    files = {PROJECT.sources.joinpath(*parts[1:3]).with_suffix(".py") for parts in targets if parts[1] in KINDS}
    chosen = re.findall(r"override /(data|model): (\w+)", recipe.read_text())
    files |= {recipe, *(PROJECT.configs / group / f"{name}.yaml" for group, name in chosen)}
    return sum(bool(line.strip()) for file in files for line in file.read_text().splitlines())


def result(rows: list[dict[str, Any]], monitor: str | None) -> str:
    """The values of the test and of the last rollout; without a monitor, those that say nothing are left out."""
    last = {row["split"]: row for row in rows}
    test, rollout = last["test"], last.get("rollout", {})
    if monitor is None:  # losses that work against each other, or that hardly fall
        test = {name: value for name, value in test.items() if not name.endswith("loss") and not rollout}
    values = {name: value for name, value in (test | rollout).items() if name not in (*AXES, *TIMINGS)}
    return ", ".join(f"{name.replace('_', ' ')} {float(value):.4g}" for name, value in values.items())


def train(recipe: Path, folder: Path, words: list[str]) -> str:
    """Train a recipe; its row."""
    command = [sys.executable, PROJECT.sources / "train.py", f"experiment={recipe.stem}", "mode=prod", "tracker=none"]
    command += [f"paths.output_root={folder}", f"run.name={recipe.stem}", *words]
    start = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - start
    exp = Experiment.from_path(folder / recipe.stem)
    rows = exp.history()
    training = [row for row in rows if row["split"] == "train"]
    items = training[-1]["samples"] / training[-1]["step"]
    speed = statistics.median(float(row["items_per_second"]) for row in training) / items
    cells = [
        f"`{recipe.stem}`",
        result(rows, exp.monitor),
        f"{sum(parameter.numel() for parameter in exp.model.parameters()):,}",
        f"{training[-1]['step']:,}",
        f"{speed:.3g}",
        f"{seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s",
        str(num_lines(recipe)),
    ]
    return f"| {' | '.join(cells)} |"


def write(rows: dict[str, str]) -> None:
    """Put rows into the table of configs/README.md, in the place of those of the same recipes."""
    file = PROJECT.configs / "README.md"
    old = {name: line for line, name in re.findall(r"(?m)^(\| `(\w+)`.*)$", read_table(file, "examples"))}
    lines = [line for name, line in sorted((old | rows).items()) if name in RECIPES]
    write_table(file, "examples", [HEADER, f"{'| --- ' * 7}|", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], help="which; none: all of them")
    parser.add_argument("--data", type=Path, help="paths.data, if it is not the default")
    parser.add_argument("--write", action="store_true", help="put the rows into configs/README.md")
    arguments = parser.parse_args()
    words = [f"paths.data={arguments.data.resolve()}"] if arguments.data else []
    rows = {}
    with TemporaryDirectory() as folder:
        for name in arguments.names or RECIPES:
            rows[name] = train(RECIPES[name], Path(folder), words)
            print(rows[name], flush=True)
            if arguments.write:
                write({name: rows[name]})
    print("\n".join(["", f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}", HEADER, *rows.values()]))


if __name__ == "__main__":
    main()
