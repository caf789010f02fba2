"""Config: which file wins, what is refused and in which words, what --help says, and that Hydra leaves nothing behind.

Most of it composes in this process, in a copy of configs/ with a dataset, a model and an optimizer of its own.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Train
from omegaconf import DictConfig, OmegaConf

from scaffolding.config import PROJECT_ROOT, Config, upgrade
from scaffolding.core.config.compose import Project, compose_config, groups
from scaffolding.core.config.usage import change_of, changes, rules_table
from scaffolding.core.errors import UserError
from scaffolding.experiment import PROJECT

TESTS = Path(__file__).parent
ENV = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(PROJECT_ROOT / "src")])}
SHORT = ["mode=dev", "plots=none", "run.budget=1", "run.rehearse_resume=false", "loader.num_workers=0"]
OPTIONS = [(group, option) for group, options in groups(PROJECT.configs).items() for option in options]
OWN = {
    "data/points.yaml": "dataset: {_target_: test_config.Points}\nnum_classes: 2\nimage_shape: [1, 4, 4]\n",
    "model/net.yaml": "# @package _global_\nmodel: {_target_: test_config.Net, hidden_size: 3}\n"
    "loss: {_target_: test_config.Loss}\n",
    "optimizer/descent.yaml": "_target_: test_config.Descent\nlr: 0.01\nmomentum: 0.9\n",
    "scheduler/constant.yaml": "schedule: null\n",
    "tracker/nobody.yaml": "{}\n",
    "tracker/one.yaml": "one: {_target_: test_config.Tracker, where: here}\n",
    "tracker/two.yaml": "two: {_target_: test_config.Tracker, where: there}\n",
    "plots/blank.yaml": "{}\n",
    "mode/plain.yaml": "# @package _global_\n{}\n",
}
OWN_OPTIONS = dict(reversed([place.removesuffix(".yaml").split("/") for place in OWN]))


def write(project: Project, place: str, text: str) -> None:
    file = project.configs / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def pin(project: Project, key: str, value: Any) -> None:
    """Write a number into base.yaml."""
    base = OmegaConf.load(project.configs / "base.yaml")
    OmegaConf.update(base, key, value)
    OmegaConf.save(base, project.configs / "base.yaml")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The configs in a folder of their own: defaults of our own, and without what base.yaml pins of the groups."""
    project = Project(tmp_path / "project", PROJECT.package, Config)
    shutil.copytree(PROJECT.configs, project.configs, ignore=shutil.ignore_patterns("local.yaml"))
    base = yaml.safe_load((PROJECT.configs / "base.yaml").read_text())
    base["defaults"] = [own_default(entry) for entry in base["defaults"]]
    kept = {name: base[name] for name in ("defaults", "run", "loader", "paths")}
    (project.configs / "base.yaml").write_text(yaml.safe_dump(kept))
    for place, text in OWN.items():
        write(project, place, text)
    return project


def own_default(entry: Any) -> Any:
    """An entry of base.yaml's defaults: `schema`, or {group: option}."""
    return {group: OWN_OPTIONS.get(group, entry[group]) for group in entry} if isinstance(entry, dict) else entry


def compose(project: Project, *overrides: str) -> DictConfig:
    return compose_config(project, list(overrides))


# --- which file wins ---


def test_a_number_in_base_wins_over_the_groups(project: Project) -> None:
    pin(project, "optimizer.lr", 0.125)
    pin(project, "run.budget", "7steps")
    pin(project, "loader.batch_size", 3)
    for optimizer in groups(project.configs)["optimizer"]:
        cfg = compose(project, f"optimizer={optimizer}")
        assert (cfg.optimizer.lr, cfg.run.budget, cfg.loader.batch_size) == (0.125, "7steps", 3)


@pytest.mark.parametrize("mode", groups(PROJECT.configs).get("mode", []))
def test_a_mode_wins_over_base_where_it_says_something(project: Project, mode: str) -> None:
    pinned = {"run.budget": "7steps", "loader.batch_size": 3, "optimizer.lr": 0.125}
    for key, value in pinned.items():
        pin(project, key, value)
    says = OmegaConf.load(project.configs / "mode" / f"{mode}.yaml")
    cfg = compose(project, f"mode={mode}", "tracker=nobody")
    for key, value in pinned.items():
        assert OmegaConf.select(cfg, key) == OmegaConf.select(says, key, default=value)


