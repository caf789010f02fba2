"""Opening somebody else's run is safe: nothing of it is run, nothing is written outside of the output folder."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import strangers
import torch
import yaml
from conftest import Train
from hydra.utils import instantiate

from scaffolding.core.config.trust import check_trusted, needed_trust, read_config, read_plain
from scaffolding.core.config.words import read_words
from scaffolding.core.errors import UserError
from scaffolding.core.folder.folder import claim, find_run
from scaffolding.core.state import checkpoint
from scaffolding.core.state.checkpoint import find_checkpoint
from scaffolding.experiment import PROJECT, Experiment

TESTS = Path(__file__).parent
ENV = {"PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])}
TINY = ("--config-dir", str(TESTS / "configs"), "data=noisy", "model=tiny", "plots=none", "tracker=none",
        "mode=prod", "run.budget=4")  # fmt: skip


@pytest.fixture
def run(dev_run: Path, tmp_path: Path) -> Path:
    """A copy of a run, to be spoilt."""
    path = tmp_path / "runs" / "dev" / "run"
    shutil.copytree(dev_run, path, symlinks=True)
    for file in (path / "checkpoints").glob("*.sha256"):
        file.unlink()
    return path


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    """Where every payload would leave its mark; empty at the end."""
    (tmp_path / "marks").mkdir()
    yield tmp_path / "marks"
    assert list((tmp_path / "marks").iterdir()) == []


@pytest.fixture
def evil(marks: Path, tmp_path: Path) -> Path:
    """A file that leaves a mark if it is unpickled."""
    torch.save(strangers.Call(os.system, f"touch {marks / 'loaded'}"), tmp_path / "evil.pt")
    return tmp_path / "evil.pt"


def refused(function: Any, *arguments: Any, **options: Any) -> str:
    """The message of a refusal: short, and no invitation to run what is in the file."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) <= 3 and "weights_only" not in message and len(message) < 2000, message
    return message


def test_hostile_checkpoints_are_refused(run: Path, marks: Path) -> None:
    good = checkpoint.load(run / "checkpoints" / "best.pt")
    count = 0
    for what, content in strangers.checkpoints(dict(good), marks):
        (run / "checkpoints" / "best.pt").write_bytes(content)
        refused(Experiment.from_path, run)
        assert not list(marks.iterdir()), what
        count += 1
    assert count >= 30


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("os.system", "posix.system"), ("dataclass", "strangers.Record"), ("numpy array", "numpy"),
        ("empty", "0 bytes"), ("another format", f"of format {checkpoint.FORMAT + 1}"),
        ("10 GB declared, 4 bytes there", "10000000000"),
        ("1,000 weights too many", "1000 names"), ("other shapes", "saved [7, 7, 7]"),
    ],
)  # fmt: skip
def test_a_refused_checkpoint_says_why(run: Path, marks: Path, what: str, expected: str) -> None:
    files = dict(strangers.checkpoints(dict(checkpoint.load(run / "checkpoints" / "best.pt")), marks))
    (run / "checkpoints" / "best.pt").write_bytes(files[what])
    message = refused(Experiment.from_path, run)
    assert expected in message
    assert ("convert" in message) == ("tensors and plain values" in message)


