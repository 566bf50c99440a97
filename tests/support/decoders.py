"""One small language model, written in the ways that libraries write theirs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

VOCABULARY, WIDTH, HEADS, PLACES = 60, 32, 4, 24
SIZE = WIDTH // HEADS


@dataclass(frozen=True)
class Writing:
    """How it is written. ``rows`` are those of the projections of attention: apart, or in one
    matrix by blocks, by heads, with v first, or with each head's numbers side by side.
    """

    rows: str = "blocks"
    rotary: str = ""
    groups: int = HEADS
    gated: str = ""
    stored: str = "(out, in)"
    norm: type[nn.Module] = nn.LayerNorm
    activation: str = "none"
    scale: float = SIZE**-0.5
    causal: bool = True
    base: float = 10000.0
    depth: int = 2
    norm_first: bool = True
    eps: float = 1e-5


class Turned(nn.Module):
    """A linear layer whose matrix is stored (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(inputs, outputs))
        self.shift = nn.Parameter(torch.zeros(outputs))

    def forward(self, x):
        return torch.addmm(self.shift, x.reshape(-1, x.shape[-1]), self.kernel).view(
            *x.shape[:-1], -1
        )


def turn(x, how: str, base: float):
    """Rotary positions of (batch, heads, tokens, size)."""
    half = x.shape[-1] // 2
    speeds = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float64), speeds)
    if how == "halves":
        one, other = x[..., :half], x[..., half:]
        turned = (
            one * angles.cos() - other * angles.sin(),
            other * angles.cos() + one * angles.sin(),
        )
        return torch.cat(turned, -1)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], half, 2))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


class Attention(nn.Module):
    def __init__(self, how: Writing) -> None:
        super().__init__()
        linear = Turned if how.stored == "(in, out)" else nn.Linear
        self.how, keys = how, how.groups * SIZE
        if how.rows == "apart":
            self.to_q, self.to_k = linear(WIDTH, WIDTH), linear(WIDTH, keys)
            self.to_v = linear(WIDTH, keys)
        else:
            self.all = linear(WIDTH, WIDTH + 2 * keys)
        self.back = linear(WIDTH, WIDTH)

    def parts(self, x):
        """q, k and v of (batch, heads, tokens, size)."""
        batch, tokens, _ = x.shape
        if self.how.rows == "apart":
            found = (
                y.view(batch, tokens, -1, SIZE) for y in (self.to_q(x), self.to_k(x), self.to_v(x))
            )
            return [y.transpose(1, 2) for y in found]
        rows = self.all(x)
        if self.how.rows == "heads":
            return rows.view(batch, tokens, HEADS, 3, SIZE).permute(3, 0, 2, 1, 4)
        if self.how.rows == "numbers":
            return rows.view(batch, tokens, SIZE, 3, HEADS).permute(3, 0, 4, 1, 2)
        sizes = [WIDTH, self.how.groups * SIZE, self.how.groups * SIZE]
        if self.how.rows == "v first":
            v, k, q = rows.split(sizes[::-1], -1)
        else:
            q, k, v = rows.split(sizes, -1)
        return [y.view(batch, tokens, -1, SIZE).transpose(1, 2) for y in (q, k, v)]

    def forward(self, x):
        q, k, v = self.parts(x)
        if self.how.rotary:
            q, k = (turn(y, self.how.rotary, self.how.base) for y in (q, k))
        if self.how.rows == "apart":
            k, v = (y.repeat_interleave(HEADS // y.shape[1], 1) for y in (k, v))
            scores = q @ k.transpose(-1, -2) * self.how.scale
            if self.how.causal:
                later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
                scores = scores.masked_fill(later, float("-inf"))
            mixed = scores.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(
                q,
                k,
                v,
                is_causal=self.how.causal,
                scale=self.how.scale,
                enable_gqa=self.how.groups < HEADS,
            )
        return self.back(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, how: Writing) -> None:
        super().__init__()
        linear = Turned if how.stored == "(in, out)" else nn.Linear
        self.how, inner = how, 2 * WIDTH
        if how.gated == "apart":
            self.open, self.lift = linear(WIDTH, inner), linear(WIDTH, inner)
        else:
            self.wide = linear(WIDTH, 2 * inner if how.gated else inner)
        self.narrow = linear(inner, WIDTH)

    def forward(self, x):
        if self.how.gated == "apart":
            return self.narrow(F.silu(self.open(x)) * self.lift(x))
        wide = self.wide(x)
        if self.how.gated == "in turns":
            return self.narrow(F.silu(wide[..., ::2]) * wide[..., 1::2])
        if self.how.gated:
            gate, lift = wide.chunk(2, -1)
            return self.narrow(F.silu(gate) * lift)
        if self.how.activation == "relu":
            return self.narrow(wide.relu())
        return self.narrow(F.gelu(wide, approximate=self.how.activation))


class Block(nn.Module):
    def __init__(self, how: Writing) -> None:
        super().__init__()
        self.first, self.second = (how.norm(WIDTH, eps=how.eps) for _ in range(2))
        self.look, self.think, self.norm_first = Attention(how), FeedForward(how), how.norm_first

    def forward(self, x):
        if not self.norm_first:
            x = self.first(x + self.look(x))
            return self.second(x + self.think(x))
        x = x + self.look(self.first(x))
        return x + self.think(self.second(x))


class Decoder(nn.Module):
    """Tokens to scores of the next one."""

    def __init__(self, how: Writing) -> None:
        super().__init__()
        self.how = how
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.places = None if how.rotary else nn.Embedding(PLACES, WIDTH)
        self.blocks = nn.ModuleList(Block(how) for _ in range(how.depth))
        self.last = how.norm(WIDTH, eps=how.eps)
        self.scores = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens):
        x = self.words(tokens)
        if self.places is not None:
            x = x + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.scores(self.last(x))


def decoder(**how) -> Decoder:
    return Decoder(Writing(**how))


TOKENS = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
