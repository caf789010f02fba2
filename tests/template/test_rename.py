"""scripts/rename.py on small trees written here, and on a copy of this repository."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """[project]
name = "scaffolding"
version = "0.1.0"
description = "A template that holds scaffolding of many kinds."
keywords = ["scaffolding"]
dependencies = ["torch>=2.10"] # the scaffolding around

[project.scripts]
scaffolding-train = "scaffolding.train:run"

[tool.ruff.lint.isort]
known-first-party = ["scaffolding"]

[tool.ruff.lint.per-file-ignores]
"src/scaffolding/core/*" = ["T201"] # src/scaffolding/core prints

[tool.mypy]
files = ["src/scaffolding", "scripts"]

[tool.pdm.scripts]
train = "python src/scaffolding/train.py"
check = "python -m scaffolding.train"

[[tool.mypy.overrides]]
module = "scaffolding.core.*"
"""

CONFIG = """PROJECT_ROOT = 1

# Names before a rename.
FORMER_NAMES: tuple[str, ...] = ()
"""

TRAIN = '''"""Train.

    python src/scaffolding/train.py data=mnist
    scaffolding-train mode=prod
    from scaffolding.experiment import Experiment

The scaffolding of a house is taken down. See scaffolding.losses, not scaffolding. Or scaffolding.Then.
"""

import scaffolding
import scaffolding.data.mnist as mnist
import torch.scaffolding
from scaffolding import losses, train as loop
from scaffolding.data.mnist import (  # the scaffolding around
    MNIST,
)
from somewhere.scaffolding import scaffolding as other

# scaffolding-train, scaffolding.losses.Loss and src/scaffolding/train.py; plain scaffolding and scaffolding-like
TARGET = "scaffolding.losses.ClassificationLoss"
UNKNOWN = "scaffolding.nowhere.Loss"
OVERRIDE = "loss._target_=scaffolding.losses.ClassificationLoss scaffolding.data=3"
MESSAGE = "é the scaffolding of a house"
COMMAND = ["python", "-m", "scaffolding.train", "-m", "scaffolding", "scaffolding-train"]
WORDS = ["package", "scaffolding"]
PATHS = ["src/scaffolding/train.py", "a" "src/scaffolding"]
PACKAGE = "scaffolding"
word = "scaffolding"
table = {"scaffolding": 1, "x": word}["scaffolding"]
folder = ROOT / "src" / "scaffolding" / "core"
joined = Path("src", "scaffolding")
module = importlib.import_module("scaffolding")
loaded = "scaffolding" in sys.modules
own = name.startswith("scaffolding.")
print(scaffolding.data.mnist.MNIST, self.scaffolding, call(scaffolding=scaffolding.data))
print(f"é{scaffolding.data} in {x['scaffolding']} at src/scaffolding/train.py for scaffolding {len(scaffolding.foo)!r}")
code = "import scaffolding; print(scaffolding.__file__)"
yaml = """
_target_: scaffolding.nowhere.Loss
project: scaffolding
"""
raw = r"""
from scaffolding import losses
"""


def local(scaffolding):
    print(scaffolding.data, f"{scaffolding.data} {len(scaffolding.data)} {scaffolding.x:>{scaffolding.data}}")
    return [scaffolding.losses for _ in scaffolding]


class Tower:
    scaffolding: int = 3
    height = scaffolding

    def climb(self):
        return scaffolding.losses, self.scaffolding, (lambda scaffolding: scaffolding.data)(1)
'''

TRAIN_AFTER = '''"""Train.

    python src/NEW/train.py data=mnist
    DIST-train mode=prod
    from NEW.experiment import Experiment