def test_hostile_configs_are_refused(run: Path, marks: Path, evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of this machine")
    good = yaml.safe_load((run / "config.yaml").read_text())
    count = 0
    for what, content in strangers.configs(good, marks, evil):
        (run / "config.yaml").write_bytes(content)
        message = refused(Experiment.from_path, run)
        assert not list(marks.iterdir()) and "of this machine" not in message, what
        count += 1
    assert count >= 40
    (run / "config.yaml").write_text(yaml.safe_dump(good))
    Experiment.from_path(run)


def test_the_payloads_work(tmp_path: Path) -> None:
    """Hydra alone runs them: what the tests here see refused is no dud."""
    marks = tmp_path / "alive"
    marks.mkdir()
    torch.save(strangers.Call(os.system, f"touch {marks / 'loaded'}"), tmp_path / "evil.pt")
    specs = strangers.targets(marks, tmp_path / "evil.pt")
    for name in ("torch.load", "a shell of torch", "Path.touch", "Path.write_text", "copyfile", "torch.save"):
        instantiate(specs[name])
        assert list(marks.iterdir()), name
        for file in marks.iterdir():
            file.unlink()


def test_nothing_is_imported_before_it_is_checked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"metrics": {"last": {"_target_": "stranger.Thing"}}}))
    message = refused(Experiment.from_path, run)
    assert message.startswith("metrics.last._target_: 'stranger.Thing' is not in the list of trusted targets\n")
    assert "trust=stranger.Thing " in message and f"src/{PROJECT.package}/config.py" in message
    with pytest.raises(SystemExit, match="imported"):
        Experiment.from_path(run, trust=("stranger",))


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear", "torch.optim.AdamW", "torch.optim.lr_scheduler.ReduceLROnPlateau",
        "torchmetrics.classification.MulticlassAUROC", "torchmetrics.regression.MeanSquaredError",
        "torchvision.models.resnet18", "torchvision.models.detection.fasterrcnn_resnet50_fpn", "torchvision.ops.MLP",
        "torchvision.transforms.v2.Resize", "torchvision.transforms.Compose", "torchvision.datasets.SVHN",
    ],
)  # fmt: skip
def test_what_experiments_are_made_of_is_trusted(target: str) -> None:
    pytest.importorskip(target.partition(".")[0])
    check_trusted({"x": [{"_target_": target}]}, PROJECT, ())


def test_what_this_checkout_names_is_trusted() -> None:
    """So that its own runs can be resumed, forked and loaded without a word; but not what downloads by arguments."""
    for folder in (PROJECT.configs, TESTS / "configs"):
        for file in folder.rglob("*.yaml"):
            config = yaml.safe_load(file.read_text())
            if "???" not in file.read_text() and file.name != "local.yaml":
                check_trusted(config, PROJECT, ())
    check_trusted({"x": {"_target_": "tiny.ExplodingLoss"}}, PROJECT, ())  # next to what a file in tests/configs names
    refused(check_trusted, {"x": {"_target_": "planted.Clock"}}, PROJECT, ())  # a module of ours that none names


@pytest.mark.parametrize(
    "spec",
    [
        {"_target_": "torchmetrics.multimodal.CLIPScore", "model_name_or_path": "evil/jinaai"},
        {"_target_": "torchmetrics.text.BERTScore", "model_name_or_path": "evil/x"},
        {"_target_": "torchmetrics.image.FrechetInceptionDistance"},
        {"_target_": "torchvision.models.resnet18", "weights": "DEFAULT"},
        {"_target_": "torchvision.models.get_model", "name": "resnet18", "weights": "DEFAULT"},
        {"_target_": "torchvision.models.resnet18", "_args_": [True]},
        {"_target_": "torchvision.models.resnet18", "pretrained": True},
        {"_target_": f"{PROJECT.package}.data.hf_text.HuggingFaceText", "path": "evil/x"},
        {"_target_": f"{PROJECT.package}.experiment.Experiment"},
    ],
    ids=lambda spec: spec["_target_"],
)
def test_what_fetches_by_its_arguments_is_not_trusted(spec: dict[str, Any]) -> None:
    assert "not in the list" in refused(check_trusted, {"x": spec}, PROJECT, ())
    check_trusted({"x": {"_target_": "torchvision.models.resnet18", "weights": None}}, PROJECT, ())


@pytest.mark.parametrize(
    "target", ["os.system", "torch.load", "torch.nn.init.zeros_", "torch.nn.modules.module.functools.partial"]
)
def test_the_words_of_a_refusal_help(target: str) -> None:
    config = {"x": {"_target_": target}, "y": {"_target_": "torch.nn.Linear"}, "imports": ["strangers"]}
    assert sorted(needed_trust(config, PROJECT)) == sorted([target, "strangers"])
    message = refused(check_trusted, config, PROJECT, ["strangers"])
    assert message.startswith(f"x._target_: {target!r}") and f"add trust={target} " in message
    check_trusted(config, PROJECT, needed_trust(config, PROJECT))


