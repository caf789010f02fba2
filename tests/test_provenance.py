"""Where a run came from: commit, uncommitted work, packages; and what is never written down."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import tree

from scaffolding.core.config.compose import hide_secrets, masked
from scaffolding.core.folder import provenance

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "override", ["tracker.api_key=abc", "tracker.apikey=abc", "+x.password=abc", "x.secret=abc", "x.key=abc",
                 "x.token=abc", "++hf_token=abc", "x.Credentials=abc"],
)  # fmt: skip
def test_secrets_are_masked(override: str) -> None:
    key = override.partition("=")[0]
    assert masked(override) == f"{key}=***"
    name = key.lstrip("+")
    assert hide_secrets({"a": {name: "abc"}, "b": [1]}) == {"a": {name: "***"}, "b": [1]}


@pytest.mark.parametrize(
    "override", ["optimizer.lr=3", "run.name=monkey", "data.num_tokens=1000", "data.tokenizer=bpe", "model.keys=q",
                 "loss.max_tokens=3", "mode=dev", "--multirun", "run.monitor=val/key"],
)  # fmt: skip
def test_what_is_no_secret_stays(override: str) -> None:
    """A fork repeats the overrides, and a resumed run reads its own config: a hidden value would break both."""
    key, _, value = override.partition("=")
    assert masked(override) == override
    assert hide_secrets({key: value}) == {key: value}


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
    trees = [
        {Path(name).relative_to(root): content for name, (_, content) in tree(root).items()}
        for root in (repository, clone)
    ]
    trees = [{name: content for name, content in files.items() if ".git" not in name.parts} for files in trees]
    trees[0].pop(Path("ignored.log"))
    assert trees[0] == trees[1]


def test_provenance_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for path in (os.environ["PATH"], str(tmp_path)):  # not a repository; no git at all
        monkeypatch.setenv("PATH", path)
        described = provenance.describe(tmp_path, tmp_path, CPU)
        assert (described["commit"], described["dirty"]) == (None, None)
        assert provenance.uncommitted_changes(tmp_path) == ""
    assert {"torch", "numpy"} <= set(described["packages"])
    yaml.safe_dump(json.loads(json.dumps(described)))  # plain values only
