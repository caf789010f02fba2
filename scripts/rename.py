"""Make a clone of the template your own: package, distribution, configs, tests, notebook and W&B project get its name.

    python scripts/rename.py bird-calls --dry-run    # print every change, touch nothing
    python scripts/rename.py bird-calls              # package bird_calls, distribution bird-calls

Only true references change: imports, dotted paths, `src/` paths, the console command. Words of prose, your variables
and YAML keys stay. The first rename also removes what serves the template alone and writes a short README.md; a later
one keeps yours. Runs made before still load: the former name is added to FORMER_NAMES in config.py.
"""

import argparse
import ast
import json
import keyword
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from importlib.machinery import PathFinder
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "configs", "scripts", "tests", ".github")
SUFFIXES = {".py", ".ipynb", ".yaml", ".yml", ".toml", ".md", ".cfg", ".ini", ".sh", ".gitignore", ".gitattributes"}
TEMPLATE_ONLY = ("scripts/template", "tests/template", ".ci")
FORMER_NAMES = re.compile(r"^(FORMER_NAMES\b[^=\n]*= *)(\([^)]*\))", re.MULTILINE)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, *COMPREHENSIONS)
# A string that is the bare name may be a word, a key or a value; it is renamed where the code around it reads like this
MEANT = r"/ 'NAME'|'(?:-m|src)', 'NAME'|'NAME' (?:not )?in sys\.modules|(?i:^[^({\['\"]*(?:package|module|import|find_spec))"
README = """# {dist}

    pip install 'pdm[locked]' && pdm install     # set up: environment in .venv, exactly as locked
    pdm run train mode=dev                       # rehearsal: every branch of a real run, in seconds
    pdm run train mode=prod run.budget=20epochs  # the real run
    pdm run train resume=latest                  # continue it; also resume=NAME or a path
    pdm run test                                 # quick tests

Data lives in `src/{package}/data/` and `configs/data/`, the model in `src/{package}/model/` and `configs/model/`, the
loss in `src/{package}/losses.py`, the training loop in `src/{package}/train.py`, the numbers in `configs/`, analysis of
finished runs in `scripts/`. `src/{package}/core/` is machinery: replaced by a newer copy, not edited.

Made from the scaffolding template with `python scripts/rename.py {dist}`.
"""


class Names(NamedTuple):
    old: str
    new: str
    old_dist: str
    new_dist: str
    former: tuple[str, ...]
    references: re.Pattern[str]


def refuse(problem: str, remedy: str) -> NoReturn:
    print(f"rename.py: {problem}\n{remedy}\nNothing was changed.", file=sys.stderr)
    sys.exit(2)


def reference_pattern(old: str, old_dist: str, commands: list[str]) -> re.Pattern[str]:
    """What is unmistakably the package in any text; the one group that matches is what gets replaced."""
    modules = [p.stem for p in (ROOT / "src" / old).iterdir() if p.stem.isidentifier()]
    known = "(?:" + "|".join([*modules, r"__\w+__"]) + r")\b"  # `NAME.data` is a path, `NAME.Then` a full stop
    tails = "|".join(re.escape(c.removeprefix(old_dist)) for c in commands if c.startswith(f"{old_dist}-")) or "(?!)"
    line = r"(?:^|[;`\"'(]|\\n)[ \t]*(?:>>> |# )?"
    return re.compile(
        rf"(?<![\w.\-/${{])({old})(?=\.{known})(?![\w.]+=[^=\s])"  # `data.x=1` is an override, not a path
        rf"|_target_[\"']?\s*[:=]\s*[\"']?({old})(?=\.\w)"
        rf"|(?<![\w\-])src/({old})(?![\w\-])"
        rf"|(?:(?<![\w.\-/])|(?<=\*/))({old})(?=/{known})"
        rf"|(?:python[\d.]* -m |--cov[= ])({old})(?![\w\-])"
        rf"|{line}from ({old})(?= import \w)"
        rf"|{line}import ({old})(?=\s*(?:$|[;,\"'`)\\]|as \w))"
        rf"|(?<![\w.\-])(?P<dist>{re.escape(old_dist)})(?=(?:{tails})(?![\w\-]))",
        re.MULTILINE,
    )


def text_edits(text: str, names: Names, offset: int = 0) -> Iterator[tuple[int, int, str]]:
    for match in names.references.finditer(text):
        start, end = match.span(match.lastindex or 0)
        yield offset + start, offset + end, names.new_dist if match.lastgroup == "dist" else names.new