def test_a_method_or_an_import_of_a_trusted_module_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "library.py").write_text(
        "import os\nfrom pathlib import Path\nclass Thing:\n  def method(self): ...\n"
        "  @classmethod\n  def other(cls): ...\ndef function(): ...\nthing = Thing()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("Thing", "function"):
        check_trusted({"_target_": f"library.{name}"}, PROJECT, ("library",))
    for name in (
        "os.system",
        "Path",
        "Path.touch",
        "Thing.method",
        "Thing.other",
        "thing",
        "thing.method",
        "os.path.join",
    ):
        refused(check_trusted, {"_target_": f"library.{name}"}, PROJECT, ("library",))
    check_trusted({"_target_": "library.Thing.other"}, PROJECT, ("library.Thing.other",))  # whole names are meant
    refused(check_trusted, {"_target_": "library2.Thing"}, PROJECT, ("library",))


def test_hostile_words_are_refused(run: Path, marks: Path) -> None:
    for what, text in strangers.words(marks).items():
        (run / "overrides.yaml").write_text(text)
        assert what[:20].strip() is not None and refused(read_words, run / "overrides.yaml", PROJECT, ())


def test_plain_words_pass(run: Path) -> None:
    plain = [
        "optimizer.lr=1e-3", "+data.x=[1,2]", "~tracker", "model=mlp", "model.hidden_sizes=[1, 2]", "run.name='a b'",
        "optimizer._target_=torch.optim.SGD", "run.tags=[a,b]",
        "plots=[curves,samples]", "++a.b={c: 1}", "data.root=${paths.data}/x", "x.y=null",
    ]  # fmt: skip
    (run / "overrides.yaml").write_text(yaml.safe_dump([*plain, "fork='/x y'", "resume=z"]))
    assert read_words(run / "overrides.yaml", PROJECT, ()) == plain


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in folder.rglob("*")}


def test_train_refuses_a_hostile_run(train: Train, run: Path, marks: Path, evil: Path, output_root: Path) -> None:
    """Through the real entry point: nothing is run, made or changed."""
    good = yaml.safe_load((run / "config.yaml").read_text())
    configs, words = dict(strangers.configs(good, marks, evil)), strangers.words(marks)
    cases = [
        ("config.yaml", configs[what], "resume=dev/run") for what in ("torch.load", "section of Hydra", "defaults")
    ]
    word = "loss={_target_: torch.utils.collect_env.run, _args_: ['touch "
    cases += [("overrides.yaml", words[what].encode(), "fork=dev/run") for what in (word[:60], "experiment=../../evil")]
    for file, content, verb in cases:
        before = (run / file).read_bytes()
        (run / file).write_bytes(content)
        state = files(output_root)
        done = train(verb, code=2)
        assert len(done.stderr.splitlines()) <= 3 and "error: " in done.stderr and "Traceback" not in done.stderr
        assert files(output_root) == state and not list(marks.iterdir())
        (run / file).write_bytes(before)


def test_trust_is_asked_for_and_given(train: Train, output_root: Path) -> None:
    """A run of this checkout needs none, one with a target from the command line that no file names does."""
    train(*TINY, "run.name=ours", "run.save_every=1", env=ENV)
    train("resume=ours", "run.budget=5", env=ENV)
    Experiment.from_path(output_root / "ours")
    done = train(*TINY, "run.name=mine", "run.save_every=1", "loss._target_=planted.CountingLoss", env=ENV)
    assert "trust=planted.CountingLoss" in done.stderr + done.stdout, "a new run says what it will take to open it"
    for trust, code in ((), 2), (("trust=planted",), 0), (("trust=planted.CountingLoss",), 0):
        done = train("resume=mine", "run.budget=5", *trust, env=ENV, code=code)
        assert ("'planted.CountingLoss' is not" in done.stderr) == (code == 2)
    with pytest.raises(UserError, match="trust=planted"):
        Experiment.from_path(output_root / "mine")
    Experiment.from_path(output_root / "mine", trust=("planted",))
    assert "trust" in train(*TINY, "trust=planted", env=ENV, code=2).stderr