The scaffolding of a house is taken down. See NEW.losses, not scaffolding. Or scaffolding.Then.
"""

import NEW
import NEW.data.mnist as mnist
import torch.scaffolding
from NEW import losses, train as loop
from NEW.data.mnist import (  # the scaffolding around
    MNIST,
)
from somewhere.scaffolding import scaffolding as other

# DIST-train, NEW.losses.Loss and src/NEW/train.py; plain scaffolding and scaffolding-like
TARGET = "NEW.losses.ClassificationLoss"
UNKNOWN = "NEW.nowhere.Loss"
OVERRIDE = "loss._target_=NEW.losses.ClassificationLoss scaffolding.data=3"
MESSAGE = "é the scaffolding of a house"
COMMAND = ["python", "-m", "NEW.train", "-m", "NEW", "DIST-train"]
WORDS = ["package", "scaffolding"]
PATHS = ["src/NEW/train.py", "a" "src/NEW"]
PACKAGE = "NEW"
word = "scaffolding"
table = {"scaffolding": 1, "x": word}["scaffolding"]
folder = ROOT / "src" / "NEW" / "core"
joined = Path("src", "NEW")
module = importlib.import_module("NEW")
loaded = "NEW" in sys.modules
own = name.startswith("NEW.")
print(NEW.data.mnist.MNIST, self.scaffolding, call(scaffolding=NEW.data))
print(f"é{NEW.data} in {x['scaffolding']} at src/NEW/train.py for scaffolding {len(NEW.foo)!r}")
code = "import NEW; print(NEW.__file__)"
yaml = """
_target_: NEW.nowhere.Loss
project: scaffolding
"""
raw = r"""
from NEW import losses
"""


def local(scaffolding):
    print(scaffolding.data, f"{scaffolding.data} {len(scaffolding.data)} {scaffolding.x:>{scaffolding.data}}")
    return [scaffolding.losses for _ in scaffolding]


class Tower:
    scaffolding: int = 3
    height = scaffolding

    def climb(self):
        return NEW.losses, self.scaffolding, (lambda scaffolding: scaffolding.data)(1)
'''

BASE = """# the scaffolding of src/scaffolding/config.py, and scaffolding.train
project: scaffolding # not the tracker
loss:
  _target_: scaffolding.losses.ClassificationLoss
  collate: scaffolding.data.mnist.collate
  scaffolding: scaffolding
  note: what scaffolding.md says
"""

WANDB = """_target_: scaffolding.core.session.tracking.WandbTracker
project: scaffolding # W&B project scaffolding
scaffolding: 1
"""

MARKDOWN = """# scaffolding

