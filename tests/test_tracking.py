"""Trackers cannot stop or stall a run: each row once and in order, whatever fails, through kills and resumes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
import zygote
from conftest import BASE, ENV, Train, command, has_ended, latest, run_train, wait_until
from loguru import logger
from pairs import options
from tiny import OddMetric
from zygote import TRAIN

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder import folder as run_folder
from scaffolding.core.folder.facts import Facts
from scaffolding.core.signals import StopFlag
from scaffolding.core.tracking import tracking as tracking_module
from scaffolding.core.tracking.follow import End
from scaffolding.core.tracking.tracking import Tracking

SYNC = PROJECT_ROOT / "scripts" / "sync.py"
RUN = (*BASE, "run.name=run")
DOTS = ("+plots.dots._target_=tiny.Dot", "run.plot_every=6")
SLOW = ("data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how='is slow'")  # trackers take a second to start
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
PNG_END = b"...IEND\xaeB`\x82"
has_wandb = "wandb" in options("tracker")
with_wandb = pytest.mark.skipif(not has_wandb, reason="W&B has been deleted")
with_sync = pytest.mark.skipif(not (has_wandb and SYNC.exists()), reason="W&B or sync.py has been deleted")


@pytest.fixture(autouse=True)
def log() -> Iterator[list[str]]:
    """What is said meanwhile."""
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level="INFO")
    yield messages
    logger.remove(handler)


def recorder(file: Path, at: str = "", how: str = "") -> dict[str, Any]:
    """The block of a tracker that remembers its calls, and misbehaves at one."""
    return {"_target_": "recorders.Recorder", "file": str(file), "at": at, "how": how}


def calls(file: Path) -> list[Any]:
    """What a recorder was told; a line that is just being written is not counted yet."""
    if not file.exists():
        return []
    *lines, _ = file.read_text().split("\n")
    return [json.loads(line) for line in lines]


def assert_told(file: Path, figures: list[int]) -> None:
    """All rows of `add_rows`, each once and in order, figures of these steps behind those of their step, the end."""
    told = calls(file)
    rows = [arguments[0] for name, *arguments in told if name == "log"]
    assert rows == [row_of(step, split) for step in range(1, 51) for split in ("train", "val")]
    drawn = [call for call in told if call[0] == "log_figure"]
    assert [(kind, step) for _, kind, _, step in drawn] == [("curves", step) for step in figures]
    for call in drawn:
        assert told[told.index(call) - 1][1]["step"] == min(call[-1], 50)
    assert told[0][0] == "start" and told[-1] == ["finish", 0]


def row_of(step: int, split: str) -> dict[str, Any]:
    row = {"step": step, "split": split, "loss": step / 3}
    if step > 25:
        row["late"] = 1
    return row


def add_rows(folder: Path, first: int = 1) -> None:
    """Rows and figures of the steps from `first` to 50; the rows get another column on the way."""
    for name in ("facts", "figures"):
        (folder / name).mkdir(exist_ok=True)
    facts = Facts(folder / "facts")
    for step in range(first, 51):
        for split in ("train", "val"):
            facts.add_row(row_of(step, split))
        if step in (20, 40, 50):  # there is no row at 55
            (folder / "figures" / f"curves-val-{step if step < 50 else 55:06d}.png").write_bytes(PNG_END)


def follow(folder: Path, *specs: dict[str, Any], first: int = 1) -> None:
    """Track such a run from beginning to end."""
    tracking = Tracking({f"number {i}": spec for i, spec in enumerate(specs)}, folder, {"run": {"seed": 3}})
    add_rows(folder, first)
    tracking.finish(End(0, 55), StopFlag())
    assert all(process.process.poll() is not None for process in tracking.processes)


def test_rows_arrive_in_order_and_a_resumed_run_is_told_whole(tmp_path: Path) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    follow(tmp_path, recorder(first))  # killed after step 50, say, with a checkpoint of step 30
    assert_told(first, [20, 40, 55])
    assert calls(first)[0][1:3] == [str(tmp_path), {"run": {"seed": 3}}]
    for name in ("curves-val-000001", "curves-val-000090", "notes-of-mine", "notes-of-2x", "notes"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(PNG_END)
    Facts(tmp_path / "facts").cut_after(30, [])
    follow(tmp_path, recorder(again), first=31)
    assert_told(again, [1, 20, 40, 55])  # that of step 90 is of a step that comes again
    follow(tmp_path)  # no tracker at all


def test_a_tracker_is_told_while_the_run_goes_on(tmp_path: Path) -> None:
    """It hears of no signal: a Ctrl-C or a scheduler's are for the run. It has torch only if it wants it."""
    file = tmp_path / "told"
    tracking = Tracking({"mine": recorder(file)}, tmp_path, {})
    add_rows(tmp_path)
    wait_until(lambda: len(calls(file)) == 103)
    assert [call[-1] for call in calls(file) if call[0] == "log_figure"] == [20, 40]
    pid, has_torch = calls(file)[0][3:]
    assert os.getsid(pid) != os.getsid(0) and not has_torch
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    tracking.finish(End(0, 55), StopFlag())
    assert_told(file, [20, 40, 55])


