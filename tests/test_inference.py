"""A trained run is exported, asked about files, evaluated. A script that has been deleted is not asked for."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BASE, TESTS, TINY, Train, run_train, tree
from test_scripts import SCRIPTS
from tiny import NestedNet
from torch import Tensor, nn

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.facts import Facts
from scaffolding.experiment import Experiment

STILL = "data.dataset._target_=tiny.StillPoints"
TRUST = ("--trust", "tiny", "--trust", "test_inference")
HERE = [str(TESTS), str(PROJECT_ROOT / "src")]


def there(name: str) -> Any:
    return pytest.mark.skipif(not (SCRIPTS / name).exists(), reason=f"{name} has been deleted")


def script(name: str, *words: object, code: int = 0) -> Any:
    return run_train(*map(str, words), *TRUST, file=SCRIPTS / name, code=code)


class Undecided(NestedNet):
    """What it computes depends on the values of a batch."""

    def forward(self, points: Tensor) -> Tensor:
        if points.sum() > 0:
            points = points * 2
        return super().forward(points)


class Counted(nn.ModuleList):
    """Blocks with a state that is not a tensor."""

    def get_extra_state(self) -> dict[str, int]:
        return {"count": 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        pass


class Stateful(NestedNet):
    """A part of it has a state that is not a tensor."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__(num_features, num_classes)
        self.layers = Counted(self.layers)


