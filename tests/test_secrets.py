"""A secret of the environment, of .env, of a config or of the command line is in no file of a run."""

import os
import shutil
import subprocess
import sys
import time
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
from scaffolding.core.secrets import hide_secrets, without_keys
from scaffolding.core.session.run import Run

SECRETS = {name: f"sekret-{name}-0123456789012345678901234567" for name in ("env", "dotenv", "local", "word", "inner")}
SECRET_KEYS = (
    "tracker.api_key tracker.apikey +x.password x.secret x.key x.token ++hf_token x.Credentials "
    "x.github_token x.gitlab_token x.slack_token x.tracking_token x.bot_token x.openai_api_key x.aws_secret_access_key "
    "x.aws_access_key_id x.azure_key x.storage_key x.account_key x.encryption_key x.ssh_key x.pwd x.pass x.passphrase "
    "x.db_pass x.pin x.authorization x.Authorization x.auth x.bearer x.cookie x.dsn x.connection_string x.sas_token "
    "x.jwt x.webhook_url x.client_secret x.wandb-api-key x.db_passwords x.MY_SECRETS"
)
PLAIN = [
    "run.name=monkey", "data.num_tokens=1000", "data.tokenizer=bpe", "model.keys=q", "run.monitor=val/key",
    "--multirun", "x.pad_token=<pad>", "x.bos_token=<s>", "x.mask_token=[MASK]", "x.eos_token=abc",
    "x.sort_key=created_at_2024_01", "x.id_key=image",
    "x.label_key=coarse", "x.max_tokens=7", "x.key=3", "x.token=1", "x.two_pass=first", "x.pin=true", "x.author=ann",
    "x.token=null", "x.url=https://host:8080/a@b", "x.path=s3://bucket/x", "x.text=one,two", "x.s='a:b@c'",
    "run.description='the key: a tree'", "x.tags=[a,b]", "x.d={a: 1, b: [c, 'd e']}", "paths.data=/scratch/me_1/x",
]  # fmt: skip
WITHIN = {  # of a text
    "postgres://me:SEKRET@db/x": "postgres://me:***@db/x",
    "postgres://me:SEK@RET:1@db/x": "postgres://me:***@db/x",
    "https://0123456789abcdef0123@host/x": "https://***@host/x",
    "git@host:x and https://me@host/x": None,
    "to https://me:SEKRET@host/x.git, at once": "to https://me:***@host/x.git, at once",
    "https://host/x?token=SEKRET&a=1": "https://host/x?token=***&a=1",
    "curl -H 'Authorization: Bearer SEKRET'": "curl -H 'Authorization: Bearer ***'",
    "cmd --password SEKRET --num 3": "cmd --password *** --num 3",
    "cmd --api-key=SEKRET": "cmd --api-key=***",
    "WANDB_API_KEY=SEKRET python": "WANDB_API_KEY=*** python",
    "{'api_key': 'SEKRET', 'a': 1}": "{'api_key': ***, 'a': 1}",
    "it is ghp_" + "aB1" * 12: "it is ***",
    "no such key: 'token', nearest: 'key'; --token": None,
    "the loss of step 3 is a key --max-tokens 3 --pad-token '<pad>'": None,
}


