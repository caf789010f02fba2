"""TensorBoard's tracker, read back with TensorBoard's own reader: each row once, whatever happened to the run."""

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BASE, Train, wait_until
from pairs import options
from test_tracking import DOTS, add_rows, assert_told, calls, recorder, with_wandb
from test_tracking import assert_complete as assert_complete_in_wandb

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.config.build import build
from scaffolding.core.errors import UserError
from scaffolding.core.folder.facts import Facts
from scaffolding.core.signals import StopFlag
from scaffolding.core.tracking import tracking as tracking_module
from scaffolding.core.tracking.follow import End
from scaffolding.core.tracking.tracking import Tracking

if "tensorboard" not in options("tracker"):
    pytest.skip("TensorBoard's tracker has been deleted", allow_module_level=True)
pytest.importorskip("tensorboard")

RUN = (*BASE, "run.name=run", "tracker=tensorboard")
SPEC = yaml.safe_load((PROJECT_ROOT / "configs/tracker/tensorboard.yaml").read_text())["tensorboard"]
AXES = ("step", "epoch", "samples", "split", "time")


def read(folder: Path) -> Any:
    """What TensorBoard reads in a run's folder, all of it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list((folder / "tensorboard").iterdir())
    assert len(files) == 1, files
    accumulator = EventAccumulator(str(folder / "tensorboard"), dict.fromkeys(("scalars", "images", "tensors"), 0))
    return accumulator.Reload()


def assert_complete(folder: Path, figures: list[tuple[str, int]]) -> Any:
    """TensorBoard has the values of all rows, each once and in order, nothing else, and the figures' own bytes."""
    found, expected = read(folder), dict[str, list[tuple[int, float]]]()
    rows = Facts(folder / "facts").rows()
    assert len(rows) > 15
    for row in rows:
        for name in row.keys() - AXES:
            expected.setdefault(f"{row['split']}/{name}", []).append((row["step"], pytest.approx(row[name], rel=1e-6)))
    tags = found.Tags()
    assert set(tags["scalars"]) == set(expected)
    for tag, points in expected.items():
        assert [(event.step, event.value) for event in found.Scalars(tag)] == points, tag
    images = [(tag, event) for tag in tags["images"] for event in found.Images(tag)]
    assert [(tag.removeprefix("figures/"), event.step) for tag, event in images] == figures
    for tag, event in images:
        (file,) = (folder / "figures").glob(f"{tag.removeprefix('figures/')}-*-{event.step:06d}.png")
        assert event.encoded_image_string == file.read_bytes()
    return found


def hparams(found: Any) -> list[Any]:
    """What the HPARAMS tab reads: the experiment, the start and, of a run that finished, the end of its session."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = found.PluginTagToContent("hparams")
    return [HParamsPluginData.FromString(content[tag]) for tag in sorted(content)]


def test_killed_and_carried_on_each_row_is_there_once(train: Train, output_root: Path) -> None:
    """Fails where the event files of the first session stay, or where the last values are logged again at step 0."""
    train(*RUN, *DOTS, "run.description='why: it is'", "run.budget=12")
    assert_complete(output_root / "run", [("dots", 6), ("dots", 12)])
    train("resume=run", "run.budget=24", env={"STRIKE": "updated 8"}, code=-signal.SIGKILL)
    train("resume=run", "run.budget=24")
    folder = output_root / "run"
    found = assert_complete(folder, [("dots", step) for step in (6, 12, 18, 24)])
    experiment, end, start = hparams(found)
    assert {info.name.tag for info in experiment.experiment.metric_infos} >= {"val/loss", "val/accuracy"}
    settings = start.session_start_info.hparams
    assert settings["run.seed"].number_value == 42 and settings["run.description"].string_value == "why: it is"
    assert not any(key.startswith(("paths", "tracker", "plots")) for key in settings)
    assert end.session_end_info.status == 1  # success
    (text,) = found.Tensors("config/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    assert "\n    run:\n" in shown and "\n      description: 'why: it is'\n" in shown


def test_a_run_that_failed_has_no_end(train: Train, output_root: Path) -> None:
    train(*RUN, env={"FAIL": "update 20"}, code=1)
    assert len(hparams(assert_complete(output_root / "run", []))) == 2


@with_wandb
def test_two_trackers_at_once(train: Train, output_root: Path) -> None:
    train(*RUN[:-1], "tracker=[wandb_offline,tensorboard]")
    assert_complete(output_root / "run", [])
    assert_complete_in_wandb(output_root / "run")


@pytest.mark.full
@pytest.mark.parametrize(("method", "how"), [("start", "failing"), ("log", "hanging"), ("finish", "hanging")])
def test_a_bad_tracker_leaves_tensorboard_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, how: str
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    tracking = Tracking(
        {"bad": recorder(bad, method, how), "tensorboard": SPEC, "good": recorder(good)}, tmp_path, {"run": {"seed": 3}}
    )
    add_rows(tmp_path)
    wait_until(lambda: len(calls(good)) == 103)
    monkeypatch.setattr(tracking_module, "FINISH_TIMEOUT", 20.0)
    tracking.finish(End(0, 55), StopFlag())
    assert_told(good, [20, 40, 55])
    assert_complete(tmp_path, [("curves", step) for step in (20, 40, 55)])


def test_a_tensorboard_that_fails_leaves_the_other_whole(tmp_path: Path) -> None:
    """Where its folder is a link, it deletes nothing behind that and writes nothing there."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    (tmp_path / "tensorboard").symlink_to(tmp_path / "elsewhere")
    tracking = Tracking({"tensorboard": SPEC, "good": recorder(tmp_path / "good")}, tmp_path, {"run": {"seed": 3}})
    add_rows(tmp_path)
    tracking.finish(End(0, 55), StopFlag())
    assert_told(tmp_path / "good", [20, 40, 55])
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == ["file"]
    assert tracking.processes[0].delivered is None


def test_a_package_that_is_missing_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"tracker\.tensorboard: .*optional group\npdm install -G tensorboard"):
        build(SPEC, "tracker.tensorboard")
