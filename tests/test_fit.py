"""Runs from Python: those of the command line, bit by bit; and the lines that scripts/README.md shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TINY, Train, assert_same_run, generators, tree
from test_loop import SEARCH

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import Facts
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.train import fit

WORDS = (
    "data=noisy", "model=tiny", "plots=none", "tracker=none", "mode=prod", "run.budget=24", "run.log_every=1",
    "run.eval_every=5", "run.save_every=4", "loader.batch_size=16", "+model.is_frozen=false",
)  # fmt: skip


def test_a_run_from_python_is_that_of_the_command_line(train: Train, output_root: Path) -> None:
    """The second one in a process, too, as in a sweep; and what the first one was made of is written down."""
    for seed in (1, 2):
        words = [*WORDS, f"run.seed={seed}", f"paths.output_root={output_root}", f"run.name=python{seed}"]
        exp = Experiment.from_config(SEARCH, *words)
        fit(exp)
        train(SEARCH, *words[:-1], f"run.name=shell{seed}")
        runs = [output_root / f"{name}{seed}" for name in ("python", "shell")]
        assert_same_run(*runs)
        assert exp.path == runs[0] and exp.history() == Facts(runs[0] / "facts").rows()
        ours, theirs = (yaml.safe_load((run / "overrides.yaml").read_text()) for run in runs)
        assert ours[:-1] == theirs[:-1] and ours == words
        assert not any(word in (runs[0] / "overrides.yaml").read_text() for word in ("hydra", str(PROJECT.configs)))


def test_a_run_from_python_can_be_carried_on(
    train: Train, output_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that it prints, whatever program it was."""
    fit(Experiment.from_config(SEARCH, *WORDS, f"paths.output_root={output_root}", "run.name=python"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("resume:")]
    program, *words = line.split()[2:]
    assert Path(program) == PROJECT.sources / "train.py"
    done = train(*words, "run.budget=30")
    train("fork=python", "run.budget=2", *TINY[:2], "run.name=forked", f"paths.output_root={output_root}")
    assert "data=noisy" in yaml.safe_load((output_root / "forked" / "overrides.yaml").read_text())
    assert "resuming" in done.stderr and Facts(output_root / "python" / "facts").rows()[-1]["step"] > 24


def test_an_experiment_has_one_run(output_root: Path) -> None:
    """Fails where trained weights begin a run whose config says that they are new."""
    words = [SEARCH, *WORDS, f"paths.output_root={output_root}", "run.name=run", "run.budget=2"]
    before = generators()
    exp = Experiment.from_config(*words)
    assert generators() == before
    fit(exp)
    written = tree(output_root)
    for again in (exp, Experiment.from_path(output_root / "run", trust=("tiny",))):
        with pytest.raises(UserError, match=r"this experiment is the run .*run\nbuild another one"):
            fit(again)
    with pytest.raises(UserError, match="resume=run: a run is carried on by the command line"):
        Experiment.from_config(*words, "resume=run")
    assert tree(output_root) == written


def test_a_secret_is_not_written_down(output_root: Path) -> None:
    secret = "sek" + "ret"
    words = [*WORDS, "+data.dataset.api_key=" + secret, f"paths.output_root={output_root}", "run.name=run"]
    with pytest.raises(UserError, match="takes no argument 'api_key'"):
        Experiment.from_config(SEARCH, *words)
    exp = Experiment.from_config(SEARCH, *WORDS, f"run.tags=[{'hf_' + 'a' * 34}]", *words[-2:], "run.budget=2")
    fit(exp)
    assert "a" * 34 not in (output_root / "run" / "overrides.yaml").read_text()


@pytest.mark.full
def test_the_documented_lines(tmp_path: Path) -> None:
    """As they stand in scripts/README.md, but for where the runs go."""
    blocks = re.findall(r"^```python\n(.*?)^```$", (PROJECT_ROOT / "scripts/README.md").read_text(), re.M | re.S)
    (lines,) = [block for block in blocks if "from_config" in block]
    for group, name in re.findall(r'"(data|model)=(\w+)"', lines):
        if not (PROJECT_ROOT / "configs" / group / f"{name}.yaml").exists():
            pytest.skip(f"{group}={name} has been deleted")
    more = f'"loader.sample=true", "loader.batch_size=8", "paths.output_root={tmp_path}"'  # nothing is downloaded
    changed = lines.replace('"mode=prod"', f'"mode=prod", {more}').replace("budget=200", "budget=20")
    assert changed != lines
    done = subprocess.run([sys.executable, "-c", changed], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/summary.json"))) == 4 and "'split': 'test'" in done.stdout
