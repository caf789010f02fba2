"""scripts/rename.py, on copies of this repository."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="needs a git checkout")

REFERENCE = re.compile(  # the contexts in which the word is the package, its folder, its command or its project
    r"""src/scaffolding\b | /home/me/scaffolding\b | \bscaffolding-train\b | \bscaffolding\.(?=[a-z_]+)
    | \bfrom\ scaffolding\ import\b | \bimport\ scaffolding\b | (?<=["'`])scaffolding(?=["'`])
    | (?<=:\ )scaffolding(?=\ \#) | (?<=,)scaffolding(?=\}) | (?<=\(\?!)scaffolding(?=\|) | \A\#\ scaffolding\n""",
    re.VERBOSE,
)


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=test", "-c", "user.email=test", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def copy_repository(target: Path) -> Path:
    """What git knows of this repository, and what is new and not ignored, as a clone with everything committed."""
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    git(target, "init", "-q")
    commit(target)
    return target


def commit(fork: Path) -> None:
    git(fork, "add", "-A")
    git(fork, "commit", "-qm", "all")


def run(fork: Path, *command: str, code: int = 0) -> str:
    """Run a command as in an activated environment that `pdm install` has made for a fork; its output."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(fork / "src")  # in place of the editable install, which leads to the original
    done = subprocess.run(command, cwd=fork, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{command[-1]}\n{done.stdout[-5000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def assert_lint_and_quick_tests_pass(fork: Path, *files: Path) -> None:
    """Of all test files, or of some."""
    run(fork, "ruff", "check", "--fix", "-q", ".")  # imports are sorted by another name: `pdm run format`
    run(fork, "ruff", "format", "-q", ".")
    run(fork, "ruff", "check", ".")
    run(fork, "mypy")
    run(fork, "pytest", "-m", "not full", "-n", "2", "-p", "no:cacheprovider", *map(str, files))


def rename(fork: Path, *words: str, code: int = 0) -> str:
    return run(fork, "python", "scripts/rename.py", *words, code=code)


def contents(fork: Path) -> dict[str, bytes]:
    files = [path for path in sorted(fork.rglob("*")) if path.is_file() and ".git" not in path.parts]
    return {path.relative_to(fork).as_posix(): path.read_bytes() for path in files if path.suffix != ".pyc"}


@pytest.fixture
def fork(tmp_path: Path) -> Path:
    return copy_repository(tmp_path / "fork")


def test_the_word_is_nowhere_prose() -> None:
    """So that replacing it everywhere changes references alone."""
    found = []
    for name in git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines():
        path = ROOT / name
        is_binary = path.suffix in (".npz", ".gz", ".png", ".pt")
        if not is_binary and name not in ("LICENSE", "tests/template/test_rename.py"):
            rest = REFERENCE.sub("", path.read_text(encoding="utf-8")) if path.is_file() else ""
            found += [f"{name}: {line.strip()}" for line in rest.splitlines() if re.search(r"(?i)scaffolding\b", line)]
    assert found == []


def test_this_repository_renamed(fork: Path) -> None:
    script = fork / "scripts/with_windows_lines.py"
    script.write_bytes(b"import scaffolding\r\n\r\nprint(scaffolding.data)\r\n")
    script.chmod(0o755)
    commit(fork)
    before = contents(fork)
    assert "bird_calls" in rename(fork, "bird-calls")
    after = contents(fork)
    left = [name for name, text in after.items() if re.search(rb"(?i)scaffolding", text)]
    assert left == ["LICENSE", "src/bird_calls/config.py"]
    assert b'\nFORMER_NAMES: tuple[str, ...] = ("scaffolding",)\n' in after["src/bird_calls/config.py"]
    gone = {name for name in before if name.startswith(("scripts/template/", "tests/template/", ".ci/"))}
    moved = {name.replace("src/scaffolding/", "src/bird_calls/") for name in set(before) - gone}
    assert set(after) == moved | {"src/bird_calls/README.md"}
    assert after["scripts/with_windows_lines.py"] == b"import bird_calls\r\n\r\nprint(bird_calls.data)\r\n"
    assert script.stat().st_mode & 0o777 == 0o755
    run(fork, "python", "-m", "compileall", "-q", "src", "scripts", "tests")
    page, manual = after["README.md"].decode(), after["src/bird_calls/README.md"].decode()
    assert page.startswith("# bird_calls\n") and len(page.splitlines()) <= 50
    assert "(src/bird_calls/README.md)" in page
    links = re.findall(r"\]\((?!http|#)([^)#]+)", manual)
    assert links and all((fork / "src/bird_calls" / link).exists() for link in links)


def test_a_second_rename_keeps_what_the_owner_wrote(fork: Path) -> None:
    rename(fork, "bird_calls")
    (fork / ".ci").mkdir()
    (fork / ".ci/run").write_text("ours\n")
    (fork / "README.md").write_text("# bird_calls\n\nOurs.\n")
    assert "uncommitted" in rename(fork, "whale_calls", code=2)
    rename(fork, "whale_calls", "--force")
    after = contents(fork)
    assert b'FORMER_NAMES: tuple[str, ...] = ("scaffolding", "bird_calls")\n' in after["src/whale_calls/config.py"]
    assert after["README.md"] == b"# whale_calls\n\nOurs.\n"
    assert after[".ci/run"] == b"ours\n"
    assert "src/whale_calls/README.md" in after


def test_what_is_refused_changes_nothing(fork: Path) -> None:
    (fork / "src/taken.py").write_text("")
    commit(fork)
    before = contents(fork)
    names = ["3d", "a.b", "", "bird calls", "é", "_x", "x-", "(", "class", "None", "match", "null", "json", "Test"]
    names += ["scaffolding", "torch", "pytest", "coolname", "rename", "taken", "batch"]  # batch: a variable
    for name in names:
        said = rename(fork, name, code=2)
        assert "bird_calls" in said and len(said.splitlines()) == 3, said
    for keep, problem in {
        "mnits,convnet": "no 'mnits'",
        "mnist": "no model",
        "convnet": "no data",
        "": "no ''",
    }.items():
        assert problem in rename(fork, "bird_calls", "--keep", keep, code=2)
    planned = rename(fork, "bird_calls", "--keep", "mnist,convnet", "--dry-run").splitlines()
    assert {"move src/scaffolding to src/bird_calls", "remove scripts/template/", "remove configs/data/text.yaml",
            "change configs/base.yaml", "change README.md"} <= set(planned)  # fmt: skip
    (fork / "configs/ours.yaml").write_text("")
    assert "uncommitted" in rename(fork, "bird_calls", code=2)
    (fork / "configs/ours.yaml").unlink()
    assert contents(fork) == before


def test_the_list_of_examples_is_that_of_the_folders() -> None:
    listed = runpy.run_path(str(ROOT / "scripts/rename.py"))
    data, models, recipes = listed["DATA"], listed["MODELS"], listed["RECIPES"]
    for group, names in {"data": data, "model": models, "experiment": recipes}.items():
        assert [path.stem for path in sorted((ROOT / "configs" / group).glob("*.yaml"))] == sorted(names)
    package = ROOT / "src/scaffolding"
    files = {f"{group}/{path.name}" for group in ("data", "model") for path in (package / group).glob("*.*")}
    own = {f"data/{file}" for files in data.values() for file in files} | {f"model/{name}.py" for name in models}
    assert files - {"data/__init__.py", "model/__init__.py"} == own
    assert [path.stem for path in sorted((ROOT / "configs/_shared").glob("*.yaml"))] == sorted(listed["SHARED"])
    for name, pair in recipes.items():
        text = (ROOT / f"configs/experiment/{name}.yaml").read_text()
        assert re.findall(r"override /(?:data|model): (\w+)", text) == list(pair)


def test_only_the_template_s_own_examples_go(fork: Path) -> None:
    """A file of the owner stays, whatever it is called and whatever it names."""
    own = ["configs/data/mnist_rotated.yaml", "configs/experiment/digits_mine.yaml", "src/scaffolding/data/digits_b.py"]
    for name in own:
        (fork / name).write_text("# - override /data: digits\n")
    commit(fork)
    before = contents(fork)
    rename(fork, "bird_calls", "--keep", "shakespeare_gpt,mnist,mlp")
    after = contents(fork)
    names = {name for name in after if re.match(r"configs/(data|model|experiment)/", name)}
    assert names == {*own[:2], "configs/data/shakespeare.yaml", "configs/data/mnist.yaml", "configs/model/mlp.yaml",
                     "configs/model/transformer.yaml", "configs/experiment/shakespeare_gpt.yaml"}  # fmt: skip
    shared = {name for name in after if name.startswith("configs/_shared/")}
    assert shared == {"configs/_shared/classification.yaml", "configs/_shared/text_windows.yaml"}  # no samples
    assert {"src/bird_calls/data/digits_b.py", "src/bird_calls/data/text.py", "scripts/sample.py"} <= set(after)
    assert b"\n  - data: shakespeare\n  - model: transformer\n" in after["configs/base.yaml"]
    assert b"data=shakespeare mode=dev" in after["src/bird_calls/train.py"]
    gone = {name for name in before if name.replace("src/scaffolding/", "src/bird_calls/") not in after}
    folders = ("src/scaffolding/data/", "src/scaffolding/model/", "configs/", "scripts/template/", "tests/template/")
    assert all(name.startswith((*folders, ".ci/")) for name in gone)


@pytest.mark.full
def test_quick_tests_and_lint_pass_after_a_rename(fork: Path) -> None:
    """Fails where a test names an example that it does not test, or needs a program, or core/ names the package."""
    rename(fork, "bird_calls", "--keep", "shakespeare_gpt")
    shutil.copytree(ROOT / "src/scaffolding/core", fork / "src/bird_calls/core", dirs_exist_ok=True)  # a newer core
    for program in (*fork.glob("scripts/*.py"), *fork.glob("scripts/*.ipynb")):  # the README says that they may go
        program.unlink()
    commit(fork)
    assert_lint_and_quick_tests_pass(fork)
