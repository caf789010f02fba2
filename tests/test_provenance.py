"""Where a run came from: commit, uncommitted work, packages."""

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from conftest import tree
from loguru import logger

from scaffolding.core.provenance import git as asked
from scaffolding.core.provenance import patch, provenance
from scaffolding.core.provenance.git import GitError

CPU = torch.device("cpu")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ann@example.org")
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    (root / "src").mkdir()
    texts = {"changed.py": "old\n", "removed.py": "gone\n", "staged.py": "old\n", ".gitignore": "*.log\n"}
    for name, text in texts.items():
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def project(root: Path) -> Any:
    return SimpleNamespace(root=root, sources=root / "src", configs=root / "configs")


def keep(root: Path, run: Path) -> tuple[dict[str, Any], str]:
    """Write the changes of a checkout into a new folder; what provenance.json says of them, and what the log says."""
    run.mkdir()
    said = io.StringIO()
    handler = logger.add(said, format="{message}")
    known = provenance.keep_changes(run, project(root))
    logger.remove(handler)
    return known, said.getvalue()


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True).stdout.decode()


def checkout(repository: Path, folder: Path, changes: Path) -> dict[Path, bytes]:
    """The files that a clone has with a patch applied."""
    git(folder.parent, "-c", "protocol.file.allow=always", "clone", "--quiet", str(repository), str(folder))
    if changes.stat().st_size:
        git(folder, "apply", str(changes))
    return contents(folder)


def contents(root: Path) -> dict[Path, bytes]:
    """The files of a working tree."""
    files = {Path(name).relative_to(root): content for name, (_, content) in tree(root).items()}
    return {path: content for path, content in files.items() if ".git" not in path.parts}


def edit(repository: Path) -> None:
    """Every kind of change."""
    (repository / "changed.py").write_text("new\n")
    (repository / "removed.py").unlink()
    (repository / "staged.py").write_text("staged\n")
    git(repository, "add", "staged.py")
    (repository / "staged.py").write_text("and changed again\n")
    (repository / "sub" / "untracked.py").write_text("new file\n")
    (repository / "sub" / "bytes.bin").write_bytes(bytes(range(256)))
    (repository / "sub" / "caf\u00e9 \n.py").write_bytes(b"# caf\xe9\r\n")
    (repository / "link").symlink_to("changed.py")
    (repository / "run.sh").write_text("#!/bin/sh\n")
    (repository / "run.sh").chmod(0o755)
    (repository / "ignored.log").write_text("not this\n")


def test_the_patch_gives_the_tree_back(repository: Path, tmp_path: Path) -> None:
    known, said = keep(repository, tmp_path / "clean")
    assert known == {"commit": git(repository, "rev-parse", "HEAD").strip(), "dirty": False} and said == ""
    assert (tmp_path / "clean" / "changes.patch").read_bytes() == b""
    edit(repository)
    before = tree(repository / ".git")

    known, said = keep(repository, tmp_path / "run")
    assert tree(repository / ".git") == before, "something was written into the repository"
    assert known == {"commit": git(repository, "rev-parse", "HEAD").strip(), "dirty": True} and said == ""
    file = tmp_path / "run" / "changes.patch"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = checkout(repository, tmp_path / "clone", file)
    assert again == {path: text for path, text in contents(repository).items() if path.suffix != ".log"}
    assert (tmp_path / "clone" / "link").is_symlink() and os.access(tmp_path / "clone" / "run.sh", os.X_OK)


USER = """
[color]
    ui = always
    diff = always
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = false
    renames = copies
    suppressBlankEmpty = true
    context = 0
[diff "upper"]
    textconv = tr a-z A-Z <
    command = false
[core]
    attributesFile = {attributes}
    quotePath = false
    fsmonitor = false
    safecrlf = true
    hooksPath = {hooks}
[status]
    showUntrackedFiles = no
"""


