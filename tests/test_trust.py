"""Opening somebody else's run is safe: nothing of it is run, nothing is written outside of the output folder."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import strangers
import torch
import yaml
from conftest import TESTS, TINY, Train, tree
from hydra.utils import instantiate
from loguru import logger
from pairs import options

from scaffolding.core.config.compose import VERSION
from scaffolding.core.errors import UserError
from scaffolding.core.find import find_run
from scaffolding.core.folder import folder
from scaffolding.core.folder.facts import Facts
from scaffolding.core.folder.folder import claim, release
from scaffolding.core.state import checkpoint
from scaffolding.core.state.files import find_checkpoint
from scaffolding.core.trust.config import open_config, read_plain
from scaffolding.core.trust.targets import check_trusted, needed_trust
from scaffolding.core.trust.words import check_together, read_words
from scaffolding.experiment import PROJECT, Experiment
from scaffolding.splits import split_seed


@pytest.fixture
def run(dev_run: Path, output_root: Path) -> Path:
    """A copy of a run, to be spoilt."""
    return Path(shutil.copytree(dev_run, output_root / "dev" / "run", symlinks=True))


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    """Where every payload would leave its mark; empty at the end."""
    folder = tmp_path / "marks"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


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
    assert len(message.splitlines()) <= 3 and len(message) < 2000, message
    assert "weights_only" not in message and "\x1b" not in message and "\n2026" not in message, message
    return message


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def trusts(target: str, trust: tuple[str, ...] = (), project: Any = PROJECT, **arguments: Any) -> bool:
    """Whether a config may name this target."""
    try:
        check_trusted({"x": [{"_target_": target, **arguments}]}, project, trust)
    except UserError as error:
        assert "not in the list" in str(error)
        return False
    return True


# --- files that do harm ---

REASONS = {  # that a refusal of a checkpoint gives
    "os.system": "posix.system",
    "dataclass": "strangers.Record",
    "numpy array": "numpy",
    "empty": "0 bytes",
    "another format": f"of format {checkpoint.FORMAT + 1}",
    "10 GB declared, 4 bytes there": "10000000000",
    "1,000 weights too many": "1000 names",
    "other shapes": "saved [7, 7, 7]",
    "a weight that speaks to the terminal": "cannot be printed",
}


def test_hostile_checkpoints_are_refused(run: Path, marks: Path) -> None:
    good = checkpoint.load(run / "checkpoints" / "best.pt")
    files = dict(strangers.checkpoints(dict(good), marks))
    assert len(files) >= 30
    for what, content in files.items():
        (run / "checkpoints" / "best.pt").write_bytes(content)
        message = refused(Experiment.from_path, run)
        assert not list(marks.iterdir()) and REASONS.get(what, "") in message, what
        assert "convert" in message or "tensors and plain values" not in message, what


def test_hostile_configs_are_refused(run: Path, marks: Path, evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of this machine")
    good = read_yaml(run / "config.yaml")
    files = dict(strangers.configs(good, marks, evil))
    assert len(files) >= 40
    for what, content in files.items():
        (run / "config.yaml").write_bytes(content)
        message = refused(Experiment.from_path, run)
        assert not list(marks.iterdir()) and "of this machine" not in message, what
        assert "allowed: plain values" in message or not what.startswith("refers"), message
    (run / "config.yaml").write_text(yaml.safe_dump(good))
    Experiment.from_path(run)


def test_the_payloads_work(tmp_path: Path) -> None:
    """Hydra alone runs them: what the tests here see refused is not a dud."""
    marks = tmp_path / "alive"
    marks.mkdir()
    torch.save(strangers.Call(os.system, f"touch {marks / 'loaded'}"), tmp_path / "evil.pt")
    specs = strangers.targets(marks, tmp_path / "evil.pt")
    for name in ("torch.load", "a shell of torch", "Path.touch", "Path.write_text", "copyfile", "torch.save"):
        instantiate(specs[name])
        (mark,) = marks.iterdir()
        mark.unlink()


def test_hostile_words_are_refused(run: Path, marks: Path) -> None:
    for text in strangers.words(marks).values():
        (run / "overrides.yaml").write_text(text)
        refused(lambda: check_together(read_words(run / "overrides.yaml", PROJECT, ()), [], [], PROJECT, ()))


def test_the_words_of_a_run_are_judged_with_what_the_command_line_chooses() -> None:
    target, weights = "torchvision.models.resnet18", ["++model.weights=DEFAULT"]
    assert f"{target!r}" in refused(check_together, weights, [f"model._target_={target}"], [], PROJECT, ())
    for words, own in ((weights, []), ([], [f"model._target_={target}", *weights]), ([], ["model._target_=os.system"])):
        check_together(words, own, [str(TESTS / "configs")], PROJECT, ())
    own, words = ["model._target_=unnamed.CountingLoss"], ["+model.path=/theirs"]  # which no list would let a run name
    assert "model: 'unnamed.CountingLoss' gets path='/theirs'" in refused(check_together, words, own, [], PROJECT, ())
    check_together([], [*own, *words], [], PROJECT, ())
    check_together(words, own, [], PROJECT, ["unnamed"])
    choice = ["data=noisy", "model=tiny"]  # of the run, which brings arguments of a file here
    check_together(choice, own, [str(TESTS / "configs")], PROJECT, ())


def test_plain_words_pass(run: Path) -> None:
    plain = [
        "optimizer.lr=1e-3", "+data.x=[1,2]", "~tracker", "model=mlp", "model.hidden_sizes=[1, 2]", "run.name='a b'",
        "optimizer._target_=torch.optim.SGD", "run.tags=[a,b]",
        "plots=[curves,samples]", "++data.b={c: 1}", "data.root=${paths.data}/x", "data.y=null",
    ]  # fmt: skip
    (run / "overrides.yaml").write_text(yaml.safe_dump([*plain, "fork='/x y'", "resume=z"]))
    assert read_words(run / "overrides.yaml", PROJECT, ()) == plain


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "config.yaml")
    refused(read_plain, tmp_path / "config.yaml")


@pytest.mark.parametrize("name", ["log.txt", "facts/scalars.csv", "wandb/debug.log", ".status.json.tmp"])
def test_a_run_with_a_pipe_is_refused_at_once(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    assert "not a plain file" in refused(Experiment.from_path, run)


def test_train_refuses_a_hostile_run(train: Train, run: Path, marks: Path, evil: Path, output_root: Path) -> None:
    """Through the real entry point: nothing is run, made or changed."""
    configs = dict(strangers.configs(read_yaml(run / "config.yaml"), marks, evil))
    words = strangers.words(marks)
    chosen = [text for word, text in words.items() if word.startswith(("loss=", "experiment=", "together"))]
    named = ("torch.load", "section of Hydra", "defaults")
    cases = [("config.yaml", configs[what], "resume=dev/run") for what in named]
    cases += [("overrides.yaml", text.encode(), "fork=dev/run") for text in chosen]
    for file, content, verb in cases:
        before = (run / file).read_bytes()
        (run / file).write_bytes(content)
        state = tree(output_root)
        done = train(verb, code=2)
        assert len(done.stderr.splitlines()) <= 3 and "error: " in done.stderr and "Traceback" not in done.stderr
        assert "not in the list of trusted" in done.stderr or b"weights=DEFAULT" not in content
        assert tree(output_root) == state and not list(marks.iterdir())
        (run / file).write_bytes(before)


# --- what a run may name ---


def test_nothing_is_imported_before_it_is_checked(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = read_yaml(run / "config.yaml") | {"metrics": {"last": {"_target_": "stranger.Thing"}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    message = refused(Experiment.from_path, run)
    assert message.startswith("metrics.last._target_: 'stranger.Thing' is not in the list of trusted targets\n")
    assert "trust=stranger.Thing " in message and f"src/{PROJECT.package}/config.py" in message
    with pytest.raises(SystemExit, match="imported"):
        Experiment.from_path(run, trust=("stranger",))


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear", "torch.optim.lr_scheduler.ReduceLROnPlateau", "torchmetrics.regression.MeanSquaredError",
        "torchvision.models.mobilenet_v2", "torchvision.ops.MLP", "torchvision.datasets.SVHN",
        "torchvision.transforms.v2.Resize", "tiny.ExplodingLoss",  # next to what a file in tests/configs names
    ],
)  # fmt: skip
def test_what_experiments_are_made_of_is_trusted(target: str) -> None:
    pytest.importorskip(target.partition(".")[0])
    assert trusts(target)


def test_what_this_checkout_names_is_trusted() -> None:
    """So that its own runs can be resumed, forked and loaded without a word."""
    for place in (PROJECT.configs, TESTS / "configs"):
        for file in place.rglob("*.yaml"):
            if "???" not in file.read_text() and file.name != "local.yaml":
                check_trusted(read_yaml(file), PROJECT, ())


@pytest.mark.parametrize(
    "spec",
    [
        {"target": "unnamed.CountingLoss"},  # a module of ours that no file names
        {"target": "torchmetrics.text.BERTScore", "model_name_or_path": "evil/x"},
        {"target": "torchvision.models.resnet18", "weights": "DEFAULT"},
        {"target": "torchvision.models.get_model", "name": "resnet18", "weights": "DEFAULT"},
        {"target": "torchvision.models.resnet18", "_args_": [True]},
        {"target": "torchvision.models.resnet18", "pretrained": True},
        {"target": "torchvision.models.segmentation.fcn_resnet50", "pretrained_backbone": True},
        {"target": "torchvision.models.detection.fasterrcnn_resnet50_fpn"},  # its default is to fetch
        {"target": "torchvision.models.get_model", "name": "fasterrcnn_resnet50_fpn"},
        # through another module's imports
        {"target": "strangers_friend.nn.init.zeros_"},
        {"target": "strangers_friend.nn.utils.clip_grad_norm_"},
        {"target": "strangers_friend.models.resnet18", "weights": "DEFAULT"},
        {"target": "strangers_friend.models.get_model", "name": "resnet18"},
        {"target": "torchvision.models.feature_extraction.DualGraphModule"},
        {"target": "tiny.fill", "file": "/x"},  # a function next to what a file in tests/configs names
        {"target": f"{PROJECT.package}.data.hf_text.HuggingFaceText", "path": "evil/x"},
        {"target": f"{PROJECT.package}.experiment.Experiment"},
    ],
    ids=lambda spec: spec["target"],
)
def test_what_fetches_or_is_named_nowhere_is_not_trusted(
    spec: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchvision")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers_friend.py").write_text("from torch import nn\nfrom torchvision import models\n")
    project = dataclasses.replace(PROJECT, trusted=(*PROJECT.trusted, "strangers_friend"))
    assert not trusts(**spec, project=project)
    assert trusts("strangers_friend.nn.Linear", project=project)
    assert trusts("torchvision.models.resnet18", weights=None)
    assert trusts("torchvision.models.detection.fasterrcnn_resnet50_fpn", weights_backbone=None)


def test_a_file_that_cannot_be_read_names_nothing(tmp_path: Path) -> None:
    """Fails where an editor's lock, or a file that is being edited, fails every run."""
    project = dataclasses.replace(PROJECT, root=tmp_path)
    (tmp_path / "configs" / "model").mkdir(parents=True)
    (tmp_path / "configs" / ".#base.yaml").symlink_to("me@host.1234")
    (tmp_path / "configs" / "gone.yaml").symlink_to("nowhere")
    (tmp_path / "configs" / "model" / "new.yaml").write_text("_target_: [a, b\nc: {")
    (tmp_path / "configs" / "model" / "text.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "configs" / "model" / "good.yaml").write_text("_target_: library.Thing")
    said: list[Any] = []
    sink = logger.add(said.append, format="{message}")
    assert needed_trust({"x": {"_target_": "library.Thing"}}, project) == []
    needed_trust({"x": {"_target_": "library.Thing"}}, project)
    logger.remove(sink)
    assert len(said) == 3 and all("is not trusted" in text and "yaml" in text for text in said), said


@pytest.mark.parametrize("target", ["os.system", "torch.nn.init.zeros_", "torch.nn.modules.module.functools.partial"])
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
    assert trusts("library.Thing", ("library",)) and trusts("library.function", ("library",))
    for name in ("os.system", "Path", "Path.touch", "Thing.method", "Thing.other", "thing", "os.path.join"):
        assert not trusts(f"library.{name}", ("library",)), name
    assert trusts("library.Thing.other", ("library.Thing.other",))  # whole names are meant
    assert not trusts("library2.Thing", ("library",))


def test_a_library_that_this_checkout_names_gets_the_texts_that_it_names(tmp_path: Path) -> None:
    """Fails where `from_pretrained` of the owner's YAML fetches what a stranger's config says."""
    project = dataclasses.replace(PROJECT, root=tmp_path)
    (tmp_path / "configs" / "model").mkdir(parents=True)
    spec = {
        "_target_": "hub.AutoModel.from_pretrained",
        "name": "bert",
        "size": 3,
        "safe": True,
        "path": "${paths.data}/x",
    }
    (tmp_path / "configs" / "model" / "bert.yaml").write_text(yaml.safe_dump(spec))

    def listed(**changes: Any) -> list[str]:
        return needed_trust({"model": {**spec, **changes}}, project)

    assert listed() == listed(size=7, path="anything") == listed(path=["a", {"b": True}]) == listed(safe=None) == []
    for changes in (
        {"name": "stranger/model"}, {"trust_remote_code": True}, {"trust_remote_code": 1}, {"safe": False}, {"safe": 0},
        {"more": {"revision": "x"}}, {"size": "large"},
    ):  # fmt: skip
        assert listed(**changes) == [spec["_target_"]], changes


def test_trust_is_asked_for_and_given(train: Train, output_root: Path) -> None:
    """A run of this checkout needs none, one with a target from the command line that no file names does."""
    words = (*TINY, "run.budget=4", "run.save_every=1")
    train(*words, "run.name=ours")
    train("resume=ours", "run.budget=5")
    Experiment.from_path(output_root / "ours")
    done = train(*words, "run.name=mine", "loss._target_=unnamed.CountingLoss")
    assert "trust=unnamed.CountingLoss" in done.stderr + done.stdout, "a new run says what it will take to open it"
    for trust, code in ((), 2), (("trust=unnamed",), 0), (("trust=unnamed.CountingLoss",), 0):
        done = train("resume=mine", "run.budget=5", *trust, code=code)
        assert ("'unnamed.CountingLoss' is not" in done.stderr) == (code == 2)
    assert "trust=unnamed" in refused(Experiment.from_path, output_root / "mine")
    Experiment.from_path(output_root / "mine", trust=("unnamed",))
    assert "trust" in train(*TINY, "trust=unnamed", code=2).stderr


# --- runs of earlier versions ---


@pytest.mark.parametrize("verb", ["resume", "fork", "rerun", "from_path"])
def test_a_run_of_another_version_of_the_settings_is_opened(
    train: Train, run: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a setting that was added or removed locks out the runs made before; it is said, once."""
    file, words = run / "config.yaml", run / "overrides.yaml"
    config = read_yaml(file) | {"augment": {"strength": 1}}
    for name in ("tags", "patience"):
        del config["run"][name]
    config["run"]["mixup"] = config["loader"]["shards"] = 3
    file.write_text(yaml.safe_dump(config))
    words.write_text(yaml.safe_dump([*read_yaml(words), "augment=strong", "run.mixup=3", "+loader.shards=3"]))
    if verb == "from_path":
        capsys.readouterr()
        logger.add(sys.stderr, format="{message}")
        Experiment.from_path(run, trust=("tiny",))
        said = capsys.readouterr().err
    else:
        more = ["run.budget=13"] if verb == "resume" else ["run.name=child"]
        said = train(f"{verb}=dev/run", *TINY[:2], *more, "run.rehearse_resume=false").stderr
    gone = [line for line in said.splitlines() if "no longer exist" in line]
    assert len(gone) == 1 and all(key in gone[0] for key in ("augment", "run.mixup", "loader.shards")), said
    if verb != "fork":  # which is composed again
        assert "dev/run is older than run.tags=[], run.patience=None" in said.replace("run is", "dev/run is", 1)


@pytest.mark.skipif(not (PROJECT.configs / "model" / "module.yaml").exists(), reason="the example has been deleted")
@pytest.mark.parametrize(("version", "found"), [(2, 5), (3, 0), ("x", None)])
def test_a_config_is_read_as_its_version_wrote_it(run: Path, version: Any, found: int | None) -> None:
    """Fails where a run of version 3, whose data says no split_seed, is validated on items that it was trained on."""
    config = read_yaml(run / "config.yaml")
    config["data"].pop("split_seed", None)
    config["run"]["seed"] = 5
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"version": version}))
    if found is None:
        with pytest.raises(UserError, match="version='x' is not a whole number"):
            open_config(run, PROJECT, None)
        return
    assert split_seed(open_config(run, PROJECT, None)["data"]) == found


def test_words_of_an_earlier_version_are_moved(run: Path) -> None:
    config = read_yaml(run / "config.yaml")
    del config["version"]  # as the first version wrote it
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    moved = {
        "loader.limit_train=1.0": "loader.limit_train=1",
        "loader.limit_eval=0.5": "loader.limit_eval=0.5",
        "tracker.mode=offline": "tracker.wandb.mode=offline",
        "tracker=wandb": "tracker=wandb",
        "tracker.project=null": "tracker.wandb.project=null",
        "tracker.project='a b'": "tracker.wandb.project='a b'",
        "loader={limit_train: 2.0, limit_eval: 0.5}": "loader={limit_train: 2, limit_eval: 0.5}",
        "run.seed=1": "run.seed=1",
    }
    if "module" in options("model"):
        moved["loss._target_=scaffolding.losses.MappedLoss"] = "loss._target_=scaffolding.model.module.MappedLoss"
    (run / "overrides.yaml").write_text(yaml.safe_dump(list(moved)))
    assert read_words(run / "overrides.yaml", PROJECT, ()) == list(moved.values())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"version": VERSION}))
    (run / "overrides.yaml").write_text("['loader.limit_train=1.0']")
    assert read_words(run / "overrides.yaml", PROJECT, ()) == ["loader.limit_train=1.0"]


# --- places ---


def test_a_fork_goes_where_this_checkout_says(train: Train, run: Path, tmp_path: Path, output_root: Path) -> None:
    words = [word for word in read_yaml(run / "overrides.yaml") if not word.startswith(("paths.", "run.name"))]
    (run / "overrides.yaml").write_text(yaml.safe_dump([*words, f"paths.output={tmp_path}/elsewhere"]))
    train("fork=dev/run", "run.name=child", "run.rehearse_resume=false")
    assert (output_root / "dev" / "child" / "config.yaml").exists() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "link", ["log.txt", "facts/scalars.csv", "checkpoints/x.pt", "figures/x.png", ".lock", "wandb/x"]
)
def test_a_run_with_a_link_that_leads_out_is_not_resumed(train: Train, run: Path, tmp_path: Path, link: str) -> None:
    outside = Path(shutil.copytree(run, tmp_path / "outside"))
    (run / link).unlink(missing_ok=True)
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(outside / link)
    before = tree(outside)
    assert "out of the run" in refused(Experiment.from_path, run)  # scripts write into it, too
    if link == "log.txt":
        assert "out of the run" in train("resume=dev/run", code=2).stderr
    assert tree(outside) == before


def test_nothing_is_written_through_a_link_made_after_the_check(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for name in (".status.json.tmp", "events.jsonl", "scalars.csv", ".lock"):
        (tmp_path / name).symlink_to(precious)
    folder.write_text(tmp_path / "status.json", "{}")
    facts = Facts(tmp_path)
    facts.event("on_start")
    facts.add_row({"step": 1, "split": "train"})
    assert facts.error is not None
    with pytest.raises(UserError, match="is a link"):
        folder.acquire(tmp_path)
    assert precious.read_text() == "mine" and (tmp_path / "status.json").read_text() == "{}"


def test_no_name_leads_out(dev_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "runs"
    for place in (root / "good", tmp_path / "outside"):
        shutil.copytree(dev_run, place, symlinks=True)
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "alias").symlink_to(root / "good")
    assert find_run("alias", root).resolve() == root / "good"
    for name in ("link", str(root / "link"), "lin"):
        refused(find_run, name, root)
    monkeypatch.chdir(tmp_path)
    before = {path: path.lstat().st_size for path in tmp_path.rglob("*")}
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
        release(made)
        shutil.rmtree(made)
    assert found > 0
    assert {path: path.lstat().st_size for path in tmp_path.rglob("*")} == before


def test_a_checkpoint_that_is_not_there_names_those_that_are(dev_run: Path) -> None:
    message = refused(Experiment.from_path, dev_run, checkpoint="bets")
    state = checkpoint.load(dev_run / "checkpoints" / "best.pt")["state"]
    assert f"best (step {state['step']})" in message and "latest (step 10)" in message
    for name in ("../best", "a/b", "", ".", "best.pt\0", "/etc/passwd", "x" * 300):
        refused(Experiment.from_path, dev_run, checkpoint=name)
