"""Which file imports which, read from the source and not run: for test_ownership.py, and for programs that count."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


@dataclass(frozen=True)
class Import:
    """A file imports a module. What only a type checker imports is left out."""

    file: str
    line: int
    module: str  # dotted, with the package's name where it is ours
    target: str  # the file that is imported, "" where it is not ours
    deferred: bool  # inside a function

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target or self.module}"


def python_files(package: Path) -> list[str]:
    return sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))


def imports(package: Path, file: str) -> list[Import]:
    """All imports of a file of the package."""
    home = [package.name, *Path(file).parts[:-1]]
    found = []
    for node, deferred in _nodes(ast.parse((package / file).read_text(), file), deferred=False):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= len(home), f"{file}:{node.lineno} imports from outside of the package"
            base = home[: len(home) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            inner = [f"{module}.{alias.name}" for alias in node.names]  # each may be a module itself
            names = [name if _file_of(package, name) else module for name in inner]
        else:
            continue
        found += [Import(file, node.lineno, name, _file_of(package, name), deferred) for name in dict.fromkeys(names)]
    return found


def cycles(package: Path) -> list[list[str]]:
    """The groups of files that import each other, deferred imports included."""
    files = python_files(package)
    reached = {file: {found.target for found in imports(package, file)} - {"", file} for file in files}
    for middle in files:
        for file in files:
            if middle in reached[file]:
                reached[file] |= reached[middle]
    groups = {frozenset(other for other in reached[file] if file in reached[other]) for file in files}
    return sorted(sorted(group) for group in groups if group)


def _nodes(node: ast.AST, deferred: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes below this one that are run, and whether they are inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child, deferred
        yield from _nodes(child, deferred or isinstance(child, FUNCTIONS))


def _file_of(package: Path, module: str) -> str:
    """The file of a module of the package, "" for any other."""
    first, _, rest = module.partition(".")
    path = rest.replace(".", "/")
    for file in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
        if first == package.name and (package / file).is_file():
            return file
    return ""
