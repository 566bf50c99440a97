"""Files to measure with: ``python -m bench.files random ARCH PATH [DTYPE]`` or ``many PATH COUNT``.

In processes of their own: a child's peak memory is never less than its parent's was when it was
started, so whoever measures stays small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from surgery.checkpoint.writer import write
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.values import Computed
from surgery.networks.architectures import find_architecture
from surgery.networks.blueprints import blueprint
from surgery.specs import TensorSpec

_PIECE = 1 << 22


def write_random(arch: str, path: Path, dtype: str | None = None) -> None:
    """A state dict of ``arch`` with random values, written piece by piece; ``dtype`` is that of
    its floating tensors, float32 where it is None.
    """
    spec = blueprint(find_architecture(arch)).spec
    values = {tensor.name: _random(tensor, dtype) for tensor in spec.tensors}
    write(Draft(values), path)


def write_many(path: Path, count: int) -> None:
    """``count`` tensors of 64 numbers each, in layers as a network has them."""
    write(Draft(_layers(count)), path)


def _layers(count: int) -> Mapping[str, torch.Tensor]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return {
        f"blocks.{i // 40}.layers.{i // 4 % 10}.norm.{leaves[i % 4]}": torch.rand(64)
        for i in range(count)
    }


def _random(tensor: TensorSpec, dtype: str | None) -> Computed:
    name = dtype if dtype and tensor.is_floating else tensor.dtype

    def pieces() -> Iterator[torch.Tensor]:
        for done in range(0, tensor.numel, _PIECE):
            piece = torch.randn(min(_PIECE, tensor.numel - done)) * 0.02
            yield piece.to(getattr(torch, name))

    return Computed(tensor.shape, name, pieces)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["random", arch, path, *dtype]:
            write_random(arch, Path(path), *dtype)
        case ["many", path, count]:
            write_many(Path(path), int(count))
        case _:
            sys.exit(__doc__)
