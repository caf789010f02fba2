"""Trackers cannot stop or stall a run: each row once and in order, whatever fails, through kills and resumes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from conftest import BASE, ENV, Train, command, latest, run_train
from loguru import logger
from pairs import options
from tiny import OddMetric

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.checks.rehearsal import first_difference
from scaffolding.core.folder import folder as run_folder
from scaffolding.core.folder.facts import Facts
from scaffolding.core.session import tracking
from scaffolding.core.session.tracking import Tracking

SYNC = PROJECT_ROOT / "scripts" / "sync.py"
RUN = (*BASE, "run.name=run")
PNG_END = b"...IEND\xaeB`\x82"
has_wandb = "wandb" in options("tracker")
with_wandb = pytest.mark.skipif(not has_wandb, reason="W&B has been deleted")
with_sync = pytest.mark.skipif(not (has_wandb and SYNC.exists()), reason="W&B or sync.py has been deleted")


def recorder(**behaviour: Callable[..., object]) -> Mock:
    """A tracker that remembers its calls; one of its methods may do something else, too."""
    return Mock(**{f"{method}.side_effect": action for method, action in behaviour.items()})


def assert_told(tracker: Mock, figures: list[int]) -> None:
    """All rows of `follow`, each once and in order, figures of these steps behind those of their step, the end."""
    calls = [(name, *arguments) for name, arguments, _ in tracker.mock_calls]
    assert [(row["step"], row["split"], row["loss"]) for (name, row, *_) in calls if name == "log"] == [
        (step, split, step / 3) for step in range(1, 51) for split in ("train", "val")
    ]
    drawn = [call for call in calls if call[0] == "log_figure"]
    assert [(kind, step) for _, kind, _, step in drawn] == [("curves", step) for step in figures]
    for call in drawn:
        assert calls[calls.index(call) - 1][1]["step"] == min(call[-1], 50)
    assert calls[0][0] == "start" and calls[-1] == ("finish", 0)


def follow(folder: Path, *trackers: Any, first: int = 1) -> float:
    """Track rows and figures of the steps from `first` to 50; the seconds that training was held up."""
    for name in ("facts", "figures"):
        (folder / name).mkdir(exist_ok=True)
    facts, guard = Facts(folder / "facts"), Tracking({f"number {i}": tracker for i, tracker in enumerate(trackers)})
    start = time.monotonic()
    guard.start(folder, {"run": {"seed": 3}})
    for step in range(first, 51):
        for split in ("train", "val"):
            row = {"step": step, "split": split, "loss": step / 3}
            facts.add_row(row)
            guard.log(row)
        if step in (20, 40, 50):  # there is no row at 55
            file = folder / "figures" / f"curves-val-{step if step < 50 else 55:06d}.png"
            file.write_bytes(PNG_END)
            guard.log_figure(file)
    seconds = time.monotonic() - start
    guard.finish(0)
    return seconds


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is logged meanwhile. What trackers do here does not end this process."""
    monkeypatch.setattr(tracking, "unfinished", [])
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]))
    yield messages
    logger.remove(handler)


def test_rows_arrive_in_order_and_a_resumed_run_is_told_whole(tmp_path: Path) -> None:
    first, again = recorder(), recorder()
    follow(tmp_path, first)  # killed after step 50, say, with a checkpoint of step 30
    assert_told(first, [20, 40, 55])
    first.start.assert_called_once_with(tmp_path, {"run": {"seed": 3}})
    for name in ("curves-val-000001", "curves-val-000090", "notes-of-mine", "notes-of-2x", "notes"):
        (tmp_path / "figures" / f"{name}.png").write_bytes(PNG_END)
    Facts(tmp_path / "facts").cut_after(30, [])
    follow(tmp_path, again, first=31)
    assert_told(again, [1, 20, 40, 55])  # that of step 90 is of a step that comes again
    follow(tmp_path)  # no tracker at all


def test_a_damaged_figure_stops_nothing(tmp_path: Path, log: list[str]) -> None:
    """A kill in the middle of writing leaves one, in runs of earlier versions."""
    follow(tmp_path)
    for content in (b"", PNG_END[:-1]):
        (tmp_path / "figures" / "curves-val-000020.png").write_bytes(content)
        again = recorder()
        tracking.Follower("again", again, tmp_path, {}).deliver(0)
        assert_told(again, [40])
        assert "curves-val-000020.png is damaged" in log.pop()


def hang(*arguments: object) -> None:
    time.sleep(30)


