"""Small networks, each written twice: fused or split, (out, in) or (in, out)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

WIDTH = 6


class Fused(nn.Module):
    """Pictures of 8 x 8 to logits; q, k and v are one projection, patches a convolution."""

    def __init__(self, num_classes: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.patch_embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.blocks = nn.ModuleList(FusedBlock() for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class FusedBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attn = nn.Module()
        self.attn.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.attn.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Module()
        self.mlp.fc1 = nn.Linear(WIDTH, 4 * WIDTH)
        self.mlp.fc2 = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.attn.proj(functional.scaled_dot_product_attention(q, k, v))
        return x + self.mlp.fc2(functional.gelu(self.mlp.fc1(self.norm2(x))))


class Conv1D(nn.Module):
    """A linear layer whose weight is (in, out), as GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight + self.bias


class Split(nn.Module):
    """The same network: other names, q, k and v apart, matrices of blocks as (in, out), the head
    a convolution of one pixel.
    """

    def __init__(self, num_classes: int = 3, depth: int = 2) -> None:
        super().__init__()
        self.embeddings = nn.Module()
        self.embeddings.class_token = nn.Parameter(torch.zeros(1, WIDTH, 1))
        self.embeddings.patches = nn.Module()
        self.embeddings.patches.projection = nn.Conv2d(3, WIDTH, 4, 4)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(SplitBlock() for _ in range(depth))
        self.final_layernorm = nn.LayerNorm(WIDTH)
        self.classifier = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embeddings.patches.projection(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.embeddings.class_token.transpose(1, 2).expand(len(x), -1, -1), x], 1)
        for layer in self.encoder.layer:
            x = layer(x)
        return self.classifier(self.final_layernorm(x)[:, 0, :, None, None]).flatten(1)


class SplitBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(WIDTH)
        self.attention = nn.Module()
        for name in ("query", "key", "value", "dense"):
            self.attention.add_module(name, Conv1D(WIDTH, WIDTH))
        self.layernorm_after = nn.LayerNorm(WIDTH)
        self.intermediate = Conv1D(WIDTH, 4 * WIDTH)
        self.output = Conv1D(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = self.layernorm_before(x)
        parts = (self.attention.query(normed), self.attention.key(normed))
        mixed = functional.scaled_dot_product_attention(*parts, self.attention.value(normed))
        x = x + self.attention.dense(mixed)
        return x + self.output(functional.gelu(self.intermediate(self.layernorm_after(x))))


class Turned(nn.Module):
    """Square matrices, some of them (in, out): only the code tells which."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Conv1D(4, 4), nn.Linear(4, 4)
        self.wide, self.head = Conv1D(4, 9), nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(self.second(self.first(x))))


class Straight(nn.Module):
    """The same layers, all of them (out, in)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.wide, self.head = nn.Linear(4, 9), nn.Linear(9, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(self.second(self.first(x))))
