"""Config: which file wins, what is refused and in which words, what --help says, and that Hydra leaves nothing behind.

Most of it composes in this process, in a copy of configs/ with the options of tests/configs/ and some more.
"""

import ast
import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import TESTS, TINY, Train, run_train
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from scaffolding.config import PROJECT_ROOT, Config, upgrade
from scaffolding.core.config.compose import Project, compose_config, groups, portable
from scaffolding.core.config.grammar import readable, split_options
from scaffolding.core.config.plugins import import_plugins
from scaffolding.core.config.usage import changes, help_text
from scaffolding.core.errors import UserError
from scaffolding.core.faults import FaultsError
from scaffolding.core.find import of_machine, open_run
from scaffolding.core.preflight.blocks import target_faults
from scaffolding.core.trust.config import read_config
from scaffolding.experiment import PROJECT

SECTIONS = ("run", "loader", "paths")
OPTIONS = [
    (group, option) for group, options in groups(PROJECT.configs).items() if "/" not in group for option in options
]  # those of a model's parts: test_parts.py
OWN = {
    "data/points.yaml": """\
dataset: {_target_: tiny.NoisyPoints, num_items: 9}
num_classes: 3
image_shape: [1, 4, 4]
""",
    "model/plain.yaml": """\
# @package _global_
model: {_target_: tiny.Pair}
loss: {_target_: tiny.PairLoss, name: generator}
""",
    "scheduler/constant.yaml": "schedule: null\n",
    "tracker/nobody.yaml": "{}\n",
    "tracker/one.yaml": "one: {_target_: test_config.Tracker, where: here}\n",
    "tracker/two.yaml": "two: {_target_: test_config.Tracker, where: there}\n",
    "plots/blank.yaml": "{}\n",
    "mode/plain.yaml": "# @package _global_\n{}\n",
}
CHOSEN = "data/points model/plain optimizer/fatal scheduler/constant tracker/nobody plots/blank mode/plain"
DEFAULTS = dict(place.split("/") for place in CHOSEN.split())


def write(project: Project, place: str, text: str) -> None:
    file = project.configs / place
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """The configs in a separate folder: our defaults, and without what base.yaml pins of the groups."""
    project = Project(tmp_path / "project", PROJECT.package, Config)
    shutil.copytree(PROJECT.configs, project.configs, ignore=shutil.ignore_patterns("local.yaml"))
    shutil.copytree(TESTS / "configs", project.configs, dirs_exist_ok=True)
    base = yaml.safe_load((PROJECT.configs / "base.yaml").read_text())
    base["defaults"] = [own_default(entry) for entry in base["defaults"]]
    write(project, "base.yaml", yaml.safe_dump({name: base[name] for name in ("defaults", "run", "loader", "paths")}))
    for place, text in OWN.items():
        write(project, place, text)
    return project


def own_default(entry: Any) -> Any:
    """An entry of base.yaml's defaults: `schema`, or {group: option}."""
    return {group: DEFAULTS.get(group, entry[group]) for group in entry} if isinstance(entry, dict) else entry


def compose(project: Project, *overrides: str) -> DictConfig:
    return compose_config(project, list(overrides))


