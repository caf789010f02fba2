"""What `rename.py NEW --keep NAMES` leaves out: every example that is not named, and what only those need.

Standard library alone, and nothing is named here: examples are found by listing folders, references by reading files.
"""

import ast
import re
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

KINDS = ("data", "model")  # groups of examples; each must keep one
PACKAGE = ("data", "model", "plot")  # folders of the package with a file per example
DOCUMENTED = ("src/*/train.py", "src/*/experiment.py", "configs/**/*.yaml", "scripts/*.py", "scripts/*.md", "*/*.md")


class Refused(Exception):
    """(what is wrong, what to do)."""


class Pruning(NamedTuple):
    removed: list[Path]
    changed: dict[Path, str]  # new text of a file that stays


def plan(root: Path, package: str, names: list[str]) -> Pruning:
    """What goes and what changes where only the examples of these names stay.

    Args:
        root: folder of the template.
        package: its package's name.
        names: of data, models, or recipes, which keep the data and the model that they choose.

    Raises:
        Refused: a name is unknown, a kind would have none left, or something that stays has nothing to go with.
    """
    tree = Tree(root, package)
    keep = chosen(tree, names)
    pairs = [(data, model) for model in keep["model"] for data in keep["data"] if not tree.lacks(data, model)]
    for kind, group in enumerate(KINDS):
        for name in keep[group]:
            if name not in [pair[kind] for pair in pairs] and "???" not in tree.read(tree.option(group, name)):
                lacking = {f"{d}, {m}": tree.lacks(d, m) for d in keep["data"] for m in keep["model"] if name in (d, m)}
                raise Refused(
                    f"nothing that is kept fits {group}={name}: the data lack {lacking}", "Keep more, or not it."
                )
    removed = closure(tree, {path for group in KINDS for path in tree.options(group) if path.stem not in keep[group]})
    return Pruning(sorted(removed), rewritten(tree, removed, dict(zip(KINDS, pairs[0], strict=True))))


class Tree:
    """The template's files, and which refers to which."""

    def __init__(self, root: Path, package: str) -> None:
        self.root, self.package, self.src, self.configs = root, package, root / "src" / package, root / "configs"
        files = [path for folder in PACKAGE for path in sorted((self.src / folder).iterdir()) if path.is_file()]
        self.examples = [path for path in files if path.name != "__init__.py"]
        self.programs = [*root.glob("scripts/*.py"), *root.glob("tests/*.py")]
        self.yamls = sorted(self.configs.glob("*/*.yaml"))
        base = self.configs / "base.yaml"
        self.references = {path: self.find(path) for path in {*self.src.rglob("*.py"), *self.programs, *self.yamls}}
        choices = re.findall(r"(?m)^  - (\w+): (\w+)", self.read(base))
        self.defaults = {group: name for group, name in choices if group in KINDS}
        self.references[base] = {self.option(*choice) for choice in choices if choice[0] not in KINDS}

    def read(self, path: Path) -> str:
        return path.read_text("utf-8")

    def option(self, group: str, name: str) -> Path:
        return self.configs / group / f"{name}.yaml"

    def options(self, group: str) -> list[Path]:
        return sorted((self.configs / group).glob("*.yaml"))

    def find(self, path: Path) -> set[Path]:
        """The examples, data files and YAML files that a file needs."""
        text = self.read(path)
        if path.suffix == ".yaml":
            found = {self.option(*pair) for pair in re.findall(r"(?m)^\s*- (?:override )?/(\w+): (\w+)", text)}
            found |= {path.with_name(f"{name}.yaml") for name in re.findall(r"(?m)^\s*- (\w+)\s*(?:#.*)?$", text)}
            dotted = set(re.findall(rf"\b{self.package}((?:\.\w+)+)", text))
        else:
            folder = self.src in path.parents
            found = {other for other in self.examples if folder and other.suffix != ".py" and other.name in text}
            dotted = imported(ast.parse(text), path.relative_to(self.src).parts if folder else (), self.package)
        return found | {file for file in self.examples for name in dotted if f"{name}.".startswith(self.dotted(file))}

    def dotted(self, path: Path) -> str:
        return "." + ".".join(path.relative_to(self.src).with_suffix("").parts) + "."

    def lacks(self, data: str, model: str) -> list[str]:
        """The facts that a model's YAML refers to and a dataset's does not state."""
        wanted = re.findall(r"\$\{data\.(\w+)", self.read(self.option("model", model)))
        return sorted(set(wanted) - self.facts(self.option("data", data)))

    def facts(self, path: Path) -> set[str]:
        inherited = [self.facts(other) for other in self.references[path] if other.parent == path.parent]
        return set(re.findall(r"(?m)^(\w+):", self.read(path))).union(*inherited)