@pytest.mark.parametrize("ending", ["finished", pytest.param("failed", marks=pytest.mark.full)])
def test_secrets_are_in_no_file(tmp_path: Path, ending: str) -> None:
    """Not in the run's folder, what the tracker writes included, nor in what was printed."""
    for name in ("src", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "local.yaml")
        shutil.copytree(PROJECT_ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / ".env").write_text(f"OTHER_API_KEY={SECRETS['dotenv']}\nKNOWN=dotenv\n")
    (tmp_path / "configs" / "local.yaml").write_text(f"data:\n  password: {SECRETS['local']}\n")
    data, model = trainable()[0]
    tracker = "wandb_offline" if "wandb_offline" in options("tracker") else "none"
    inner = f"+data.more={{api_key: {SECRETS['inner']}, list: [{{password: '{SECRETS['inner']}'}}]}}"
    words = [f"data={data}", f"model={model}", "mode=dev", "plots=none", f"tracker={tracker}", "run.name=run"]
    words += [f"+data.token={SECRETS['word']}", inner, "+data.known=${oc.env:KNOWN}"]
    words += ["rollout={_target_: torch.nn.Identity}"] if ending == "failed" else []  # it takes one argument, not two
    secrets = dict.fromkeys(("WANDB_API_KEY", "MY_TOKEN"), SECRETS["env"])
    places = {"PYTHONPATH": os.pathsep.join([str(tmp_path / "src"), *INHERITED]), "HOME": str(tmp_path / "home")}
    command = [sys.executable, str(tmp_path / TRAIN.relative_to(PROJECT_ROOT)), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | secrets | places)
    assert done.returncode == (ending == "failed"), done.stderr
    files = [path for folder in ("_output", "home") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert tmp_path / "_output" / "dev" / "run" / "log.txt" in files and len(files) > 5
    assert "known: dotenv" in (tmp_path / "_output" / "dev" / "run" / "config.yaml").read_text(), ".env was not read"
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
        try:
            raise OSError(f"401 of https://host/x?token={SECRETS['word']}")  # the message of a library
        except OSError:
            logger.exception("it failed, too")
    text = (tmp_path / "log.txt").read_text()
    assert "it failed" in text and "fail(SECRETS" in text and SECRETS["word"] not in text
    assert "https://host/x?token=***" in text


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("x={api_key: a, b: 1}", "x={api_key: ***, b: 1}"), ("+x=[{token: 'a, b'}]", "+x=[{token: ***}]"),
        ('x={a: {my.password: "a}"}, c: d}', "x={a: {my.password: ***}, c: d}"), ("x={keys: 1, tokens: [2]}",) * 2,
        ("run.description='the key: a tree'",) * 2, (r"x={api_key: 'it\'s', b: 'c d'}", "x={api_key: ***, b: 'c d'}"),
        ("x={secret: [a, b]}", "x={secret: [***, ***]}"), ("x=[--password,SEKRET,b]", "x=['--password', ***, b]"),
        ("x={h: {Authorization: 'Bearer a'}}", "x={h: {Authorization: ***}}"), ("x={key: a", "x={key: ***"),
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
    assert hide_secrets({"secret": ["x", "y"], "password": 1}) == {"secret": ["***", "***"], "password": "***"}
    assert hide_secrets(["--password", "x", "y"]) == ["--password", "***", "y"]
    for word in PLAIN:
        setting = {word.partition("=")[0]: yaml.safe_load(word.partition("=")[2])}
        assert masked(word) == word and hide_secrets(setting) == setting


def test_secrets_within_a_text_are_hidden() -> None:
    for text, shown in WITHIN.items():
        assert without_keys(text) == (shown or text)
        assert hide_secrets({"x": [text]}) == {"x": [shown or text]}


def test_no_text_takes_long() -> None:
    """A stranger's text may be made to be searched for ever."""
    start = time.monotonic()
    for piece in ("a_", "a.", "a:", "--", "'a", "://", "a://b:", "&a=", "bearer ", "sk-", "-----BEGIN A"):
        without_keys(piece * (30_000 // len(piece)), is_config=True)
    assert time.monotonic() - start < 10


def test_no_message_repeats_a_secret_of_the_command_line(train: Train) -> None:
    for word in ("tracker.api_key=SEKRET", "+run.seed={api_key: SEKRET}", "+x={api_key: SEKRET", "+x.token=[SEKRET",
                 "data.url=https://me:SEKRET@host", "run.seed=postgres://me:SEKRET@host"):  # fmt: skip
        done = train(*BASE, word, code=2)
        assert "SEKRET" not in done.stdout + done.stderr and "error: " in done.stderr, word


def test_what_code_of_a_run_prints_and_raises_is_kept_without_secrets(train: Train, output_root: Path) -> None:
    train(*BASE, "rollout={_target_:tiny.Leak}", "run.rollout_every=3", "run.name=run", code=1)
    files = [file for file in (output_root / "run").rglob("*") if file.is_file() and file.name != "changes.patch"]
    assert not [file for file in files if b"SEKRET" in file.read_bytes()]
    assert "https://host/x?token=***" in (output_root / "run" / "status.json").read_text()
    assert "{'password': ***}" in (output_root / "run" / "log.txt").read_text()


def test_a_resumed_run_asks_for_what_it_did_not_keep_and_has_the_rest(train: Train, output_root: Path) -> None:
    words = (*BASE, "+data.token=abc", "+data.url=https://me:abc@host", "+data.pad_token='<pad>'", "run.name=run")
    train(*words, env={"KILL_AT": "7", "KILL_WITH": "SIGTERM"}, code=143)
    config = yaml.safe_load((output_root / "run" / "config.yaml").read_text())
    assert (config["data"]["token"], config["data"]["pad_token"]) == ("***", "<pad>")
    assert "data.token: run did not keep it" in train("resume=run", code=2).stderr
    assert "data.url: run did not keep it" in train("resume=run", "data.token=abc", code=2).stderr
    done = train("resume=run", "data.token=abc", "data.url=https://me:abc@host")
    assert "abc" not in done.stderr
    assert "abc" not in (output_root / "run" / "config.yaml").read_text()


def test_a_library_s_refusal_shows_no_secret() -> None:
    spec = {"_target_": "torch.nn.Linear", "in_features": "two", "out_features": 2, "device": {"api_key": "hush"}}
    for given in (spec, OmegaConf.create(spec)):
        with pytest.raises(UserError, match=r"given: .*'in_features': 'two'") as error:
            build(given, "model")
        assert "hush" not in str(error.value) and "***" in str(error.value)
