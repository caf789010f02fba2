"""What a run says: on a terminal, in a pipe, in log.txt, and where nobody reads it any more."""

import contextlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zygote
from conftest import BASE, ENV, TINY, TRAIN, Train, command, wait_until
from loguru import logger

from scaffolding.core import output
from scaffolding.core.folder.folder import read_status

LONG = "a_name_of_more_than_sixty_letters_that_fits_into_no_line_of_eighty_columns"


class Terminal:
    """A terminal of 80 columns; `path` is what a program opens, `text` what it has shown."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.path, self.slave, self.text = Path(os.ttyname(slave)), slave, ""

    def read(self) -> str:
        os.set_blocking(self.master, False)
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self.master, 65536):
                self.text += part.decode()
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text).replace("\r\n", "\n").replace("\r", "\n")

    def close(self) -> None:
        for number in (self.slave, self.master):
            os.close(number)
        self.slave = self.master = -1


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal; a sandbox may have none to give."""
    try:
        found = Terminal()
    except OSError as error:
        pytest.skip(f"this machine has no pseudo-terminal: {error}")
    yield found
    if found.master >= 0:
        found.close()


def start(output_root: Path, stdout: Path, stderr: Path, *words: str, **env: str) -> zygote.Started:
    """Start a run with its standard streams somewhere."""
    words = (*BASE, f"paths.output_root={output_root}", *words)
    return zygote.start([str(TRAIN), *words], stdout, stderr, env=ENV | {"COLUMNS": "80"} | env)


def test_long_lines_stay_whole_on_a_terminal(output_root: Path, terminal: Terminal) -> None:
    """Fails where a line that is to be pasted is broken in two, or is written over by the bar."""
    run = start(output_root, terminal.path, terminal.path, f"run.name={LONG}")
    wait_until(lambda: terminal.read() and run.wait(0) is not None)
    assert run.wait() == 0, terminal.read()
    lines = terminal.read().splitlines()
    [line] = [line for line in lines if line.startswith("resume: ")]
    assert f"resume={LONG}" in line and str(output_root) in line
    assert any(re.fullmatch(r".*INFO +Experiment\(.*initial loss.*", line) for line in lines)


def test_what_is_printed_goes_to_the_file_although_there_is_a_terminal(
    output_root: Path, terminal: Terminal, tmp_path: Path
) -> None:
    run = start(output_root, tmp_path / "out", terminal.path, "run.name=run")
    wait_until(lambda: terminal.read() and run.wait(0) is not None)
    assert "resume=run" in (tmp_path / "out").read_text() and "resume=run" not in terminal.read()


@pytest.mark.parametrize(("strike", "code"), [({}, 0), ({"KILL_AT": "20", "KILL_WITH": "SIGHUP"}, 129)])
def test_a_terminal_that_is_closed_does_not_end_a_run(
    output_root: Path, terminal: Terminal, strike: dict[str, str], code: int
) -> None:
    slow = ("data.dataset._target_=tiny.FaultyPoints", "+data.dataset.how='is slow'")
    run = start(output_root, terminal.path, terminal.path, "run.name=run", *slow, **strike)
    wait_until(lambda: "items/s" in terminal.read())
    terminal.close()
    assert run.wait() == code
    assert read_status(output_root / "run")["status"] == ("finished" if code == 0 else "preempted")
    assert "resume=run" in (output_root / "run" / "log.txt").read_text()


def test_closed_streams_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    shell = 'cd "$1" && rmdir "$1" && shift && exec "$@" >&- 2>&-'
    words = ["sh", "-c", shell, "sh", str(tmp_path / "gone"), *command(*TINY, "--cfg", "job")]
    assert subprocess.run(words, env=os.environ | ENV).returncode == 0


def test_a_stream_without_a_reader_takes_everything() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as file:
        stream = output.Stream(file)
        for _ in range(2):
            assert stream.write("words\n" * 10000) == 60000
            stream.flush()
    stream.write("after it was closed")


def test_lines_are_put_together() -> None:
    lines = output.Lines()
    said = [lines.add(text) for text in ("a", "b\nc", "\rd", "\re\nf\r\n", "\r10 %", "\r20 %", "\n")]
    assert said == ["", "ab\n", "", "e\nf\n", "", "", "20 %\n"]


MARKS = ["print", "logging", "of our own", "warning", "configured"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_libraries_say_reaches_console_and_log_once_and_in_order(
    train: Train, output_root: Path, num_workers: int
) -> None:
    """Before the run has a folder, too, and in forked workers; of others, the console has it."""
    words = (
        "data.dataset._target_=tiny.TalkingPoints",
        "data.val_from_train=null",
        f"loader.num_workers={num_workers}",
        "run.name=run",
    )
    done = train(*BASE, *words, "loader.start_method=fork")
    log, out = (output_root / "run" / "log.txt").read_text(), done.stdout + done.stderr
    for where in ("built", "read"):
        marks = [f"MARK {where} {mark}" for mark in MARKS]
        times = log.count(marks[0])  # a worker reads the first item, too, after this process has looked at it
        assert 1 <= times <= (2 if where == "read" else 1)
        for text in (log, out):
            assert [text.count(mark) for mark in marks] == [times] * len(MARKS), text
        assert sorted(marks, key=log.index) == marks
    assert re.search(r"WARNING some\.package: MARK built logging", log) and "MARK not shown" not in out


def test_who_configures_logging_is_left_alone(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Messages that have a handler already are not shown a second time."""
    monkeypatch.setattr(logging, "lastResort", output.LogHandler())
    logger = logging.getLogger("configured.package")
    monkeypatch.setattr(logger, "propagate", False)
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stdout)])
    logger.error("once")
    assert capsys.readouterr().out == "once\n"


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_the_console_shows_messages_from_a_level_on(train: Train, output_root: Path, level: str) -> None:
    """The last lines are always there, and log.txt has all messages."""
    done = train(*BASE, "run.name=run", f"run.console_level={level}")
    assert (" INFO " in done.stderr) == (level == "info")
    assert all(f"{name}: " in done.stdout for name in ("result", "run", "resume"))
    log = (output_root / "run/log.txt").read_text()
    assert log.count("train step") == 24 and "result:" in log
    again = train("resume=run", "run.budget=26", "run.console_level=info")
    assert "train step 26/26" in again.stderr


def test_what_the_levels_let_through(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        for level, shown in (("debug", "dwe"), ("warning", "we"), ("error", "e")):
            output.show_from(level, "some_package")
            for name, letter in (("DEBUG", "d"), ("WARNING", "w"), ("ERROR", "e")):
                logger.log(name, f"<{letter}>")
            said = capsys.readouterr().err
            assert "".join(letter for letter in "dwe" if f"<{letter}>" in said) == shown
        assert logging.getLogger("some_package").level == logging.INFO
    finally:
        for number in output.handlers:
            logger.remove(number)
        output.handlers.clear()
