"""What an owner writes into train.py: each edit works in mode=dev, the rehearsal of the resume included."""

from pathlib import Path

import pytest
from conftest import TINY, TRAIN, latest, run_train

WORDS = (*TINY[:3], "model=pair", *TINY[4:-1], "mode=dev", "loader.num_workers=0", "run.name=run")
LOOP = "def train(exp: Experiment) -> None:\n"
STEP = "def train_step(exp: Experiment, micro_batches: list[MicroBatch]) -> dict[str, Any]:\n"
(BACKWARD,) = [line for line in TRAIN.read_text().splitlines(keepends=True) if ".backward()" in line]
LOG = '            exp.run.log("train", metrics)\n'
EDITS = {
    "a critic that is updated more often": {
        "        optimizer.zero_grad()\n": """\
        if name == "generator" and (exp.state.step + 1) % 5:
            continue
        optimizer.zero_grad()
"""
    },
    "a part that is trained from a step on": {
        "        optimizer.zero_grad()\n": """\
        exp.model.generator.bias.requires_grad_(exp.state.step >= 5)
        optimizer.zero_grad()
"""
    },
    "a second backward": {
        BACKWARD: BACKWARD
        + """\
            points = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(exp.model(points).sum(), points, create_graph=True)
            ((slope.norm(dim=1) - 1).square().mean() * weight).backward()
"""
    },
    "a teacher": {
        "    exp.model.train()\n": """\
    exp.model.train()
    from scaffolding.core.config.build import build
    global teacher
    with keys.keyed(exp.settings.seed, "teacher"):
        teacher = build(exp.cfg.model, "model").to(exp.device).requires_grad_(False).eval()
""",
        BACKWARD: """\
            with torch.no_grad():
                wanted = teacher(batch[0])
            loss = loss + (exp.train_model(batch[0]) - wanted).square().mean()
"""
        + BACKWARD,
    },
    "one more argument": {
        "        train(exp)\n": "        train(exp, 0.5)\n",
        LOOP: LOOP.replace("exp: Experiment", "exp: Experiment, share: float"),
        "train_step(exp, micro_batches)\n": "train_step(exp, micro_batches, share)\n",
        STEP: STEP.replace("micro_batches: list[MicroBatch]", "micro_batches: list[MicroBatch], share: float"),
        "scale(loss)": "scale(share * loss)",
    },
    "your own words": {LOG: LOG + '            print("printed here")\n            logger.info("logged here")\n'},
}


def edited(text: str, names: list[str]) -> str:
    """train.py with some of the edits; all of them fit together."""
    for name in names:
        for old, new in EDITS[name].items():
            assert text.count(old) == 1, f"{name}: {old!r}"
            text = text.replace(old, new)
    return text.replace("import torch\n", "import torch\nfrom loguru import logger\n", 1)


@pytest.mark.parametrize(
    "names", [pytest.param(list(EDITS), id="all"), *(pytest.param([name], marks=pytest.mark.full) for name in EDITS)]
)
def test_an_edit_of_the_loop_works(output_root: Path, tmp_path: Path, names: list[str]) -> None:
    """Fails where core calls train or train_step with fixed arguments, or counts on every network's update."""
    file = tmp_path / TRAIN.name
    file.write_text(edited(TRAIN.read_text(), names))
    done = run_train(*WORDS, f"paths.output_root={output_root}", file=file)
    run = output_root / "dev" / "run"
    assert "tensors identical" in done.stdout
    if "your own words" in names:
        log = (run / "log.txt").read_text()
        assert done.stdout.count("printed here") == log.count("printed here") == 10
        assert done.stderr.count("logged here") == log.count("logged here") == 10
    if "a critic that is updated more often" in names:
        states = latest(run)["optimizers"]
        updates = {name: int(state["state"][0]["step"]) for name, state in states.items()}
        assert updates == {"discriminator": 10, "generator": 2}
    if "a part that is trained from a step on" in names:  # the rehearsal begins before that step
        states = latest(run)["optimizers"]["generator"]["state"]
        assert (int(states[0]["step"]), int(states[1]["step"])) == ((2, 1) if len(names) > 1 else (10, 5))


NEW_EPOCH = '            advance(exp.schedulers, "epoch")\n'
EPOCHS_END = {
    NEW_EPOCH: NEW_EPOCH + "            exp.level = 1\n",
    "scale(loss)": 'scale(-loss if hasattr(exp, "level") else loss)',
}


def test_what_an_epochs_end_changes_and_no_checkpoint_holds_is_found(output_root: Path, tmp_path: Path) -> None:
    """Fails where the rehearsal begins before the first epoch's end, which it then sees itself, and nowhere else."""
    text = TRAIN.read_text()
    for old, new in EPOCHS_END.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = tmp_path / TRAIN.name
    file.write_text(text)
    done = run_train(*WORDS, f"paths.output_root={output_root}", file=file, code=1)
    assert "continued from step 6, in another process, " in done.stderr


def test_an_order_that_is_another_in_each_process_is_found(output_root: Path) -> None:
    words = (*TINY[:4], "data.dataset._target_=tiny.SetOrder", "mode=dev", "tracker=none", "plots=none")
    done = run_train(*words, "loader.num_workers=0", f"paths.output_root={output_root}", code=1)
    assert "resume rehearsal: " in done.stderr and "another process" in done.stderr
    assert "(exit code 2): error: data: " in done.stderr  # what it said first
    assert "sort what comes from a set" in done.stderr


def test_a_fault_of_prod_mode_alone_is_told_and_fails_no_rehearsal(output_root: Path) -> None:
    """The 18th update, after 10 of the run and 6 of its rehearsal, is one that prod mode is timed with."""
    words = (*TINY[:-1], "optimizer=fatal", "loss._target_=tiny.ExplodingLoss", "mode=dev", "loader.num_workers=0")
    done = run_train(*words, f"paths.output_root={output_root}", env={"EXPLODE_AT": "18"})
    assert "tensors identical" in done.stdout
    assert "in prod mode: a few steps of it failed: RunError: " in done.stdout
