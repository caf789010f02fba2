"""What the template costs and gains over a bare loop in training a small GPT: both runs at once, a thread each.

    python scripts/template/bare_gpt.py                # some minutes on two cores
    python scripts/template/bare_gpt.py --steps 200    # a shorter run, to see that it works

Ours is `train.py experiment=shakespeare_gpt`, the whole process: imports, evaluations over all of the validation split,
figures, checkpoints, sampled text, the test. The floor is written here, the way a minimal repository would do it: one
file, random windows of a memory-mapped array, learned positions, torch's AdamW as it comes, the loss read and printed
at every step, and every 250 steps an evaluation on 20 random batches of each split and a checkpoint if it is better.
Started together, both bear the same load from other programs. Both losses are over all of the last 10 % of the text.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaffolding.core.folder.facts import Facts
from scaffolding.data.shakespeare import TinyShakespeare
from scaffolding.experiment import PROJECT

NUM_LAYERS, NUM_HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
LR, MIN_LR, WARMUP, EVAL_EVERY, EVAL_BATCHES = 1e-3, 1e-4, 100, 250, 20


class BareBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv, self.projection = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (p.view(B, T, NUM_HEADS, -1).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, WIDTH)
        x = x + self.projection(y)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return x


class BareGPT(nn.Module):
    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*[BareBlock() for _ in range(NUM_LAYERS)])
        self.norm, self.head = nn.LayerNorm(WIDTH, bias=False), nn.Linear(WIDTH, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                added = "projection" in name or "down" in name
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * NUM_LAYERS) if added else 0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        return F.cross_entropy(self.head(self.norm(self.blocks(x))).flatten(0, 1), targets.flatten())


def draw(file: Path) -> tuple[Tensor, Tensor]:
    """A batch of random windows."""
    data = np.memmap(file, dtype=np.uint16, mode="r")
    at = torch.randint(len(data) - CONTEXT, (BATCH,)).tolist()
    inputs, targets = ([torch.from_numpy(data[i + s : i + s + CONTEXT].astype(np.int64)) for i in at] for s in (0, 1))
    return torch.stack(inputs), torch.stack(targets)


@torch.no_grad()
def estimate(model: BareGPT, folder: Path) -> dict[str, float]:
    """Losses on random batches of both splits."""
    model.eval()
    files = {split: folder / f"{split}.bin" for split in ("train", "val")}
    found = {s: float(np.mean([model(*draw(file)).item() for _ in range(EVAL_BATCHES)])) for s, file in files.items()}
    model.train()
    return found


@torch.no_grad()
def whole_val(model: BareGPT, folder: Path) -> float:
    """The loss over all windows of the validation split, side by side."""
    data = torch.from_numpy(np.fromfile(folder / "val.bin", dtype=np.uint16).astype(np.int64))
    windows = data.unfold(0, CONTEXT + 1, CONTEXT)
    return sum(float(model(some[:, :-1], some[:, 1:])) * len(some) for some in windows.split(BATCH)) / len(windows)


def lr_at(step: int, num_steps: int) -> float:
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    return MIN_LR + (LR - MIN_LR) * (1 + math.cos(math.pi * (step - WARMUP) / max(1, num_steps - WARMUP))) / 2


def bare(folder: Path, num_steps: int, vocab_size: int) -> None:
    """The floor: a loop as a minimal repository has it; writes its last weights, too."""
    torch.manual_seed(1337)
    model, best = BareGPT(vocab_size), math.inf
    matrices = [p for p in model.parameters() if p.ndim == 2]
    groups = [{"params": matrices, "weight_decay": 0.1}]
    groups += [{"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99))
    batch = draw(folder / "train.bin")
    for step in range(num_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, num_steps)
        if step % EVAL_EVERY == 0:
            losses = estimate(model, folder)
            print(f"step {step}: {losses}", flush=True)
            if losses["val"] < best and step:
                best = losses["val"]
                content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(content, folder / "ckpt.pt")
        if step == num_steps:
            break
        start = time.perf_counter()
        loss = model(*batch)
        batch = draw(folder / "train.bin")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"iter {step}: loss {loss.item():.4f}, time {1000 * (time.perf_counter() - start):.2f} ms", flush=True)
    torch.save(model.state_dict(), folder / "last.pt")


def start(folder: Path, side: str, *arguments: str) -> int:
    """The number of a process of one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with open(folder / f"{side}.log", "w") as log:
        return subprocess.Popen([sys.executable, *arguments], stdout=log, stderr=log, env=environment).pid


def write_ids(data: str, folder: Path) -> int:
    """The text as numbers, 90 % of it to train on; returns how many characters there are."""
    (text,) = TinyShakespeare(data).segments()
    characters = sorted(set(text))
    ids = np.array([characters.index(character) for character in text], dtype=np.uint16)
    border = int(0.9 * len(ids))
    ids[:border].tofile(folder / "train.bin")
    ids[border:].tofile(folder / "val.bin")
    return len(characters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps (default: 2000)")
    parser.add_argument("--data", default=str(PROJECT.root / "_data"), help="folder with tinyshakespeare/input.txt")
    parser.add_argument("--floor", nargs=2, metavar=("FOLDER", "VOCAB_SIZE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.floor:
        return bare(Path(arguments.floor[0]), arguments.steps, int(arguments.floor[1]))
    with TemporaryDirectory() as name:
        folder, steps = Path(name), arguments.steps
        vocab_size = write_ids(arguments.data, folder)
        words = ["experiment=shakespeare_gpt", "mode=prod", "tracker=none", f"run.budget={steps}steps", "run.name=ours"]
        words += [f"paths.output_root={folder}", f"paths.data={arguments.data}", "run.device=cpu"]
        begin, ends, cpu = time.monotonic(), dict[str, float](), dict[str, float]()
        sides = {
            start(folder, "ours", str(PROJECT.sources / "train.py"), *words): "ours",
            start(folder, "floor", __file__, "--floor", name, str(vocab_size), f"--steps={steps}"): "floor",
        }
        for _ in range(2):  # in the order in which they end
            pid, status, usage = os.wait4(-1, 0)
            side = sides[pid]
            assert status == 0, (folder / f"{side}.log").read_text()[-3000:]
            ends[side], cpu[side] = time.monotonic() - begin, usage.ru_utime + usage.ru_stime
        model = BareGPT(vocab_size)
        model.load_state_dict(torch.load(folder / "last.pt", weights_only=True))
        rows = [row for row in Facts(folder / "ours" / "facts").rows() if row["split"] == "val"]
        losses = {"ours": min(row["loss"] for row in rows), "floor": whole_val(model.eval(), folder)}
    print("| side | wall (s) | CPU (s) | CPU a step, all included (ms) | loss over all of the validation split |")
    print("| --- | --- | --- | --- | --- |")
    for side, loss in losses.items():
        print(f"| {side} | {ends[side]:.1f} | {cpu[side]:.1f} | {1000 * cpu[side] / steps:.1f} | {loss:.4f} |")
    print(f"| ours / floor | {ends['ours'] / ends['floor']:.3f} | {cpu['ours'] / cpu['floor']:.3f} | | |")


if __name__ == "__main__":
    main()