def test_later_files_win(project: Project) -> None:
    """base < experiment < local < mode < command line; also where they contradict a group."""
    setting = "# @package _global_\nrun: {{accumulate: {0}}}\noptimizer: {{lr: {0}}}\n"
    assert compose(project).run.accumulate != 11
    pin(project, "run.accumulate", 11)
    pin(project, "optimizer.lr", 11)
    words: list[str] = []
    for value, place in enumerate(["", "experiment/mine.yaml", "local.yaml", "mode/loud.yaml", "command line"], 11):
        if place.endswith(".yaml"):
            write(project, place, setting.format(value))
            words += [] if place == "local.yaml" else [place.removesuffix(".yaml").replace("/", "=")]
        elif place:
            words += [f"run.accumulate={value}", f"optimizer.lr={value}"]
        cfg = compose(project, *words)
        assert (cfg.run.accumulate, cfg.optimizer.lr) == (value, value), place


def test_an_experiment_chooses_groups_and_the_command_line_wins(project: Project) -> None:
    write(project, "optimizer/other.yaml", "_target_: test_config.Other\nlr: 1.0\n")
    write(project, "experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: other\n")
    assert compose(project, "experiment=mine").optimizer == {"_target_": "test_config.Other", "lr": 1.0}
    chosen = compose(project, "experiment=mine", "optimizer=descent").optimizer
    assert chosen == {"_target_": "test_config.Descent", "lr": 0.01, "momentum": 0.9}


def test_switching_leaves_nothing_of_the_other_behind(project: Project) -> None:
    for group, option in OPTIONS:
        file = project.configs / group / f"{option}.yaml"
        if group in ("optimizer", "scheduler", "plots", "tracker") and "defaults:" not in file.read_text():
            assert compose(project, f"{group}={option}")[group] == OmegaConf.load(file), file