@pytest.fixture(scope="module")
def tied_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, whose model has a tied one and buffers."""
    root = tmp_path_factory.mktemp("tied")
    words = (
        "model._target_=tiny.HalfTied",
        "run.ema_decay=0.5",
        "data.dataset._target_=tiny.FileOfPoints",
    )
    run_train(*BASE, *words, "+data.class_names=[left,right,up]", f"paths.output_root={root}", "run.name=run")
    return root / "run"


LOAD = """
import json, sys
sys.path[:0] = {path!r}
import torch
from pathlib import Path
{lines}
points = torch.tensor({points!r})
print(json.dumps(model(points).tolist()))
ours = [name for name in sys.modules if name.endswith((".train", ".experiment", ".core.session.run"))]
assert {has_template} or not ours
"""


@there("export.py")
def test_an_export_loads_as_documented(tied_run: Path, tmp_path: Path) -> None:
    """Fails where tied weights, buffers or averaged weights are lost, or where the template is needed to load them."""
    pytest.importorskip("safetensors")
    before = tree(tied_run)
    done = script("export.py", tied_run, "--to", tmp_path / "to")
    assert "bit by bit" in done.stdout and tree(tied_run) == before
    facts = json.loads((tmp_path / "to" / "inference.json").read_text())
    assert facts["data"]["class_names"] == ["left", "right", "up"] and facts["averaged"]
    assert facts["inputs"] == {"points": {"shape": ["batch", 8], "dtype": "float32"}}
    assert facts["run"] | {"epoch": 0} == {
        "name": "run",
        "checkpoint": "best",
        "step": facts["run"]["step"],
        "epoch": 0,
    }
    text = (PROJECT_ROOT / "scripts/README.md").read_text()
    (lines,) = [part.partition("```")[0] for part in text.split("```python\n") if "load_model(" in part]
    exp = Experiment.from_path(tied_run, trust=("tiny",))
    points = next(iter(exp.val_loader))[0]
    as_run = f"from scaffolding.experiment import Experiment\nmodel = Experiment.from_path({str(tied_run)!r}).model"
    as_documented = lines.replace('"RUN/export"', repr(str(tmp_path / "to")))
    said = []
    for lines, has_template in ((as_documented, False), (as_run, True)):  # in processes that differ in nothing else
        code = LOAD.format(path=HERE, lines=lines, points=points.tolist(), has_template=has_template)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        said.append(json.loads(done.stdout))
    assert said[0] == said[1]


@there("export.py")
def test_traced_exports_are_compared_and_appear_whole(tied_run: Path, tmp_path: Path) -> None:
    for name in ("safetensors", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    to = tmp_path / "to"
    done = script("export.py", tied_run, "--to", to, "--torch-export", "--onnx")
    assert "model.pt2: largest difference" in done.stdout and "model.onnx: largest difference" in done.stdout
    exp = Experiment.from_path(tied_run, trust=("tiny",))
    program = torch.export.load(to / "model.pt2").module()
    for count in (1, 7):
        points = torch.randn(count, 8)
        # a compiler may add in another order, so the last bits may differ
        assert torch.allclose(program(points), exp.model(points), atol=1e-6)
    before = tree(to)
    done = script("export.py", tied_run, "--to", to, "--onnx", "--tolerance", "-1", code=2)
    assert "model.onnx: on a batch of 1 its outputs differ by" in done.stderr
    assert tree(to) == before and [file.name for file in tmp_path.iterdir()] == ["to"]
    script("export.py", tied_run, "--to", to)
    assert sorted(file.name for file in to.iterdir()) == ["inference.json", "model.safetensors"]
    (to / "mine.txt").touch()
    assert "it holds mine.txt, which is not of an export" in script("export.py", tied_run, "--to", to, code=2).stderr


@there("export.py")
@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (
            ["model._target_=test_inference.Undecided"],
            ["--torch-export"],
            "Undecided cannot be traced by torch.export: ",
        ),
        (["model=pair"], ["--onnx"], "Pair cannot"),
        (
            ["model._target_=tiny.HalfTied", "+model.is_drawn=true"],
            [],
            "built again, the model is another one",
        ),
    ],
)
def test_what_cannot_be_exported_is_told(
    train: Train, output_root: Path, tmp_path: Path, words: list[str], options: list[str], message: str
) -> None:
    for name in ("safetensors", "onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    train(*TINY, STILL, *words, "run.budget=2", "run.name=run")
    if message == "Pair cannot":  # it can: its losses call all of it
        assert "model.onnx" in script("export.py", output_root / "run", *options).stdout
        return
    done = script("export.py", output_root / "run", "--to", tmp_path / "to", *options, code=2)
    assert message in done.stderr and not (tmp_path / "to").exists() and "Traceback" not in done.stderr


@there("export.py")
def test_a_package_that_is_missing_is_named(tied_run: Path) -> None:
    code = (
        "import sys, runpy, importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if name in ('safetensors', 'onnx') else find(name, *more)\n"
        f"sys.argv = ['export.py', {str(tied_run)!r}]\n"
        f"runpy.run_path({str(SCRIPTS / 'export.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "safetensors: not installed\nthe optional group has them: pdm install -G export" in done.stderr
    )


@there("predict.py")
def test_predictions_of_files(tied_run: Path, tmp_path: Path) -> None:
    """Arrays in each format and a file that the dataset reads: all of them say what the model says."""
    exp = Experiment.from_path(tied_run, trust=("tiny",))
    points = exp.datasets["test"].dataset.points[:3]
    with torch.no_grad():
        shares = exp.model(points).softmax(1)
    expected = [(["left", "right", "up"][int(row.argmax())], float(row.max())) for row in shares]
    np.save(tmp_path / "a.npy", points.double().numpy())
    np.savez(tmp_path / "b.npz", points.numpy())
    torch.save(points, tmp_path / "c.pt")
    header = ",".join(f"x{index}" for index in range(8))
    np.savetxt(tmp_path / "d.csv", points.numpy(), delimiter=",", header=header, comments="")
    (tmp_path / "e.point").write_text("\n".join(map(str, points[0].tolist())))
    before = tree(tied_run)
    files = [tmp_path / name for name in ("a.npy", "b.npz", "c.pt", "d.csv", "e.point")]
    done = script("predict.py", tied_run, *files, "--to", tmp_path / "said.csv")
    rows = list(csv.DictReader((tmp_path / "said.csv").read_text().splitlines()))
    assert done.stdout == "" and tree(tied_run) == before
    assert [row["file"] for row in rows] == [str(file) for file in files[:4] for _ in range(3)] + [str(files[4])]
    for row, (name, share) in zip(rows, [*expected * 4, expected[0]], strict=True):
        assert row["class"] == name and float(row["probability"]) == pytest.approx(share, rel=1e-5)
    script("predict.py", tied_run, files[0], "--raw", "--to", tmp_path / "said.jsonl")
    outputs = [json.loads(line)["output"] for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert torch.equal(torch.tensor(outputs).softmax(1), shares)


@there("predict.py")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((3, 7)), "an array of (3, 7): HalfTied takes (8,), or several of them, (N, 8)"),
        ("a.npy", np.full(8, np.nan), "values that are complex or not finite"),
        ("a.npy", np.array(["x"]), "an array of <U1, not of numbers"),
        ("a.npy", b"nothing", "not an array of numbers that numpy saved"),
        ("a.csv", b"1,2\n3,x\n", "could not convert string 'x'"),
        ("a.pt", {"points": torch.zeros(8)}, "it holds a dict, not a tensor"),
        ("a.point", b"1 2 3", "3 numbers, and a point has 8"),
        ("a.point", None, "the file does not exist"),
    ],
)
def test_a_wrong_file_is_named(tied_run: Path, tmp_path: Path, name: str, content: Any, message: str) -> None:
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif isinstance(content, np.ndarray):
        np.save(file, content)
    elif content is not None:
        torch.save(content, file)
    done = script("predict.py", tied_run, file, "--to", tmp_path / "said.csv", code=2)
    assert str(file) in done.stderr and message in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "said.csv").exists()


@there("predict.py")
def test_a_static_reader_needs_no_data(tied_run: Path, tmp_path: Path) -> None:
    """The weights of a run may be where its data are not."""
    (tmp_path / "a.point").write_text("\n".join(map(str, range(8))))
    np.save(tmp_path / "a.npy", np.zeros(8))
    words = ["predict.py", tied_run, tmp_path / "a.point"]
    there = script(*words).stdout
    away = run_train(*map(str, words[1:]), *TRUST, file=SCRIPTS / "predict.py", env={"AWAY": "1"})
    assert away.stdout == there and "no points here" in away.stderr
    words = [str(tied_run), str(tmp_path / "a.npy"), *TRUST]
    away = run_train(*words, file=SCRIPTS / "predict.py", env={"AWAY": "1"}, code=2)
    assert "seen on the run's data, which are not here" in away.stderr


@there("predict.py")
def test_what_is_doubtful_is_said(train: Train, output_root: Path, tmp_path: Path) -> None:
    train(*TINY, STILL, "run.budget=2", "run.name=run")
    np.save(tmp_path / "a.npy", 100 * np.ones(8))
    assert (
        "values up to 100, those of the run's data are up to"
        in script("predict.py", output_root / "run", tmp_path / "a.npy").stderr
    )
    (tmp_path / "a.txt").write_text("x")
    said = script("predict.py", output_root / "run", tmp_path / "a.txt", code=2).stderr
    assert "StillPoints has no read_file(path), which says how such a file becomes an input" in said


@there("evaluate.py")
def test_an_evaluation_is_that_of_the_run(train: Train, output_root: Path) -> None:
    """Fails where it differs in the last bit from the row of the run, or writes into its folder."""
    train(*BASE, "run.name=run", "run.ema_decay=0.9")
    run = output_root / "run"
    before = tree(run)
    rows = Facts(run / "facts").rows()
    done = script("evaluate.py", "run", "--output", output_root, "--json")
    (row,) = [row for row in rows if row["split"] == "test"]
    found = json.loads(done.stdout)
    assert found["values"] == {name: row[name] for name in ("loss", "accuracy")} and found["step"] == row["step"]
    done = script("evaluate.py", run, "--split", "val", "--json")
    (best,) = [row for row in rows if row["split"] == "val" and row["step"] == found["step"]]
    assert json.loads(done.stdout)["values"] == {name: best[name] for name in ("loss", "accuracy")}
    assert f"loss      {row['loss']:.6g}" in script("evaluate.py", run).stdout
    assert tree(run) == before
    for words, message in (
        (["loader.batch_size=3"], "loader.batch_size=3: the run keeps its settings"),
        (["--checkpoint", "no"], "no checkpoint 'no'"),
        (["data.val_from_train=0.3"], "of which data?"),
        (["data=no_such"], "data=no_such: no such option"),
    ):
        done = script("evaluate.py", run, *words, code=2)
        assert message in done.stderr and "Traceback" not in done.stderr


@there("evaluate.py")
def test_it_does_not_hide_the_installed_package_of_its_name(tmp_path: Path) -> None:
    """Scripts find their own folder first on the path; a metric may come from the package `evaluate`."""
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate" / "__init__.py").write_text("installed = True\n")
    code = (
        f"import sys; sys.path[:0] = [{str(SCRIPTS)!r}, {str(tmp_path)!r}]; import evaluate; assert evaluate.installed"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@there("profile_step.py")
def test_profile_of_a_step(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    words = [word for word in TINY[2:] if not word.startswith("mode=")]
    search = f"hydra.searchpath=['file://{TESTS / 'configs'}']"
    done = run_train(search, *words, STILL, "--steps", "3", "--to", str(trace), file=SCRIPTS / "profile_step.py")
    assert "step: " in done.stdout and "aten::" in done.stdout and "backward" in done.stdout
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert any(str(name).startswith("aten::") for name in names)
    assert os.listdir(tmp_path) == ["trace.json"]
    done = run_train(search, *words[:1], "model=tinny", file=SCRIPTS / "profile_step.py", code=2)
    assert "nearest: tiny" in done.stderr and "Traceback" not in done.stderr


def test_images_are_read_as_they_are_or_not_at_all(tmp_path: Path) -> None:
    from PIL import Image

    from scaffolding.data import read_image

    grey = (np.arange(64, dtype=np.uint8) * 4).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert torch.equal(read_image(tmp_path / "grey.png", (1, 8, 8)), torch.from_numpy(grey / np.float32(255))[None])
    assert read_image(tmp_path / "grey.png", (3, 4, 6)).shape == (3, 4, 6)
    Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(tmp_path / "clear.png")
    Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "no.png").write_text("no")
    for name, message in (("clear", "transparent"), ("deep", "8 bits"), ("no", "not an image")):
        with pytest.raises(ValueError, match=message):
            read_image(tmp_path / f"{name}.png", (1, 8, 8))