@pytest.mark.parametrize("behaviour", [ConnectionError("no route\nto the server"), SystemExit, hang])
@pytest.mark.parametrize("method", ["start", "log", "log_figure", "finish"])
def test_a_bad_tracker_harms_neither_the_run_nor_another_tracker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str], method: str, behaviour: Any
) -> None:
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT", 1.0)
    start, good = time.monotonic(), recorder()
    assert follow(tmp_path, recorder(**{method: behaviour}), good) < 10
    assert time.monotonic() - start < 20  # it would be 30
    assert_told(good, [20, 40, 55])
    assert tracking.unfinished == ["number 0"]
    assert len(log) == 1 and log[0].startswith("tracker number 0: ") and "\n" not in log[0]
    assert f"facts/ is complete, python scripts/sync.py {tmp_path.name} delivers the rest" in log[0]


@pytest.mark.parametrize(("method", "seconds"), [("start", 1), ("log", 0.02)])
def test_a_slow_tracker_gets_from_the_files_what_found_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, seconds: float
) -> None:
    monkeypatch.setattr(tracking, "MAX_WAITING", 5)
    tracker = recorder(**{method: lambda *arguments: time.sleep(seconds)})
    assert follow(tmp_path, tracker) < 1.5  # it would be 2
    assert_told(tracker, [20, 40, 55])


def test_stuck_trackers_fill_no_memory_and_a_signal_does_not_wait_for_them(tmp_path: Path) -> None:
    guard = Tracking({name: recorder(log=hang) for name in ("one", "two")})
    guard.start(tmp_path, {})
    for step in range(2 * tracking.MAX_WAITING):
        guard.log({"step": step})
    assert [follower.waiting.qsize() for follower in guard.followers] == [tracking.MAX_WAITING] * 2
    start = time.monotonic()
    guard.finish(128 + signal.SIGTERM)
    assert time.monotonic() - start < 1.5 * tracking.STOP_TIMEOUT  # both together


STUCK = """
import atexit, sys, time
from scaffolding.core.session import tracking
atexit.register(time.sleep, 60)  # as W&B does
tracking.unfinished.append("a tracker")
try:
    print("last words")
    END
finally:
    tracking.leave_unfinished()
"""


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(7)", 7), ("sys.exit()", 0), ("1 / 0", 1)])
def test_a_stuck_tracker_does_not_keep_the_process(end: str, code: int) -> None:
    words = [sys.executable, "-c", STUCK.replace("END", end)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == code and done.stdout == "last words\n", done.stderr
    assert done.stderr.count("ZeroDivisionError") == (end == "1 / 0")


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
    """The records in the newest W&B folder of a small run: one block of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    (file,) = newest(run).glob("run-*.wandb")
    data = file.read_bytes()
    assert len(data) < 32768
    found, start = [], 14
    while start <= len(data):
        end = start + int.from_bytes(data[start - 3 : start - 1], "little")
        found.append(Record.FromString(data[start:end]))
        start = end + 7
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
    words: tuple[str, ...] = (*RUN, "plots=standard", "run.plot_every=6", "tracker=wandb")
    for point in ("update 7", "updated 5", "update 9"):
        train(*words, env={"STRIKE": point}, code=-signal.SIGKILL)
        words = ("resume=run",)
    done = train(*words)
    assert_complete(run)
    assert [row["step"] for row in history(run) if "figures/curves" in row] == [6, 12, 18, 24]
    assert [row["step"] for row in history(run) if "figures/first_batch" in row] == [1]
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
    slow = ("data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how='is slow'")  # W&B takes a second to start
    train(*RUN, *slow, "run.eval_every=18", "tracker=wandb", env=env, code=code)
    assert_complete(output_root / "run", *end)


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
    assert all("scripts/sync.py run" in line for line in warnings if lost)
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
    assert done.stderr.count("scripts/sync.py run") == 1 and "resume=run" in done.stdout


def sync(run: Path, *words: str, code: int = 0) -> str:
    """What sync.py says, with its errors."""
    done = run_train(str(run), *words, file=SYNC, code=code)
    return done.stdout + done.stderr


@with_sync
@pytest.mark.full
def test_sync_delivers_what_was_missed(train: Train, output_root: Path, untracked: Path) -> None:
    """Fails where sync.py leaves out rows or figures, or disturbs a run that is at work."""
    run = output_root / "run"
    train(*RUN, "plots=standard", "run.plot_every=6", "tracker=wandb", env={"KILL_AT": "17"}, code=-signal.SIGKILL)
    said = sync(run)
    assert f"run: {len(Facts(run / 'facts').rows())} rows and 3 figures delivered to {newest(run)}\n" in said
    assert_complete(run, ("preempting", 0), ("exit", 143))
    run_folder.acquire(run)
    assert f"process {os.getpid()}" in sync(run, code=2)
    run_folder.release(run)
    assert "has no tracker" in sync(untracked, code=2)
    assert "nosuch" in sync(untracked, "--tracker", "nosuch", code=2)
    sync(untracked, "--tracker", "wandb")
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