The scaffolding here: `scaffolding.losses`, `src/scaffolding/train.py`, `scaffolding-train`; project: scaffolding.
"""

NOTEBOOK_CELLS = [
    ("markdown", ["The scaffolding in `src/scaffolding/`\n", "and scaffolding.losses"]),
    ("code", ["%matplotlib inline\n", "import scaffolding\n", "scaffolding_mine = 'é scaffolding'"]),
    ("code", ["print(scaffolding.anything) # scaffolding\n", "run(scaffolding=scaffolding_mine)"]),
]


def write_tree(root: Path) -> Path:
    """A repository as small as the renaming needs, with everything in it that must and must not change."""
    files = {
        "pyproject.toml": PYPROJECT,
        "README.md": "# scaffolding\n\nA template.\n",
        "LICENSE": "Copyright the scaffolding authors\n",
        "src/scaffolding/__init__.py": "",
        "src/scaffolding/config.py": CONFIG,
        "src/scaffolding/train.py": TRAIN,
        "src/scaffolding/losses.py": "",
        "src/scaffolding/experiment.py": "",
        "src/scaffolding/data/__init__.py": "",
        "src/scaffolding/core/__init__.py": "from . import scaffolding\nprint(scaffolding.data)\n",
        "src/scaffolding/__pycache__/left.pyc": "",
        "configs/base.yaml": BASE,
        "configs/tracker/wandb.yaml": WANDB,
        "configs/README.md": MARKDOWN,
        "scripts/template/benchmark.py": "import scaffolding\n",
        "tests/template/test_rename.py": "import scaffolding\n",
        "tests/test_data.py": "from scaffolding.data import mnist\n",
        ".ci/run": "python src/scaffolding/train.py\n",
        ".github/workflows/tests.yml": "name: scaffolding\nrun: ruff check src/scaffolding tests\n",
        ".pre-commit-config.yaml": "files: ^src/scaffolding/\n",
    }
    cells = [{"cell_type": kind, "metadata": {}, "source": source} for kind, source in NOTEBOOK_CELLS]
    files["scripts/look.ipynb"] = json.dumps({"cells": cells, "nbformat": 4}, indent=1, ensure_ascii=False) + "\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "scripts/rename.py", root / "scripts/rename.py")
    return root


def rename(root: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, root / "scripts/rename.py", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, encoding="utf-8", cwd=root.parent)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def read(root: Path, name: str) -> str:
    return (root / name).read_text(encoding="utf-8")


def contents(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file() and ".git" not in p.parts)
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def git(root: Path, *arguments: str) -> None:
    me = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *me, *arguments], cwd=root, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "fork")


NEW_NAMES = ["bcrl", "project", "data_lab", "data-lab", "scaffolding2", "data", "core", "configs", "BCRL"]


@pytest.mark.parametrize("wanted", NEW_NAMES)
def test_references_change_and_words_stay(tree: Path, wanted: str) -> None:
    new, dist = wanted.lower().replace("-", "_"), wanted.lower().replace("_", "-")
    said = rename(tree, wanted)
    assert "pdm install && pdm run test" in said
    assert not (tree / "src/scaffolding").exists()
    assert not list((tree / "src").rglob("__pycache__"))

    expected = TRAIN_AFTER.replace("NEW", new).replace("DIST", dist)
    assert read(tree, f"src/{new}/train.py") == expected
    assert read(tree, f"src/{new}/core/__init__.py") == "from . import scaffolding\nprint(scaffolding.data)\n"
    assert read(tree, "tests/test_data.py") == f"from {new}.data import mnist\n"
    assert 'FORMER_NAMES: tuple[str, ...] = ("scaffolding",)\n' in read(tree, f"src/{new}/config.py")

    assert read(tree, "configs/base.yaml") == (
        f"# the scaffolding of src/{new}/config.py, and {new}.train\n"
        "project: scaffolding # not the tracker\n"
        "loss:\n"
        f"  _target_: {new}.losses.ClassificationLoss\n"
        f"  collate: {new}.data.mnist.collate\n"
        "  scaffolding: scaffolding\n"
        "  note: what scaffolding.md says\n"
    )
    assert read(tree, "configs/tracker/wandb.yaml") == (
        f"_target_: {new}.core.session.tracking.WandbTracker\nproject: {new} # W&B project scaffolding\nscaffolding: 1\n"
    )
    assert read(tree, "configs/README.md") == (
        "# scaffolding\n\n"
        f"The scaffolding here: `{new}.losses`, `src/{new}/train.py`, `{dist}-train`; project: scaffolding.\n"
    )
    assert read(tree, ".github/workflows/tests.yml") == f"name: scaffolding\nrun: ruff check src/{new} tests\n"
    assert read(tree, ".pre-commit-config.yaml") == f"files: ^src/{new}/\n"
    assert read(tree, "LICENSE") == "Copyright the scaffolding authors\n"


@pytest.mark.parametrize(("wanted", "new", "dist"), [("bcrl", "bcrl", "bcrl"), ("data_lab", "data_lab", "data-lab")])
def test_pyproject(tree: Path, wanted: str, new: str, dist: str) -> None:
    rename(tree, wanted)
    assert read(tree, "pyproject.toml") == (
        f'[project]\nname = "{dist}"\nversion = "0.1.0"\ndescription = "{dist}: a PyTorch research project."\n'
        'keywords = ["scaffolding"]\ndependencies = ["torch>=2.10"] # the scaffolding around\n\n'
        f'[project.scripts]\n{dist}-train = "{new}.train:run"\n\n'
        f'[tool.ruff.lint.isort]\nknown-first-party = ["{new}"]\n\n'
        f'[tool.ruff.lint.per-file-ignores]\n"src/{new}/core/*" = ["T201"] # src/{new}/core prints\n\n'
        f'[tool.mypy]\nfiles = ["src/{new}", "scripts"]\n\n'
        f'[tool.pdm.scripts]\ntrain = "python src/{new}/train.py"\ncheck = "python -m {new}.train"\n\n'
        f'[[tool.mypy.overrides]]\nmodule = "{new}.core.*"\n'
    )


def test_notebook_changes_in_its_lines_only(tree: Path) -> None:
    before = read(tree, "scripts/look.ipynb")
    rename(tree, "bcrl")
    expected = before
    for reference in ("src/scaffolding/", "scaffolding.losses", "import scaffolding", "scaffolding.anything"):
        expected = expected.replace(reference, reference.replace("scaffolding", "bcrl"))
    assert read(tree, "scripts/look.ipynb") == expected


def test_what_serves_the_template_alone_goes(tree: Path) -> None:
    rename(tree, "data_lab")
    for gone in ("scripts/template", "tests/template", ".ci"):
        assert not (tree / gone).exists()
    assert (tree / "scripts/rename.py").read_bytes() == (ROOT / "scripts/rename.py").read_bytes()
    readme = read(tree, "README.md")
    assert readme.startswith("# data_lab\n")
    assert "`src/data_lab/`" in readme
    assert len(readme.splitlines()) <= 50


def test_second_rename_keeps_what_the_owner_wrote(tree: Path) -> None:
    rename(tree, "data_lab")
    readme = read(tree, "README.md") + "Our scripts/template of data_lab, run by `data-lab-train`.\n"
    (tree / "README.md").write_text(readme, encoding="utf-8")
    (tree / ".ci").mkdir()
    (tree / ".ci/run").write_text("ours\n")
    rename(tree, "bcrl")
    assert 'FORMER_NAMES: tuple[str, ...] = ("scaffolding", "data_lab")\n' in read(tree, "src/bcrl/config.py")
    assert read(tree, "src/bcrl/train.py") == TRAIN_AFTER.replace("NEW", "bcrl").replace("DIST", "bcrl")
    assert 'name = "bcrl"\n' in read(tree, "pyproject.toml")
    assert 'description = "bcrl: a PyTorch research project."' in read(tree, "pyproject.toml")
    assert "\nproject: bcrl #" in read(tree, "configs/tracker/wandb.yaml")
    assert read(tree, ".ci/run") == "ours\n"
    assert read(tree, "README.md").startswith("# bcrl\n")
    assert read(tree, "README.md").endswith("Our scripts/template of data_lab, run by `bcrl-train`.\n")
    rename(tree, "data_lab")  # and back: a name in use is no former name
    assert 'FORMER_NAMES: tuple[str, ...] = ("scaffolding", "bcrl")\n' in read(tree, "src/data_lab/config.py")


def test_dry_run_prints_every_change_and_makes_none(tree: Path) -> None:
    before = contents(tree)
    said = rename(tree, "bcrl", "--dry-run").splitlines()
    assert contents(tree) == before
    assert "configs/tracker/wandb.yaml:2: project: scaffolding # W&B project scaffolding -> " in "\n".join(said)
    assert "src/scaffolding/train.py:10: import scaffolding -> import bcrl" in said
    assert "move src/scaffolding -> src/bcrl" in said
    assert "remove scripts/template" in said
    assert "README.md:1: # scaffolding -> # bcrl" in said


REFUSED = ["3d", "a.b", "", "bird calls", "é", "_x", "x-", "class", "None", "match", "json", "Test", "scaffolding"]
REFUSED += ["torch", "pytest", "null", "rename", "helpers", "taken"]


@pytest.mark.parametrize("wanted", REFUSED)
def test_refused_names_change_nothing(tree: Path, wanted: str) -> None:
    (tree / "tests/helpers.py").write_text("")
    (tree / "src/taken").mkdir()
    before = contents(tree)
    said = rename(tree, wanted, code=2)
    assert contents(tree) == before
    assert 2 <= len(said.strip().splitlines()) <= 4
    assert "bird-calls" in said  # says what is allowed


def test_project_of_the_tracker_stays_where_it_has_another_name(tree: Path) -> None:
    (tree / "configs/tracker/wandb.yaml").write_text("project: scaffolding-v2\n")
    rename(tree, "project")
    assert read(tree, "configs/tracker/wandb.yaml") == "project: scaffolding-v2\n"


def test_line_ends_and_modes_stay(tree: Path) -> None:
    (tree / "tests/test_data.py").write_bytes(b"import scaffolding\r\n\r\nscaffolding.data\r\n")
    (tree / "tests/test_data.py").chmod(0o755)
    rename(tree, "bcrl")
    assert (tree / "tests/test_data.py").read_bytes() == b"import bcrl\r\n\r\nbcrl.data\r\n"
    assert (tree / "tests/test_data.py").stat().st_mode & 0o777 == 0o755
    assert not list(tree.rglob("*.renaming"))


def test_locked_packages_are_refused_without_being_installed(tree: Path) -> None:
    (tree / "pdm.lock").write_text('[[package]]\nname = "some-Package"\n')
    assert "installs" in rename(tree, "some_package", code=2)


def test_a_variable_of_the_new_name_is_refused_where_it_would_clash(tree: Path) -> None:
    (tree / "tests/test_data.py").write_text("import scaffolding\n\ndef f(bcrl):\n    return scaffolding.data, bcrl\n")
    before = contents(tree)
    assert "test_data.py" in rename(tree, "bcrl", code=2)
    assert contents(tree) == before
    rename(tree, "bcrl2")


def test_config_without_former_names_is_refused(tree: Path) -> None:
    (tree / "src/scaffolding/config.py").write_text("")
    assert "FORMER_NAMES" in rename(tree, "bcrl", code=2)


def test_broken_python_is_refused_by_name(tree: Path) -> None:
    (tree / "tests/test_data.py").write_text("def f(:\n")
    before = contents(tree)
    assert "tests/test_data.py" in rename(tree, "bcrl", code=2)
    assert contents(tree) == before


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_uncommitted_changes_are_refused_unless_forced(tree: Path) -> None:
    git(tree, "init", "-q")
    assert "uncommitted" in rename(tree, "bcrl", code=2)
    rename(tree, "bcrl", "--dry-run")
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "all")
    rename(tree, "bcrl")
    assert "uncommitted" in rename(tree, "data_lab", code=2)
    rename(tree, "data_lab", "--force")


def copy_repository(target: Path) -> Path:
    """What git knows of this repository, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def references_left(path: Path) -> list[str]:
    """Where a Python or YAML file still says `scaffolding` other than as a word; rules of its own, not rename.py's."""
    text = path.read_text(encoding="utf-8")
    left = []
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            is_name = token.type == tokenize.NAME and token.string == "scaffolding"
            is_text = token.type in (tokenize.STRING, tokenize.COMMENT)
            is_path = is_text and re.search(r"scaffolding(\.\w|-train|/\w)|/scaffolding", token.string)
            is_whole = token.type == tokenize.STRING and token.string.strip("rb'\"") == "scaffolding"
            if (is_name or is_path or is_whole) and not token.line.startswith("FORMER_NAMES"):
                left.append(f"{path}:{token.start[0]}: {token.line.strip()}")
    else:
        target = re.compile(r"scaffolding\.\w|/scaffolding|: scaffolding")
        left = [f"{path}:{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if target.search(line)]
    return left


needs_checkout = pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs git")


@needs_checkout
def test_this_repository_renamed(tmp_path: Path) -> None:
    fork = copy_repository(tmp_path / "fork")
    rename(fork, "bcrl")
    files = [p for p in fork.rglob("*") if p.suffix in (".py", ".yaml", ".yml") and p.name != "rename.py"]
    left = [line for path in files for line in references_left(path)]
    assert not left, "\n".join(left)
    assert "scaffolding" not in read(fork, "configs/tracker/wandb.yaml")
    assert '\nFORMER_NAMES: tuple[str, ...] = ("scaffolding",)\n' in read(fork, "src/bcrl/config.py")
    folders = ["src", "scripts", "tests"]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], cwd=fork, check=True)


