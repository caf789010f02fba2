"""job=NAME: the same command line starts a run, carries it on after a kill, and is content once it is finished."""

import shutil
import signal
from pathlib import Path

import pytest
from conftest import BASE, Train, assert_same_run, tree

from scaffolding.core.config.grammar import split_options
from scaffolding.core.errors import UserError
from scaffolding.core.resume.job import start_or_carry_on
from scaffolding.experiment import PROJECT


def test_the_same_command_line_starts_carries_on_and_ends(train: Train, output_root: Path, whole_run: Path) -> None:
    """Fails where a queue that repeats a command gets another run, or an error, or a run from its beginning."""
    (output_root / "first").mkdir(parents=True)
    (output_root / "first" / ".lock").touch()  # what a kill leaves that comes before the config is written
    words = (*BASE, "job=first", "paths.data=_data", "trust=some_package")
    train(*words, env={"KILL_AT": "7"}, code=-signal.SIGKILL)
    train(*words, "loader.num_workers=0", env={"KILL_AT": "11", "KILL_WITH": "SIGTERM"}, code=143)
    train(*words)
    assert_same_run(whole_run, output_root / "first")
    before = tree(output_root)
    assert "is finished at step 24" in train(*words).stderr
    after = tree(output_root)
    assert after == before and [path.name for path in output_root.iterdir()] == ["first"]


@pytest.fixture
def done(tmp_path: Path, whole_run: Path) -> Path:
    """A folder with a run `first` that is finished, and the same one as a dev run."""
    for place in ("first", "dev/first"):
        shutil.copytree(whole_run, tmp_path / place)
    return tmp_path


def translated(*words: str, root: Path) -> list[str]:
    """What becomes of BASE with more words."""
    return start_or_carry_on(*split_options([*BASE, *words, f"paths.output_root={root}"]), PROJECT)


def test_what_the_run_was_made_with_is_left_out_and_the_place_is_not(done: Path) -> None:
    root = f"paths.output_root={done}"
    assert translated("job=first", root=done) == ["resume=first", f"paths.output={done}", root]
    assert translated("job=second", root=done)[-2:] == [root, "run.name=second"]
    place = ["trust=a", "loader.num_workers=3", "run.device=cpu", f"paths.data={done}/data"]
    kept = translated("job=first", *place, root=done)
    assert kept == ["resume=first", f"paths.output={done}", *place, root]
    changed = translated("job='first'", "run.budget=30", root=done)  # resume= knows what may be changed
    assert changed == ["resume=first", f"paths.output={done}", "run.budget=30", root]


def test_a_dev_run_is_not_taken_for_one_in_prod_mode(done: Path) -> None:
    shutil.rmtree(done / "first")
    assert translated("job=first", root=done)[-1] == "run.name=first"
    file = done / "dev/first/overrides.yaml"
    file.write_text(f"{file.read_text()}- mode=dev\n")
    assert translated("mode=dev", "job=first", root=done)[:2] == ["resume=first", f"paths.output={done}/dev"]


@pytest.mark.parametrize(
    ("word", "said"), [("optimizer=adamw", "optimizer=fatal"), ("scheduler=cosine", "no word for scheduler")]
)
def test_another_choice_is_not_carried_on(done: Path, word: str, said: str) -> None:
    with pytest.raises(UserError, match=f"{word}: job=first exists, and was made with {said}\n"):
        translated(word, "job=first", root=done)


def test_a_word_that_is_gone_is_missed(done: Path) -> None:
    """Fails where a run goes on with a setting that its command line no longer has."""

    def without(key: str) -> list[str]:
        left = [word for word in (*BASE, "job=first", f"paths.output_root={done}") if not word.startswith(key)]
        return start_or_carry_on(*split_options(left), PROJECT)

    for word in ("run.budget=24", "loader.batch_size=16", "optimizer=fatal"):  # finished or not
        with pytest.raises(UserError, match=rf"with {word}, which this command line lacks\n.*resume=first"):
            without(word.partition("=")[0])


def test_a_word_that_only_resume_gave_is_not_missed(train: Train, output_root: Path) -> None:
    """Fails where the line that started a run is refused after a resume= with a larger budget, or does not carry on."""
    words = (*(word for word in BASE if not word.startswith("run.budget=")), "mode=prod", "job=first")
    train(*words, env={"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    train("resume=first", "run.budget=30", f"paths.output_root={output_root}", env={"KILL_AT": "11"}, code=-9)
    assert " of 30\n" in train(*words).stderr
    assert "is finished at step 30" in train(*words).stderr
    assert "run.budget=40 takes effect" in train(*words, "run.budget=40").stderr


WRONG = ["job=", "job=a/b", "job=..", "job=null", "job=latest", "job=dev", "job=exp_a", "job=jobs", "job=a run.name=b",
         "job=a job=b", "job=a fork=b", "job=a rerun=b", "job=a resume=b", "job=a --multirun", "job=a -m"]  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_use_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(UserError, match=r"^job=.*\n"):
        translated(*words.split(), root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_use_makes_nothing(train: Train, output_root: Path) -> None:
    done = train(*BASE, "job=a", "run.name=b", code=2)
    assert done.stderr.splitlines()[0] == "error: job=a: not together with run.name=b"
    assert len(done.stderr.splitlines()) == 2 and not output_root.exists()
    assert "run.nosuch=1: no such key" in train(*BASE, "job=a", "run.nosuch=1", code=2).stderr
    assert not output_root.exists()