def test_a_run_that_knows_a_setting_less_has_that_of_base_yaml(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    base = yaml.safe_load((PROJECT.configs / "base.yaml").read_text())
    del config["run"]["patience"], config["loader"]["timeout"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    cfg = read_config(run, PROJECT)
    assert (cfg.run.patience, cfg.loader.timeout) == (base["run"]["patience"], base["loader"]["timeout"])
    assert cfg.run.budget == config["run"]["budget"]


@pytest.mark.skipif(not (PROJECT.configs / "model" / "module.yaml").exists(), reason="the example has been deleted")
def test_words_of_an_earlier_version_are_moved(run: Path) -> None:
    words = ["tracker.mode=offline", "loss._target_=scaffolding.losses.MappedLoss", "tracker=wandb", "run.seed=1"]
    (run / "overrides.yaml").write_text(yaml.safe_dump(words))
    now = ["tracker.wandb.mode=offline", "loss._target_=scaffolding.model.module.MappedLoss", *words[2:]]
    assert read_words(run / "overrides.yaml", PROJECT, ()) == now


@pytest.mark.parametrize("kind", ["pipe", "folder", "long", "deep", "aliases", "escape", "tag"])
def test_a_file_that_hurts_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "config.yaml"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        texts = {"long": "#" * 10**7, "deep": "[" * 20_000, "aliases": "a: &a {b: 1}\nc: {<<: [*a, *a]}\n",
                 "escape": '"\\e]0;owned\\a": 1', "tag": "!!python/name:os.system x"}  # fmt: skip
        file.write_text(texts[kind])
    assert "\x1b" not in refused(read_plain, file)


def test_a_fork_goes_where_this_checkout_says(train: Train, run: Path, tmp_path: Path, output_root: Path) -> None:
    words = yaml.safe_load((run / "overrides.yaml").read_text())
    kept = [word for word in words if not word.startswith(("paths.", "run.name"))]
    (run / "overrides.yaml").write_text(yaml.safe_dump([*kept, f"paths.output={tmp_path}/elsewhere"]))
    train("fork=dev/run", "run.name=child", "run.rehearse_resume=false")
    assert (output_root / "dev" / "child" / "config.yaml").exists() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("link", ["log.txt", "facts/scalars.csv", "facts", "checkpoints", "checkpoints/x.pt", "wandb"])
def test_a_run_with_a_link_that_leads_out_is_not_resumed(train: Train, run: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    shutil.copytree(run, outside)
    path = run / link
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / link)
    before = files(outside)
    done = train("resume=dev/run", code=2)
    assert link in done.stderr and "out of the run" in done.stderr
    assert "out of the run" in refused(Experiment.from_path, run)  # scripts write into it, too
    assert files(outside) == before


def test_a_run_that_is_a_link_is_not_found(dev_run: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(dev_run, root / "inside", symlinks=True)
    (root / "link").symlink_to(dev_run)
    (root / "alias").symlink_to(root / "inside")
    for name in ("link", str(root / "link"), "lin"):
        refused(find_run, name, root)
    assert find_run("alias", root).resolve() == find_run("inside", root) == root / "inside"


def test_no_name_leads_out(dev_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    for place in (root / "good", tmp_path / "outside"):
        shutil.copytree(dev_run, place, symlinks=True)
    (root / "link").symlink_to(tmp_path / "outside")
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    found = 0
    for name in strangers.names(200, root):
        for resolve in (lambda name: find_run(name, root), lambda name: find_checkpoint(root / "good", name)):
            try:
                path = resolve(name)
            except UserError as error:
                assert len(str(error).splitlines()) <= 3
            else:
                assert path.resolve().is_relative_to(root), name
                found += 1
        try:
            made = claim(root, name)
        except UserError:
            continue
        assert made.parent == root and not made.is_symlink()
        made.rmdir()
    assert found > 0
    assert {name: found[1] for name, found in files(tmp_path).items()} == {name: at[1] for name, at in before.items()}


def test_a_checkpoint_that_is_not_there_names_those_that_are(dev_run: Path) -> None:
    message = refused(Experiment.from_path, dev_run, checkpoint="bets")
    state = checkpoint.load(dev_run / "checkpoints" / "best.pt")["state"]
    assert f"best (step {state['step']})" in message and "latest (step 10)" in message
    for name in ("../best", "a/b", "", ".", "best.pt\0", "/etc/passwd", "x" * 300):
        refused(Experiment.from_path, dev_run, checkpoint=name)
