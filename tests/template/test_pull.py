"""scripts/pull_template.py: a fork that was renamed and edited gets what the template did later."""

from pathlib import Path

import pytest
from test_rename import ROOT, commit, copy_repository, git, rename, run

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
PULL = ("python", "scripts/pull_template.py", "template/main")


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert text.count(old) == 1, f"{name} does not hold {old}"
    (root / name).write_text(text.replace(old, new))


def shown(fork: Path, name: str) -> str:
    return (fork / name).read_text()


@pytest.fixture
def template(tmp_path: Path) -> Path:
    template = copy_repository(tmp_path / "template")
    git(template, "branch", "-M", "main")
    return template


@pytest.fixture
def fork(template: Path, tmp_path: Path) -> Path:
    """A fork with another name and without an example, whose owner edited train.py, a config and pyproject.toml."""
    fork = tmp_path / "fork"
    git(tmp_path, "clone", "--quiet", str(template), str(fork))
    for name in ("user.name", "user.email"):
        git(fork, "config", name, "owner")
    rename(fork, "bird_calls")
    run(fork, "ruff", "check", "--fix", "-q", ".")
    run(fork, "ruff", "format", "-q", ".")
    edit(
        fork, "src/bird_calls/train.py", '        if exp.due("log"):\n', '        # ours\n        if exp.due("log"):\n'
    )
    edit(fork, "configs/base.yaml", "seed: 42", "seed: 7")
    edit(fork, "pyproject.toml", '    "hydra-core', '    "einops>=0.8",\n    "hydra-core')
    (fork / "configs/data/cifar10.yaml").unlink()
    commit(fork)
    git(fork, "remote", "add", "template", str(template))
    return fork


@pytest.mark.full
def test_two_pulls_into_an_edited_fork(template: Path, fork: Path) -> None:
    (template / "src/scaffolding/core/later.py").write_text(
        '"""New."""\n\nfrom .errors import UserError as UserError\n'
    )
    (template / "tests/test_later.py").write_text("from scaffolding.core import later as later\n")
    edit(template, "src/scaffolding/train.py", '    """The console command."""\n', '    """What the command does."""\n')
    edit(template, "configs/base.yaml", "batch_size: 64", "batch_size: 32")
    edit(template, "configs/data/cifar10.yaml", "num_classes: 10", "num_classes: 10 # changed")
    commit(template)
    git(fork, "fetch", "--quiet", "template")
    assert "merged template/main" in run(fork, *PULL)
    train = shown(fork, "src/bird_calls/train.py")
    assert "        # ours\n" in train and '"""What the command does."""' in train
    assert "scaffolding" not in train
    base = shown(fork, "configs/base.yaml")
    assert "seed: 7" in base and "batch_size: 32" in base
    assert "einops" in shown(fork, "pyproject.toml")
    assert shown(fork, "tests/test_later.py") == "from bird_calls.core import later as later\n"
    assert (fork / "src/bird_calls/core/later.py").exists() and not (fork / "src/scaffolding").exists()
    assert not (fork / "configs/data/cifar10.yaml").exists() and not (fork / "tests/template").exists()
    assert not git(fork, "status", "--porcelain") and git(fork, "worktree", "list").count("\n") == 1
    said = run(fork, "python", "src/bird_calls/train.py", "data=digits", "model=mlp", "mode=dev", "tracker=none")
    assert "tensors identical" in said
    assert "is here already" in run(fork, *PULL)

    edit(template, "configs/base.yaml", "batch_size: 32", "batch_size: 16")  # a line that the first pull brought
    commit(template)
    git(fork, "fetch", "--quiet", "template")
    run(fork, *PULL)
    assert "seed: 7" in shown(fork, "configs/base.yaml") and "batch_size: 16" in shown(fork, "configs/base.yaml")


@pytest.mark.full
def test_a_conflict_is_git_s_own(template: Path, fork: Path) -> None:
    edit(template, "configs/base.yaml", "seed: 42", "seed: 43")
    edit(template, "src/scaffolding/train.py", '    """The console command."""\n', '    """What the command does."""\n')
    commit(template)
    git(fork, "fetch", "--quiet", "template")
    before = git(fork, "rev-parse", "HEAD")
    said = run(fork, *PULL, code=1)
    assert "UU configs/base.yaml" in said and "<<<<<<<" in shown(fork, "configs/base.yaml")
    git(fork, "merge", "--abort")
    assert not git(fork, "status", "--porcelain") and "seed: 7" in shown(fork, "configs/base.yaml")
    run(fork, *PULL, code=1)
    git(fork, "checkout", "--ours", "configs/base.yaml")
    git(fork, "add", "configs/base.yaml")
    git(fork, "commit", "--quiet", "--no-edit")
    assert git(fork, "rev-parse", "HEAD^1") == before
    assert git(fork, "rev-parse", "HEAD^2") == git(fork, "rev-parse", "template/main")
    assert '"""What the command does."""' in shown(fork, "src/bird_calls/train.py")
    assert "is here already" in run(fork, *PULL)


def test_what_is_refused_changes_nothing(template: Path, fork: Path, tmp_path: Path) -> None:
    git(fork, "fetch", "--quiet", "template")
    (fork / "configs/base.yaml").write_text("")
    assert "uncommitted" in run(fork, *PULL, code=2)
    git(fork, "checkout", "configs/base.yaml")
    assert "nosuch" in run(fork, *PULL[:2], "nosuch", code=2)
    git(fork, "checkout", "--quiet", "--orphan", "alone")  # GitHub's "Use this template" makes such a history
    commit(fork)
    began = git(template, "rev-parse", "HEAD").strip()
    edit(template, "configs/base.yaml", "batch_size: 64", "batch_size: 32")
    commit(template)
    git(fork, "fetch", "--quiet", "template")
    assert "no commit in common" in run(fork, *PULL, code=2)
    assert "merged" in run(fork, *PULL, "--base", began)
    assert "batch_size: 32" in shown(fork, "configs/base.yaml") and "seed: 7" in shown(fork, "configs/base.yaml")