def test_what_it_prints_is_logged(tmp_path: Path, log: list[str]) -> None:
    follow(tmp_path, recorder(tmp_path / "told", "log", "talkative"))
    said = ["an error", "half a line \u2713", "its own level", "a broken report"]
    assert log == [f"tracker number 0: {text}" for text in said]


def test_what_a_tracker_printed_before_it_hangs_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    tracking = Tracking({"mine": recorder(tmp_path / "told", "start", "printing")}, tmp_path, {})
    wait_until(lambda: log == ["tracker mine: before"])
    tracking.finish(End(143, 1), StopFlag(signal.SIGTERM))


def test_a_crash_after_the_end_is_not_told(tmp_path: Path, log: list[str]) -> None:
    """Everything has been delivered by then."""
    follow(tmp_path, recorder(tmp_path / "told", "finish", "crashing_at_exit"))
    assert calls(tmp_path / "told")[-1] == ["finish", 0] and not log


def test_values_of_a_tracker_keep_their_types(tmp_path: Path) -> None:
    config = {"numbers": {0: 1e-3, 1: float("inf")}, "nothing": None, "text": "1e-3", "letters": "\u2713 \n"}
    Tracking({"mine": recorder(tmp_path / "told", "start", "exact")}, tmp_path, config).finish(End(0, 1), StopFlag())
    assert calls(tmp_path / "told")[1] == ["exact", repr(config)]


def test_a_run_that_fails_before_its_first_row_starts_no_tracker(train: Train, tmp_path: Path) -> None:
    words = ("+tracker.mine._target_=recorders.Recorder", f"+tracker.mine.file={tmp_path / 'told'}")
    train(*RUN, *words, env={"FAIL": "update 1"}, code=1)
    assert not (tmp_path / "told").exists()


def test_a_damaged_figure_stops_nothing(tmp_path: Path, log: list[str]) -> None:
    """A kill in the middle of writing leaves one, in runs of earlier versions."""
    follow(tmp_path)
    for name, content in (("empty", b""), ("cut", PNG_END[:-1])):
        (tmp_path / "figures" / "curves-val-000020.png").write_bytes(content)
        tracking = Tracking({"again": recorder(tmp_path / name)}, tmp_path, {})
        tracking.finish(End(0, 50), StopFlag())
        assert_told(tmp_path / name, [40])
        assert "curves-val-000020.png is damaged" in log.pop() and not log


