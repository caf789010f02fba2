"""Transformer decoder, its loss, and sampling from it."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from loguru import logger
from torch import Tensor, nn

from ..core.modes import evaluating


class Transformer(nn.Module):
    """Decoder-only transformer: pre-norm blocks, rotary positions, input and output embedding of one matrix.

    Args:
        vocab_size: number of token ids.
        seq_len: most tokens it is given at once.
        num_layers: number of blocks.
        num_heads: attention heads in a block.
        d_model: width of the residual stream; `d_model / num_heads` must be even.
        d_ff: units of the hidden layer in a block; 8/3 of `d_model` gives as many weights as 4 would without the gate.
        dropout: probability of dropping an attention weight, an embedded value or one that a block adds, 0..1.

    Raises:
        ValueError: `d_model` does not divide into heads of even width.

    Source: A. Vaswani et al., "Attention Is All You Need", 2017; normalisation and initial values as in A. Radford et
    al., "Language Models are Unsupervised Multitask Learners", 2019; positions as in J. Su et al., "RoFormer: Enhanced
    Transformer with Rotary Position Embedding", 2021; feed-forward network as in N. Shazeer, "GLU Variants Improve
    Transformer", 2020; one embedding as in O. Press and L. Wolf, "Using the Output Embedding to Improve Language
    Models", 2017.
    """

    def __init__(
        self, vocab_size: int, seq_len: int, num_layers: int, num_heads: int, d_model: int, d_ff: int, dropout: float
    ) -> None:
        super().__init__()
        if d_model % (2 * num_heads):
            raise ValueError(f"model.d_model={d_model} is not a multiple of 2 * model.num_heads = {2 * num_heads}")
        self.seq_len = seq_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(num_heads, d_model, d_ff, dropout) for _ in range(num_layers)])
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.cos: Tensor
        self.sin: Tensor
        cos, sin = rotations(seq_len, d_model // num_heads)
        self.register_buffer("cos", cos, persistent=False)  # a function of the sizes: not in checkpoints
        self.register_buffer("sin", sin, persistent=False)
        for name, weight in self.named_parameters():
            if weight.ndim != 2:
                continue
            std = 0.02
            if name.endswith("out.weight"):  # what is added to the residual stream: 2 * num_layers such terms add up
                std /= math.sqrt(2 * num_layers)
            nn.init.normal_(weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T), T <= seq_len, to logits (B, T, vocab_size) of the token after each."""
        T = tokens.shape[1]
        if self.seq_len < T:
            raise ValueError(f"{T} tokens, and the model takes at most {self.seq_len} (model.seq_len)")
        x = self.dropout(self.embedding(tokens))
        rotation = torch.complex(self.cos[:T], self.sin[:T])
        for block in self.blocks:
            x = block(x, rotation)
        return F.linear(self.norm(x), self.embedding.weight)  # one tensor under one name, so it stays one when loaded


