"""Give your clone a name: the word `scaffolding` becomes NEW_NAME in every file, and src/scaffolding src/NEW_NAME.

    python scripts/rename.py bird_calls --dry-run              # print what would change, touch nothing
    python scripts/rename.py bird_calls
    python scripts/rename.py bird_calls --keep mnist,convnet   # delete the template's other examples

--keep takes names of data, models and recipes; a recipe keeps its data and its model, and the first of each kind
become the defaults. The first rename also removes what serves the template alone, keeps the template's README.md as
src/NEW_NAME/README.md and writes a page for your project. Older runs still load: config.py keeps FORMER_NAMES.
"""

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE_ONLY = ("scripts/template/", "tests/template/", ".ci/")
FORK_PAGE = "scripts/template/fork/README.md"
CODE = {".py", ".ipynb", ".yaml", ".yml", ".toml", ".lock"}
FORMER_NAMES = re.compile(r"(?m)^(FORMER_NAMES\b.*= )(\(.*\))$")

# The examples that the template ships, with the files of the package that each needs. --keep deletes nothing else.
DATA = {
    "cifar10": ["cifar10.py"],
    "digits": ["digits.py", "digits.csv.gz"],
    "hf_text": ["hf_text.py", "text.py", "vocabulary.py"],
    "mnist": ["mnist.py", "mnist_sample.npz"],
    "shakespeare": ["shakespeare.py", "shakespeare_sample.txt.gz", "text.py", "vocabulary.py"],
    "text": ["text.py", "vocabulary.py"],
}
MODELS = ("autoencoder", "convnet", "diffusion", "gan", "gan_autoencoder", "mlp", "module", "transformer")
RECIPES = {
    "digits_diffusion": ("digits", "diffusion"),
    "digits_gan": ("digits", "gan"),
    "digits_gan_autoencoder": ("digits", "gan_autoencoder"),
    "digits_mlp": ("digits", "mlp"),
    "digits_module": ("digits", "module"),
    "mnist_autoencoder": ("mnist", "autoencoder"),
    "mnist_convnet": ("mnist", "convnet"),
    "shakespeare_gpt": ("shakespeare", "transformer"),
}
EXAMPLES = {"data": DATA, "model": {name: [f"{name}.py"] for name in MODELS}}
SHARED = ("classification", "sample_quality", "text_windows")  # files of configs/_shared, of use to some of them
PARTS = {
    "autoencoder": [f"configs/model/{part}/{kind}.yaml" for part in ("encoder", "decoder") for kind in ("conv", "mlp")]
}
SCRIPTS = {"transformer": "scripts/sample.py"}  # of no use without that model


def refuse(problem: str, remedy: str) -> NoReturn:
    print(f"rename.py: {problem}\n{remedy}\nNothing was changed.", file=sys.stderr)
    sys.exit(2)


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        refuse(f"git {words[0]}: {done.stderr.strip()}", "Start from a git clone: git lists the files to change.")
    return done.stdout


def read_texts() -> dict[str, str]:
    """Every text file that git does not ignore; line ends and bytes that are not UTF-8 stay as they are."""
    names = git("grep", "-lIz", "--untracked", "-e", "", "--", ".", ":!LICENSE")  # the licence names its authors
    return {name: (ROOT / name).read_bytes().decode(errors="surrogateescape") for name in names.split("\0")[:-1]}


def check_name(new: str, texts: dict[str, str]) -> None:
    """A name that other files use as a word could not be replaced again, and might hide what they import."""
    advice = "Choose another: letters, digits and single underscores, like bird_calls."
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", new):
        refuse(f"{new!r} is not a name for a package.", advice)
    if new in {*map(str.lower, keyword.kwlist), *keyword.softkwlist, "null", "yes", "no", "on", "off"}:
        refuse(f"{new!r} is a keyword.", advice)
    if new in sys.stdlib_module_names or importlib.util.find_spec(new):
        refuse(f"{new!r} is a module that is installed.", advice)
    word = re.compile(rf"\b{new.replace('_', '[-_]')}\b")
    for name, text in texts.items():
        is_code = Path(name).suffix in CODE and not name.startswith((*TEMPLATE_ONLY, "scripts/rename.py"))
        if is_code and word.search(text):
            refuse(f"{new!r} is a word that {name} uses already.", advice)


def choose(names: list[str]) -> dict[str, list[str]]:
    """The data and the models to keep, in the order given."""
    keep: dict[str, list[str]] = {"data": [], "model": []}
    for name in names:
        if name not in {*DATA, *MODELS, *RECIPES}:
            refuse(f"--keep: there is no {name!r}.", f"There are: {', '.join([*DATA, *MODELS, *RECIPES])}.")
        data, model = RECIPES.get(name, (name, name))
        if data in DATA:
            keep["data"].append(data)
        if model in MODELS:
            keep["model"].append(model)
    for group, kept in keep.items():
        if not kept:
            refuse(f"--keep names no {group}.", f"Add one of: {', '.join(EXAMPLES[group])}.")
    return keep