@needs_checkout
@pytest.mark.full
@pytest.mark.parametrize("new", ["bcrl", "project", "data_lab"])
def test_this_repository_renamed_passes_its_quick_tests(tmp_path: Path, new: str) -> None:
    fork = copy_repository(tmp_path / "fork")
    git(fork, "init", "-q")
    git(fork, "add", "-A")
    git(fork, "commit", "-qm", "template")
    rename(fork, new)
    shutil.copytree(
        ROOT / "src" / "scaffolding" / "core", fork / "src" / new / "core", dirs_exist_ok=True
    )  # a newer core is copied over the fork's
    git(fork, "add", "-A")
    git(fork, "commit", "-qm", "renamed")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(fork / "src")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not full", "-n", "2", "-p", "no:cacheprovider"]
    done = subprocess.run(command, check=False, cwd=fork, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def has_option(root: Path, word: str) -> bool:
    """Whether `GROUP=NAME` names an option that is there."""
    group, _, name = word.partition("=")
    return (root / "configs" / group / f"{name}.yaml").exists()


def kept(fork: Path, folder: str) -> set[str]:
    return {path.name for path in next(fork.glob("src/*/train.py")).parent.joinpath(folder).iterdir() if path.is_file()}


@needs_checkout
def test_only_the_examples_that_are_named_stay(tmp_path: Path) -> None:
    fork = copy_repository(tmp_path / "fork")
    before = contents(fork)
    planned = rename(fork, "bcrl", "--keep", "mnist,convnet", "--dry-run").splitlines()
    assert contents(fork) == before
    rename(fork, "bcrl", "--keep", "mnist,convnet")
    after = contents(fork)
    assert {line.removeprefix("remove ") for line in planned if line.startswith("remove ")} == {
        *("scripts/template", "tests/template", ".ci"),
        *(name for name in before if name.replace("src/scaffolding/", "src/bcrl/") not in after
          and not name.startswith(("scripts/template/", "tests/template/", ".ci/"))),
    }  # fmt: skip
    assert kept(fork, "data") == {"__init__.py", "mnist.py", "mnist_sample.npz"}
    assert kept(fork, "model") == {"__init__.py", "convnet.py"}
    assert [path.stem for path in (fork / "configs/data").iterdir()] == ["mnist"]
    assert [path.stem for path in (fork / "configs/model").iterdir()] == ["convnet"]
    assert [path.stem for path in (fork / "configs/experiment").iterdir()] == ["mnist_convnet"]
    for group in ("optimizer", "scheduler", "tracker", "mode"):
        assert {p.name for p in (fork / "configs" / group).iterdir()} == {
            p.name
            for p in (ROOT / "configs" / group).iterdir()
            if p.name != "adam_gan.yaml"  # the GANs' own
        }
    named = [word for path in fork.rglob("*") if path.suffix in (".md", ".py", ".yaml") and "tests" not in path.parts
             for word in re.findall(r"\b(?:data|model|experiment)=[a-z]\w*", path.read_text())]  # fmt: skip
    assert named and [word for word in named if has_option(ROOT, word) and not has_option(fork, word)] == []
    assert not [line for line in read(fork, "scripts/README.md").splitlines() if "template/" in line]


@needs_checkout
def test_defaults_are_the_first_that_fit_and_recipes_keep_what_they_choose(tmp_path: Path) -> None:
    fork = copy_repository(tmp_path / "fork")
    rename(fork, "bcrl", "--keep", "digits_mlp")
    base = read(fork, "configs/base.yaml")
    assert "\n  - data: digits\n  - model: mlp\n" in base
    assert kept(fork, "data") == {"__init__.py", "digits.py", "digits.csv.gz"}
    assert "data=digits mode=dev" in read(fork, "src/bcrl/train.py")
    assert "--keep goes with the first rename" in rename(fork, "bcrl2", "--keep", "digits,mlp", code=2)


@needs_checkout
@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("mnits,convnet", "there is no 'mnits'; nearest: mnist"),
        ("mnist", "names no model"),
        ("convnet", "names no data"),
        ("", "there is no ''"),
        ("shakespeare,convnet,mnist", "nothing that is kept fits data=shakespeare"),
    ],
)
def test_what_cannot_be_kept_changes_nothing(tmp_path: Path, keep: str, said: str) -> None:
    fork = copy_repository(tmp_path / "fork")
    before = contents(fork)
    assert said in rename(fork, "bcrl", "--keep", keep, code=2)
    assert contents(fork) == before


@needs_checkout
@pytest.mark.full
@pytest.mark.parametrize("keep", ["mnist,convnet", "shakespeare_gpt", "cifar10,gan_autoencoder"])
def test_what_is_left_passes_its_quick_tests_and_lint(tmp_path: Path, keep: str) -> None:
    fork = copy_repository(tmp_path / "fork")
    rename(fork, "bcrl", "--keep", keep)
    git(fork, "init", "-q")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(fork / "src")
    quick = ("pytest", "-q", "-m", "not full", "-n", "2", "-p", "no:cacheprovider")
    for words in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",), quick):
        command = [sys.executable, "-m", *words]
        done = subprocess.run(command, check=False, cwd=fork, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
