"""One attention block with its projections apart, fused, without a bias for k, or turned."""

from __future__ import annotations

import torch
from torch import nn

WIDTH = 8


def attend(q, k, v):
    return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Block(nn.Module):
    """Attention between two linear layers, on three tokens made of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x):
        x = self.first(x)
        x = torch.stack([x, x.flip(-1), x.roll(1, -1)], 1)
        return self.last((x + self.project(attend(*self.qkv_of(x)))).sum(1))


class Split(Block):
    def __init__(self, k_bias: bool = True) -> None:
        super().__init__()
        self.query, self.value, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.key = nn.Linear(WIDTH, WIDTH, bias=k_bias)

    def qkv_of(self, x):
        return self.query(x), self.key(x), self.value(x)

    def project(self, x):
        return self.proj(x)


class Fused(Block):
    def __init__(self, order: str = "qkv") -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.order = order

    def qkv_of(self, x):
        parts = dict(zip(self.order, self.qkv(x).chunk(3, -1), strict=True))
        return parts["q"], parts["k"], parts["v"]

    def project(self, x):
        return self.proj(x)


class TwoBiases(Block):
    """As BEiT and Swin v2: a bias for q and one for v beside the fused matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.q_bias, self.v_bias = (nn.Parameter(torch.rand(WIDTH)) for _ in range(2))

    def qkv_of(self, x):
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        return nn.functional.linear(x, self.qkv.weight, bias).chunk(3, -1)

    def project(self, x):
        return self.proj(x)


class Turned(Block):
    """As GPT-2: every matrix of the block is stored (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Module(), nn.Module()
        for layer, wide in ((self.c_attn, 3 * WIDTH), (self.c_proj, WIDTH)):
            layer.weight = nn.Parameter(torch.rand(WIDTH, wide))
            layer.bias = nn.Parameter(torch.rand(wide))

    def qkv_of(self, x):
        return (x @ self.c_attn.weight + self.c_attn.bias).chunk(3, -1)

    def project(self, x):
        return x @ self.c_proj.weight + self.c_proj.bias
