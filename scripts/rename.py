"""Make a clone of the template your own: package, distribution, configs, tests, notebook and W&B project get its name.

    python scripts/rename.py bird-calls --dry-run    # print every change, touch nothing
    python scripts/rename.py bird-calls              # package bird_calls, distribution bird-calls
    python scripts/rename.py bird-calls --keep mnist,convnet    # and of the examples only these data, models, recipes

Only true references change: imports, dotted paths, `src/` paths, the console command. Words of prose, your variables
and YAML keys stay. The first rename also removes what serves the template alone and writes a short README.md; a later
one keeps yours. Runs made before still load: the former name is added to FORMER_NAMES in config.py.
"""

import argparse
import ast
import importlib
import json
import keyword
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
from importlib.machinery import PathFinder
from itertools import accumulate, zip_longest
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
MEANT = r"/ 'NAME'|'(?:-m|src)', 'NAME'|'NAME' (?:not )?in sys\.|(?i:^[^({\['\"]*(?:package|module|import|_spec))"
README = """# {package}

    pip install 'pdm[locked]' && pdm install     # set up: environment in .venv, exactly as locked
    pdm run train mode=dev                       # rehearsal: every branch of a real run, in seconds
    pdm run train mode=prod run.budget=20epochs  # the real run
    pdm run train resume=latest                  # continue it; also resume=NAME or a path
    pdm run test                                 # quick tests
    pdm run new model NAME                       # a model to begin with; also data, loss, plot

In `src/{package}/`: data in `data/`, models in `model/`, losses in `losses.py`, the training loop in `train.py`;
`core/` is machinery, replaced by a newer copy. Numbers stand in `configs/`, analyses of finished runs in `scripts/`.

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
        rf"(?m)(?<![\w.\-/${{])({old})(?=\.{known})(?![\w.]+=[^=\s])"  # `data.x=1` is an override, not a path
        rf"|[\"']({old})(?!\.(?:py|ipynb|ya?ml|toml|md|json|txt|log|png)\b)(?=(?:\.[A-Za-z_]\w*)+[\"'])"
        rf"|_target_[\"']?\s*[:=]\s*[\"']?({old})(?=\.\w)"
        rf"|(?<![\w\-])src/({old})(?![\w\-])"
        rf"|(?:(?<![\w.\-/])|(?<=\*/))({old})(?=/{known}(?:/|\.py))"
        rf"|(?:python[\d.]* -m |--cov[= ])({old})(?![\w\-])"
        rf"|{line}from ({old})(?= import \w)"
        rf"|{line}import ({old})(?=\s*(?:$|[;,\"'`)\\]|as \w))"
        rf"|(?<![\w.\-])(?P<dist>{re.escape(old_dist)})(?=(?:{tails})(?![\w\-]))"
    )


def text_edits(text: str, names: Names, offset: int = 0) -> list[tuple[int, int, str]]:
    matches = [(*match.span(match.lastindex or 0), match.lastgroup) for match in names.references.finditer(text)]
    return [(offset + start, offset + end, names.new_dist if dist else names.new) for start, end, dist in matches]


def rename_text(text: str, names: Names, edits: set[tuple[int, int, str]] | None = None) -> str:
    for start, end, new in sorted(set(text_edits(text, names)) if edits is None else edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def own_nodes(scope: ast.AST) -> list[ast.AST]:
    """The nodes of a scope, without what is inside nested scopes."""
    children = list(ast.iter_child_nodes(scope))
    return children + [node for child in children if not isinstance(child, SCOPES) for node in own_nodes(child)]


def package_nodes(scope: ast.AST, name: str, inherited: bool = False) -> list[ast.AST]:
    """The uses of `name` that mean the imported package, not a variable which happens to have the name."""
    own = own_nodes(scope)
    aliases = [alias for node in own if isinstance(node, ast.Import) for alias in node.names]
    imported = any(not alias.asname and alias.name.split(".")[0] == name for alias in aliases)
    stored = {node.id for node in own if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named = [node for node in own if not isinstance(node, ast.keyword)]  # functions, arguments, `as name`, ...
    bound = name in stored or any(name == getattr(n, key, None) for n in named for key in ("name", "asname", "arg"))
    here = imported or (inherited and not bound)
    uses = [node for node in own if here and isinstance(node, ast.Name) and node.id == name]
    inherited = inherited if isinstance(scope, ast.ClassDef) else here  # a class hands nothing on to its methods
    return uses + [use for node in own if isinstance(node, SCOPES) for use in package_nodes(node, name, inherited)]


def rename_python(text: str, names: Names, path: Path) -> str:
    plain = re.sub(r"[^\0-\x7f]", "x", text)  # the tree counts bytes: this way they are characters
    tree, lines = ast.parse(plain, path), plain.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    package, meant = set(package_nodes(tree, names.old)), MEANT.replace("NAME", names.old)
    edits, variables = set[tuple[int, int, str]](), set[tuple[int, int, str]]()
    for token in tokenize.generate_tokens((f"{line}\n" for line in lines).__next__):
        if token.type == tokenize.COMMENT:
            start = starts[token.start[0] - 1] + token.start[1]
            edits.update(text_edits(text[start : start + len(token.string)], names, start))
    for node in (n for n in ast.walk(tree) if isinstance(n, ast.stmt | ast.expr | ast.alias)):
        start, at = starts[node.lineno - 1] + node.col_offset, None
        source = text[start : starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)]
        match node:
            case ast.alias(name=name) if isinstance(parents[node], ast.Import) and name.split(".")[0] == names.old:
                at = start
            case ast.ImportFrom(module=str(name), level=0) if name.split(".")[0] == names.old:
                at = start + source.index(names.old, len("from "))
            case ast.Name() if source == names.old:
                (edits if node in package else variables).add((start, start + len(names.old), names.new))
            case ast.JoinedStr() | ast.Constant(value=str()):
                edits.update(text_edits(source, names, start))
                value, around = getattr(node, "value", ""), parents[node]
                around = parents[around] if isinstance(around, ast.List | ast.Tuple | ast.Set) else around
                if value == f"{names.old}." or (value == names.old and re.search(meant, ast.unparse(around))):
                    at = start + source.index(names.old)
        if at is not None:
            edits.add((at, at + len(names.old), names.new))
    renamed = rename_text(text, names, edits - variables)
    if len(package_nodes(ast.parse(renamed), names.new)) != len(package):
        refuse(f"`import {names.new}` would clash with a variable in {path}.", "Rename that variable first.")
    return renamed


def rename_notebook(raw: str, names: Names, path: Path) -> str:  # inside the file as it stands: nothing else changes
    cells = [(cell["cell_type"] == "code", line) for cell in json.loads(raw)["cells"] for line in cell["source"]]
    code = "\n".join(re.sub(r"^(?=[%!])", "#magic ", line.rstrip("\n")) for is_code, line in cells if is_code)
    try:
        code = rename_python(code, names, path)
    except SyntaxError:  # shell cells, magics inside a block
        code = rename_text(code, names)
    new_code, is_ascii = iter(code.replace("#magic ", "").split("\n")), raw.isascii()
    for is_code, line in cells:
        new = next(new_code) + "\n" * line.endswith("\n") if is_code else rename_text(line, names)
        raw = raw.replace(json.dumps(line, ensure_ascii=is_ascii), json.dumps(new, ensure_ascii=is_ascii))
    return raw


def rename_pyproject(text: str, names: Names, path: Path) -> str:  # pdm.lock hashes dependencies only: it stays valid
    written = f'"{names.old_dist}: a PyTorch research project."' if names.former else ".*"
    text = re.sub(rf'(?m)^(name = "){names.old_dist}"', rf'\g<1>{names.new_dist}"', rename_text(text, names), count=1)
    text = re.sub(rf"(?m)^(description = ){written}", rf'\g<1>"{names.new_dist}: a PyTorch research project."', text)
    return re.sub(r"(?ms)^\[+tool\..*?(?=^\[|\Z)", lambda m: m[0].replace(f'"{names.old}"', f'"{names.new}"'), text)


def renamed(path: Path, text: str, names: Names) -> str:
    where = path.relative_to(ROOT).as_posix()
    if where == "README.md" and not names.former:
        return README.format(dist=names.new_dist, package=names.new)
    special = {".py": rename_python, ".ipynb": rename_notebook, "pyproject.toml": rename_pyproject}
    function = special.get(where) or special.get(path.suffix)
    try:
        text = function(text, names, path) if function else rename_text(text, names)
    except (SyntaxError, ValueError) as error:
        refuse(f"{where} cannot be read: {error}", "Mend or remove that file first.")
    # the two places where the name stands without being a path: the W&B project, and our own README's title
    title = {"configs/tracker/wandb.yaml": r"^\s*project:\s*[\"']?", "README.md": r"\A# "}.get(where)
    text = re.sub(rf"(?m)({title}){names.old}(?![\w\-])", rf"\g<1>{names.new}", text) if title else text
    if where == f"src/{names.old}/config.py":
        former = [f'"{name}"' for name in (*names.former, names.old) if name != names.new]
        text = FORMER_NAMES.sub(rf"\g<1>({', '.join(former)}{',' * (len(former) == 1)})", text)
    return text


def check_name(wanted: str, new: str, old: str) -> None:
    lock = (ROOT / "pdm.lock").read_text("utf-8") if (ROOT / "pdm.lock").exists() else ""
    spec = PathFinder.find_spec(new, [*sys.path, *map(str, ROOT.glob(".venv/lib/python*/site-packages"))])
    found = [str(spec.origin or ""), *(spec.submodule_search_locations or [])] if spec else []
    here = [f"src/{new}", f"{new}/__init__.py", f"{new}.py", f"scripts/{new}.py", f"tests/{new}.py"]
    problems = {
        "is not a name for a package": not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", new),
        "is a keyword": new in {*map(str.lower, keyword.kwlist), *keyword.softkwlist, "null", "yes", "no", "on", "off"},
        "is a module of the standard library": new in sys.stdlib_module_names or new == "test",
        "is the present name": new == old,
        "is a package that this project installs": re.search(rf'(?mi)^name = "{new.replace("_", "[_-]")}"', lock),
        f"would hide {found}": [p for p in found if p and ("site-packages" in p or not Path(p).is_relative_to(ROOT))],
        "is taken": [place for place in here if (ROOT / place).exists()],
    }
    for problem in (problem for problem, found in problems.items() if found):
        refuse(f"{wanted!r} {problem}.", "Choose another: letters, digits, single - or _, like bird-calls or data_lab.")


def prune(package: str, keep: list[str]) -> tuple[list[Path], dict[Path, str]]:
    """What goes where only some examples stay, and the new texts of what names it; by the template's own prune.py."""
    sys.path.insert(0, str(ROOT / "scripts" / "template"))
    sys.dont_write_bytecode = True
    try:
        module = importlib.import_module("prune")
    except ModuleNotFoundError:
        refuse(
            "--keep goes with the first rename, and this is a later one.",
            "Delete by hand: an example is a file, its YAML, recipes.",
        )
    try:
        return tuple(module.plan(ROOT, package, keep))
    except module.Refused as refused:
        refuse(*refused.args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NEW_NAME")
    parser.add_argument("--dry-run", action="store_true", help="print every change, touch nothing")
    parser.add_argument("--keep", metavar="NAMES", help="the examples that stay: data, models, recipes; all others go")
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
    pruned, texts = prune(old, args.keep.split(",")) if args.keep is not None else ([], {})
    removed += [*pruned, *(ROOT / "src").glob(f"{old}.egg-info"), *(ROOT / "src" / old).rglob("__pycache__")]
    found = [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    found = [p for p in found if (p.suffix or p.name) in SUFFIXES and p.is_file() and not {p, *p.parents} & {*removed}]
    before = {path: path.read_bytes().decode() for path in sorted(found)}
    edited = {path: renamed(path, texts.get(path, text), names) for path, text in before.items()}
    after = {path: text for path, text in edited.items() if text != before[path]}
    if args.dry_run:
        for path in after:
            pairs = zip_longest(before[path].split("\n"), after[path].split("\n"), fillvalue="")
            for row, (line, new_line) in ((row, pair) for row, pair in enumerate(pairs, 1) if pair[0] != pair[1]):
                print(f"{path.relative_to(ROOT)}:{row}: {line.strip()} -> {new_line.strip()}")
        print("\n".join([*(f"remove {path.relative_to(ROOT)}" for path in removed), f"move src/{old} -> src/{new}"]))
        return
    for path, text in after.items():  # all written aside first: what can fail, fails before anything has changed
        path.with_name(path.name + ".renaming").write_bytes(text.encode())
    for path in after:
        shutil.copymode(path, path.with_name(path.name + ".renaming"))
        path.with_name(path.name + ".renaming").replace(path)
    for path in removed:
        path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
    (ROOT / "src" / old).rename(ROOT / "src" / new)
    print(f"{old} is now {new}: {len(after)} files changed. Next:\n\n    pdm install && pdm run test")


if __name__ == "__main__":
    main()
