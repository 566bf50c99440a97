"""Are two tensors the same numbers, in whatever order; and if so, in which."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: How far apart sums of float64 may lie that were taken in another order, relative to their size.
TOLERANCE = 1e-7


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is the same under any order of a tensor's elements: their number, and the sums of the
    values, their magnitudes, squares, and a sine that tells apart what those do not.
    """

    numel: int
    total: float
    magnitude: float
    squares: float
    sines: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Fingerprint) or self.numel != other.numel:
            return False
        size = TOLERANCE * max(self.magnitude, other.magnitude) + 1e-9
        squares = TOLERANCE * max(self.squares, other.squares) + 1e-9
        return (
            abs(self.total - other.total) <= size
            and abs(self.magnitude - other.magnitude) <= size
            and abs(self.sines - other.sines) <= TOLERANCE * self.numel + size
            and abs(self.squares - other.squares) <= squares
        )

    __hash__ = None  # type: ignore[assignment]


def fingerprint(tensor: torch.Tensor) -> Fingerprint:
    """Infinities and what is no number count as large numbers of their own."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    flat = tensor.detach().reshape(-1).double()
    if not flat.numel():
        return Fingerprint(0, 0.0, 0.0, 0.0, 0.0)
    if not bool(flat.abs().max() < 1e12):
        flat = torch.nan_to_num(flat, nan=31.0, posinf=1e6, neginf=-1e6).clamp(-1e6, 1e6)
    sums = torch.stack([flat.sum(), flat.abs().sum(), flat.square().sum(), (1.3 * flat).sin().sum()])
    total, magnitude, squares, sines = sums.tolist()
    return Fingerprint(flat.numel(), total, magnitude, squares, sines)


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are the same numbers in the same order."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-7, atol=1e-9)


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
    if torch.allclose(moments, others, rtol=1e-6, atol=1e-7):
        return same
    order, other_order = _sorted_rows(moments), _sorted_rows(others)
    if not torch.allclose(moments[order], others[other_order], rtol=1e-5, atol=1e-6):
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
    if not torch.allclose(values, other_values, rtol=1e-6, atol=1e-8):
        return None
    found = torch.empty_like(order)
    found[other_order] = order
    return found


def _without_ones(tensor: torch.Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]
