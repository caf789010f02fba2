"""What a notebook shows of an experiment."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import BASE, TESTS

from scaffolding.core.report.card import card
from scaffolding.experiment import Experiment


def cells(text: str) -> dict[str, str]:
    return dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", text))


def test_it_says_what_a_run_is_and_what_came_out(whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(whole_run.parent)
    exp = Experiment.from_path(whole_run, trust=["tiny"])
    shown = cells(exp._repr_html_())
    summary = json.loads((whole_run / "summary.json").read_text())
    assert shown["run"] == "whole" and shown["status"] == "finished, step 24 of 24"
    assert shown["best"] == f"val/loss {summary['best']:.4g} (step {summary['best_step']})"
    assert f"loss {summary['results']['test/loss']:.4g}" in shown["test"]
    assert shown["model"] == "TinyNet"
    assert shown["parameters"] == f"{sum(part.numel() for part in exp.model.parameters()):,}"
    assert 'href="whole/report.html"' in exp._repr_html_()


def test_it_has_not_run() -> None:
    exp = Experiment.from_config(f"hydra.searchpath=[file://{TESTS / 'configs'}]", *BASE[2:])
    assert list(cells(exp._repr_html_())) == ["run", "model", "parameters"]


def test_texts_of_a_run_are_no_html(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / '<script>"x'
    shutil.copytree(whole_run, run)
    evil = "<img src=x onerror=alert(1)>"
    content = json.loads((run / "summary.json").read_text())
    content |= {"status": evil, "reason": evil, "monitor": evil, "results": {f"test/{evil}": 1.0}}
    (run / "summary.json").write_text(json.dumps(content))
    text = card(run, evil, 3)
    assert "<img" not in text and "<script" not in text and '"x' not in text.replace("&quot;x", "")
    assert text.count("&lt;img") >= 4
    (run / "summary.json").write_text('{"status": 3}')
    assert cells(card(run, "Net", 3))["status"].startswith("damaged")
    (run / "summary.json").write_text(json.dumps(content | {"results": {"test/loss": evil}, "best": 0.5}))
    assert "<img" not in card(run, "Net", 3)
