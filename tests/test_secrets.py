"""A secret of the environment, of .env, of a config or of the command line is in no file of a run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import BASE, INHERITED, TRAIN, Train
from loguru import logger
from omegaconf import OmegaConf
from pairs import options, trainable

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.config.build import build
from scaffolding.core.config.compose import masked
from scaffolding.core.errors import UserError
from scaffolding.core.secrets import hide_secrets
from scaffolding.core.session.run import Run

SECRETS = {name: f"sekret-{name}-0123456789012345678901234567" for name in ("env", "dotenv", "local", "word", "inner")}
SECRET_KEYS = "tracker.api_key tracker.apikey +x.password x.secret x.key x.token ++hf_token x.Credentials"
PLAIN = "run.name=monkey data.num_tokens=1000 data.tokenizer=bpe model.keys=q --multirun run.monitor=val/key"


@pytest.mark.parametrize("ending", ["finished", pytest.param("failed", marks=pytest.mark.full)])
def test_secrets_are_in_no_file(tmp_path: Path, ending: str) -> None:
    """Not in the run's folder, what the tracker writes included, nor in what was printed."""
    for name in ("src", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "local.yaml")
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / ".env").write_text(f"OTHER_API_KEY={SECRETS['dotenv']}\n")
    (tmp_path / "configs" / "local.yaml").write_text(f"data:\n  password: {SECRETS['local']}\n")
    data, model = trainable()[0]
    tracker = "wandb_offline" if "wandb_offline" in options("tracker") else "none"
    inner = f"+data.more={{api_key: {SECRETS['inner']}, list: [{{password: '{SECRETS['inner']}'}}]}}"
    words = [f"data={data}", f"model={model}", "mode=dev", "plots=none", f"tracker={tracker}", "run.name=run"]
    words += [f"+data.token={SECRETS['word']}", inner]
    words += ["rollout={_target_: torch.nn.Identity}"] if ending == "failed" else []  # it takes one argument, not two
    secrets = dict.fromkeys(("WANDB_API_KEY", "MY_TOKEN"), SECRETS["env"])
    places = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "src"), *INHERITED]), "HOME": str(tmp_path / "home")}
    command = [sys.executable, str(tmp_path / TRAIN.relative_to(PROJECT_ROOT)), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | secrets | places)
    assert done.returncode == (ending == "failed"), done.stderr
    files = [path for folder in ("_output", "home") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert tmp_path / "_output" / "dev" / "run" / "log.txt" in files and len(files) > 5
    found = {str(path): name for path in files for name in SECRETS if SECRETS[name].encode() in path.read_bytes()}
    assert found == {}
    assert not [name for name in SECRETS if SECRETS[name] in done.stdout + done.stderr]


def test_a_logged_exception_shows_no_variables(tmp_path: Path) -> None:
    def fail(password: str) -> None:
        raise RuntimeError(f"{len(password)} letters")

    run: Any = SimpleNamespace(path=tmp_path, is_paused=False)
    with Run._log_file(run):
        try:
            fail(SECRETS["word"])
        except RuntimeError:
            logger.exception("it failed")
    text = (tmp_path / "log.txt").read_text()
    assert "it failed" in text and "fail(SECRETS" in text and SECRETS["word"] not in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("x={api_key: a, b: 1}", "x={api_key: ***, b: 1}"), ("+x=[{token: 'a, b'}]", "+x=[{token: ***}]"),
        ('x={a: {my.password: "a}"}, c: d}', "x={a: {my.password: ***}, c: d}"), ("x={keys: 1, tokens: [2]}",) * 2,
        ("run.description='the key: a tree'",) * 2,
    ],
)  # fmt: skip
def test_secrets_within_values_are_masked(word: str, shown: str) -> None:
    assert masked(word) == shown


def test_secrets_are_known_by_their_keys() -> None:
    """A fork repeats the overrides, and a resumed run reads its own config: a hidden value would break both."""
    for key in SECRET_KEYS.split():
        assert masked(f"{key}=abc") == f"{key}=***"
        name = key.lstrip("+")
        assert hide_secrets({"a": [{name: "abc", "b": [1]}]}) == {"a": [{name: "***", "b": [1]}]}
    assert hide_secrets({"secret": ["x", "y"]}) == {"secret": ["***", "***"]}
    for word in PLAIN.split():
        key, _, value = word.partition("=")
        assert masked(word) == word and hide_secrets({key: value}) == {key: value}


def test_a_resumed_run_asks_for_what_it_did_not_keep_and_has_the_rest(train: Train, output_root: Path) -> None:
    words = (*BASE, "+data.token=abc", "+data.pad_token='<pad>'", "run.name=run")
    train(*words, env={"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    config = yaml.safe_load((output_root / "run" / "config.yaml").read_text())
    assert (config["data"]["token"], config["data"]["pad_token"]) == ("***", "<pad>")
    assert "data.token: run did not keep it" in train("resume=run", code=2).stderr
    done = train("resume=run", "data.token=abc")
    assert "abc" not in done.stderr
    assert "abc" not in (output_root / "run" / "config.yaml").read_text()


def test_a_library_s_refusal_shows_no_secret() -> None:
    spec = {"_target_": "torch.nn.Linear", "in_features": "two", "out_features": 2, "device": {"api_key": "hush"}}
    for given in (spec, OmegaConf.create(spec)):
        with pytest.raises(UserError, match=r"given: .*'in_features': 'two'") as error:
            build(given, "model")
        assert "hush" not in str(error.value) and "***" in str(error.value)