class Block(nn.Module):
    """Attention, then a feed-forward network on each position; both read the normalised stream and add to it."""

    def __init__(self, num_heads: int, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, bias=False)
        self.attention = Attention(num_heads, d_model, dropout)
        self.ff_norm = nn.LayerNorm(d_model, bias=False)
        self.ff = FeedForward(d_model, d_ff)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """The stream x (B, T, d_model) after this block."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
        x = x + self.dropout(self.ff(self.ff_norm(x)))
        return x


class Attention(nn.Module):
    """Multi-head attention of each position to itself and those before it, with rotary positions."""

    def __init__(self, num_heads: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """What x (B, T, d_model) adds to the stream, of the same shape."""
        B, T, d_model = x.shape
        q, k, v = (part.view(B, T, self.num_heads, -1) for part in self.qkv(x).split(d_model, dim=-1))
        q, k, v = (part.transpose(1, 2) for part in (rotate(q, rotation), rotate(k, rotation), v))
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)
        output: Tensor = self.out(y.transpose(1, 2).reshape(B, T, d_model))
        return output


class FeedForward(nn.Module):
    """SwiGLU on each position by itself: a hidden layer that another one gates."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.hidden = nn.Linear(d_model, d_ff, bias=False)
        self.out = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What x (B, T, d_model) adds to the stream, of the same shape."""
        y: Tensor = self.out(F.silu(self.gate(x)) * self.hidden(x))
        return y


def rotations(seq_len: int, d_head: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position's angle for each pair of values, both (seq_len, d_head / 2)."""
    theta = base ** (-torch.arange(0, d_head, 2, dtype=torch.float64) / d_head)
    angles = torch.arange(seq_len, dtype=torch.float64)[:, None] * theta
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn pairs of values of x (B, T, num_heads, d_head) by their position's angles; q.k then depends on the distance.

    A pair is a complex number; `rotation` (T, d_head / 2) holds e^(i m theta) of position m.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))  # angles need more digits than bfloat16 has
    return torch.view_as_real(pairs * rotation[:, None]).flatten(-2).type_as(x)


class NextTokenLoss:
    """Cross-entropy of the next token, at every position."""

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss in nats per token, and the same in bits, from tokens and targets (B, T); 2^bits is the perplexity."""
        tokens, targets = batch
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        return loss, {"bits_per_token": loss.detach() / math.log(2)}


@torch.no_grad()
def generate(
    model: Any, tokens: Tensor, num_tokens: int, temperature: float, top_k: int | None, generator: torch.Generator
) -> Tensor:
    """Continue texts with tokens drawn from what the model predicts.

    Args:
        model: token ids (B, T), T <= model.seq_len, to logits (B, T, vocab_size); its train or eval mode is restored
            afterwards.
        tokens: the beginnings, int64, (B, T), T >= 1; the model sees the last `seq_len`.
        num_tokens: how many to add.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: draw from the likeliest `top_k` tokens only; None: from all.
        generator: on the CPU, also where the model is not: all randomness comes from it.

    Returns:
        Beginnings and continuations, (B, T + num_tokens).
    """
    with evaluating(model):
        for _ in range(num_tokens):
            logits = model(tokens[:, -model.seq_len :])[:, -1].float().cpu()
            if temperature == 0:
                drawn = logits.argmax(dim=-1, keepdim=True)
            else:
                if top_k is not None:
                    least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
                    logits = logits.masked_fill(logits < least, -math.inf)
                drawn = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator)
            tokens = torch.cat([tokens, drawn.to(tokens.device)], dim=1)
    return tokens


class SampledText:
    """A rollout that writes into the log what the model makes of a prompt, always with the same draws.

    Args:
        prompt: beginning of the text, of characters that the training text has; None: the first token of the split.
        num_tokens: length of the continuation.
        temperature, top_k: see `generate`.
        seed: of the draws.
    """

    def __init__(self, prompt: str | None, num_tokens: int, temperature: float, top_k: int | None, seed: int) -> None:
        self.prompt, self.num_tokens, self.temperature, self.top_k = prompt, num_tokens, temperature, top_k
        self.seed = seed

    def __call__(self, model: nn.Module, loader: Any) -> dict[str, float]:
        """{"known_words": share, 0..1, of the sampled words that are in the training text}; no words: 0."""
        dataset = loader.dataset.dataset  # of the split: a Text
        prompt = dataset.tokens[:1]
        if self.prompt is not None:
            prompt = dataset.tokenizer.encode(self.prompt)
        tokens = prompt.long()[None].to(loader.device)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = generate(model, tokens, self.num_tokens, self.temperature, self.top_k, generator)[0].tolist()
        logger.info(f"sampled text:\n{dataset.tokenizer.decode(drawn)}")
        text = dataset.tokenizer.decode(drawn[len(prompt) :])
        return {"known_words": dataset.share_of_known_words(text)}
