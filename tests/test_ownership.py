"""Who may import whom. What breaks a rule still runs today; it stops the next copy of core/, or the next rename."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import ENV, TINY, TRAIN
from imports import Import, cycles, imports, python_files

from scaffolding import config

FOLDER = Path(config.__file__).parent
NAME = FOLDER.name
FILES = python_files(FOLDER)
IMPORTS = [found for file in FILES for found in imports(FOLDER, file)]

# imported inside the functions that use them; coolname is small, but draws from the global generator at its import
HEAVY = {
    "PIL", "coolname", "datasets", "matplotlib", "onnxruntime", "rich", "tensorboard", "tokenizers", "torchmetrics",
    "torchvision", "wandb",
}  # fmt: skip
# what most runs do not use: it, too, may be imported where it is needed
LATER = (
    "core/resume/", "core/checks/", "core/batches/workers.py", "core/processes/several.py", "parallel.py",
    "core/sweep/table.py", "core/table/", "core/report/", "core/preflight/gather.py",
)  # fmt: skip
LATER_OF_TORCH = ("torch.distributed", "torch.utils.tensorboard")
# what stands alone, and all of this package that it may import; a model may also use the losses and metrics
ALONE = ("data", "model", "losses.py", "metrics.py", "plot", "tracker")
HELPERS = (
    "core/errors.py",
    "core/folder/facts.py",
    "core/folder/folder.py",
    "core/folder/summary.py",
    "core/intervals.py",
    "core/modes.py",
    "core/optimizers.py",
    "core/state/keys.py",
    "core/tree.py",
)


def broken_rule(found: Import) -> str:
    """What is wrong with an import, in words; "" if nothing is."""
    owner, module = found.file.partition("/")[0], found.module.partition(".")[0]
    if owner == "core" and found.target and not found.target.startswith("core/"):
        return "core/ is copied alone"
    if owner == "model" and found.target in ("losses.py", "metrics.py"):
        return ""
    if owner in ALONE and found.target and found.target not in HELPERS and found.target.partition("/")[0] != owner:
        return f"only these of the package may be imported here: {', '.join(HELPERS)}"
    is_loop = re.search(r"(?m)^def main\(", (FOLDER / found.file).read_text())  # another one: run.loop
    if found.target == "train.py" and not is_loop:
        return "train.py imports the others; hand them what they need of it"
    if module in HEAVY and not found.deferred:
        return "import it inside the functions that use it"
    is_later = (found.target and found.target.startswith(LATER)) or found.module.startswith(LATER_OF_TORCH)
    if found.deferred and module not in HEAVY and not is_later:
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
    done = subprocess.run(
        [sys.executable, str(TRAIN), *words], capture_output=True, text=True, timeout=100, env=environment
    )
    assert done.returncode == 2, done.stderr
    assert "nearest: evaluate.Installed" in done.stderr


def test_imports_and_cycles_are_found(tmp_path: Path) -> None:
    files = {
        "losses.py": "",
        "core/__init__.py": "",
        "core/a.py": "from . import b",
        "core/wing/c.py": "def f():\n    from ..a import y",
        "core/b.py": "from . import a, constant\nfrom .wing.c import z\nfrom .. import losses\n"
        "from pack import losses\nimport pack.core.a\nimport torch.nn as nn\nif TYPE_CHECKING:\n    import hidden\n"
        "class C:\n    import inside\n    async def f(self):\n        from .wing import c\n        import later\n",
    }
    for file, text in files.items():
        path = tmp_path / "pack" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = imports(tmp_path / "pack", "core/b.py")
    targets = ["core/a.py", "core/__init__.py", "core/wing/c.py", "losses.py", "losses.py", "core/a.py"]
    assert [one.target for one in found if one.target] == [*targets, "core/wing/c.py"]
    assert [one.module for one in found if not one.target] == ["torch.nn", "inside", "later"]
    assert [one.module for one in found if one.deferred] == ["pack.core.wing.c", "later"]
    assert cycles(tmp_path / "pack") == [["core/a.py", "core/b.py", "core/wing/c.py"]]
