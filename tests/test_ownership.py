"""Who may import whom. What breaks a rule still runs today; it stops the next copy of core/, or the next rename."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ENV, TINY, command
from imports import Import, cycles, imports, python_files

from scaffolding import config

FOLDER = Path(config.__file__).parent
NAME = FOLDER.name
FILES = python_files(FOLDER)
IMPORTS = [found for file in FILES for found in imports(FOLDER, file)]

# imported inside the functions that use them; coolname is small, but draws from the global generator at its import
HEAVY = {"coolname", "datasets", "matplotlib", "rich", "tokenizers", "torchmetrics", "torchvision", "wandb"}
# the wings that most runs do not use: they, too, may be imported where they are needed
LATER = ("core/resume/", "core/batches/workers.py")
# what stands alone, and all of this package that it may import
ALONE = ("data", "model", "losses.py", "metrics.py", "plot", "tracker")
HELPERS = ("core/errors.py", "core/folder/facts.py", "core/intervals.py", "core/state/keys.py", "core/tree.py")


def broken_rule(found: Import) -> str:
    """What is wrong with an import, in words; "" if nothing is."""
    owner, module = found.file.partition("/")[0], found.module.partition(".")[0]
    if owner == "core" and found.target and not found.target.startswith("core/"):
        return "core/ is copied alone"
    if owner in ALONE and found.target and found.target not in HELPERS and found.target.partition("/")[0] != owner:
        return f"only these of the package may be imported here: {', '.join(HELPERS)}"
    if found.target == "train.py":
        return "train.py imports the others; hand them what they need of it"
    if module in HEAVY and not found.deferred:
        return "import it inside the functions that use it"
    if found.deferred and module not in HEAVY and not (found.target and found.target.startswith(LATER)):
        return "import it at the top, or add it to HEAVY or LATER"
    return ""


def test_imports_keep_the_rules() -> None:
    broken = [f"{found}: {rule}" for found in IMPORTS if (rule := broken_rule(found))]
    assert not broken, "\n".join(broken)


def test_core_never_names_the_package() -> None:
    """So that a newer core/ can be copied over the one of a renamed project."""
    modules = "|".join(sorted({file.partition("/")[0].removesuffix(".py") for file in FILES}))
    named = re.compile(rf"(?<![\w.]){NAME}\.({modules})\b|src/{NAME}\b|\b(from|import) {NAME}\b")
    for file in FILES:
        if file.startswith("core/"):
            found = named.search((FOLDER / file).read_text())
            assert not found, f"{file}: write a relative import instead of {found.group()}"


def test_no_files_import_each_other() -> None:
    assert cycles(FOLDER) == [], "deferred imports count: move what two files share into a third"


def test_training_does_not_import_what_is_deferred() -> None:
    """However indirectly: neither heavy packages nor what a function of ours imports where it is needed."""
    deferred = {found.module for found in IMPORTS if found.deferred and found.target}
    program = f"import sys, {NAME}.train; print(*sorted({HEAVY | deferred!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == []


def test_our_modules_do_not_hide_installed_packages(tmp_path: Path) -> None:
    """`python src/.../train.py` puts its folder on sys.path; evaluate.py must not hide the package of that name."""
    assert (FOLDER / "evaluate.py").exists()
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("class Installed: ...\n")
    words = [*TINY, "data.dataset._target_=evaluate.Instaled", f"paths.output={tmp_path}/runs"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), ENV["PYTHONPATH"]])}
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 2, done.stderr
    assert "nearest: evaluate.Installed" in done.stderr


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An empty package with the files that the tests below import."""
    for file in ("__init__.py", "losses.py", "core/__init__.py", "core/a.py", "core/b.py", "core/wing/c.py"):
        path = tmp_path / "pack" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "pack"


def test_imports_are_understood(package: Path) -> None:
    (package / "core/b.py").write_text("""
from . import a, constant
from .a import x, y
from .wing.c import z
from .. import losses
from pack import losses
import pack.core.a
import torch.nn as nn
if TYPE_CHECKING:
    import hidden
class C:
    import inside
    async def f(self):
        from .wing import c
        if self:
            import later
""")
    found = imports(package, "core/b.py")
    targets = ["core/a.py", "core/__init__.py", "core/a.py", "core/wing/c.py", "losses.py", "losses.py", "core/a.py"]
    assert [one.target for one in found if one.target] == [*targets, "core/wing/c.py"]
    assert [one.module for one in found if not one.target] == ["torch.nn", "inside", "later"]
    assert [one.module for one in found if one.deferred] == ["pack.core.wing.c", "later"]
    (package / "__init__.py").write_text("from . import losses\nfrom .core import b\nfrom .core.b import C")
    assert [one.target for one in imports(package, "__init__.py")] == ["losses.py", "core/b.py", "core/b.py"]
    (package / "losses.py").write_text("from ..other import x")
    with pytest.raises(AssertionError, match=r"losses.py:1 imports from outside"):
        imports(package, "losses.py")


def test_cycles_are_found(package: Path) -> None:
    (package / "core/a.py").write_text("from . import b")
    (package / "core/b.py").write_text("from .wing.c import x")
    (package / "losses.py").write_text("from .core import a")
    assert cycles(package) == []
    (package / "core/wing/c.py").write_text("def f():\n    from ..a import y")
    assert cycles(package) == [["core/a.py", "core/b.py", "core/wing/c.py"]]
