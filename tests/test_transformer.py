"""The transformer decoder: causal, relative, exact on resume; sampling from it, and from a run's folder."""

import itertools
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Train, run_train
from pairs import options

from scaffolding.config import PROJECT_ROOT
from scaffolding.core.folder.facts import Facts
from scaffolding.core.state import checkpoint
from scaffolding.experiment import Experiment

transformer = pytest.importorskip("scaffolding.model.transformer")
pytest.importorskip("scaffolding.data.text")
SAMPLE = PROJECT_ROOT / "scripts" / "sample.py"

PROSE = "\n".join(f"{number}: the quick brown fox jumps over {number} lazy dogs" for number in range(400))
WORDS = ("data=text", "data.tokenizer=characters", "data.seq_len=16", "data.vocab_size=40", "model=transformer")
SMALL = (*WORDS, "model.num_layers=2", "model.d_model=32", "model.d_ff=64", "mode=dev", "tracker=none")


def small(**settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "num_heads": 2, "d_model": 32, "d_ff": 64, "dropout": 0.0}
    return transformer.Transformer(**({"vocab_size": 50, "seq_len": 24} | sizes | settings)).eval()


@pytest.fixture(scope="module")
def text_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dev run on a text. Its tests run in one worker (xdist_group), so that it is made once."""
    if "text" not in options("data"):
        pytest.skip("configs/data/text.yaml is not here")
    folder = tmp_path_factory.mktemp("text")
    (folder / "my.txt").write_text(PROSE)
    run_train(*SMALL, f"data.path={folder / 'my.txt'}", f"paths.output_root={folder}", "run.name=run")
    return folder / "dev" / "run"


@torch.no_grad()
def test_a_later_token_changes_no_earlier_prediction() -> None:
    model = small()
    tokens = torch.randint(50, (3, 24))
    before = model(tokens)
    assert before.shape == (3, 24, 50)
    for position in (1, 7, 23):
        changed = tokens.clone()
        changed[:, position] = (tokens[:, position] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        assert (after[:, position:] != before[:, position:]).any(dim=-1).all()  # and it changes all from there on
    assert torch.allclose(model(tokens[:, :9]), before[:, :9], atol=1e-6)


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens, and the model takes at most 24"):
        small()(torch.zeros(1, 25, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"model\.d_model=30 is not a multiple of 2 \* model\.num_heads = 4"):
        small(d_model=30)


def test_rotation_is_the_paper_s_matrix() -> None:
    """Neighbours (x1, x2) become (x1 cos - x2 sin, x2 cos + x1 sin), with theta of pair i as 10000^(-2 i / d)."""
    x, rotation = torch.randn(1, 10, 1, 8), torch.complex(*transformer.rotations(10, 8))
    turned = transformer.rotate(x, rotation)
    assert transformer.rotate(x.bfloat16(), rotation).dtype == torch.bfloat16
    for m, i in itertools.product(range(10), range(4)):
        angle = m * 10_000 ** (-2 * i / 8)
        matrix = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        pair = slice(2 * i, 2 * i + 2)
        assert torch.allclose(turned[0, m, 0, pair], matrix @ x[0, m, 0, pair], atol=1e-5)


def test_initial_loss_and_values() -> None:
    model = small(vocab_size=500, d_model=64, num_layers=8)
    batch = (torch.randint(500, (8, 24)), torch.randint(500, (8, 24)))
    with torch.no_grad():
        loss, values = transformer.NextTokenLoss()(model, batch)
        predicted = model(batch[0]).softmax(dim=-1)
    of_targets = torch.stack([predicted[i, j, batch[1][i, j]] for i in range(8) for j in range(24)])
    assert float(loss) == pytest.approx(-float(of_targets.log().mean()), rel=1e-5)
    assert float(loss) == pytest.approx(math.log(500), abs=0.1)
    assert float(values["bits_per_token"]) == pytest.approx(float(loss) / math.log(2))
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            expected_std = 0.02 / math.sqrt(16) if name.endswith("out.weight") else 0.02
            assert float(weight.detach().std()) == pytest.approx(expected_std, rel=0.1), name


def test_embeddings_are_one_tensor() -> None:
    """In the checkpoint, too: there is one name for it, and what is loaded serves both ends."""
    model = small()
    state = model.state_dict()
    assert [name for name, value in state.items() if 50 in value.shape] == ["embedding.weight"]
    assert not {"cos", "sin"} & state.keys()
    model.load_state_dict(state | {"embedding.weight": state["embedding.weight"] + 1})
    taken: list[torch.Tensor] = []
    model.norm.register_forward_hook(lambda module, args, output: taken.append(output))
    logits = model(torch.zeros(1, 3, dtype=torch.int64))
    assert torch.allclose(logits, taken[0] @ model.embedding.weight.T, atol=1e-5)


def test_generation_follows_its_generator() -> None:
    model = small(dropout=0.5).train()
    prompt = torch.randint(50, (2, 5))

    def sample(seed: int, temperature: float = 1.0, top_k: int | None = None) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return transformer.generate(model, prompt, 40, temperature, top_k, generator)  # beyond seq_len

    before = torch.get_rng_state()
    first, again, other = sample(1), sample(1), sample(2)
    assert torch.equal(torch.get_rng_state(), before), "drew from the global generator"
    assert model.training, "left another mode"
    assert first.shape == (2, 45) and torch.equal(first[:, :5], prompt)
    assert torch.equal(first, again) and not torch.equal(first, other)
    likeliest = sample(3, temperature=0)
    assert torch.equal(likeliest, sample(4, temperature=0)) and torch.equal(likeliest, sample(5, top_k=1))
    model.eval()
    tokens = prompt
    for _ in range(3):
        tokens = torch.cat([tokens, model(tokens[:, -24:])[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(likeliest[:, :8], tokens)


def test_top_k_draws_from_no_others() -> None:
    model = small()
    prompt = torch.randint(50, (200, 5))
    allowed = model(prompt)[:, -1].topk(3).indices
    drawn = transformer.generate(model, prompt, 1, 5.0, 3, torch.Generator().manual_seed(0))[:, -1:]
    assert (drawn == allowed).any(dim=1).all()
    assert len({tuple(row) for row in (drawn == allowed).int().tolist()}) == 3  # each of them occurs


@pytest.mark.xdist_group("text_run")
def test_dev_run_of_a_text(text_run: Path) -> None:
    """The initial loss stands next to ln(vocab_size), and text is sampled."""
    log = (text_run / "log.txt").read_text()
    assert "(ln 40 = 3.6889)" in log and "sampled text:\n" in log
    columns = {name for row in Facts(text_run / "facts").rows() for name in row}
    assert {"known_words", "bits_per_token"} <= columns


@pytest.mark.xdist_group("text_run")
def test_resume_on_a_changed_text_is_refused(text_run: Path, train: Train, output_root: Path) -> None:
    shutil.copytree(text_run, output_root / "dev" / "run")
    text = text_run.parents[1] / "my.txt"
    try:
        for changed, message in (
            (PROSE.replace("fox", "xof"), "the train split is not the one of the checkpoint: the text has changed"),
            (
                PROSE.replace("fox", "FOX"),
                "the train split is not the one of the checkpoint: the tokenizer has changed",
            ),
            (PROSE[:9000], "the train split is not the one"),
        ):
            text.write_text(changed)
            error = train("resume=dev/run", "run.budget=12steps", code=2).stderr
            assert message in error and len(error.splitlines()) <= 3
        text.write_text(PROSE.replace("fox", "FOX"))
        again = train("fork=dev/run", "run.budget=1", "run.rehearse_resume=false", "rollout=null").stderr
        assert "the tokenizer has changed; the weights of run were trained on that one" in again
    finally:
        text.write_text(PROSE)
    words = ("resume=dev/run", "run.budget=12steps", "run.rehearse_resume=false")
    assert "resuming " in train(*words).stderr


@pytest.mark.xdist_group("text_run")
@pytest.mark.skipif(not SAMPLE.exists(), reason="sample.py has been deleted")
def test_sample_needs_the_run_s_folder_alone(text_run: Path, tmp_path: Path) -> None:
    copy, text = tmp_path / "copy", text_run.parents[1] / "my.txt"
    shutil.copytree(text_run, copy, ignore=shutil.ignore_patterns("figures"))
    text.rename(tmp_path / "away.txt")
    try:
        words = [str(SAMPLE), str(copy), "--prompt", "the quick", "--num-tokens", "30", "--seed", "5"]
        done = subprocess.run([sys.executable, "-W", "error", *words], capture_output=True, text=True, timeout=300)
    finally:
        (tmp_path / "away.txt").rename(text)
    assert done.returncode == 0, done.stderr
    exp = Experiment.from_path(copy)
    tokenizer = exp.datasets["train"].dataset.tokenizer
    generator = torch.Generator().manual_seed(5)
    tokens = transformer.generate(exp.model, tokenizer.encode("the quick").long()[None], 30, 0.8, None, generator)[0]
    assert tokens.shape == (9 + 30,)
    assert done.stdout == tokenizer.decode(tokens.tolist()) + "\n"


@pytest.mark.xdist_group("text_run")
@pytest.mark.skipif(not SAMPLE.exists(), reason="sample.py has been deleted")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("no_such_run",), "'no_such_run': no such run"),
        (("RUN", "--prompt", "ÄÖ"), "--prompt: characters that the vocabulary does not have: 'Ä', 'Ö'"),
        (("RUN", "--prompt", ""), "--prompt: one character or more"),
        (("RUN", "--checkpoint", "third"), "no checkpoint 'third'"),
        (("RUN", "--device", "quantum"), "no such device"),
        (("RUN", "--temperature", "-1"), "0 or more is needed"),
        (("OTHER",), "was not trained on text: its model is a Transformer"),
    ],
)
def test_sample_says_what_is_wrong(
    text_run: Path, tmp_path: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if words == ("OTHER",):  # as a run whose data have no vocabulary
        shutil.copytree(text_run, tmp_path / "other", ignore=shutil.ignore_patterns("*.pt"))
        content = torch.load(text_run / "checkpoints" / "best.pt", weights_only=True)
        checkpoint.save(tmp_path / "other" / "checkpoints" / "best.pt", content | {"objects": {}})
    places = {"RUN": str(text_run), "OTHER": str(tmp_path / "other")}
    monkeypatch.setattr(sys, "argv", [str(SAMPLE), *(places.get(word, word) for word in words)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SAMPLE), run_name="__main__")
    assert end.value.code == 2
    assert message in capsys.readouterr().err
