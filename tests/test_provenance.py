"""Where a run came from: commit, uncommitted work, packages."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tree

from scaffolding.core.folder import provenance

CPU = torch.device("cpu")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "Ann")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "ann@example.org")
    root = tmp_path / "repository"
    (root / "sub").mkdir(parents=True)
    texts = {"changed.py": "old\n", "removed.py": "gone\n", "staged.py": "old\n", ".gitignore": "*.log\n"}
    for name, text in texts.items():
        (root / name).write_text(text)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "first")
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout


def test_the_patch_gives_the_tree_back(repository: Path, tmp_path: Path) -> None:
    assert provenance.uncommitted_changes(repository) == ""
    assert provenance.describe(repository, repository, CPU)["dirty"] is False
    (repository / "changed.py").write_text("new\n")
    (repository / "removed.py").unlink()
    (repository / "staged.py").write_text("staged\n")
    git(repository, "add", "staged.py")
    (repository / "staged.py").write_text("and changed again\n")
    (repository / "sub" / "untracked.py").write_text("new file\n")
    (repository / "sub" / "bytes.bin").write_bytes(bytes(range(256)))
    (repository / "ignored.log").write_text("not this\n")
    index, status = (repository / ".git" / "index").read_bytes(), git(repository, "status", "--porcelain")

    patch = provenance.uncommitted_changes(repository)
    described = provenance.describe(repository, repository, CPU)
    assert (repository / ".git" / "index").read_bytes() == index
    assert git(repository, "status", "--porcelain") == status
    assert described["dirty"] is True and described["commit"] == git(repository, "rev-parse", "HEAD").strip()

    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(clone))
    (tmp_path / "changes.patch").write_text(patch)
    git(clone, "apply", str(tmp_path / "changes.patch"))
    assert contents(clone) == {path: text for path, text in contents(repository).items() if path.suffix != ".log"}


def contents(root: Path) -> dict[Path, bytes]:
    """The files of a working tree."""
    files = {Path(name).relative_to(root): content for name, (_, content) in tree(root).items()}
    return {path: content for path, content in files.items() if ".git" not in path.parts}


def test_provenance_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path in (os.environ["PATH"], str(tmp_path)):  # not a repository; no git at all
        monkeypatch.setenv("PATH", path)
        described = provenance.describe(tmp_path, tmp_path, CPU)
        assert (described["commit"], described["dirty"]) == (None, None)
        assert provenance.uncommitted_changes(tmp_path) == ""
    assert {"torch", "numpy"} <= set(described["packages"])
    yaml.safe_dump(json.loads(json.dumps(described)))  # plain values only


def test_a_broken_package_ends_nothing(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An install that was cut short leaves a folder without METADATA, or without a name in it."""
    for name, text in (("one-1.0", None), ("two-1.0", "Version: 1.0\n"), ("whole-1.0", "Name: whole\nVersion: 1.0\n")):
        folder = tmp_path / "site" / f"{name}.dist-info"
        folder.mkdir(parents=True)
        if text is not None:
            (folder / "METADATA").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert provenance.describe(repository, repository, CPU)["packages"]["whole"] == "1.0"