@pytest.mark.parametrize("how", ["failing", "leaving", "hanging"])
@pytest.mark.parametrize("method", ["start", "log", "log_figure", "finish"])
def test_a_bad_tracker_harms_neither_the_run_nor_another_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str], method: str, how: str
) -> None:
    bad, good = tmp_path / "bad", tmp_path / "good"
    start = time.monotonic()
    tracking = Tracking({"bad": recorder(bad, method, how), "good": recorder(good)}, tmp_path, {})
    add_rows(tmp_path)
    wait_until(lambda: len(calls(good)) == 103)
    if how == "hanging":
        monkeypatch.setattr(tracking_module, "FINISH_TIMEOUT", 5.0)
    tracking.finish(End(0, 55), StopFlag())
    assert time.monotonic() - start < 50  # it would be 100
    assert_told(good, [20, 40, 55])
    assert len(log) == 1 and log[0].startswith("tracker bad: ") and "\n" not in log[0]
    assert {"failing": "(ConnectionError: no route)", "leaving": "(SystemExit: )", "hanging": "in time"}[how] in log[0]
    assert f"facts/ is complete, python scripts/sync.py {tmp_path} delivers the rest" in log[0]


def test_a_slow_tracker_gets_everything(tmp_path: Path) -> None:
    tracking = Tracking({"slow": recorder(tmp_path / "told", "log", "slow")}, tmp_path, {})
    add_rows(tmp_path)
    tracking.finish(End(0, 55), StopFlag())
    assert_told(tmp_path / "told", [20, 40, 55])


@pytest.mark.parametrize("exit_code", [143, 0])
def test_a_signal_does_not_wait_for_stuck_trackers(tmp_path: Path, exit_code: int) -> None:
    """Neither one that ended training, nor one that comes while a finished run waits for its trackers."""
    tracking = Tracking({name: recorder(tmp_path / name, "start", "hanging") for name in ("a", "b")}, tmp_path, {})
    wait_until(lambda: calls(tmp_path / "a") and calls(tmp_path / "b"))
    start = time.monotonic()
    tracking.finish(End(exit_code, 1), StopFlag(signal.SIGTERM))
    assert time.monotonic() - start < 1.9 * tracking_module.STOP_TIMEOUT  # both together
    wait_until(lambda: all(process.process.poll() is not None for process in tracking.processes))


def test_a_process_that_dies_or_does_not_start_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    tracking = Tracking({"mine": recorder(tmp_path / "told")}, tmp_path, {})
    wait_until(lambda: calls(tmp_path / "told"))
    os.kill(calls(tmp_path / "told")[0][3], signal.SIGKILL)
    wait_until(lambda: log)
    tracking.finish(End(0, 1), StopFlag())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    Tracking({"mine": recorder(tmp_path / "told")}, tmp_path, {}).finish(End(0, 1), StopFlag())
    died, not_started = log
    assert "exit code -9; facts/ is complete" in died and "cannot be started (No such file" in not_started


def test_a_tracker_that_draws_random_numbers_does_not_change_a_run(
    train: Train, tmp_path: Path, output_root: Path
) -> None:
    told = tmp_path / "told"
    short = (*RUN, *SLOW, "run.budget=12", "run.eval_every=null")
    train(*short, "+tracker.mine._target_=recorders.Drawing", f"+tracker.mine.file={told}")
    train(*short, "run.name=alone")
    contents = [latest(output_root / name) | {"config": {}} for name in ("run", "alone")]
    assert first_difference(*contents) is None
    assert calls(told)[-1] == ["finish", 0]


@ON_LINUX
@pytest.mark.parametrize("method", ["start", "finish"])
def test_a_killed_run_leaves_no_process(output_root: Path, tmp_path: Path, method: str) -> None:
    """Whether it is killed during training or while it waits for its trackers."""
    words = [*RUN, f"paths.output_root={output_root}", "+tracker.mine._target_=recorders.Recorder"]
    misbehaves = {"file": tmp_path / "told", "at": method, "how": "hanging"}
    words += [f"+tracker.mine.{name}={value}" for name, value in misbehaves.items()]
    if method == "start":
        words += SLOW
    run = zygote.start([str(TRAIN), *words], tmp_path / "out", tmp_path / "err", env=ENV)
    wait_until(lambda: any(call[0] == method for call in calls(tmp_path / "told")))
    run.send(signal.SIGKILL)
    pid = calls(tmp_path / "told")[0][3]
    assert wait_until(lambda: has_ended(pid))


