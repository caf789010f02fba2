"""Every data and model that is here, in dev mode through the real entry point; a fork's own are found by listing."""

import json

import pytest
import torch
import yaml
from conftest import Train, trainable


@pytest.mark.parametrize(("data", "model"), trainable())
def test_dev_mode_walks_every_branch(train: Train, output_root, data: str, model: str) -> None:
    done = train(f"data={data}", f"model={model}", "mode=dev", "run.name=smoke")
    run = output_root / "dev" / "smoke"
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    last = done.stdout.splitlines()
    assert any(line.startswith("resume rehearsal: ") and line.endswith(" tensors identical") for line in last)
    assert any("mode=prod" in line for line in last)
    assert any(f'from_path("{run}"' in line for line in last)
    for name in ("config.yaml", "overrides.yaml", "provenance.json", "changes.patch", "log.txt"):
        assert (run / name).exists()
    assert yaml.safe_load((run / "config.yaml").read_text())["run"]["budget"] == "2epochs"
    events = [json.loads(line)["event"] for line in (run / "facts" / "events.jsonl").read_text().splitlines()]
    assert events[0] == "on_start" and events[-1] == "on_train_end"
    assert events.count("on_epoch_end") == 2 and "on_save" in events
    rows = (run / "facts" / "scalars.csv").read_text()
    assert {line.split(",")[3] for line in rows.splitlines()[1:]} - {"rollout"} == {"train", "val", "test"}
    assert any((run / "wandb").iterdir()), "the tracker ran in its offline form"
    assert "tracker: stopped" not in done.stderr
    content = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    assert not any("_orig_mod" in name or name.startswith("module.") for name in content["model"])


def test_first_step_is_described(dev_run) -> None:
    log = (dev_run / "log.txt").read_text()
    assert "parameters on" in log and "batch: " in log and "initial " in log
