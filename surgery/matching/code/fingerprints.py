"""Are two tensors the same numbers, in whatever order; and if so, in which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

#: How far apart numbers of float64 may lie that were computed in another order, relative to their
#: size.
_TOLERANCE = 1e-7
_slack: ContextVar[float] = ContextVar("slack", default=1.0)


@contextmanager
def rounded() -> Iterator[None]:
    """In here numbers count as equal that differ as tables in float32 do: rotary angles that one
    network rounds and the other does not.
    """
    token = _slack.set(3000.0)
    try:
        yield
    finally:
        _slack.reset(token)


def slack() -> float:
    """How much further apart than usual numbers may lie."""
    return _slack.get()


#: Larger numbers stand for something else: what is masked.
_LARGEST = 1e4


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is the same under any order of a tensor's elements: their number, and the sums of the
    values, their magnitudes, squares, and a sine that tells apart what those do not. Numbers that
    mask, infinite or nearly, are counted by themselves.
    """

    numel: int
    masked: int
    total: float
    magnitude: float
    squares: float
    sines: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint):
            return NotImplemented
        if (self.numel, self.masked) != (other.numel, other.masked):
            return False
        tolerance = _TOLERANCE * slack()
        size = tolerance * max(self.magnitude, other.magnitude) + 1e-9
        squares = tolerance * max(self.squares, other.squares) + 1e-9
        return (
            abs(self.total - other.total) <= size
            and abs(self.magnitude - other.magnitude) <= size
            and abs(self.sines - other.sines) <= tolerance * self.numel + size
            and abs(self.squares - other.squares) <= squares
        )

    __hash__ = None  # type: ignore[assignment]


def fingerprint(tensor: torch.Tensor) -> Fingerprint:
    """The fingerprint of a tensor of any dtype."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = tensor.detach().reshape(-1).double()
    usual = flat.abs() < _LARGEST
    masked = flat.numel() - int(usual.sum())
    if masked:
        flat = flat[usual]
    sums = torch.stack(
        [flat.sum(), flat.abs().sum(), flat.square().sum(), (1.3 * flat).sin().sum()]
    )
    return Fingerprint(tensor.numel(), masked, *sums.tolist())


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same numbers in the same order."""
    return one.shape == other.shape and _near(one, other, 1e-7)


def _near(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Near by the size of all numbers: one that is nearly zero has no size of its own."""
    if not one.numel():
        return True
    tolerance *= slack()
    finite = one[one.isfinite()] if one.is_floating_point() else one
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(one, other, rtol=tolerance, atol=0.1 * tolerance * size + 1e-12)


def align_columns(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """The column of ``one`` that each column of ``other`` is: two (tokens, features) matrices,
    whose tokens may come in another order. None where some column is none of the other's.
    """
    if one.shape[1] != other.shape[1]:
        return None
    same = torch.arange(one.shape[1])
    if close(one, other):
        return same
    moments, others = map(_moments, (one, other))
    if _near(moments, others, 1e-6):
        return same
    order, other_order = _sorted_rows(moments), _sorted_rows(others)
    if not _near(moments[order], others[other_order], 1e-6):
        return None
    found = torch.empty_like(order)
    found[other_order] = order
    return found


def _moments(columns: torch.Tensor) -> torch.Tensor:
    columns = columns.double()
    sums = (columns.sum(0), columns.square().sum(0), (1.3 * columns).sin().sum(0))
    return torch.stack(sums, 1)


def _sorted_rows(rows: torch.Tensor) -> torch.Tensor:
    order = torch.arange(len(rows))
    for column in reversed(range(rows.shape[1])):
        order = order[rows[order, column].round(decimals=6).sort(stable=True).indices]
    return order


def align_elements(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor | None:
    """The flat place in ``one`` of each element of ``other``; None where they are other numbers."""
    if one.numel() != other.numel():
        return None
    flat, other_flat = one.reshape(-1), other.reshape(-1)
    if _without_ones(one) == _without_ones(other) and close(flat, other_flat):
        return torch.arange(flat.numel())
    values, order = flat.sort(stable=True)
    other_values, other_order = other_flat.sort(stable=True)
    if not _near(values, other_values, 1e-6):
        return None
    found = torch.empty_like(order)
    found[other_order] = order
    return found


def _without_ones(tensor: torch.Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]
