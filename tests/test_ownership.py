"""Who may import whom. What breaks a rule still runs today; it stops the next copy of core/, or the next rename."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import command

from scaffolding import config

FOLDER = Path(config.__file__).parent
NAME = FOLDER.name
FILES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.py"))
MODULES = "|".join(sorted({file.partition("/")[0].removesuffix(".py") for file in FILES}))
DOTTED = re.compile(rf"\b{NAME}\.({MODULES})\b|src/{NAME}\b")  # the package's modules, in a text
HEAVY = {"datasets", "matplotlib", "tokenizers", "torchmetrics", "torchvision", "wandb"}

# what a file, or the files of a folder, may import of this package; a file of your own that is not listed is free
ALLOWED = {
    "core": {"core"},
    "data": {"data"},
    "model": {"model"},
    "losses.py": set(),
    "metrics.py": set(),
    "intervals.py": set(),
    "config.py": {"intervals"},
    "plot": {"plot"},
    "plot/__init__.py": {"core"},
    "tracker": {"core", "tracker"},
    "evaluate.py": {"core"},
    "precision.py": {"core"},
    "schedules.py": {"core"},
    "specs.py": {"core", "schedules"},
    "splits.py": {"core"},
    "states.py": {"core"},
    "experiment.py": {"config", "core", "intervals", "precision", "schedules", "specs", "splits", "states"},
    "verbs.py": {"core", "experiment", "precision", "schedules", "specs", "states"},
    "rehearsal.py": {"core", "experiment", "intervals", "verbs"},
    "report.py": {"core", "experiment", "plot", "rehearsal", "verbs"},
}


def tree(file: str) -> ast.Module:
    return ast.parse((FOLDER / file).read_text(), file)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def nodes(node: ast.AST, into_functions: bool) -> Iterator[ast.AST]:
    """All nodes that are run: without `if TYPE_CHECKING`, and perhaps only those that are run at import."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if not into_functions and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        yield child
        yield from nodes(child, into_functions)


def imports(file: str, into_functions: bool = True) -> Iterator[tuple[str, str]]:
    """(line, dotted module) of every import; of this package's own modules without the package's name, after a dot."""
    for node in nodes(tree(file), into_functions):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield where, own(alias.name)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            base = own(node.module or "")
            for alias in node.names:  # `from package import module` as well as `from package.module import name`
                yield where, f".{alias.name}" if base == "." else base
        elif isinstance(node, ast.ImportFrom):
            parts = file.split("/")[: -node.level] + (node.module or "").split(".")
            folder = ".".join(part for part in parts if part)
            assert len(file.split("/")) >= node.level, f"{where} imports from outside of the package"
            for alias in node.names:
                yield where, f".{folder}" if folder else f".{alias.name}"


def own(module: str) -> str:
    first, _, rest = module.partition(".")
    return f".{rest}" if first == NAME else module


def test_imports_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"""
from . import rng
from .a import b
from ..config import c
from .. import losses
from {NAME} import train
import {NAME}.core.x
import torch.nn as nn
if TYPE_CHECKING:
    import wandb
class C:
    import inside
    def f(self):
        import later
"""
    monkeypatch.setattr(f"{__name__}.tree", lambda file: ast.parse(source))
    found = [module for _, module in imports("core/file.py")]
    assert found == [".core", ".core.a", ".config", ".losses", ".train", ".core.x", "torch.nn", "inside", "later"]
    assert [module for _, module in imports("core/file.py", into_functions=False)] == found[:-1]
    source = "from . import rng\nfrom .core.a import b\nfrom .core import c"
    assert [module for _, module in imports("file.py")] == [".rng", ".core.a", ".core"]


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file: str) -> None:
    allowed = ALLOWED.get(file, ALLOWED.get(file.partition("/")[0]))
    for where, module in imports(file):
        if not module.startswith("."):
            continue
        target = module.split(".")[1]
        assert target != "train", f"{where}: nothing imports train"
        if file != "train.py" and allowed is not None:
            assert target in allowed, f"{where}: {file} may import only {sorted(allowed) or 'nothing'} of the package"


@pytest.mark.parametrize("file", FILES)
def test_heavy_packages_are_imported_where_they_are_used(file: str) -> None:
    for where, module in imports(file, into_functions=False):
        assert module.partition(".")[0] not in HEAVY, f"{where}: import {module} inside the function that uses it"


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("core/")])
def test_core_never_names_the_package(file: str) -> None:
    """So that a newer core/ can be copied over the one of a renamed project."""
    for node in ast.walk(tree(file)):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert NAME not in [alias.name.partition(".")[0] for alias in node.names], where
        if isinstance(node, ast.ImportFrom):
            assert node.level < 2, f"{where} imports from outside of core/"
            assert (node.module or "").partition(".")[0] != NAME or node.level, where
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value != NAME and not node.value.startswith(f"{NAME}.") and f"src/{NAME}" not in node.value, (
                where
            )


def test_training_does_not_import_heavy_packages() -> None:
    """Importing the entry point imports none of them, however indirectly."""
    program = f"import sys, {NAME}.train; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == []


def test_our_modules_do_not_hide_installed_packages(tmp_path: Path) -> None:
    """`python src/.../train.py` puts its folder on sys.path; evaluate.py must not hide the package of that name."""
    assert (FOLDER / "evaluate.py").exists()
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("class Installed: ...\n")
    words = ["data.dataset._target_=evaluate.Instaled", f"paths.output={tmp_path}/runs"]
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(tests)])}
    own = ["data=noisy", "model=tiny", "optimizer=fatal", "plots=none", "tracker=none"]
    words = command("--config-dir", str(tests / "configs"), *own, *words)
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 2, done.stderr
    assert "nearest: evaluate.Installed" in done.stderr
