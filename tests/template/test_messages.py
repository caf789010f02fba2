"""Broken configs: each fault is named with its key and its place, all of them at once, and nothing is created."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaffolding.config import PROJECT_ROOT

sys.path.append(str(PROJECT_ROOT / "scripts" / "template"))

import messages

GOLDEN = Path(__file__).with_name("messages.txt")
PLACE = re.compile(r"(?m)^(?:error: )?(.*?)(?: {4,}| \()(command line|[\w./]+:\d+:\d+)\)?$")
NAMES = [f"{words} {text}".strip() for words, text, _ in messages.CASES]


@pytest.fixture(scope="session")
def results() -> dict[str, tuple[int, str, list[str]]]:
    """What train.py did with each case: exit code, message, files that it left."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(NAMES, pool.map(messages.run_case, messages.CASES), strict=True))


def places(said: str) -> list[tuple[str, str]]:
    """(key, place) of each fault of a message; the key is "-" where the message has none."""
    first = re.match(r"error: ([\w./]+:\d+:\d+): ", said)
    if first:
        return [("-", first[1])]
    found = [(re.split("[=:]", line)[0], place) for line, place in PLACE.findall(said)]
    return list(dict.fromkeys((key.lstrip("+~"), place) for key, place in found))


def wanted(faults: str) -> list[tuple[str, str]]:
    """The same, as a case has it."""
    pairs = [fault.split(" ") for fault in faults.split("; ")]
    names = {"cli": "command line"}
    return [(key, names.get(at, at if "yaml" in at else f"more/experiment/bad.yaml:{at}")) for key, at in pairs]


def test_there_are_many() -> None:
    assert len(messages.CASES) == len(set(NAMES)) >= 80
    assert sum(";" in faults for *_, faults in messages.CASES) >= 8


@pytest.mark.full
@pytest.mark.xdist_group("messages")
@pytest.mark.parametrize("case", messages.CASES, ids=NAMES)
def test_every_fault_is_named_with_its_place(
    results: dict[str, tuple[int, str, list[str]]], case: tuple[str, str, str]
) -> None:
    """Fails where the data are read or the model is built: both end the program with another message."""
    code, said, left = results[f"{case[0]} {case[1]}".strip()]
    assert code == 2 and left == [], said
    assert "Traceback" not in said
    if "--multirun" not in case[0]:
        assert sorted(places(said)) == sorted(wanted(case[2])), said
        several = re.match(r"error: (\d+) faults in the config; nothing was created\n\n", said)
        assert len(wanted(case[2])) == (int(several[1]) if several else 1)


@pytest.mark.full
@pytest.mark.xdist_group("messages")
def test_the_messages_are_those_that_were_read_as_prose(results: dict[str, tuple[int, str, list[str]]]) -> None:
    """Fails where a message changed: read it, then let scripts/template/messages.py write the file again."""
    said = [messages.shown(case, results[name][1]) for name, case in zip(NAMES, messages.CASES, strict=True)]
    assert "\n".join(said) + "\n" == GOLDEN.read_text()


@pytest.mark.parametrize("words", [[], ["--multirun", "run.seed=1,2"]])
def test_a_sound_config_is_said_to_be_sound(words: list[str], tmp_path: Path) -> None:
    case = (" ".join(words), "", "")
    code, said, left = messages.run_case(case, "--check")
    assert (code, said, left) == (0, "", [])