# --- W&B itself ---


@with_wandb
def test_what_an_online_run_has_got_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B takes rows in the order of its own step, and says at a resume which is the next."""
    import wandb

    from scaffolding.tracker.wandb import Wandb

    def send(first: int) -> list[tuple[int, Any]]:
        tracker: Any = Wandb("project", "offline", 1)
        tracker.run, tracker.folder, tracker.first = Mock(), tmp_path, first
        for step in range(1, 10):
            for split in ("train", "val"):
                tracker.log({"step": step, "epoch": 0, "samples": step, "split": split, "loss": 0.5, "time": 3})
            if step % 2 == 0:
                tracker.log_figure("curves", Path("curves.png"), step)
        return [(call.kwargs["step"], call.args[0]) for call in tracker.run.log.call_args_list]

    monkeypatch.setattr(wandb, "Image", str)
    whole = send(first=0)
    numbers = [number for number, _ in whole]
    assert numbers == sorted(set(numbers)) and len(numbers) == 22
    assert whole[1] == (101, {"step": 1, "epoch": 0, "samples": 1, "val/loss": 0.5})
    for number in numbers:
        assert send(first=number + 1) == [item for item in whole if item[0] > number]


def newest(run: Path) -> Path:
    """The newest W&B folder of a run."""
    return sorted((run / "wandb").glob("offline-run-*"))[-1]


def records(run: Path) -> list[Any]:
    """The records in the newest W&B folder of a run, in LevelDB's log format: parts of records, in blocks."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = newest(run).glob("run-*.wandb")
    data, block, head = file.read_bytes(), 32768, 7
    found, start, parts = [], head, b""
    while start + head <= len(data):
        if block - start % block < head:  # the rest of a block is padding
            start += block - start % block
            continue
        end = start + head + int.from_bytes(data[start + 4 : start + 6], "little")
        parts += data[start + head : end]
        if data[start + 6] in (1, 4):  # a whole record, or the last part of one
            found.append(Record.FromString(parts))
            parts = b""
        start = end
    return found


def history(run: Path) -> list[dict[str, Any]]:
    """The rows and figures in the newest W&B folder of a run, each as W&B keeps it."""
    items = [record.history.item for record in records(run) if record.HasField("history")]
    return [{item.key or item.nested_key[0]: json.loads(item.value_json) for item in row} for row in items]


def assert_complete(run: Path, *end: tuple[str, int]) -> None:
    """Every row of the facts is in the newest W&B folder once and in order, and `end` are the records of its end."""
    found = [row for row in history(run) if not any(key.startswith("figures") for key in row)]
    rows = Facts(run / "facts").rows()
    assert len(rows) == len(found) > 15
    for row, sent in zip(rows, found, strict=True):
        assert (row["step"], row["loss"]) == (sent["step"], sent[f"{row['split']}/loss"])
    ends = [(record.WhichOneof("record_type"), record.exit.exit_code) for record in records(run)]
    assert tuple(item for item in ends if item[0] in ("exit", "preempting")) == (end or (("exit", 0),))


