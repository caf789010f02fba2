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
import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
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
Rows = dict[str, str]


def package_of(checkout: Path) -> Path:
    """The folder with train.py."""
    (program,) = (checkout / "src").glob("*/train.py")
    return program.parent


def follow(program: Path, result: Path, words: list[str]) -> None:
    """Be train.py; what is run from `launch` to the first step goes into `result`."""
    functions: set[tuple[str, str]] = set()
    files: list[str] = []  # in the order in which they are entered
    steps = itertools.count(1)

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_body = not code.co_flags & inspect.CO_OPTIMIZED  # of a module or a class
        if event != "call" or is_body or not code.co_filename.startswith(str(program.parent)):
            return
        if code.co_name == "launch":
            files.append(code.co_filename)
        elif code.co_name == "train_step":
            step = next(steps)
            if step == 1:
                counts = (len(set(files)), len(functions), len(files) - 1)
                result.write_text(json.dumps(dict(zip(COUNTED, counts, strict=True))))
            if step == KILLED_AT:
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
    program, rows = package_of(checkout) / "train.py", {}
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    with tempfile.TemporaryDirectory() as folder:
        for kind, words in (("new run", RUN), ("resume", ["resume=house"])):
            result = Path(folder, f"{kind}.json")
            command = [sys.executable, __file__, "--follow", program, result, *words, f"paths.output_root={folder}"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode != -signal.SIGKILL:
                sys.exit(f"{checkout}: {' '.join(words)}\n{done.stdout}{done.stderr}")
            counts = json.loads(result.read_text()).items()
            rows |= {f"{kind}, before its first step: {what}": f"{count:,}" for what, count in counts}
    return rows


def nodes(path: Path, *kinds: type[ast.AST]) -> list[Any]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]


def functions_of(path: Path) -> dict[str, int]:
    """The functions of a file, and how many lines each has."""
    found = nodes(path, ast.FunctionDef, ast.AsyncFunctionDef)
    return {f"{path.name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1 for node in found}


def num_lines(*paths: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in paths)


def num_code_lines(path: Path) -> int:
    is_code = [bool(line.strip()) and not line.strip().startswith("#") for line in path.read_text().splitlines()]
    for node in nodes(path, ast.Expr, ast.Import, ast.ImportFrom):
        if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Constant):
            is_code[node.lineno - 1 : node.end_lineno] = [False] * (node.end_lineno - node.lineno + 1)
    return sum(is_code)


def sizes(checkout: Path) -> Rows:
    """Lines by who owns them and where they are, and what makes them slow to read."""
    package = package_of(checkout)
    owned, source = sorted(package.glob("*.py")), sorted(package.rglob("*.py"))
    folders = {folder: sorted((checkout / folder).rglob("*.py")) for folder in ("src", "scripts", "tests")}
    lengths = [length for files in folders.values() for file in files for length in functions_of(file).values()]
    code = sum(map(num_code_lines, source))
    found = [one for file in python_files(package) for one in imports(package, file)]
    rows = {
        "the owner's Python files in src/*/": len(owned),
        "... their lines": num_lines(*owned),
        "train.py: lines": num_lines(package / "train.py"),
        "train.py: lines of its longest function": max(functions_of(package / "train.py").values()),
        "core/: lines": num_lines(*(package / "core").rglob("*.py")),
        **{f"lines of Python in {folder}/": num_lines(*files) for folder, files in folders.items()},
        "... in all three": sum(num_lines(*files) for files in folders.values()),
        f"functions of more than {LONG} lines in all three": sum(length > LONG for length in lengths),
        "files of src/ that import each other in a cycle": sum(map(len, cycles(package))),
        "imports of ours deferred into functions": sum(one.deferred and one.target != "" for one in found),
        "code lines of src/": code,
    }
    for name, kind in (("ternaries", ast.IfExp), ("walruses", ast.NamedExpr)):
        rows[f"{name} per 1,000 code lines"] = round(1000 * sum(len(nodes(file, kind)) for file in source) / code)
    return {name: f"{count:,}" for name, count in rows.items()}


def main() -> None:
    checkouts = [Path(word).resolve() for word in sys.argv[1:]] or [ROOT]
    columns = [runs(checkout) | sizes(checkout) for checkout in checkouts]
    print("| what |", " | ".join(sys.argv[1:] or ["."]), "|")
    print("| --- |" + " --- |" * len(columns))
    for name in columns[-1]:
        print(f"| {name} |", " | ".join(column[name] for column in columns), "|")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--follow"]:
        follow(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    else:
        main()
