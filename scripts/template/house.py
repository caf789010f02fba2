"""How much a reader has to hold: one table, a column for each checkout, so that a program compares before and after.

    python scripts/template/house.py                 # this checkout
    python scripts/template/house.py /tmp/old .      # an older one (git worktree add /tmp/old COMMIT), and this one

Real runs of each checkout's train.py are followed, with the packages of this Python, between the calls of `launch` and
of the first `train_step`: how many functions of src/ are run, how many files are entered, and how often the next call
enters another file than the last. Lambdas and comprehensions enter files, but are parts of the functions around them;
bodies of modules and classes do not count. Code lines are those of src/ without comments, docstrings and imports.
"""

import ast
import inspect
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import tokenize
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from imports import cycles, imports, python_files

RUN = ["data=digits", "model=mlp", "mode=prod", "tracker=none", "plots=none", "run.name=house", "run.save_every=4"]
KILLED_AT = 6  # steps: in the middle of an epoch, after a save
COUNTED = ("files entered", "functions run", "switches between files")
LONG = 60  # lines of a function
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
Rows = dict[str, str]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_of(checkout: Path) -> Path:
    """The folder with train.py."""
    (program,) = (checkout / "src").glob("*/train.py")
    return program.parent


def follow(program: Path, result: Path, words: list[str]) -> None:
    """Be train.py; what is run from `launch` to the first step goes into `result`."""
    functions: set[tuple[str, str]] = set()
    files: list[str] = []  # in the order in which they are entered
    steps: list[None] = []

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(str(program.parent)):
            return
        if not code.co_flags & inspect.CO_OPTIMIZED:  # the body of a module or a class
            return
        if code.co_name == "launch":
            files.append(code.co_filename)
        elif code.co_name == "train_step":
            steps.append(None)
            if len(steps) == 1:
                result.write_text(json.dumps([len(set(files)), len(functions), len(files) - 1]))
            if len(steps) == KILLED_AT:
                os.kill(os.getpid(), signal.SIGKILL)
        elif files:
            if files[-1] != code.co_filename:
                files.append(code.co_filename)
            if not code.co_name.startswith("<"):
                functions.add((code.co_filename, code.co_qualname))

    sys.argv = [str(program), *words]
    sys.path[0] = str(program.parent)  # as for a script
    sys.setprofile(on_event)
    runpy.run_path(str(program), run_name="__main__")


def runs(checkout: Path) -> Rows:
    """A new run that is killed, and its resume: what happens before the first step."""
    program = package_of(checkout) / "train.py"
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        for kind, words in (("new run", RUN), ("resume", ["resume=house"])):
            start = [sys.executable, __file__, "--follow", str(program), str(result)]
            start += [*words, f"paths.output_root={folder}/runs"]
            done = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode != -signal.SIGKILL:
                sys.exit(f"{checkout}: {' '.join(words)}\n{done.stdout}{done.stderr}")
            for what, count in zip(COUNTED, json.loads(result.read_text()), strict=True):
                rows[f"{kind}, before its first step: {what}"] = f"{count:,}"
            result.unlink()
    return rows


def graph(package: Path) -> Rows:
    """Cycles of imports, and what our own imports put off."""
    found = [one for file in python_files(package) for one in imports(package, file)]
    groups = cycles(package)
    return {
        "import cycles: groups of files that import each other": f"{len(groups)}",
        "... files in them": f"{sum(map(len, groups))}",
        "imports of ours deferred into functions": f"{sum(one.deferred and one.target != '' for one in found)}",
    }


def functions_of(path: Path) -> dict[str, int]:
    """The functions of a file, and how many lines each has."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, Function)]
    return {f"{path.name}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1 for node in nodes}


def num_lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def sizes(checkout: Path) -> Rows:
    """Lines by who owns them and where they are, and functions that do not fit on a screen."""
    package = package_of(checkout)
    owned = sorted(package.glob("*.py"))
    rows = {
        "the owner's Python files in src/*/": f"{len(owned)}",
        "... their lines": f"{num_lines(*owned):,}",
        "train.py: lines": f"{num_lines(package / 'train.py')}",
        "train.py: lines of its longest function": f"{max(functions_of(package / 'train.py').values())}",
    }
    core = sorted((package / "core").rglob("*.py"))
    wings: dict[str, list[Path]] = {}
    for path in core:
        wings.setdefault(path.relative_to(package / "core").parts[0].removesuffix(path.name), []).append(path)
    rows["core/: lines"] = f"{num_lines(*core):,}"
    for wing, paths in sorted(wings.items()):
        rows[f"... core/{wing}"] = f"{num_lines(*paths):,}"
    largest = max(core, key=num_lines)
    rows["largest file of core/"] = f"{num_lines(largest)} {largest.name}"
    folders = {folder: sorted((checkout / folder).rglob("*.py")) for folder in ("src", "scripts", "tests")}
    for folder, paths in folders.items():
        rows[f"lines of Python in {folder}/"] = f"{num_lines(*paths):,}"
    everything = [path for paths in folders.values() for path in paths]
    rows["... in all three"] = f"{num_lines(*everything):,}"
    long = [lines for path in everything for lines in functions_of(path).values() if lines > LONG]
    rows[f"functions of more than {LONG} lines in all three"] = f"{len(long)}"
    return rows


def num_code_lines(path: Path) -> int:
    tree = ast.parse(path.read_text())
    left_out: set[int] = set()
    for node in ast.walk(tree):
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, (node.end_lineno or 0) + 1))  # type: ignore[attr-defined]
    lines: set[int] = set()
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type not in NOT_CODE | {tokenize.ENCODING}:
                lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def density(package: Path) -> Rows:
    """What makes a line slow to read."""
    files = sorted(package.rglob("*.py"))
    code = sum(map(num_code_lines, files))
    rows = {"code lines of src/": f"{code:,}"}
    for name, kind in (("ternaries", ast.IfExp), ("walruses", ast.NamedExpr)):
        count = sum(isinstance(node, kind) for path in files for node in ast.walk(ast.parse(path.read_text())))
        rows[f"{name} per 1,000 code lines"] = f"{1000 * count / code:.0f}"
    return rows


def main() -> None:
    checkouts = [Path(word).resolve() for word in sys.argv[1:]] or [ROOT]
    columns = []
    for checkout in checkouts:
        package = package_of(checkout)
        columns.append(runs(checkout) | graph(package) | sizes(checkout) | density(package))
    names = dict.fromkeys(name for column in reversed(columns) for name in column)  # in the order of the last one
    print("| what |", " | ".join(sys.argv[1:] or ["."]), "|")
    print("| --- |" + " --- |" * len(columns))
    for name in names:
        print(f"| {name} |", " | ".join(column.get(name, "-") for column in columns), "|")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--follow"]:
        follow(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