class Client:
    """W&B's client, as far as a start needs it, with a server that remembers the calls of init."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.Settings, self.Api = Mock(), Mock()
        self.setup = Mock(return_value=Mock(settings=Mock(base_url="https://api.wandb.ai")))

    def init(self, **options: Any) -> Any:
        self.calls.append(options)
        return Mock(dir=str(options["dir"] / "wandb" / "run" / "files"), step=0, url="https://somewhere")


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    for name in ("WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    found = Client()
    monkeypatch.setitem(sys.modules, "wandb", found)
    return found


KEY_OF = "machine {} login user password " + 4 * "0123456789"


@with_wandb
@pytest.mark.parametrize(
    ("mode", "env", "login", "expected"),
    [
        ("auto", {}, "", "offline"), ("online", {}, "", "offline"), ("auto", {"WANDB_API_KEY": "x"}, "", "online"),
        ("auto", {}, KEY_OF.format("api.wandb.ai"), "online"), ("online", {}, KEY_OF.format("api.wandb.ai"), "online"),
        ("auto", {}, KEY_OF.format("github.com"), "offline"), ("auto", {}, "no netrc", "offline"),
        ("auto", {"WANDB_BASE_URL": "http://mine:8080"}, KEY_OF.format("mine"), "online"),
        ("auto", {"WANDB_BASE_URL": "http://mine:8080"}, KEY_OF.format("api.wandb.ai"), "offline"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "x", "WANDB_MODE": "disabled"}, "", "disabled"),
        ("offline", {"WANDB_API_KEY": "x", "WANDB_MODE": "online"}, "", "offline"),
    ],
)  # fmt: skip
def test_how_one_logs_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client, mode: str, env: Any, login: str, expected: str
) -> None:
    from scaffolding.tracker.wandb import Wandb

    (tmp_path / "netrc").write_text(login)
    for name, value in ({"NETRC": str(tmp_path / "netrc")} | env).items():
        monkeypatch.setenv(name, value)
    Wandb("project", mode, 1).start(tmp_path, {})
    assert [call["mode"] for call in client.calls] == [expected]


@with_wandb
def test_settings_of_the_run_s_folder_are_not_w_and_b_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    """A stranger's folder would say to which server the key goes."""
    from scaffolding.tracker.wandb import Wandb

    (tmp_path / "sub" / ".wandb").mkdir(parents=True)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "sub" / ".wandb" / "settings").write_text("[default]\nbase_url = http://evil\n")
    Wandb("project", "online", 1).start(tmp_path, {})
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(ValueError, match="delete it"):
        Wandb("project", "online", 1).start(tmp_path, {})
    monkeypatch.chdir("/")
    (tmp_path / "wandb" / "settings").touch()
    with pytest.raises(ValueError, match="delete it"):
        Wandb("project", "online", 1).start(tmp_path, {})
    assert len(client.calls) == 1


@with_wandb
def test_a_run_s_id_is_its_folder_s(tmp_path: Path, client: Client) -> None:
    """Two runs of one name are two, a resumed one is one, and one of an earlier version keeps what it has."""
    from scaffolding.tracker.wandb import Wandb

    def identify(name: str, **config: Any) -> str:
        Wandb("project", "offline", 1).start(tmp_path / name, config)
        return str(client.calls[-1]["id"])

    for name in ("run", "again/run", "old/a-b", "exp_1/x_job3"):
        (tmp_path / name).mkdir(parents=True)
    assert identify("run") == identify("run") != identify("again/run")
    for name in ("offline-run-20260101_000000-a-b", "run-20260102_000000-a-c", "offline-run-20251231_000000-a-d"):
        (tmp_path / "old/a-b/wandb" / name).mkdir(parents=True)
    assert identify("old/a-b") == "a-c"
    (tmp_path / "exp_1" / "x_job3" / "provenance.json").write_text('{"parent": {"verb": "fork", "run": "/a/b"}}')
    identify("exp_1/x_job3", run={"tags": ["a", "b"], "description": "why"})
    call = client.calls[-1]
    assert (call["tags"], call["notes"], call["group"]) == (["a", "b"], "why", "exp_1")
    assert call["config"]["parent"]["run"] == "/a/b" and client.calls[0]["group"] is client.calls[0]["tags"] is None


@with_wandb
def test_w_and_b_itself_gets_id_tags_and_notes(train: Train, output_root: Path) -> None:
    words = ("tracker=wandb", "run.tags=[pilot]", "run.description='why it is'", "run.budget=2")
    ids = []
    for _ in range(2):
        shutil.rmtree(output_root / "run", ignore_errors=True)
        train(*RUN, *words, env={"WANDB_PROJECT": "mine"})
        (sent,) = [record.run for record in records(output_root / "run") if record.HasField("run")]
        ids.append(sent.run_id)
        assert list(sent.tags) == ["pilot"] and sent.notes == "why it is" and sent.project == "mine"
    train("resume=run", "run.budget=3")
    (sent,) = [record.run for record in records(output_root / "run") if record.HasField("run")]
    assert sent.run_id == ids[1] != ids[0]


