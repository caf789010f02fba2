"""What the owner of a fork may delete by hand: any example; the quick tests stay green."""

import re
from pathlib import Path

import pytest
import yaml
from plain import plain
from test_rename import ROOT, assert_lint_and_quick_tests_pass, commit, copy_repository, rename


def files_of(fork: Path, which: str) -> set[Path]:
    """What one group of deletions takes away; each leaves something to train, together they take every example.

    An example is a module in data/ or model/, the data files that begin with its name, every YAML file or program that
    names it, and the recipes that name one of those. "defaults": the examples that base.yaml chooses, which is left as
    it is.
    """
    (train,) = fork.glob("src/*/train.py")
    src, configs = train.parent, fork / "configs"
    if which == "as the README says":
        (words,) = re.findall(r"(?m)^rm (src/.*)", (fork / "README.md").read_text())
        return {path for word in words.replace("bcrl", "scaffolding").split() for path in fork.glob(word)}
    base = (configs / "base.yaml").read_text()
    removed: set[Path] = set()
    for group in ("data", "model"):
        (default,) = re.findall(rf"(?m)^  - {group}: (\w+)", base)
        chosen = (configs / group / f"{default}.yaml").read_text()
        for module in (path for path in sorted((src / group).glob("*.py")) if path.stem != "__init__"):
            dotted = rf"\.{group}\.{module.stem}\."
            if bool(re.search(dotted, chosen)) == (which == "defaults"):
                data_files = [path for path in module.parent.glob(f"{module.stem}[._]*") if path.suffix != ".py"]
                removed |= {module, *data_files}
                removed |= {path for path in (configs / group).glob("*.yaml") if re.search(dotted, path.read_text())}
        if which == "others":  # and what has no module
            removed |= {path for path in (configs / group).glob("*.yaml") if f".{group}." not in path.read_text()}
    modules = "|".join(rf"{path.parent.name}\.{path.stem}\b" for path in removed if path.suffix == ".py")
    removed |= {path for path in fork.glob("scripts/*.py") if re.search(modules, path.read_text())}
    return removed | recipes_of(configs, removed)


def recipes_of(configs: Path, removed: set[Path]) -> set[Path]:
    """The recipes that name one of these YAML files."""
    names = {path.stem for path in removed if path.suffix == ".yaml"}
    recipes = configs.glob("experiment/*.yaml")
    return {path for path in recipes if names & set(re.findall(r"override /\w+: (\w+)", path.read_text()))}


@pytest.mark.full
def test_deleted_by_hand(tmp_path: Path) -> None:
    """Fails where a test needs an example that the README says may be deleted.

    What is left is trained by several losses; test_rename.py leaves one loss, and test_readme.py all but the default.
    There all quick tests run, here those that list what is in configs/.
    """
    fork = copy_repository(tmp_path / "fork")
    rename(fork, "bird_calls")
    base = fork / "configs/base.yaml"
    text = base.read_text()
    for group, name in (("data", "cifar10"), ("model", "gan_autoencoder")):
        text = re.sub(rf"(?m)^(  - {group}: )\w+", rf"\g<1>{name}", text)
    base.write_text(text)
    removed = files_of(fork, "others")
    assert len(removed) >= 20
    for file in removed:
        file.unlink()
    commit(fork)
    tests = sorted((fork / "tests").glob("test_*.py"))
    listing = [file for file in tests if re.search(r"\bpairs\b|\bneeds\(", file.read_text())]
    assert 10 < len(listing) < len(tests)
    assert_lint_and_quick_tests_pass(fork, *listing)


def test_the_tests_count_on_what_base_yaml_says() -> None:
    base, counted_on = (yaml.safe_load((ROOT / name).read_text()) for name in ("configs/base.yaml", "tests/plain.yaml"))
    assert counted_on == {part: base[part] for part in ("run", "loader")}


def test_nothing_that_is_pinned_in_base_yaml_reaches_the_tests() -> None:
    text = (ROOT / "configs/base.yaml").read_text()
    pinned = text.replace("  budget: 5epochs #", "  budget: 20epochs #").replace("scheduler: none", "scheduler: cosine")
    pinned = pinned.replace("  seed: 42 #", "  birds: 3\n  seed: 7 #") + "\noptimizer:\n  lr: 3e-4\nmodel:\n  size: 3\n"
    before, after = (yaml.safe_load(plain(each, ROOT / "configs")) for each in (text, pinned))
    assert after["run"].pop("birds") == 3
    assert before == after == yaml.safe_load(text)


def test_every_example_is_deleted_once_and_the_readme_forgets_no_recipe() -> None:
    taken = {which: files_of(ROOT, which) for which in ("defaults", "others")}
    package = ROOT / "src/scaffolding"
    examples = {path for group in ("data", "model") for path in (package / group).glob("*.py")}
    examples -= {package / "data/__init__.py", package / "model/__init__.py"}
    assert examples <= taken["defaults"] | taken["others"]
    assert not taken["defaults"] & taken["others"] & examples
    assert all(examples & files for files in taken.values())
    named = files_of(ROOT, "as the README says")
    assert recipes_of(ROOT / "configs", named) <= named