def delete_examples(keep: dict[str, list[str]], package: str, texts: dict[str, str]) -> list[str]:
    """The files of the other examples; in `texts`, defaults and commands name those that stay."""
    unwanted = []
    for group, examples in EXAMPLES.items():
        gone = [name for name in examples if name not in keep[group]]
        needed = {file for name in keep[group] for file in examples[name]}
        unwanted += [f"configs/{group}/{name}.yaml" for name in gone]
        unwanted += [f"{package}/{group}/{file}" for name in gone for file in examples[name] if file not in needed]
        unwanted += [SCRIPTS[name] for name in gone if name in SCRIPTS]
        unwanted += [file for name in gone for file in PARTS.get(name, ())]
        first, names = keep[group][0], "|".join(examples)
        for name in ("configs/base.yaml", f"{package}/train.py", f"{package}/experiment.py", "scripts/README.md"):
            text = re.sub(rf"(?m)^(  - {group}: )\w+", rf"\g<1>{first}", texts[name])
            texts[name] = re.sub(rf"\b{group}=(?:{names})\b", f"{group}={first}", text)
    recipes = [name for name, (data, model) in RECIPES.items() if not (data in keep["data"] and model in keep["model"])]
    unwanted += [f"configs/experiment/{name}.yaml" for name in recipes]
    configs = [text for name, text in texts.items() if name.startswith("configs/") and name not in unwanted]
    idle = [name for name in SHARED if not any(f"/_shared/{name}" in text for text in configs)]
    unwanted += [f"configs/_shared/{name}.yaml" for name in idle]
    return [name for name in dict.fromkeys(unwanted) if (ROOT / name).exists()]


def rename(texts: dict[str, str], old: str, new: str) -> dict[str, str]:
    """The new texts under the old file names. A plain replacement: the word stands for nothing but the package."""
    renamed = {}
    for name, text in texts.items():
        text = re.sub(rf"\b{old}\b", new, text)
        renamed[name] = re.sub(rf"\b{old.upper()}_", f"{new.upper()}_", text)
    config = f"src/{old}/config.py"
    former = FORMER_NAMES.search(texts[config])
    if former is None:
        refuse(f"{config} has no line FORMER_NAMES: tuple[str, ...] = ().", "Restore it: older runs load through it.")
    names = (*re.findall(r"\w+", former[2]), old)
    renamed[config] = FORMER_NAMES.sub(former[1] + str(names).replace("'", '"'), renamed[config])
    return renamed


def write_pages(renamed: dict[str, str], old: str, new: str) -> None:
    """The template's README.md becomes the manual, two folders further down, and the fork's page takes its place."""
    renamed[f"src/{old}/README.md"] = re.sub(r"\]\((?!http|#)", "](../../", renamed["README.md"])
    renamed["README.md"] = renamed[FORK_PAGE]
    description = f'description = "{new}: a PyTorch research project."'
    renamed["pyproject.toml"] = re.sub("(?m)^description = .*$", description, renamed["pyproject.toml"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", metavar="NEW_NAME")
    parser.add_argument("--dry-run", action="store_true", help="print what would change, touch nothing")
    parser.add_argument("--keep", metavar="NAMES", help="delete the template's examples that are not named here")
    parser.add_argument("--force", action="store_true", help="in spite of uncommitted changes")
    args = parser.parse_args()
    new = args.name.lower().replace("-", "_")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    old = project["project"]["name"]
    texts = read_texts()
    before = dict(texts)
    check_name(new, texts)
    if git("status", "--porcelain", ".") and not (args.force or args.dry_run):
        refuse("uncommitted changes: git could not undo this.", "Commit or stash them, or add --force.")
    removed = [name for name in TEMPLATE_ONLY if FORK_PAGE in texts and (ROOT / name).exists()]
    if args.keep is not None:
        removed += delete_examples(choose(args.keep.split(",")), f"src/{old}", texts)
    renamed = rename(texts, old, new)
    if FORK_PAGE in texts:
        write_pages(renamed, old, new)
    kept = {name: text for name, text in renamed.items() if not name.startswith(tuple(removed))}
    changed = [name for name, text in kept.items() if text != before.get(name)]
    if args.dry_run:
        plan = [f"move src/{old} to src/{new}", *(f"remove {name}" for name in removed)]
        print("\n".join([*plan, *(f"change {name}" for name in changed)]))
        return
    for name in changed:
        (ROOT / name).write_bytes(renamed[name].encode(errors="surrogateescape"))
    for name in removed:
        if name.endswith("/"):
            shutil.rmtree(ROOT / name)
        else:
            (ROOT / name).unlink()
    (ROOT / "src" / old).rename(ROOT / "src" / new)
    print(f"{old} is now {new}. Next: pdm install && pdm run format && pdm run test")


if __name__ == "__main__":
    main()