@with_wandb
@pytest.mark.full
def test_killed_three_times_the_newest_folder_is_complete(train: Train, output_root: Path) -> None:
    """Fails where a resumed run sends only what is new, or what was cut stays."""
    run = output_root / "run"
    words: tuple[str, ...] = (*RUN, *DOTS, "tracker=wandb")
    for point in ("update 7", "updated 5", "update 9"):
        train(*words, env={"STRIKE": point}, code=-signal.SIGKILL)
        words = ("resume=run",)
    done = train(*words)
    assert_complete(run)
    assert [row["step"] for row in history(run) if "figures/dots" in row] == [6, 12, 18, 24]
    assert all(file.stat().st_nlink > 1 for file in newest(run).rglob("*.png")), "figures are stored twice"
    assert done.stderr.count("upload later with") == done.stderr.count(f"wandb sync {newest(run)}\n") == 1


@with_wandb
@pytest.mark.full
@pytest.mark.parametrize(
    ("env", "code", "end"),
    [
        ({"KILL_AT": "20", "KILL_WITH": "SIGTERM"}, 143, [("preempting", 0), ("exit", 143)]),
        ({"KILL_AT": "20", "KILL_WITH": "SIGINT"}, 130, [("exit", 130)]),
        ({"FAIL": "update 20"}, 1, [("exit", 1)]),
    ],
)
def test_how_a_run_ended(
    train: Train, output_root: Path, env: dict[str, str], code: int, end: list[tuple[str, int]]
) -> None:
    """Fails where W&B is told that a run which was stopped or failed had finished."""
    words = [word for word in (*RUN, *SLOW, "run.eval_every=18", "tracker=wandb") if not word.startswith("run.name=")]
    for number in range(3):  # after a signal, trackers get a second and a half, which a busy machine may need otherwise
        done = train(*words, f"run.name=run_{number}", env=env, code=code)
        if "not everything was delivered in time" not in done.stderr:
            break
    assert_complete(output_root / f"run_{number}", *end)


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a tracker."""
    root = tmp_path_factory.mktemp("untracked")
    run_train(*RUN, f"paths.output_root={root}")
    return root / "run"


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


KEY = {"WANDB_API_KEY": 4 * "0123456789"}
FAULTS: dict[str, tuple[dict[str, str], str, int, bool]] = {  # environment, disk, warnings, whether rows are lost
    "odd values": ({}, "", 3, False),
    "closed port": (KEY | {"WANDB_BASE_URL": "http://127.0.0.1:9"}, "", 1, False),
    "mute server": (KEY | {"WANDB_BASE_URL": "MUTE"}, "", 1, False),
    "no folder": ({"PLANT": f"RUN/wandb={__file__}"}, "", 1, True),
    "read-only folder": ({"PLANT": "RUN/wandb=RUN/../disk"}, "ro,size=1m", 1, True),
    "full disk": ({"PLANT": "RUN/wandb=RUN/../disk"}, "rw,size=100k", 1, True),
    "service killed": ({"KILL_AT": "12", "KILL_CHILD": "wandb-core"}, "", 1, True),
}
MOUNT = 'mkdir -p {0} && mount -t tmpfs -o {1} tmpfs {0} && exec "$0" "$@"'


@with_wandb
@pytest.mark.parametrize("fault", ["odd values", *(pytest.param(f, marks=pytest.mark.full) for f in [*FAULTS][1:])])
def test_a_fault_of_wandb_changes_nothing(output_root: Path, untracked: Path, mute: str, fault: str) -> None:
    env, disk, num_warnings, lost = FAULTS[fault]
    run = output_root / "run"
    words = [*RUN, f"paths.output_root={output_root}", "tracker=wandb", "tracker.wandb.init_timeout=1"]
    if fault == "odd values":
        words += [f"+metrics.{name}={{_target_:tiny.OddMetric,value:{name}}}" for name in OddMetric.VALUES]
    program = command(*words)
    if disk:
        mount = MOUNT.format(output_root / "disk", disk)
        shell = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
        if subprocess.run([*shell, "true"]).returncode != 0:
            pytest.skip("no disks can be mounted here")
        program = [*shell, *program]
    env = {name: value.replace("RUN", str(run)).replace("MUTE", mute) for name, value in env.items()}
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | ENV | env)
    assert done.returncode == 0, done.stderr
    contents = [latest(path) | {"config": {}} for path in (untracked, run)]  # of one run it names a tracker
    assert first_difference(*contents) is None
    tables = [Facts(path / "facts").rows() for path in (untracked, run)]
    rows, expected = ([(row["step"], row["split"], row["loss"]) for row in table] for table in tables)
    assert rows == expected
    assert tables[1][-1]["time"] - tables[1][0]["time"] < 10  # training did not wait
    warnings = [line for line in done.stderr.splitlines() if " WARNING " in line and "at random" not in line]
    assert len(warnings) == num_warnings, done.stderr
    assert all(f"scripts/sync.py {run} " in line for line in warnings if lost)
    assert done.stderr.count("upload later with: wandb sync") == (fault not in ("no folder", "read-only folder"))
    assert all(line[:2] == "20" for line in done.stderr.splitlines()), f"W&B talks on the console\n{done.stderr}"
    if not lost:
        assert_complete(run)


@with_wandb
@pytest.mark.full
def test_a_signal_ends_a_run_whose_tracker_is_stuck(train: Train, output_root: Path, mute: str) -> None:
    """Fails where the end of a run waits for a tracker."""
    env = KEY | {"WANDB_BASE_URL": mute, "KILL_AT": "20", "KILL_WITH": "SIGTERM"}
    start = time.monotonic()
    done = train(*RUN, "tracker=wandb", "tracker.wandb.init_timeout=600", env=env, code=143)
    assert time.monotonic() - start < 60  # it would be 600
    assert done.stderr.count(f"scripts/sync.py {output_root / 'run'} ") == 1 and "resume=run" in done.stdout


def sync(run: Path, *words: str, code: int = 0) -> str:
    """What sync.py says, with its errors."""
    done = run_train(str(run), *words, file=SYNC, code=code)
    return done.stdout + done.stderr


@with_sync
@pytest.mark.full
def test_sync_delivers_what_was_missed(train: Train, output_root: Path, untracked: Path) -> None:
    """Fails where sync.py leaves out rows or figures, or disturbs a run that is at work."""
    run = output_root / "run"
    train(*RUN, *DOTS, "tracker=wandb", env={"KILL_AT": "17"}, code=-signal.SIGKILL)
    said = sync(run)
    assert f"run: {len(Facts(run / 'facts').rows())} rows and 2 figures delivered to {newest(run)}\n" in said
    assert_complete(run, ("preempting", 0), ("exit", 143))
    run_folder.acquire(run)
    assert f"process {os.getpid()}" in sync(run, code=2)
    run_folder.release(run)
    assert "has no tracker" in sync(untracked, code=2)
    assert "nosuch" in sync(untracked, "--tracker", "nosuch", code=2)
    for name in ("wandb", "wandb_offline"):
        assert "rows and" in sync(untracked, "--tracker", name)
        assert_complete(untracked)
    assert yaml.safe_load((untracked / "config.yaml").read_text())["tracker"] == {}


@with_sync
def test_sync_builds_only_trackers_of_the_checkout(untracked: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((untracked / "config.yaml").read_text())
    config["tracker"] = yaml.safe_load((PROJECT_ROOT / "configs/tracker/wandb.yaml").read_text())
    config["tracker"]["wandb"]["project"] = {"_target_": "os.system"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert "'os.system' is not in the list of trusted targets" in sync(tmp_path, code=2)
    assert not (tmp_path / "wandb").exists()