def imported(tree: ast.AST, parts: tuple[str, ...], package: str) -> set[str]:
    """Dotted names below the package that a file imports or skips without, e.g. ".data.text"."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=module, names=names, level=level):
                base = [package, *parts[: len(parts) - level]] if level else []
                base += [module] if module else []
                found |= {".".join([*base, alias.name]) for alias in names}
            case ast.Call(args=[ast.Constant(value=str(name)), *_]) if "importorskip" in ast.unparse(node.func):
                found.add(name)
    return {name.removeprefix(package) for name in found if f"{name}.".startswith(f"{package}.")}


def chosen(tree: Tree, names: list[str]) -> dict[str, list[str]]:
    """The names of each kind to keep, in the order given."""
    keep: dict[str, list[str]] = {group: [] for group in KINDS}
    known = {path.stem for group in (*KINDS, "experiment") for path in tree.options(group)}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1, 0) or sorted(known)[:1]
            raise Refused(
                f"--keep: there is no {name!r}; nearest: {near[0]}", f"There are: {', '.join(sorted(known))}."
            )
        recipe = tree.option("experiment", name)
        for group in KINDS:
            found = [path.stem for path in tree.references.get(recipe, ()) if path.parent.name == group]
            if recipe.exists():
                keep[group] += found or [tree.defaults[group]]
            if tree.option(group, name).exists():
                keep[group].append(name)
    for group in KINDS:
        if not keep[group]:
            there = ", ".join(path.stem for path in tree.options(group))
            raise Refused(f"--keep names no {group}: a fork needs one of each kind", f"There are: {there}.")
    return {group: list(dict.fromkeys(found)) for group, found in keep.items()}


def closure(tree: Tree, removed: set[Path]) -> set[Path]:
    """With these: the files that they alone refer to, and recipes, programs, tests that need them.

    Of the YAML files those that a model chose, such as figures; what only a recipe chose is of use to others.
    """
    holding = [path for path in tree.references if path not in tree.programs]
    while True:
        needed = {other for path in holding if path not in removed for other in tree.references[path] if other != path}
        freed = {other for path in removed for other in tree.references.get(path, ())} - needed
        own = {other for path in removed if path.parent.name == "model" for other in tree.references.get(path, ())}
        more = {path for path in freed if path in tree.examples or (path in own and path.suffix == ".yaml")}
        names = {path.name.split(".")[0] for path in removed}
        for path in [*tree.options("experiment"), *tree.programs]:
            named = path.parent.name != "experiment" and path.stem.removeprefix("test_") in names
            if named or tree.references[path] & removed:
                more.add(path)
        if more <= removed:
            return removed
        removed = removed | more


def renamed(line: str, group: str, gone: str, default: str) -> str:
    """A line whose `group=NAME` names what goes, with the default in its place, or dots where that is too long."""
    new = re.sub(rf"\b{group}=({gone})(?!\w)", f"{group}={default}", line)
    return (
        new if len(new.rstrip("\n")) <= 120 or new == line else re.sub(rf"\b{group}={default}\b", f"{group}=...", new)
    )


def rewritten(tree: Tree, removed: set[Path], defaults: dict[str, str]) -> dict[Path, str]:
    """The files that stay and name what goes: base.yaml's defaults, and commands in documentation."""
    changed = {}
    for path in sorted({path for pattern in DOCUMENTED for path in tree.root.glob(pattern)} - removed):
        text = before = tree.read(path)
        for group, default in defaults.items():
            gone = "|".join(path.stem for path in removed if path.parent == tree.configs / group)
            text = "".join(renamed(line, group, gone, default) for line in text.splitlines(True)) if gone else text
            if gone and (path.suffix == ".md" or path == tree.configs / "base.yaml"):
                text = re.sub(rf"(?m)^(  - (?:override /)?{group}: )({gone})\b", rf"\g<1>{default}", text)
        for other in removed if path.suffix == ".md" else ():
            text = re.sub(rf"(?m)^.*\b{other.parent.name}/{re.escape(other.name)}\b.*\n(?: {{20,}}#.*\n)*", "", text)
        if text != before:
            changed[path] = text
    return changed
