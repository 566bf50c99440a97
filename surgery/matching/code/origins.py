"""Where each number of the target comes from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surgery.matching.code.program import Weights

#: No origin is known.
OPEN = -1
#: The number is zero: a bias that the source does without.
ZERO = -2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The origins of some elements as they were."""

    elements: torch.Tensor
    origins: torch.Tensor
    numbers: torch.Tensor
    contradictions: int


class Origins:
    """By element of the target, the element of the source. What is known is written into the
    target's weights at once, so that what it computes can be recognised.
    """

    def __init__(self, weights: Weights, source: torch.Tensor) -> None:
        self.of = torch.full((weights.flat.numel(),), OPEN)
        self.contradictions = 0
        self._weights, self._source = weights, source

    def put(self, elements: torch.Tensor, origins: torch.Tensor) -> None:
        """Elements of the target come from these of the source; where another origin is known,
        it stays, and the contradiction is counted.
        """
        elements, origins = elements.reshape(-1), origins.reshape(-1)
        real = elements >= 0
        elements, origins = elements[real], origins[real]
        before = self.of[elements]
        other = (before != OPEN) & (before != origins)
        self.contradictions += int(other.sum())
        elements, origins = elements[~other], origins[~other]
        self.of[elements] = origins
        self._weights.flat[elements] = self.numbers(origins)
        self._weights.changed()

    def numbers(self, origins: torch.Tensor, source: torch.Tensor | None = None) -> torch.Tensor:
        """The source's numbers at some origins; zeros for those of none."""
        source = self._source if source is None else source
        found = source[origins.clamp(min=0)]
        return torch.where(origins >= 0, found, torch.zeros((), dtype=found.dtype))

    def open(self, elements: torch.Tensor) -> None:
        """Elements have no origin any more."""
        self.of[elements[elements >= 0]] = OPEN

    def snapshot(self, elements: torch.Tensor) -> Snapshot:
        """What is known of some elements now."""
        elements = elements[elements >= 0]
        return Snapshot(
            elements, self.of[elements], self._weights.flat[elements], self.contradictions
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take back what was put since."""
        self.of[snapshot.elements] = snapshot.origins
        self._weights.flat[snapshot.elements] = snapshot.numbers
        self.contradictions = snapshot.contradictions
        self._weights.changed()