def test_blocks_under_names_are_chosen_together(project: Project) -> None:
    assert list(compose(project, "tracker=[one,two]", "tracker.two.where=elsewhere").tracker) == ["one", "two"]
    assert list(compose(project, "tracker=two").tracker) == ["two"]
    assert list(compose(project, "plots=[curves,blank]").plots) == ["curves"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(project: Project, group: str, option: str) -> None:
    """Every one there is here; what refers to an example that was deleted is skipped."""
    try:
        compose(PROJECT if group == "experiment" else project, f"{group}={option}")
    except UserError as error:
        # a model for other kinds of data
        missing_fact = re.search(r" refers to data\.|^data\.[\w.]+ is not set", str(error))
        missing_part = re.search("Could not load|Could not find|no such option", str(error))
        if not (missing_fact or missing_part):
            raise
        pytest.skip(str(error))


# --- what is refused ---

REFUSED = [
    ("runn.x=1", "runn.x: no such key", "nearest: run"),
    ("+runn.x=1", "runn.x: no such key", "nearest: run"),
    ("run.bugdet=3", "run.bugdet: no such key", "nearest: run.budget"),
    ("+run.bugdet=3", "run.bugdet", "run.budget"),
    ("++loader.batch_sise=3", "loader.batch_sise", "loader.batch_size"),
    ("~run.bugdet", "run.bugdet", "run.budget"),
    ("optimizer.learning_rte=1", "optimizer.learning_rte", "nearest: optimizer.lr"),
    ("model.hiden=1", "model.hiden", "nearest: model.hidden_size"),
    ("data.clases=1", "data.clases", "nearest: data.num_classes"),
    ("optimiser=descent", "optimiser", "nearest: optimizer"),
    ("optimizer=descend", "optimizer=descend: no such option", "nearest: descent"),
    ("mode=plane", "mode=plane: no such option", "nearest: plain"),
    ("experiment=nosuch", "experiment=nosuch: no such option", "nosuch"),
    ("optimizer=null", "optimizer=null", ""),
    ("loader.batch_size=abc", "loader.batch_size=abc", "Integer"),
    ("loader.batch_size=1.5", "loader.batch_size=1.5", "Integer"),
    ("loader.batch_size=null", "loader.batch_size=null", "not Optional"),
    ("loader.batch_size=0", "loader.batch_size=0: not allowed", "allowed: 1 or more"),
    ("loader.limit_train=0", "loader.limit_train=0", "above 0"),
    ("loader.start_method=fokr", "loader.start_method=fokr", "fork, spawn, forkserver"),
    ("run.seed=-1", "run.seed=-1", "0 or more"),
    ("run.compile=maybe", "run.compile=maybe", "bool"),
    ("run.tags=x", "run.tags=x", "list"),
    ("run.ema_decay=1", "run.ema_decay=1", "between 0 and 1"),
    ("run.clip_grad_norm=0", "run.clip_grad_norm=0", "above 0"),
    ("run.precision=float64", "run.precision=float64", "float32, bfloat16, float16"),
    ("run.monitor_mode=mean", "run.monitor_mode=mean", "min, max"),
    ("run.budget=0", "run.budget=0", "5epochs"),
    ("run.budget=5min", "run.budget=5min", "5epochs"),
    ("run.log_every=3min", "run.log_every=3min", "1epoch|5epochs"),
    ("run.eval_every=-1", "run.eval_every=-1", "10min"),
    ("run=3", "run=3", "RunConfig"),
    ("paths.data=null", "paths.data=null", "not Optional"),
    ("optimizer.lr=${model.nosuch}", "optimizer.lr refers to model.nosuch", "declare model.nosuch in YAML"),
    ("optimizer.lr=${nosuch}", "optimizer.lr refers to nosuch, which is not a key", "or set optimizer.lr itself"),
    ("scheduler={schedule: null, intervall: step}", "scheduler.intervall: no such key", "+scheduler.intervall="),
    ("optimizer=[1]", "optimizer=[1]: no such option", "adamw"),
    ("run.seed=1,2", "run.seed=1,2: several values", "--multirun"),
    ("run.name=${", "run.name", ""),
    ("run.seed", "run.seed", ""),
]


@pytest.mark.parametrize(("override", "what", "remedy"), REFUSED)
def test_refused_in_words(project: Project, override: str, what: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(project, override)
    text = str(caught.value)
    assert what in text and any(word in text for word in remedy.split("|")), text
    assert 1 <= len(text.splitlines()) <= 3


def test_a_file_may_not_add_keys_either(project: Project) -> None:
    write(project, "experiment/mine.yaml", "# @package _global_\nrun: {bugdet: 3}\n")
    with pytest.raises(UserError, match=r"bugdet"):
        compose(project, "experiment=mine")


@pytest.mark.parametrize("place", ["base.yaml", "optimizer/descent.yaml", "local.yaml"])
def test_a_syntax_error_is_placed(project: Project, place: str) -> None:
    text = (project.configs / place).read_text() if place != "local.yaml" else "run:\n  seed: 3\n"
    write(project, place, text + "broken: [1, 2\nnext: 3\n")
    with pytest.raises(UserError) as caught:
        compose(project)
    line = len(text.splitlines()) + 2
    assert str(caught.value).startswith(f"{project.configs / place}:{line}:"), str(caught.value)


def test_nothing_is_left_of_hydra_in_this_process(project: Project) -> None:
    from hydra.core.global_hydra import GlobalHydra

    before = GlobalHydra.instance().hydra
    compose(project)
    with pytest.raises(UserError):
        compose(project, "runn.x=1")
    assert GlobalHydra.instance().hydra is before


# --- the real entry point ---


def is_empty(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


@pytest.mark.parametrize(
    ("word", "key"),
    [("runn.x=1", "runn.x"), ("+run.bugdet=3", "run.bugdet"), ("loader.batch_size=abc", "loader.batch_size"),
     ("mode=nosuch", "mode=nosuch"), ("data.val_from_train=1", "val_from_train"), ("resume=", "run in")],
)  # fmt: skip
def test_refused_at_the_door(train: Train, tmp_path: Path, output_root: Path, word: str, key: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = train(*own_configs(), *SHORT, word, code=2, cwd=elsewhere, env=ENV)
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 3 and lines[0].startswith("error: ") and key in lines[0], done.stderr
    assert done.stdout == ""
    assert is_empty(output_root) and is_empty(elsewhere)


def own_configs() -> list[str]:
    return ["--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "optimizer=fatal", "tracker=none"]


def test_a_syntax_error_has_no_traceback(project: Project) -> None:
    """Not even in the file that a resume reads before Hydra starts, for where the runs are."""
    write(project, "local.yaml", "paths: [1, 2\nnext: 3\n")
    program = (
        "import sys; from pathlib import Path\n"
        "from scaffolding.config import Config\n"
        "from scaffolding.core.config.compose import Project\n"
        "from scaffolding.core.launch import launch\n"
        "launch(print, Project(Path(sys.argv.pop(1)), '', Config))\n"
    )
    for more in ([], ["resume=latest"]):
        words = [sys.executable, "-c", program, str(project.root), *more]
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        assert done.returncode == 2 and len(done.stderr.splitlines()) <= 3, done.stderr
        assert "local.yaml:2:" in done.stderr


def test_cfg_job_prints_the_config_and_leaves_nothing(train: Train, tmp_path: Path, output_root: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = train("--cfg", "job", *own_configs(), "mode=dev", "run.seed=7", cwd=elsewhere)
    cfg = yaml.safe_load(done.stdout)
    assert cfg["run"]["seed"] == 7
    assert cfg["model"]["_target_"] == "tiny.TinyNet"  # --config-dir added a folder of the user's
    assert is_empty(output_root) and is_empty(elsewhere)


def test_multirun_makes_one_folder_of_jobs(train: Train, tmp_path: Path, output_root: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    train("--multirun", *own_configs(), *SHORT, "run.seed=3,4", cwd=elsewhere, env=ENV)
    [sweep] = output_root.iterdir()
    assert sweep.name.startswith("exp_")
    folders = [path for path in sweep.iterdir() if path.is_dir()]
    jobs = {path.name[-5:]: path for path in folders}
    assert sorted(jobs) == ["_job0", "_job1"] and len(folders) == 2
    for name, seed in (("_job0", 3), ("_job1", 4)):
        assert yaml.safe_load((jobs[name] / "config.yaml").read_text())["run"]["seed"] == seed
        assert f"run.seed={seed}" in yaml.safe_load((jobs[name] / "overrides.yaml").read_text())
    assert is_empty(elsewhere)
    assert not {"outputs", "multirun", ".hydra"} & {path.name for path in tmp_path.rglob("*")}


def test_help(train: Train, tmp_path: Path) -> None:
    lines = train("--config-dir", str(TESTS / "configs"), "--help", cwd=tmp_path).stdout.splitlines()
    assert is_empty(tmp_path)
    defaults = OmegaConf.load(PROJECT.configs / "base.yaml").defaults
    chosen = {group: entry[group] for entry in defaults if isinstance(entry, DictConfig) for group in entry}
    for group, options in groups(PROJECT.configs).items():
        shown = " ".join(line for line in lines if line.startswith(f"  {group} ")).split()
        marked = {f"*{option}" if option == chosen.get(group) else option for option in options}
        assert marked <= set(shown), group
    words = " ".join(lines).split()
    assert "noisy" in words and "tiny" in words  # of the user's own folder
    base = (PROJECT.configs / "base.yaml").read_text().splitlines()
    keys = [line for line in base[base.index("run:") :] if line.strip()]
    rule_of = {line[10:]: line[:10].strip() for line in lines}
    assert len(keys) > 20 and set(keys) <= set(rule_of)  # with unit and meaning, as they stand there
    for line in keys:
        key = line.strip().partition(":")[0]
        if line.startswith("  ") and f"run.{key}" in rules():
            assert rule_of[line] == rules()[f"run.{key}"], line


def rules() -> dict[str, str]:
    return {key: word for key, word in changes(Config) if key.startswith(("run.", "loader.", "paths."))}


def test_every_setting_has_a_rule() -> None:
    expected = {"optimizer.lr": "course", "plots.x.y": "free", "tracker.x": "free", "imports": "free"}
    expected |= dict.fromkeys(("data.x", "model.x", "scheduler.schedule.final", "nosuch"), "identity")
    for key, word in (rules() | expected).items():
        assert change_of(Config, key) == word and word in ("free", "course", "identity"), key
    table = rules_table(Config).splitlines()[:5]
    assert all(line.count("|") == 5 for line in table)
    for key in rules():
        section, _, name = key.partition(".")
        assert len([line for line in table if re.search(rf"{section}:( \w+)* {name}\b", line)]) == 1, key


# --- files that reach out of their group ---


@pytest.mark.parametrize(
    ("place", "text", "what"),
    [
        ("model/mine.yaml", "# @package _global_\ndefaults: [net, _self_]\nrun: {seed: 3}\n", "sets run:"),
        ("model/mine.yaml", "# @package _global_\ndefaults:\n  - net\nloader:\n  batch_size: 3\n", "sets loader:"),
        ("model/mine.yaml", "model: {_target_: test_config.Net}\nloss: {_target_: test_config.Loss}\n", "sets model:"),
        ("model/mine.yaml", "# Mine.\n# @package _global_\nmodel:\n  x: 1\n", "very first line"),
        ("data/mine.yaml", "dataset: {_target_: test_config.Points}\nrun:\n  seed: 3\n", "sets run:"),
        ("optimizer/mine.yaml", "# @package _global_\npaths:\n  data: x\noptimizer: {lr: 1}\n", "sets paths:"),
    ],
)
def test_a_file_that_reaches_out_of_its_group_is_refused_by_name(
    project: Project, place: str, text: str, what: str
) -> None:
    write(project, place, text)
    with pytest.raises(UserError) as caught:
        compose(project, place.removesuffix(".yaml").replace("/", "="))
    assert str(project.configs / place) in str(caught.value) and what in str(caught.value)


def test_an_experiment_and_a_mode_may_reach_everywhere(project: Project) -> None:
    for place in ("experiment/mine.yaml", "mode/mine.yaml"):
        write(project, place, "# @package _global_\nrun: {seed: 3}\nloader: {batch_size: 5}\n")
        cfg = compose(project, place.removesuffix(".yaml").replace("/", "="))
        assert (cfg.run.seed, cfg.loader.batch_size) == (3, 5)


# --- runs of earlier versions ---


def test_runs_of_format_1_are_upgraded() -> None:
    name = PROJECT.package
    generator, critic = ({"_target_": f"{name}.model.gan.{part}Loss"} for part in ("Generator", "Discriminator"))
    mapped = {"_target_": f"{name}.losses.MappedLoss", "inputs": None}
    cosine = {"_target_": f"{name}.schedules.cosine"}
    other = {"_target_": "torch.optim.lr_scheduler.StepLR"}
    moves: list[tuple[Any, Any]] = [
        ({"loss": {"g": generator | {"noise_size": 4}, "d": critic}}, {"loss": {"g": generator, "d": critic}}),
        ({"loss": critic | {"noise_size": 4}}, {"loss": critic}),
        ({"loss": mapped}, {"loss": mapped | {"_target_": f"{name}.model.module.MappedLoss"}}),
        ({"tracker": {"_target_": f"{name}.tracker.wandb.Wandb", "mode": "x"}},
         {"tracker": {"wandb": {"_target_": f"{name}.tracker.wandb.Wandb", "mode": "x"}}}),
        ({"tracker": {"mode": "x"}}, {"tracker": {"wandb": {"mode": "x"}}}),
        ({"scheduler": {"schedule": None, "interval": "step", "monitor": None}}, {"scheduler": {"schedule": None}}),
        ({"scheduler": {"schedule": cosine, "interval": "step", "monitor": None}}, {"scheduler": {"schedule": cosine}}),
        ({"scheduler": {"a": {"schedule": other, "interval": "epoch", "monitor": None}}},
         {"scheduler": {"a": {"schedule": other, "interval": "epoch"}}}),
        ({"scheduler": {"schedule": other, "interval": "step", "monitor": "val/loss"}},
         {"scheduler": {"schedule": other, "interval": "step"}}),
        ({"scheduler": {"schedule": other, "interval": "metric", "monitor": "val/loss"}},
         {"scheduler": {"schedule": other, "monitor": "val/loss"}}),
    ]  # fmt: skip
    for before, after in moves:
        assert upgrade(before) == after
        assert upgrade(after) == after
        assert before != after


# --- which sources ---


def test_a_script_of_another_checkout_runs_its_own_sources(tmp_path: Path) -> None:
    """Where both share an environment, in which only one is installed."""
    package = Path("src", PROJECT.package)
    for folder in (package, Path("configs")):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "configs" / "base.yaml", "a") as file:
        file.write("# of the other checkout\n")
    words = [sys.executable, str(tmp_path / package / "train.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "# of the other checkout" in done.stdout, done.stderr