def rename_text(text: str, names: Names, edits: set[tuple[int, int, str]] | None = None) -> str:
    for start, end, new in sorted(set(text_edits(text, names)) if edits is None else edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:  # without what is inside nested scopes
    stack = list(ast.iter_child_nodes(scope))
    while stack:
        yield (node := stack.pop())
        stack += [] if isinstance(node, SCOPES) else ast.iter_child_nodes(node)


def package_nodes(scope: ast.AST, name: str, inherited: bool = False) -> Iterator[ast.AST]:
    """The uses of `name` that mean the imported package, not a variable which happens to have the name."""
    own = list(own_nodes(scope))
    aliases = [alias for node in own if isinstance(node, ast.Import) for alias in node.names]
    imported = any(not alias.asname and alias.name.split(".")[0] == name for alias in aliases)
    stored = {node.id for node in own if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named = [node for node in own if not isinstance(node, ast.keyword)]  # functions, arguments, `as name`, ...
    bound = name in stored or any(name == getattr(n, key, None) for n in named for key in ("name", "asname", "arg"))
    here = imported or (inherited and not bound)
    for node in own:
        if isinstance(node, SCOPES):  # a class does not hand its names on to its methods
            yield from package_nodes(node, name, inherited if isinstance(scope, ast.ClassDef) else here)
        elif here and isinstance(node, ast.Name) and node.id == name:
            yield node


def rename_python(text: str, names: Names, path: Path) -> str:
    plain = re.sub(r"[^\0-\x7f]", "x", text)  # the tree counts bytes: this way they are characters
    tree, lines = ast.parse(plain, path), plain.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    package, variables, edits = set(package_nodes(tree, names.old)), set(), set()
    for token in tokenize.generate_tokens((f"{line}\n" for line in lines).__next__):
        if token.type == tokenize.COMMENT:
            start = starts[token.start[0] - 1] + token.start[1]
            edits.update(text_edits(text[start : start + len(token.string)], names, start))
    for node in (n for n in ast.walk(tree) if hasattr(n, "lineno")):
        start, at = starts[node.lineno - 1] + node.col_offset, None
        source = text[start : starts[node.end_lineno - 1] + node.end_col_offset]
        match node:
            case ast.alias(name=name) if isinstance(parents[node], ast.Import) and name.split(".")[0] == names.old:
                at = start
            case ast.ImportFrom(module=str(name), level=0) if name.split(".")[0] == names.old:
                at = start + re.search(rf"\b{names.old}\b", source).start()
            case ast.Name() if source == names.old:
                at = start if node in package else variables.add(start)
            case ast.JoinedStr() | ast.Constant(value=str()):
                edits.update(text_edits(source, names, start))
                value, around = getattr(node, "value", ""), parents[node]
                around = parents[around] if isinstance(around, ast.List | ast.Tuple | ast.Set) else around
                dotted = re.fullmatch(rf"{names.old}((\.[A-Za-z_]\w*)+|\.)", value)
                if (dotted and Path(value).suffix not in SUFFIXES) or (
                    value == names.old and re.search(MEANT.replace("NAME", value), ast.unparse(around))
                ):
                    at = start + source.index(names.old)
        if at is not None:
            edits.add((at, at + len(names.old), names.new))
    renamed = rename_text(text, names, {edit for edit in edits if edit[0] not in variables})
    if len(list(package_nodes(ast.parse(renamed), names.new))) != len(package):
        refuse(f"`import {names.new}` would clash with a variable in {path}.", "Rename that variable first.")
    return renamed


def rename_notebook(raw: str, names: Names, path: Path) -> str:
    """Replaces lines inside the file as it stands, so that nothing else of it changes."""
    cells = [(cell["cell_type"] == "code", line) for cell in json.loads(raw)["cells"] for line in cell["source"]]
    code = "\n".join(re.sub(r"^(?=[%!])", "#magic ", line.rstrip("\n")) for is_code, line in cells if is_code)
    try:
        code = rename_python(code, names, path)
    except SyntaxError:  # shell cells, magics inside a block
        code = rename_text(code, names)
    new_code = iter(code.replace("#magic ", "").split("\n"))
    for is_code, line in cells:
        new = next(new_code) + "\n" * line.endswith("\n") if is_code else rename_text(line, names)
        raw = raw.replace(*(json.dumps(text, ensure_ascii=raw.isascii()) for text in (line, new)))
    return raw


def rename_pyproject(text: str, names: Names) -> str:
    """The hash in pdm.lock covers dependencies, not the name, so the lock stays valid."""
    written = f'"{names.old_dist}: a PyTorch research project."' if names.former else ".*"
    text = re.sub(rf'(?m)^(name = "){names.old_dist}"', rf'\g<1>{names.new_dist}"', rename_text(text, names), count=1)
    text = re.sub(rf"(?m)^(description = ){written}", rf'\g<1>"{names.new_dist}: a PyTorch research project."', text)
    return re.sub(r"(?ms)^\[+tool\..*?(?=^\[|\Z)", lambda m: m[0].replace(f'"{names.old}"', f'"{names.new}"'), text)


def renamed(path: Path, text: str, names: Names) -> str:
    where = path.relative_to(ROOT).as_posix()
    if where == "README.md" and not names.former:
        return README.format(dist=names.new_dist, package=names.new)
    if where == "pyproject.toml":
        return rename_pyproject(text, names)
    try:
        special = {".py": rename_python, ".ipynb": rename_notebook}.get(path.suffix)
        text = special(text, names, path) if special else rename_text(text, names)
    except (SyntaxError, ValueError) as error:
        refuse(f"{where} cannot be read: {error}", "Mend or remove that file first.")
    if where == "configs/tracker/wandb.yaml":  # the one value that is the name without being a path
        text = re.sub(rf"(?m)^(\s*project:\s*[\"']?){names.old}\b", rf"\g<1>{names.new}", text)
    elif where == f"src/{names.old}/config.py":
        former = [f'"{name}"' for name in (*names.former, names.old) if name != names.new]
        text = FORMER_NAMES.sub(rf"\g<1>({', '.join(former)}{',' * (len(former) == 1)})", text)
    return text


def check_name(wanted: str, new: str, old: str) -> None:
    lock = (ROOT / "pdm.lock").read_text("utf-8") if (ROOT / "pdm.lock").exists() else ""
    spec = PathFinder.find_spec(new, [*sys.path, *map(str, ROOT.glob(".venv/[lL]ib/**/site-packages"))])
    found = [str(spec.origin or ""), *(spec.submodule_search_locations or [])] if spec else []
    here = [f"src/{new}", f"{new}/__init__.py", f"{new}.py", f"scripts/{new}.py", f"tests/{new}.py"]
    problems = {
        "is not a name for a package": not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", new),
        "is a Python keyword": {wanted, new} & {*keyword.kwlist, *keyword.softkwlist},
        "is a module of the standard library": new in sys.stdlib_module_names or new == "test",
        "is the present name": new == old,
        "is a package that this project installs": re.search(rf'(?mi)^name = "{new.replace("_", "[_-]")}"', lock),
        f"would hide {found}": [p for p in found if p and ("site-packages" in p or str(ROOT) not in p)],
        "is taken": [place for place in here if (ROOT / place).exists()],
    }
    for problem in (problem for problem, found in problems.items() if found):
        refuse(f"{wanted!r} {problem}.", "Choose another: letters, digits, single - or _, like bird-calls or data_lab.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NEW_NAME")
    parser.add_argument("--dry-run", action="store_true", help="print every change, touch nothing")
    parser.add_argument("--force", action="store_true", help="even where uncommitted changes make it hard to undo")
    args = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    new, old = args.name.lower().replace("-", "_"), project["name"].replace("-", "_")
    check_name(args.name, new, old)
    config = ROOT / "src" / old / "config.py"
    former = FORMER_NAMES.search(config.read_text("utf-8")) if config.exists() else None
    if not former:
        refuse(f"{config} has no line FORMER_NAMES: tuple[str, ...] = ().", "Restore it: old runs load through it.")
    git = shutil.which("git") if not (args.dry_run or args.force) else None
    if git and subprocess.run([git, "status", "--porcelain", "."], check=False, cwd=ROOT, capture_output=True).stdout:
        refuse("uncommitted changes: this could not be undone.", "Commit or stash them, or add --force.")
    references = reference_pattern(old, project["name"], list(project.get("scripts", {})))
    names = Names(old, new, project["name"], new.replace("_", "-"), ast.literal_eval(former[2]), references)

    removed = [ROOT / place for place in TEMPLATE_ONLY if not names.former and (ROOT / place).exists()]
    removed += [*(ROOT / "src").glob(f"{old}.egg-info"), *(ROOT / "src" / old).rglob("__pycache__")]
    found = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    found = [p for p in found if (p.suffix or p.name) in SUFFIXES and p.is_file() and not {*p.parents} & {*removed}]
    before = {path: path.read_bytes().decode() for path in sorted(found)}
    after = {path: text for path in before if (text := renamed(path, before[path], names)) != before[path]}
    if args.dry_run:
        for path in (path for path in after if path.name != "README.md" or names.former):
            for row, lines in enumerate(zip(before[path].split("\n"), after[path].split("\n"), strict=False), 1):
                if lines[0] != lines[1]:
                    print(f"{path.relative_to(ROOT)}:{row}: {lines[0].strip()} -> {lines[1].strip()}")
        print(*["replace README.md"][len(names.former):], *(f"remove {path.relative_to(ROOT)}" for path in removed), f"move src/{old} -> src/{new}", sep="\n")
        return
    for path, text in after.items():  # all written aside first: what can fail, fails before anything has changed
        path.with_name(path.name + ".renaming").write_bytes(text.encode())
    for path in after:
        shutil.copymode(path, path.with_name(path.name + ".renaming"))
        path.with_name(path.name + ".renaming").replace(path)
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
    (ROOT / "src" / old).rename(ROOT / "src" / new)
    print(f"{old} is now {new}: {len(after)} files changed. Next:\n\n    pdm install && pdm run test")


if __name__ == "__main__":
    main()
