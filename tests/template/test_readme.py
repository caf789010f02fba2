"""README.md, scripts/README.md and configs/README.md, executed in a clone: each command, file and changed line in them.

A block is ```bash (commands), ```python or ```yaml (a file, where one of its first lines is a comment with its path,
else a program), ```diff (lines to replace) or ```text. A ```text block right after commands is what they print.
`Commands within a sentence` are executed, too. The install commands really run, with this test's pip. Of
scripts/README.md, the lines that begin with `python scripts/`, but for those in ELSEWHERE.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from test_rename import ROOT, commit, copy_repository

from scaffolding.config import Config
from scaffolding.core.config.usage import rules_table

DATA = os.environ.get("SCAFFOLDING_TEST_DATA")
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|pdm|pip|source) [^`]*)`")
FILE = re.compile(r"^# (added at the end of )?((?:src|configs|scripts|tests)/[\w./]+)", re.MULTILINE)
# the real run is cut short, and without the data it trains on the sample that the package ships
SHORT = "run.budget=20steps" + ("" if DATA else " loader.sample=true")
# lines of scripts/README.md that other tests run: they need a text, a file, an optional group, W&B, a queue or a remote
ELSEWHERE = re.compile(r"(sample|predict|export|sync|replay|rename|pull_template|sweep|submit|clean_jobs|ray)\.py")
CALLED = {"data=NAME": "data=birdcall", "model=NAME": "model=birdnet"}  # of the names that a user puts in


@pytest.fixture
def clone() -> Iterator[Path]:
    """A clone on a machine with Python, pip and git. It goes with its environment, which takes gigabytes."""
    with TemporaryDirectory(prefix="readme_") as folder:
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/python"], check=True)
        yield copy_repository(Path(folder, "clone"))


def run(clone: Path, *command: str) -> str:
    """The output of a command, as in a shell that has nothing of this test's environment."""
    dropped = ("PYTEST_", "PYTHON", "VIRTUAL_ENV", "PDM_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    places = [clone / ".venv/bin", clone.parent / "python/bin"]  # as after `source .venv/bin/activate`
    environment["PDM_NO_CACHE"] = "1"  # pdm would keep 3 GB of each install
    environment["PATH"] = os.pathsep.join([*map(str, places), os.environ["PATH"]])
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout[-5000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def run_bash(body: str, clone: Path) -> str:
    # a clone as it is: these tests are running; the fork that README.md leads to is tested in the end
    body = re.sub(r"^pdm run test\b", "pdm run test --collect-only", body, flags=re.MULTILINE)
    body = re.sub(r"^(python .*data=mnist mode=prod.*)$", rf"\1 {SHORT}", body, flags=re.MULTILINE)
    for name, called in CALLED.items():
        body = body.replace(name, called)
    return run(clone, "bash", "-euo", "pipefail", "-c", body)


def replace_lines(body: str, copy: Path) -> None:
    """Apply a diff: each group of - lines gives way to the + lines after it."""
    name, _, body = body.removeprefix("--- ").partition("\n")
    text = (copy / name).read_text()
    for group in re.findall(r"(?:^-.*\n)+(?:^\+.*\n)*", body, re.MULTILINE):
        old, new = ("".join(f"{line[1:]}\n" for line in group.splitlines() if line[0] == sign) for sign in "-+")
        assert text.count(old) == 1, f"{name} does not hold\n{old}"
        text = text.replace(old, new)
    (copy / name).write_text(text)


def looks_like(line: str) -> re.Pattern[str]:
    """A line that the README shows, with other numbers, units, run names and folders."""
    pattern = re.escape(" ".join(line.split())).replace("\\ ", r"\s+").replace(r"/home/me/scaffolding", r"\S*")
    pattern = re.sub(r"\d{4}\\-\d\d\\-\d\d_\d\d\\-\d\d\\-\d\d_[a-z]+_[a-z]+", r"\\S+", pattern)
    pattern = re.sub(r"\d+(?:(?:,|\\\.)\d+)*(?:(\\s\+)(?:min|ms|MB)\b)?", r"\\d[\\d.,e+-]*(\\s+\\w+)?", pattern)
    return re.compile(pattern.replace(r"\.\.\.", ".*"))


def execute(text: str, clone: Path) -> list[str]:
    """Do what a document says; returns the Python files that it shows."""
    files, output, last_end = [], "", 0
    for match in BLOCK.finditer(text):
        kind, body = match.groups()
        between = text[last_end : match.start()]
        run_inline(between, clone)
        last_end = match.end()
        named = FILE.search("\n".join(body.splitlines()[:2]))
        if kind == "bash":
            output = run_bash(body, clone)
        elif kind == "diff":
            replace_lines(body, clone)
        elif kind in ("python", "yaml") and named:
            file = clone / named[2]
            body = body.replace("/project/me", str(clone.parent / "site"))  # of the site in local.yaml
            file.write_text(file.read_text() + "\n" + body if named[1] else body)
            files += [named[2]] if kind == "python" else []
        elif kind == "python":
            output = run(clone, "python", "-c", body)
        elif kind == "text" and not between.strip():
            missing = [line for line in body.splitlines() if not looks_like(line).search(output)]
            assert not missing, f"not printed: {missing}\nprinted:\n{output}"
        elif kind != "text":
            pytest.fail(f"a {kind} block that names no file:\n{body}")
    run_inline(text[last_end:], clone)
    return files


def run_inline(prose: str, clone: Path) -> None:
    """Run the commands within sentences."""
    for command in INLINE.findall(prose):
        run_bash(" ".join(command.split()), clone)


def run_scripts(text: str, clone: Path) -> None:
    """Run what scripts/README.md shows, each line on the run `calls`."""
    lines = re.findall(r"^    (python scripts/.*?)(?: +#.*)?$", text, re.MULTILINE)
    lines = [re.sub(r"\bRUN\b", "calls", line) for line in lines if not ELSEWHERE.search(line)]
    assert len(lines) > 10
    for line in lines:
        run_bash(line, clone)


@pytest.mark.full
def test_every_command_and_example(clone: Path) -> None:
    """Fails where a command, a file or a number of the README does not work as it stands there.

    In the end the quick tests of the fork pass: it has another name, its own data and model, its own number in
    base.yaml, a copy of an example, and an example less, and all that configs/README.md adds.
    """
    if DATA:
        shutil.copytree(Path(DATA, "mnist"), clone / "_data/MNIST/raw", copy_function=shutil.copyfile)
    files = execute(README, clone)
    run_scripts((clone / "scripts/README.md").read_text(), clone)
    run_bash("pdm run train mode=dev run.name=both 'tracker=[wandb,tensorboard]'", clone)
    shown = [path.name for name in ("calls", "dev/both") for path in (clone / "_output" / name).rglob("*")]
    tree = next(body for kind, body in BLOCK.findall(README) if kind == "text" and "provenance.json" in body)
    # a line that only its description fills goes on with the one above
    for line in re.findall(r"^  (\S.*)", tree, re.MULTILINE):
        for name in re.split(r"\s{3,}", line.strip())[0].replace("->", "").split():
            assert Path(name).name in shown, f"no {name} in a run's folder"
    files += execute((clone / "configs/README.md").read_text(), clone)  # renamed by now
    assert len(files) == 8
    for command in (["ruff", "check", *files], ["ruff", "format", "--check", *files], ["mypy", *files]):
        run(clone, *command)
    commit(clone)
    run(clone, "pdm", "run", "test")


def test_the_map_is_that_of_the_folders() -> None:
    tree = next(body for kind, body in BLOCK.findall(README) if kind == "text" and "MACHINERY" in body)
    package = ROOT / "src" / "scaffolding"
    there = {path.name for folder in (package, package / "core") for path in folder.iterdir() if path.name[0] != "_"}
    shown = set(re.findall(r"\b(\w+\.py\b|\w+(?=/))", tree)) - {"configs", "src", "scaffolding", "scripts", "tests"}
    assert shown - {"rename.py"} == there


def test_messages_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    messages = re.findall(r"^\| `([^|]*)` \|", (ROOT / "scripts/README.md").read_text(), re.MULTILINE)
    assert len(messages) > 5
    for message in messages:
        for part in message.split("…"):
            assert len(part.strip()) < 3 or part.strip() in code, f"{part!r} of {message!r} is said nowhere"


def test_the_table_of_changes_is_that_of_config_py() -> None:
    text = (ROOT / "configs/README.md").read_text()
    assert text.partition("<!-- rules -->\n")[2].partition("<!-- end -->")[0].strip() == rules_table(Config).strip()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 370
