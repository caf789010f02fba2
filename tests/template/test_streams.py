"""Streams and environments, as configs/README.md says: its reader of shards, and DQN. Each is rehearsed and killed."""

import json
import random
import re
from pathlib import Path

import pytest
import yaml
from conftest import TESTS, TRAIN, assert_same_run, latest, run_train
from test_readme import BLOCK, FILE

DOCUMENT = (TESTS.parent / "configs/README.md").read_text()
BLOCKS = {named[2]: body for kind, body in BLOCK.findall(DOCUMENT) if (named := FILE.search(body[:200]))}
HERE = Path(__file__).parent
FOLLOWED_UP = "    if exp.ema is not None:\n"
TARGET = """\
    if exp.state.step % 7 == 0:
        exp.model.target.load_state_dict(exp.model.online.state_dict())
"""


def write_configs(folder: Path, data: str, model: str) -> Path:
    """A config folder with data=stream, model=learner and the optimizer that kills its run."""
    fatal = (TESTS / "configs/optimizer/fatal.yaml").read_text()
    files = {"data/stream": data, "model/learner": f"# @package _global_\n{model}", "optimizer/fatal": fatal}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """The documented reader and its YAML, three files of different length, and the environment of a run on them."""
    code, text = (BLOCKS[name] for name in ("src/scaffolding/data/shards.py", "configs/data/shards.yaml"))
    (tmp_path / "shards_of_readme.py").write_text(code)
    text = text.replace("scaffolding.data.shards", "shards_of_readme").replace("${paths.data}", str(tmp_path))
    chance = random.Random(0)
    (tmp_path / "shards").mkdir()
    for name, count in (("a", 11), ("b", 17), ("c", 29)):
        labels = [chance.randrange(3) for _ in range(count)]
        rows = [{"x": [chance.gauss(label, 0.3) for _ in range(8)], "y": label} for label in labels]
        (tmp_path / f"shards/{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    data = text + "dataset:\n  _target_: tiny.StillPoints\n  num_items: 40\nnum_features: 8\nnum_classes: 3\n"
    model = yaml.safe_dump(yaml.safe_load((TESTS / "configs/model/tiny.yaml").read_text()))
    return write_configs(tmp_path / "configs", data, model), {"PYTHONPATH": paths(tmp_path)}


def paths(*more: Path) -> str:
    return ":".join(map(str, [TESTS, TESTS.parent / "src", HERE, *more]))


def words(configs: Path, output_root: Path) -> list[str]:
    """The words of a run that can be killed."""
    chosen = [
        "data=stream",
        "model=learner",
        "optimizer=fatal",
        "tracker=none",
        "loader.num_workers=0",
        f"paths.output_root={output_root}",
    ]
    return ["--config-dir", str(configs), *chosen]


def check(command: list[str], env: dict[str, str], output_root: Path, file: Path) -> str:
    """Rehearse in dev mode; kill a longer run in its second epoch and carry it on. Returns what the rehearsal said."""
    done = run_train(*command, "mode=dev", "run.name=rehearsed", env=env, file=file)
    prod = [*command, "mode=prod", "plots=none", "run.budget=3epochs", "run.log_every=1", "run.save_every=4"]
    prod += ["loader.batch_size=8", "loader.limit_train=80"]
    run_train(*prod, "run.name=whole", env=env, file=file)
    run_train(*prod, "run.name=killed", env=env | {"KILL_AT": "15"}, file=file, code=-9)
    run_train("resume=killed", f"paths.output_root={output_root}", "trust=shards_of_readme,streams", env=env, file=file)
    assert_same_run(output_root / "whole", output_root / "killed")
    return done.stdout


@pytest.mark.full
def test_the_documented_reader_of_shards(output_root: Path, shards: tuple[Path, dict[str, str]]) -> None:
    configs, env = shards
    said = check(words(configs, output_root), env, output_root, TRAIN)
    assert "tensors identical" in said and "in prod mode: about " in said
    state = latest(output_root / "whole")["objects"]["loaders.train"]
    assert len(state["buffer"]) == 99 and len(state["positions"]) == 3


@pytest.mark.parametrize("name", ["positions", "turn", "buffer"])
def test_what_a_reader_forgets_is_found(output_root: Path, shards: tuple[Path, dict[str, str]], name: str) -> None:
    """Fails where a rehearsal reads nothing that depends on the state, so that a wrong recipe would pass, too."""
    configs, env = shards
    file = configs.parent / "shards_of_readme.py"
    initial = {"positions": "[0] * len(self.files)", "turn": "0", "buffer": "[]"}[name]
    text, count = re.subn(rf'"{name}": self\.{name}\b', f'"{name}": {initial}', file.read_text())
    assert count == 1
    file.write_text(text)
    done = run_train(*words(configs, output_root), "mode=dev", env=env, code=1)
    assert "resume rehearsal: " in done.stderr


@pytest.fixture
def dqn(tmp_path: Path) -> tuple[Path, dict[str, str], Path]:
    """Configs, environment and the edited train.py."""
    data = """\
stream:
  _target_: streams.Replay
  batch_size: ${loader.batch_size}
  capacity: 200
  decay_steps: 20
  forgets: null
num_items: 1000
"""
    model = """\
model:
  _target_: streams.Policy
loss:
  _target_: streams.Bellman
rollout:
  _target_: streams.Returns
"""
    text = TRAIN.read_text()
    assert text.count(FOLLOWED_UP) == 1
    file = tmp_path / TRAIN.name
    file.write_text(text.replace(FOLLOWED_UP, TARGET + FOLLOWED_UP))
    return write_configs(tmp_path / "configs", data, model), {"PYTHONPATH": paths()}, file


MONITORED = ["run.rollout_every=1epoch", "run.monitor=rollout/return", "run.monitor_mode=max"]


@pytest.mark.full
def test_dqn(output_root: Path, dqn: tuple[Path, dict[str, str], Path]) -> None:
    configs, env, file = dqn
    said = check([*words(configs, output_root), *MONITORED], env, output_root, file)
    assert "tensors identical" in said and "in prod mode: about " in said
    content = latest(output_root / "whole")
    assert len(content["objects"]["loaders.train"]["buffer"]) == 37 and content["state"]["best"] > 5


@pytest.mark.parametrize("name", ["buffer", "cart", "num_acted"])
def test_what_an_environment_forgets_is_found(
    output_root: Path, dqn: tuple[Path, dict[str, str], Path], name: str
) -> None:
    configs, env, file = dqn
    command = [*words(configs, output_root), *MONITORED, "mode=dev", f"data.stream.forgets={name}"]
    done = run_train(*command, env=env, file=file, code=1)
    assert "resume rehearsal: " in done.stderr
