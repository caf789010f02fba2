"""What the owner of a fork may do by hand: delete any example or analysis script; the quick tests stay green."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_rename import copy_repository


def files_of(fork: Path, which: str) -> list[Path]:
    """What one group of deletions takes away; each leaves something to train, together they take every example.

    An example is a module in data/ or model/, the data files that begin with its name, every YAML file that names it,
    and the recipes that name one of those. "defaults": the examples that base.yaml chooses, which is left as it is.
    """
    src, configs = next(fork.glob("src/*/train.py")).parent, fork / "configs"
    if which == "scripts":
        return [*fork.glob("scripts/*.py"), *fork.glob("scripts/*.ipynb"), *configs.glob("experiment/*")]
    base = (configs / "base.yaml").read_text()
    removed = []
    for group in ("data", "model"):
        (default,) = re.findall(rf"(?m)^  - {group}: (\w+)", base)
        chosen = (configs / group / f"{default}.yaml").read_text()
        for module in (path for path in sorted((src / group).glob("*.py")) if path.stem != "__init__"):
            dotted = rf"\.{group}\.{module.stem}\."
            if bool(re.search(dotted, chosen)) == (which == "defaults"):
                removed += [path for path in module.parent.glob(f"{module.stem}[._]*") if path.suffix != ".py"] + [
                    module
                ]
                removed += [path for path in (configs / group).glob("*.yaml") if re.search(dotted, path.read_text())]
        if which == "others":  # and what has no module of its own
            removed += [path for path in (configs / group).glob("*.yaml") if f".{group}." not in path.read_text()]
    names = {path.stem for path in removed if path.suffix == ".yaml"}
    recipes = configs.glob("experiment/*.yaml")
    return removed + [path for path in recipes if names & set(re.findall(r"override /\w+: (\w+)", path.read_text()))]


@pytest.mark.full
@pytest.mark.parametrize("which", ["defaults", "others", "scripts"])
def test_deleted_by_hand(tmp_path: Path, which: str) -> None:
    fork = copy_repository(tmp_path / "fork")
    removed = sorted(set(files_of(fork, which)))
    assert len(removed) >= 5
    for file in removed:
        file.unlink()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(fork / "src")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not full", "-n", "2", "-p", "no:cacheprovider"]
    command += ["--ignore=tests/template"]
    done = subprocess.run(command, check=False, cwd=fork, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_every_example_is_deleted_once() -> None:
    root = Path(__file__).resolve().parents[2]
    taken = {which: set(files_of(root, which)) for which in ("defaults", "others")}
    src = next(root.glob("src/*/train.py")).parent
    examples = {path for group in ("data", "model") for path in (src / group).glob("*.py") if path.stem != "__init__"}
    assert examples <= taken["defaults"] | taken["others"]
    assert not taken["defaults"] & taken["others"] & examples
    assert all(examples & files for files in taken.values())