def refusal(project: Project, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(project, *overrides)
    return str(caught.value).replace(" (command line)", "")


# --- which file wins ---


def test_later_files_win(project: Project) -> None:
    """base < experiment < local < mode < command line; also where they contradict a group."""
    setting = "# @package _global_\nrun: {{accumulate: {0}}}\noptimizer: {{lr: {0}}}\n"
    words: list[str] = []
    for value, place in enumerate(["base.yaml", "experiment/mine.yaml", "local.yaml", "mode/loud.yaml", ""], 11):
        if place == "base.yaml":
            base = OmegaConf.load(project.configs / place)
            OmegaConf.save(OmegaConf.merge(base, OmegaConf.create(setting.format(value))), project.configs / place)
        elif place:
            write(project, place, setting.format(value))
            words += [] if place == "local.yaml" else [place.removesuffix(".yaml").replace("/", "=")]
        else:
            words += [f"run.accumulate={value}", f"optimizer.lr={value}"]
        cfg = compose(project, *words)
        assert (cfg.run.accumulate, cfg.optimizer.lr) == (value, value), place or "command line"


def test_an_experiment_chooses_groups_and_the_command_line_wins(project: Project) -> None:
    write(project, "optimizer/other.yaml", "_target_: test_config.Other\nmomentum: 1.0\n")
    write(project, "experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /optimizer: other\n")
    assert compose(project, "experiment=mine").optimizer == {"_target_": "test_config.Other", "momentum": 1.0}
    assert compose(project, "experiment=mine", "optimizer=fatal") == compose(project)


def test_blocks_under_names_are_chosen_together(project: Project) -> None:
    assert list(compose(project, "tracker=[one,two]", "tracker.two.where=elsewhere").tracker) == ["one", "two"]
    assert list(compose(project, "tracker=two").tracker) == ["two"]
    assert list(compose(project, "plots=[curves,blank]").plots) == ["curves"]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_leaves_nothing_of_another_behind(project: Project, group: str, option: str) -> None:
    """Every option of this checkout; one that refers to an example that was deleted is skipped."""
    try:
        cfg = compose(PROJECT if group == "experiment" else project, f"{group}={option}")
    except UserError as error:
        # a model for other kinds of data
        missing_fact = re.search(r" refers to data\.|data\.[\w.]+: not set", str(error))
        missing_part = re.search("Could not load|Could not find|no such option", str(error))
        if not (missing_fact or missing_part):
            raise
        pytest.skip(str(error))
    file = project.configs / group / f"{option}.yaml"
    if group in ("optimizer", "scheduler", "plots", "tracker") and "defaults:" not in file.read_text():
        assert cfg[group] == OmegaConf.load(file)


# --- what is refused ---

REFUSED = {  # by what the message says besides the key
    "nearest: run": ["runn.x=1", "+runn.x=1"],
    "nearest: run.budget": ["run.bugdet=3", "+run.bugdet=3", "~run.bugdet"],
    "nearest: optimizer": ["optimiser=fatal"],
    "nearest: optimizer.lr": ["optimizer.learning_rte=1"],
    "no such option\nnearest: fatal": ["optimizer=fatl"],
    "no such option": ["experiment=nosuch", "optimizer=[1]", "optimizer=null"],
    "+scheduler.intervall=": ["scheduler={schedule: null, intervall: step}"],
    "a whole number": ["loader.batch_size=abc", "loader.batch_size=1.5"],
    "it needs a value": ["loader.batch_size=null", "paths.data=null"],
    "nearest: reduce-overhead; allowed: one of true, false, reduce-overhead, max-autotune": [
        "run.compile=reduce-overhed"
    ],
    "one of true, false, auto": ["loader.on_device=maybe", "loader.on_device=1"],
    "nearest: highest; allowed: one of highest, high": ["run.matmul=hihgest"],
    "nearest: channels_last": ["run.memory_format=channel_last"],
    "not a list\ngive one: run.tags=[x]": ["run.tags=x"],
    "not a whole number": ["run.seed=one"],
    "not true or false": ["loader.drop_last=maybe"],
    "not a mapping of settings": ["run=3"],
    "allowed: 1 or more": ["loader.batch_size=0"],
    "0 or more": ["run.seed=-1"],
    "above 0": ["run.clip_grad_norm=0"],
    "1.0 is all": [f"loader.limit_train={value}" for value in ("0", "-1", "1.5", "true", "inf", "nan", "all")],
    "is not a text": ["run.tags=[1234e5,*a]"],
    "between 0 and 1": ["run.ema_decay=1"],
    "fork, spawn, forkserver": ["loader.start_method=fokr"],
    "float32, bfloat16, float16": ["run.precision=float64"],
    "min, max": ["run.monitor_mode=mean"],
    "5epochs": ["run.budget=0", "run.budget=5min", "run.log_every=3min"],
    "10min": ["run.eval_every=-1"],
    "declare model.nosuch in YAML": ["optimizer.lr=${model.nosuch}"],
    "refers to nosuch, which is not a key": ["optimizer.lr=${nosuch}"],
    "several values\none run for each of them: add --multirun": [
        "run.seed=1,2",
        "run.seed=range(1,3)",
        "optimizer=fatal,other",
    ],
    "could not be read again": ["run.description=\\${x} (y)", "optimizer.lr='\\${x}'"],
    "put it into quotes": ["model.size=[1", "optimizer.lr=1e-4)", "run.seed=a(1)"],
    "": ["run.name=${", "run.seed", "run.description=${5}", "run.description=costs ${5} (x)", "run.description=${"],
}


@pytest.mark.parametrize(("says", "override"), [(says, word) for says, words in REFUSED.items() for word in words])
def test_refused_in_words(project: Project, says: str, override: str) -> None:
    text = refusal(project, override)
    assert override.lstrip("+~").partition("=")[0] in text and says in text, text
    assert 1 <= len(text.splitlines()) <= 3


def test_a_choice_that_is_there_is_not_blamed_for_another(project: Project) -> None:
    option = sorted(groups(project.configs)["plots"])[0]
    for words in (["+optimizer=fatal"], [f"plots=[{option}]", "+optimizer=fatal"]):
        assert refusal(project, *words) == "optimizer: chosen already\nleave out the +: optimizer=fatal"


def test_help_reads_a_base_with_a_header(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    text = "# (c) us\n\ndefaults:\n  - _self_\n\nrun:\n  budget: 1epochs  # how long\n"
    (tmp_path / "configs" / "base.yaml").write_text(text)
    shown = help_text(dataclasses.replace(PROJECT, root=tmp_path), [])
    assert "budget: 1epochs" in shown and "defaults:" not in shown


def test_the_home_of_nobody_is_a_place_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="~nobodyxyz"):
        open_run("~nobodyxyz/p", tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        import_plugins(["~nobodyxyz/p"], tmp_path)


GLOBAL = "# @package _global_\n"


@pytest.mark.parametrize(
    ("place", "text", "what"),
    [
        ("model/mine.yaml", f"{GLOBAL}defaults: [plain, _self_]\nrun: {{seed: 3}}\n", "model/mine.yaml:3:1: sets run:"),
        ("model/mine.yaml", "model: {_target_: tiny.TinyNet}\n", "model/mine.yaml:1:1: sets model:"),
        ("model/mine.yaml", f"# Mine.\n{GLOBAL}loss: {{_target_: tiny.PairLoss}}\n", "very first line"),
        ("data/mine.yaml", "dataset: {_target_: tiny.NoisyPoints}\nrun:\n  seed: 3\n", "data/mine.yaml:2:1: sets run:"),
        ("experiment/mine.yaml", f"{GLOBAL}run: {{bugdet: 3}}\n", "bugdet"),
    ],
)
def test_a_file_that_sets_what_is_not_its_own_is_refused_by_name(
    project: Project, place: str, text: str, what: str
) -> None:
    write(project, place, text)
    assert what in refusal(project, place.removesuffix(".yaml").replace("/", "="))


READ = {  # a word, and what Hydra reads
    "run.description=it's the third try": "it's the third try",
    "run.description=a=1, b=2": "a=1, b=2",
    "run.description=why: a, b (c)": "why: a, b (c)",
    "run.description=né 100 % [x] {y} #&!\\": "né 100 % [x] {y} #&!\\",
    "run.description='in quotes, already'": "in quotes, already",
    'run.description="it\'s \\"so\\""': 'it\'s "so"',
    "run.description='a' and \"b\"": "'a' and \"b\"",
    "run.description=lr ${optimizer.lr}": "lr ${optimizer.lr}",
    "run.description=": "",
    "run.description=[a]": "[a]",
    "run.name=1234e5": "1234e5",
    "run.tags=[1234e5,007,'a, b',null]": ["1234e5", "007", "a, b", "null"],
    "run.tags=[a,*b]": ["a", "*b"],
    "run.name=null": None,
    "paths.data=~/José's (x=1), [lab]/a & b #2": "~/José's (x=1), [lab]/a & b #2",
    "paths.data=/a,b": "/a,b",
    "paths.data='/a,b'": "/a,b",
    "paths.output=${paths.data}/x (y)": "${paths.data}/x (y)",
    "+data.path=/home/josé/it's (1).txt": "/home/josé/it's (1).txt",
    "+model.text='a, b'": "a, b",
    "model.size=[1,2]": [1, 2],
    "model.size=3": 3,
    "~run.tags": None,
}


@pytest.mark.parametrize("word", READ)
def test_texts_and_paths_need_no_quotes(word: str) -> None:
    """Fails where free words on the command line are met with words of a parser."""
    [read] = readable([word], Config, is_sweep=False)
    assert OverridesParser.create().parse_override(read).value() == READ[word]


def test_options_are_told_from_overrides() -> None:
    words = ["-m", "--config-dir", "/tmp/x=1", "run.seed=1,2", "--cfg", "job", "run.name=-x", "--package"]
    options, others = split_options(words)
    assert options == ["-m", "--config-dir", "/tmp/x=1", "--cfg", "job", "--package"]
    for spelt in (["-c", "job"], ["-c=job"], ["--cfg=job"]):
        assert split_options([*spelt, "run.seed=1"]) == (["--cfg", "job"], ["run.seed=1"])
    assert others == ["run.seed=1,2", "run.name=-x"]
    for wrong in (["--data", "mnist"], ["--data=mnist"], ["-x"], ["--"]):
        with pytest.raises(
            UserError, match=r"no such option\nsettings are written without dashes: [a-zA-Z]+=VALUE"
        ) as said:
            split_options(wrong)
        assert "mnist" not in str(said.value)  # it may be a key
    assert readable(["run.seed=1,2", "run.description=a,b", "paths.data=/a,b"], Config, is_sweep=True) == [
        "run.seed=1,2", "run.description=a,b", "paths.data='/a,b'",
    ]  # fmt: skip


@pytest.mark.parametrize("at_work", [None, "another"])
def test_hydra_is_left_as_it_was(project: Project, at_work: Any) -> None:
    GlobalHydra.instance().hydra = at_work
    try:
        compose(project)
        refusal(project, "runn.x=1")
        assert GlobalHydra.instance().hydra == at_work
    finally:
        GlobalHydra.instance().clear()


def told_of(config: dict[str, Any]) -> None:
    """Raise what is wrong with a block under `model`."""
    faults = list(target_faults({"model": config}))
    if faults:
        raise FaultsError(faults)


@pytest.mark.parametrize("what", ["import nosuch_library", "from torch import nosuch_name"])
def test_what_is_wrong_with_a_target_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Fails where it reads as if the owner's module were not there, or shows a traceback."""
    (tmp_path / "broken_part.py").write_text(f"{what}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=rf"importing broken_part failed: .*{what.split()[-1]}"):
        told_of({"_target_": "broken_part.Thing"})
    with pytest.raises(UserError, match="Python finds no module 'absent_part'"):
        told_of({"_target_": "absent_part.Thing"})
    with pytest.raises(UserError, match=r"model\.in_featurs=3: .* takes no argument .*\nnearest: in_features;"):
        told_of({"_target_": "torch.nn.Linear", "in_featurs": 3})


def test_every_key_of_base_yaml_is_read() -> None:
    """Fails where a setting does nothing: it is declared and nobody reads it."""
    base = yaml.safe_load((PROJECT.configs / "base.yaml").read_text())
    read: set[str] = set()
    for file in [*(PROJECT_ROOT / "src").rglob("*.py"), *(PROJECT_ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = ast.unparse(node.value).rpartition(".")[2]  # exp.settings.seed, cfg.loader.timeout
                read.add(f"{owner.replace('settings', 'run')}.{node.attr}")
            if isinstance(node, ast.Constant):  # config["run"]["tags"], intervals.due("log")
                read |= {f"{section}.{node.value}{more}" for section in SECTIONS for more in ("", "_every")}
    for file in PROJECT.configs.rglob("*.yaml"):
        read |= set(re.findall(r"\$\{((?:run|loader|paths)\.\w+)\}", file.read_text()))
    of_owner = {f"paths.{name}" for name in of_machine(Config)}  # for datasets that unpack something: here may be none
    assert {f"{section}.{name}" for section in SECTIONS for name in base[section]} - read - of_owner == set()


def test_a_run_has_the_scratch_disk_of_the_machine_it_is_on(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails where a job that is started again looks for the disk of the job before."""
    write(project, "local.yaml", "paths: {scratch: '${oc.env:NODE_DISK,null}'}\n")
    write(project, "data/points.yaml", "dataset: {_target_: tiny.NoisyPoints, num_items: 9, at: '${paths.scratch}'}\n")
    file = tmp_path / "run/config.yaml"
    file.parent.mkdir()

    def be_on(disk: str | None) -> None:
        monkeypatch.delenv("NODE_DISK", raising=False)
        if disk is not None:
            monkeypatch.setenv("NODE_DISK", disk)

    for first, then in (("/disk/1", "/disk/2"), ("/disk/1", None), (None, "/disk/2")):
        be_on(first)
        cfg = compose(project)
        assert cfg.paths.scratch == cfg.data.dataset.at == first
        file.write_text(yaml.safe_dump(portable(cfg, project)))
        assert "/disk/1" not in file.read_text()
        be_on(then)
        again = read_config(file.parent, project, ["tiny"])
        assert again.paths.scratch == again.data.dataset.at == then
        assert portable(again, project) == portable(cfg, project)
    write(project, "local.yaml", "paths: [1, 2\n")
    with pytest.raises(UserError, match=r"local\.yaml:"):
        read_config(file.parent, project)


def test_later_paths_refer_to_absolute_ones(project: Project) -> None:
    cfg = compose(project, "paths.output_root=.", "paths.output='${paths.output_root}/x'")
    assert cfg.paths.output == f"{project.root}/x"


# --- the real entry point ---


def is_empty(folder: Path) -> bool:
    return not folder.exists() or not any(folder.iterdir())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """An empty folder to start programs in."""
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("word", "key"), [("runn.x=1", "runn.x"), ("data.val_from_train=1", "val_from_train"), ("resume=", "run in")]
)
def test_refused_at_the_door(train: Train, elsewhere: Path, output_root: Path, word: str, key: str) -> None:
    done = train(*TINY, word, code=2, cwd=elsewhere)
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 3 and lines[0].startswith("error: ") and key in lines[0], done.stderr
    assert done.stdout == ""
    assert is_empty(output_root) and is_empty(elsewhere)


def test_one_of_several_processes_is_refused(train: Train, output_root: Path) -> None:
    """Fails where each of them makes a run of the same thing."""
    assert "WORLD_SIZE=2" in train(*TINY, env={"WORLD_SIZE": "2"}, code=2).stderr and is_empty(output_root)


def test_a_syntax_error_is_placed_and_has_no_traceback(project: Project, tmp_path: Path) -> None:
    """Not even in the file that a resume reads before Hydra starts, for where the runs are."""
    file = project.configs / "optimizer/fatal.yaml"
    text = file.read_text()
    file.write_text(f"{text}broken: [1, 2\nnext: 3\n")
    assert refusal(project).startswith(f"{file}:{len(text.splitlines()) + 2}:")
    program = tmp_path / "program.py"
    program.write_text(
        "import sys; from pathlib import Path\n"
        "from scaffolding.config import Config\n"
        "from scaffolding.core.config.compose import Project\n"
        "from scaffolding.core.launch import launch\n"
        "launch(print, Project(Path(sys.argv.pop(1)), '', Config))\n"
    )
    write(project, "local.yaml", "paths: [1, 2\nnext: 3\n")
    for more in ([], ["resume=latest"]):
        done = run_train(str(project.root), *more, file=program, code=2)
        assert len(done.stderr.splitlines()) <= 3 and "local.yaml:2:" in done.stderr, done.stderr


def test_cfg_job_prints_the_config_and_leaves_nothing(train: Train, elsewhere: Path, output_root: Path) -> None:
    cfg = yaml.safe_load(train("--cfg", "job", *TINY, "run.seed=7", cwd=elsewhere).stdout)
    assert cfg["run"]["seed"] == 7
    assert cfg["model"]["_target_"] == "tiny.TinyNet"  # --config-dir added a folder of the user's
    assert is_empty(output_root) and is_empty(elsewhere)


def test_multirun_makes_one_folder_of_jobs(train: Train, elsewhere: Path, output_root: Path) -> None:
    told = "+hydra.callbacks.returned._target_=tiny.Returned"  # prints what main returns to sweepers
    done = train("--multirun", *TINY, "mode=dev", "loader.num_workers=0", "run.seed=3,4", told, cwd=elsewhere)
    assert done.stdout.count("tensors identical") == done.stdout.count("in prod mode: ") == 2
    [sweep] = output_root.iterdir()
    assert sweep.name.startswith("exp_")
    jobs = {path.name[-5:]: path for path in sweep.iterdir() if path.is_dir()}
    assert sorted(jobs) == ["_job0", "_job1"]
    best = [json.loads((jobs[name] / "status.json").read_text())["best"] for name in sorted(jobs)]
    assert None not in best and [f"returned {value}" for value in best] == re.findall("returned .*", done.stdout)
    for name, seed in (("_job0", 3), ("_job1", 4)):
        assert yaml.safe_load((jobs[name] / "config.yaml").read_text())["run"]["seed"] == seed
        assert f"run.seed={seed}" in yaml.safe_load((jobs[name] / "overrides.yaml").read_text())
        assert f"INFO    job {name[-1]}: run.seed={seed}\n" in done.stderr
    end = done.stdout.rpartition("\n2 runs: 2 finished; run.seed varies\n")[2].splitlines()
    assert end[0].split()[:2] == ["n", "val/loss"] and end[1].split()[:3] == ["2", f"{sum(best) / 2:.4g}", "±"]
    assert f"val/loss {min(best):.4g}" in done.stdout.rpartition("best:     ")[2]
    assert is_empty(elsewhere)
    assert not {"outputs", "multirun", "multirun.yaml", ".hydra"} & {path.name for path in output_root.rglob("*")}


def test_exit_code_2_means_that_nothing_was_made(train: Train, output_root: Path) -> None:
    words = (*TINY, "run.budget=1", "run.accumulate=1,0")
    said = train("--multirun", *words, code=1).stderr  # the first job made a run
    assert "ERROR   job 1: run.accumulate=0: not allowed (command line)" in said
    assert "\nerror: job 1 (run.accumulate=0): run.accumulate=0: not allowed (command line)" in said
    assert len(list(output_root.glob("exp_*/*/config.yaml"))) == 1
    for wrong in ("run.accumulate=0,-1", "run.budget=-1,0", "model=tiny,nosuch", "run.nosuch=1,2"):
        done = train("--multirun", *TINY, wrong, f"paths.output_root={output_root}/a/b", code=2)
        assert "Error executing job" not in done.stderr  # Hydra's line repeats the overrides, keys included
        assert not (output_root / "a").exists(), wrong


def test_the_end_of_a_sweep_names_every_job_that_failed(train: Train, output_root: Path) -> None:
    """With its words and its cause. Fails where only the first error is told again."""
    words = (*TINY, "run.budget=1", "optimizer=fatal", "run.name=lr", "run.seed=-1,4,5")
    done = train("--multirun", *words, env={"FAIL": "update 2"}, code=1)
    end = done.stderr.rpartition("\nerror: ")[2].splitlines()
    assert end[0] == "job 0 (run.seed=-1): run.seed=-1: not allowed (command line)"
    assert end[-1] == "job 2 (run.seed=5): ZeroDivisionError: planted"
    [sweep] = output_root.iterdir()
    assert re.fullmatch(r"exp_[\d-]{10}_[\d-]{8}_lr", sweep.name)
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["lr_job1", "lr_job2"]
    assert "\n3 runs: 1 missing, 1 finished, 1 failed; run.seed varies\n" in done.stdout


def test_the_end_of_a_sweep_without_seeds(train: Train, output_root: Path) -> None:
    """A row for each run, with what it varies; jobs that made no run are missing."""
    done = train("--multirun", *TINY, "run.budget=2", "optimizer.lr=0.01,-1", "run.seed=7", code=1)
    head, *rows = done.stdout.rpartition("\n2 runs: 1 finished, 1 missing; optimizer.lr varies\n")[2].splitlines()
    assert head.split()[:5] == ["run", "age", "status", "optimizer.lr", "val/loss"]
    cells = rows[0].split()
    [run] = output_root.glob("exp_*/*job0")
    assert cells[0] == run.name[20:] and cells[3:5] == ["finished", "0.01"]
    assert rows[1].split()[:3] == ["job1", "missing", "-1"]
    assert rows[2].startswith(f"best:     {cells[0]}, val/loss ")


def test_help(train: Train, elsewhere: Path) -> None:
    lines = train("--config-dir", str(TESTS / "configs"), "--help", cwd=elsewhere).stdout.splitlines()
    assert is_empty(elsewhere)
    defaults = OmegaConf.load(PROJECT.configs / "base.yaml").defaults
    chosen = {group: entry[group] for entry in defaults if isinstance(entry, DictConfig) for group in entry}
    for group, options in groups(PROJECT.configs).items():
        shown = " ".join(line for line in lines if line.startswith(f"  {group} ")).split()
        assert {f"*{option}" if option == chosen.get(group) else option for option in options} <= set(shown), group
    assert {"noisy", "tiny"} <= set(" ".join(lines).split())  # of the user's own folder
    base = (PROJECT.configs / "base.yaml").read_text().splitlines()
    keys = [line for line in base[base.index("run:") :] if line.strip()]
    rule_of = {line[10:]: line[:10].strip() for line in lines}
    assert len(keys) > 20 and set(keys) <= set(rule_of)  # with unit and meaning, as they stand there
    rules = {key.removeprefix("run."): word for key, word in changes(Config) if key.startswith("run.")}
    found = {line.strip().partition(":")[0]: rule_of[line] for line in keys if line.startswith("  ")}
    assert rules.items() <= found.items()


# --- runs of earlier versions ---

NAME = PROJECT.package
GENERATOR, CRITIC = ({"_target_": f"{NAME}.model.gan.{part}Loss"} for part in ("Generator", "Discriminator"))
MAPPED = {"_target_": f"{NAME}.losses.MappedLoss", "inputs": None}
WANDB = {"_target_": f"{NAME}.tracker.wandb.Wandb", "mode": "x"}
COSINE = {"schedule": {"_target_": f"{NAME}.schedules.cosine"}}
OTHER = {"schedule": {"_target_": "torch.optim.lr_scheduler.StepLR"}}
STEP, EPOCH, METRIC = {"interval": "step"}, {"interval": "epoch"}, {"interval": "metric"}
UNWATCHED, WATCHED = {"monitor": None}, {"monitor": "val/loss"}


@pytest.mark.parametrize(
    ("part", "before", "after"),
    [
        ("loss", {"g": GENERATOR | {"noise_size": 4}, "d": CRITIC}, {"g": GENERATOR, "d": CRITIC}),
        ("loss", MAPPED, MAPPED | {"_target_": f"{NAME}.model.module.MappedLoss"}),
        ("tracker", WANDB, {"wandb": WANDB}),
        ("tracker", {"mode": "x"}, {"wandb": {"mode": "x"}}),
        ("scheduler", {"schedule": None} | STEP | UNWATCHED, {"schedule": None}),
        ("scheduler", COSINE | STEP | UNWATCHED, COSINE),
        ("scheduler", {"a": OTHER | EPOCH | WATCHED}, {"a": OTHER | EPOCH}),
        ("scheduler", OTHER | METRIC | WATCHED, OTHER | WATCHED),
    ],
)
def test_runs_of_format_1_are_upgraded(part: str, before: Any, after: Any) -> None:
    assert upgrade({part: before}) == {part: after}
    assert upgrade({part: after}) == {part: after}


@pytest.mark.parametrize(
    ("version", "seed", "limit"), [(1, {"split_seed": 7}, 1), (2, {"split_seed": 7}, 1), (3, {}, 1), (4, {}, 1.0)]
)
def test_only_what_was_changed_since_is_upgraded(version: int, seed: dict[str, int], limit: float) -> None:
    """Fails where splits that were drawn with seed 0 are drawn again with run.seed, or all items become one."""
    config = {"data": {"val_from_train": 0.1}, "run": {"seed": 7}, "loader": {"limit_train": 1.0}}
    found = upgrade(config, version)
    assert found["data"] == config["data"] | seed
    assert repr(found["loader"]) == repr({"limit_train": limit})


# --- which sources ---


def test_a_script_of_another_checkout_runs_its_own_sources(tmp_path: Path) -> None:
    """A script or train.py, where both share an environment, in which only one is installed."""
    package = Path("src", PROJECT.package)
    for folder in (package, Path("configs")):
        shutil.copytree(PROJECT_ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    with open(tmp_path / "configs" / "base.yaml", "a") as file:
        file.write("# of the other checkout\n")
    words = [sys.executable, str(tmp_path / package / "train.py"), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "# of the other checkout" in done.stdout, done.stderr
    for folder in ("scripts", "scripts/jobs"):
        program = tmp_path / folder / "where.py"
        program.parent.mkdir()
        name = PROJECT.package
        program.write_text(f"import sys\nimport {name}.core.errors\nprint(sys.argv[1:], {name}.__file__)\n")
        done = subprocess.run([sys.executable, str(program), "a b"], capture_output=True, text=True, timeout=100)
        assert done.stdout == f"['a b'] {tmp_path / package / '__init__.py'}\n", done.stderr