def test_what_a_user_sets_does_not_reach_the_patch(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(repository)
    keep(repository, tmp_path / "plain")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "post-index-change").write_text(f"#!/bin/sh\ntouch {tmp_path}/hook\n")
    (hooks / "post-index-change").chmod(0o755)
    (tmp_path / "attributes").write_text("*.py diff=upper\n")
    (tmp_path / "gitconfig").write_text(USER.format(attributes=tmp_path / "attributes", hooks=hooks))
    for name, value in {
        "GIT_DIR": str(tmp_path), "GIT_INDEX_FILE": str(tmp_path / "index"), "GIT_EXTERNAL_DIFF": "false",
        "GIT_DIFF_OPTS": "-u0", "GIT_WORK_TREE": str(tmp_path), "GIT_TRACE": "1", "GIT_LITERAL_PATHSPECS": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    known, said = keep(repository, tmp_path / "run")
    assert known["dirty"] is True and said == "" and not (tmp_path / "hook").exists()
    patches = [(tmp_path / name / "changes.patch").read_bytes() for name in ("plain", "run")]
    assert patches[0] == patches[1] != b""


def empty_repository(root: Path) -> None:
    git(root, "init", "--quiet", "notes")


def nested_repository(root: Path) -> None:
    git(root, "init", "--quiet", "notes")
    (root / "notes" / "x.py").write_text("1\n")
    git(root / "notes", "add", ".")
    git(root / "notes", "commit", "--quiet", "-m", "x")


def changed_submodule(root: Path) -> None:
    nested_repository(root)
    git(root, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./notes", "notes")
    git(root, "commit", "--quiet", "-m", "with a submodule")
    (root / "notes" / "x.py").write_text("2\n")


def filtered(root: Path) -> None:
    """A filter that fails, and one that works."""
    git(root, "config", "filter.bad.clean", "false")
    git(root, "config", "filter.bad.required", "true")
    git(root, "config", "filter.good.clean", "sed s/two/one/")
    git(root, "config", "filter.good.smudge", "sed s/one/two/")
    (root / ".git" / "info" / "attributes").write_text("*.good filter=good\nnotes filter=bad\n")
    (root / "x.good").write_text("two\n")
    (root / "notes").write_text("text\n")


def large(root: Path) -> None:
    (root / "notes").write_bytes(os.urandom(6_000_000))


def deleted_large(root: Path) -> None:
    large(root)
    git(root, "add", "notes")
    git(root, "commit", "--quiet", "-m", "large")
    (root / "notes").unlink()


def replaced_by_a_pipe(root: Path) -> None:
    (root / "notes").write_text("text\n")
    git(root, "add", "notes")
    git(root, "commit", "--quiet", "-m", "notes")
    (root / "notes").unlink()
    os.mkfifo(root / "notes")


def a_key_in_it(root: Path) -> None:
    (root / "notes").write_text("the key is ghp_" + "a1B2" * 10)


LEFT_OUT: dict[Callable[[Path], None], str] = {
    empty_repository: "another git repository",
    nested_repository: "another git repository",
    changed_submodule: "another git repository",
    filtered: "external filter 'false' failed",
    large: "6.0 MB",
    deleted_large: "6.0 MB",
    replaced_by_a_pipe: "not a plain file",
    a_key_in_it: "key of GitHub",
}


@pytest.mark.parametrize("spoil", LEFT_OUT, ids=lambda spoil: spoil.__name__)
def test_what_is_not_in_the_patch_is_named_and_the_rest_is_in_it(
    repository: Path, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(repository)
    edit(repository)
    before = tree(repository / ".git")
    known, said = keep(repository, tmp_path / "run")
    assert tree(repository / ".git") == before, "something was written into the repository"
    ((name, why),) = known["left_out"].items()
    assert name.rstrip("/") == "notes" and LEFT_OUT[spoil] in why and known["dirty"]
    assert said.count("\n") == 1 and f"changes.patch lacks {name} (" in said
    again = checkout(repository, tmp_path / "clone", tmp_path / "run" / "changes.patch")
    here = {path: text for path, text in contents(repository).items() if path.suffix != ".log"}
    assert {p: text for p, text in again.items() if p.parts[0] != "notes"} == {
        p: text.replace(b"two", b"one") for p, text in here.items() if p.parts[0] not in ("notes", "x.good")
    } | {p: text.replace(b"two", b"one") for p, text in here.items() if p.name == "x.good"}


@pytest.mark.parametrize(
    "name",
    [".env.local", ".env", "credentials.json", "id_rsa", ".netrc", "kaggle.json", "server.pem", "sub/api_key.txt",
     "secrets.yaml", "hf_token", "gcp-service-account.json", ".aws/credentials"],
)  # fmt: skip
def test_files_of_keys_are_left_out(repository: Path, tmp_path: Path, name: str) -> None:
    (repository / name).parent.mkdir(exist_ok=True)
    (repository / name).write_text("sekret\n")
    for other in ("tokens.py", ".env.example", "keys.json", "secret.py"):
        (repository / other).write_text("fine\n")
    known, said = keep(repository, tmp_path / "run")
    content = (tmp_path / "run" / "changes.patch").read_text()
    assert "sekret" not in content and content.count("+fine") == 4
    assert list(known["left_out"]) == [name] and name in said and "sekret" not in said


@pytest.mark.parametrize("name", [".env", "train.py"])
@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_key_that_is_taken_out_is_not_in_the_patch(
    repository: Path, tmp_path: Path, name: str, is_deleted: bool
) -> None:
    """Fails where the lines that a patch removes repeat a key that was committed."""
    key = "hf_" + "a1" * 20
    (repository / name).write_text(f"token = {key}\n")
    git(repository, "add", "--force", ".")
    git(repository, "commit", "--quiet", "-m", "x")
    if is_deleted:
        (repository / name).unlink()
    else:
        (repository / name).write_text("token = None\n")
    known, said = keep(repository, tmp_path / "run")
    assert list(known["left_out"]) == [name] and name in said
    assert key not in (tmp_path / "run" / "changes.patch").read_text()


def test_lfs_files_are_in_the_patch_as_they_are(repository: Path, tmp_path: Path) -> None:
    """Its filter would keep a hash in the patch, and the content in the repository."""
    (repository / ".gitattributes").write_text("*.bin filter=lfs -text\n")
    (repository / "x.bin").write_text(patch.POINTER.format("0" * 64, 3))
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "x")
    git(repository, "config", "filter.lfs.clean", f"touch {tmp_path}/filtered; sha256sum")
    (repository / "x.bin").write_bytes(b"\0\1\2")
    known, said = keep(repository, tmp_path / "run")
    assert known["dirty"] and said == "" and not (tmp_path / "filtered").exists()
    assert checkout(repository, tmp_path / "clone", tmp_path / "run" / "changes.patch")[Path("x.bin")] == b"\0\1\2"


def test_hidden_changes_are_in_the_patch(repository: Path, tmp_path: Path) -> None:
    """Of files that git was told to overlook, or that .gitignore hides although they are code."""
    git(repository, "update-index", "--assume-unchanged", "changed.py")
    git(repository, "update-index", "--skip-worktree", "staged.py")
    for name in ("changed.py", "staged.py"):
        (repository / name).write_text("new\n")
    (repository / ".git" / "info" / "exclude").write_text("data/\n")
    (repository / "src" / "data").mkdir()
    (repository / "src" / "data" / "birds.py").write_text("code\n")
    (repository / "src" / "data" / "birds.npy").write_text("data\n")
    keep(repository, tmp_path / "run")
    again = checkout(repository, tmp_path / "clone", tmp_path / "run" / "changes.patch")
    assert again[Path("changed.py")] == again[Path("staged.py")] == b"new\n"
    assert Path("src/data/birds.py") in again and Path("src/data/birds.npy") not in again


def test_many_files_cost_a_bounded_patch(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patch, "MAX_TOTAL", 10_000)
    for index in range(300):
        (repository / f"{index}.dat").write_bytes(os.urandom(100))
    (repository / "last.py").write_text("x = 1\n" * 100)
    known, said = keep(repository, tmp_path / "run")
    content = (tmp_path / "run" / "changes.patch").read_bytes()
    assert b"last.py" in content and len(content) < 40_000 and len(known["left_out"]) == 200
    assert "and 201 more" in said and len(said) < 1000


def test_before_the_first_commit_all_files_are_in_the_patch(repository: Path, tmp_path: Path) -> None:
    edit(repository)
    shutil.rmtree(repository / ".git")
    git(repository, "init", "--quiet")
    known, said = keep(repository, tmp_path / "run")
    assert known == {"commit": None, "dirty": True} and "no commit yet" in said
    git(tmp_path, "init", "--quiet", "clone")
    git(tmp_path / "clone", "apply", str(tmp_path / "run" / "changes.patch"))
    here = {path: text for path, text in contents(repository).items() if path.suffix != ".log"}
    assert contents(tmp_path / "clone") == here


def test_a_folder_within_a_repository(repository: Path, tmp_path: Path) -> None:
    """What is changed around it belongs to the patch; new files around it do not, and what git ignores is kept."""
    inner = repository / "projects" / "mine"
    (inner / "src").mkdir(parents=True)
    (inner / "src" / "x.py").write_text("code\n")
    (repository / "changed.py").write_text("new\n")
    (repository / "new.py").write_text("not mine\n")
    for ignored in ("", "projects/\n"):
        (repository / ".git" / "info" / "exclude").write_text(ignored)
        run = tmp_path / f"run{len(ignored)}"
        keep(inner, run)
        again = checkout(repository, tmp_path / f"clone{len(ignored)}", run / "changes.patch")
        assert again[Path("projects/mine/src/x.py")] == b"code\n" and again[Path("changed.py")] == b"new\n"
        assert Path("new.py") not in again


@pytest.mark.parametrize("why", ["no repository", "not installed", "fails", "is slow"])
def test_without_git_the_sources_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    root = tmp_path / "root"
    for name in ("src/x.py", "configs/base.yaml", "configs/local.yaml", "pyproject.toml", "data.bin"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("content\n")
    (root / "src" / "large.json").write_bytes(bytes(6_000_000))
    if why != "no repository":
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        (tmp_path / "bin").mkdir()
    if why in ("fails", "is slow"):
        code = {"fails": "echo 'fatal: dubious ownership' >&2; exit 128", "is slow": "exec /bin/sleep 60"}[why]
        (tmp_path / "bin" / "git").write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "bin" / "git").chmod(0o755)
        monkeypatch.setattr(asked, "TIMEOUT", 0.3)
    known, said = keep(root, tmp_path / "run")
    words = {"no repository": "not a git repository", "fails": "dubious ownership", "is slow": "longer than 0.3 s"}
    assert words.get(why, "git is not installed") in said and "sources.tar.gz in the run's folder holds" in said
    assert known == {"commit": None, "dirty": None, "left_out": {"src/large.json": "6.0 MB"}}
    with tarfile.open(tmp_path / "run" / "sources.tar.gz") as file:
        assert sorted(file.getnames()) == ["configs/base.yaml", "pyproject.toml", "src/x.py"]
    assert (tmp_path / "run" / "changes.patch").read_bytes() == b""


def test_the_record_holds_plain_values() -> None:
    described = provenance.describe(Path(__file__).parent, CPU, 1)
    assert {"torch", "numpy"} <= set(described["packages"])
    yaml.safe_dump(json.loads(json.dumps(described)))


def test_a_broken_package_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install that was cut short leaves a folder without METADATA, or without a name in it."""
    for name, text in (("one-1.0", None), ("two-1.0", "Version: 1.0\n"), ("whole-1.0", "Name: whole\nVersion: 1.0\n")):
        folder = tmp_path / "site" / f"{name}.dist-info"
        folder.mkdir(parents=True)
        if text is not None:
            (folder / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert provenance.describe(tmp_path, CPU, 1)["packages"]["whole"] == "1.0"


def test_a_git_that_becomes_slow_has_named_the_commit(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where what git has said is lost with what it has not."""

    def too_slow(*_: Any) -> Any:
        raise GitError("git took longer than 5 s")

    monkeypatch.setattr(patch, "_differing", too_slow)
    known, said = keep(repository, tmp_path / "run")
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert known["commit"] == commit and commit[:10] in said and list((tmp_path / "run").glob("sources.tar.gz"))
