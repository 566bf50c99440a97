"""Casts that a new file needs, done when the turn of their values comes, and what they broke."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from surgery.checkpoint.writing.values import Computed, Values
from surgery.errors import ValueRefused
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch


class Casts:
    """The casts of one job; ``broken`` counts, by name, what those done so far have broken."""

    def __init__(self) -> None:
        self.broken: dict[str, int] = {}

    def cast(self, name: str, values: Values, dtype: str) -> Values:
        """``values`` in ``dtype`` (``"float16"``); computed only when they are written."""
        spec = TensorSpec.of(name, values)
        if spec.dtype == dtype:
            return values
        return Computed(spec.shape, dtype, lambda: self._pieces(name, values, dtype))

    def _pieces(self, name: str, values: Values, dtype: str) -> Iterator[torch.Tensor]:
        from surgery.checkpoint.tensors.casting import cast
        from surgery.checkpoint.tensors.reading import flat_pieces

        total = 0
        for piece in flat_pieces(values):
            result, broken = cast(piece, dtype)
            total += broken
            yield result
        if total:
            self.broken[name] = total


def refuse_broken(broken: Mapping[str, int]) -> None:
    """Raise ValueRefused where casts broke values; ``broken`` counts them by tensor."""
    if broken:
        raise ValueRefused(
            f"strict: casts break {sum(broken.values())} values in "
            f"{len(broken)} tensors, the first is {next(iter(broken))}; nothing was changed"
        )
