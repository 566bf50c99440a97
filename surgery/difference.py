"""Two checkpoints -> what differs: names, shapes, dtypes and values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch

    from surgery.transfers.source import Source


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """One tensor on both sides whose values differ.

    ``largest`` is the largest absolute difference, infinite where elements that differ are not
    finite on both sides; ``relative`` is that difference over the largest absolute value of the
    first side among elements that are. Both in float64. ``elements`` counts all that differ,
    NaN equal to NaN; 4-bit numbers, which torch keeps in pairs, count singly.
    """

    name: str
    elements: int
    largest: float
    relative: float


@dataclass(frozen=True, slots=True)
class Difference:
    """What two checkpoints do not share. Empty (false) where they are equal, bit for bit aside:
    two zeros of unlike sign are equal, and so are two NaN.

    ``incomparable`` are tensors of either side of a kind that is not read, each with the reason:
    nobody can say that they agree. ``others`` names entries of either side that are no tensors,
    which are not compared and are no difference.
    """

    only_first: tuple[TensorSpec, ...]
    only_second: tuple[TensorSpec, ...]
    respecified: tuple[tuple[TensorSpec, TensorSpec], ...]
    values: tuple[ValueDifference, ...]
    equal: int
    incomparable: tuple[tuple[str, str], ...] = ()
    others: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(
            self.only_first
            or self.only_second
            or self.respecified
            or self.values
            or self.incomparable
        )

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON values; JSON has no infinity, so None stands for it."""
        return {
            "equal": self.equal,
            "only_first": [spec.to_row() for spec in self.only_first],
            "only_second": [spec.to_row() for spec in self.only_second],
            "respecified": [[one.to_row(), other.to_row()] for one, other in self.respecified],
            "values": [
                [value.name, value.elements, _or_none(value.largest), _or_none(value.relative)]
                for value in self.values
            ],
            "incomparable": [[name, reason] for name, reason in self.incomparable],
            "others": list(self.others),
        }

    def __str__(self) -> str:
        from surgery.report import difference_report

        return difference_report(self).text()


def compare(first: Source, second: Source) -> Difference:
    """Compare two checkpoints, tensor by tensor, one tensor of each in memory at a time."""
    ours = {spec.name: spec for spec in first.specs}
    theirs = {spec.name: spec for spec in second.specs}
    shared = [name for name in ours if name in theirs]
    comparable = [name for name in shared if ours[name] == theirs[name]]
    values = [
        difference
        for name in comparable
        if (difference := _compare_values(name, first.tensor(name), second.tensor(name)))
    ]
    return Difference(
        only_first=tuple(spec for name, spec in ours.items() if name not in theirs),
        only_second=tuple(spec for name, spec in theirs.items() if name not in ours),
        respecified=tuple((ours[n], theirs[n]) for n in shared if ours[n] != theirs[n]),
        values=tuple(values),
        equal=len(comparable) - len(values),
        incomparable=tuple(dict.fromkeys((*first.unreadable, *second.unreadable))),
        others=tuple(dict.fromkeys((*first.not_tensors, *second.not_tensors))),
    )


def _compare_values(name: str, one: torch.Tensor, other: torch.Tensor) -> ValueDifference | None:
    import torch

    one, other = _comparable(one), _comparable(other)
    differs = (one != other) & ~((one != one) & (other != other))
    elements = int(differs.sum())
    if not elements:
        return None
    wide = torch.complex128 if one.is_complex() else torch.float64
    one, other = one.to(wide), other.to(wide)
    finite = torch.isfinite(one) & torch.isfinite(other)
    if (differs & ~finite).any():
        return ValueDifference(name, elements, math.inf, math.inf)
    largest, scale = float((one - other)[finite].abs().max()), float(one[finite].abs().max())
    return ValueDifference(name, elements, largest, largest / scale if scale else math.inf)


def _comparable(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in a dtype that torch compares; 4- and 8-bit floats are not all of them."""
    import torch

    if values.dtype == torch.float4_e2m1fn_x2:
        pairs = values.view(torch.uint8)
        return torch.tensor(_FOUR_BITS)[torch.stack((pairs & 15, pairs >> 4), -1).long()]
    return values.float() if str(values.dtype).startswith("torch.float8") else values


# What the 16 codes of float4_e2m1fn stand for, by the OCP Microscaling Formats specification.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FOUR_BITS = (*_MAGNITUDES, *(-magnitude for magnitude in _MAGNITUDES))


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
