"""Two checkpoints -> what differs: names, shapes, dtypes and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from surgery.checkpoint import Checkpoint
from surgery.checkpoint.pairs import (
    Readers,
    bytes_that_agree,
    numbers_side_by_side,
    run_alike,
)
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.source import OneAtATime
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch

    from surgery.checkpoint.weights import Source

#: Numbers of a tensor in memory that are compared at a time.
PART = 1 << 18

Numbers = Iterable[tuple["torch.Tensor", "torch.Tensor"]]


@dataclass(frozen=True, slots=True)
class ValueDifference:
    """One tensor on both sides whose values differ: ``elements`` of its ``total`` do.

    ``largest`` is the largest absolute difference, infinite where elements that differ are not
    finite on both sides. ``relative`` is that difference over the largest absolute value of
    either side among elements that are: from 0 to 2, the same in both directions, and 1 where one
    side is all zeros, as fresh biases are. Both in float64. NaN is equal to NaN; 4-bit numbers,
    which torch keeps in pairs, count singly.
    """

    name: str
    dtype: str
    elements: int
    total: int
    largest: float
    relative: float

    def to_dict(self) -> dict[str, Any]:
        """The difference as JSON values; JSON has no infinity, so None stands for it."""
        finite = {"largest": _or_none(self.largest), "relative": _or_none(self.relative)}
        return asdict(self) | finite


@dataclass(frozen=True, slots=True)
class Difference:
    """What two checkpoints do not share. Empty (false) where they are equal, bit for bit aside:
    two zeros of unlike sign are equal, and so are two NaN.

    ``equal`` names the tensors that are. ``incomparable`` are tensors of either side of a kind
    that is not read, each with the reason: nobody can say that they agree. ``others`` names
    entries of either side that are no tensors, which are not compared and are no difference.
    """

    only_first: tuple[TensorSpec, ...]
    only_second: tuple[TensorSpec, ...]
    respecified: tuple[tuple[TensorSpec, TensorSpec], ...]
    values: tuple[ValueDifference, ...]
    equal: tuple[str, ...]
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
        """The difference as JSON values."""
        return {
            "equal": list(self.equal),
            "only_first": [spec.to_row() for spec in self.only_first],
            "only_second": [spec.to_row() for spec in self.only_second],
            "respecified": [[one.to_row(), other.to_row()] for one, other in self.respecified],
            "values": [value.to_dict() for value in self.values],
            "incomparable": [[name, reason] for name, reason in self.incomparable],
            "others": list(self.others),
        }

    def __str__(self) -> str:
        from surgery.report.differences import difference_report

        return difference_report(self).text()


def compare(first: Source, second: Source, *, progress: Progress = untold) -> Difference:
    """Compare two checkpoints, tensor by tensor.

    Tensors that both files keep in the same order of elements are read a piece at a time, and
    torch is imported only for those whose bytes differ; others are in memory one of each at a
    time. ``progress`` is called with the bytes just compared: in all, those of the tensors that
    have the same spec on both sides.
    """
    ours = {spec.name: spec for spec in first.specs}
    theirs = {spec.name: spec for spec in second.specs}
    shared = [name for name in ours if name in theirs]
    comparable = [ours[name] for name in shared if ours[name] == theirs[name]]
    found = dict(_compared(first, second, comparable, progress))
    return Difference(
        only_first=_missing(ours, theirs, second),
        only_second=_missing(theirs, ours, first),
        respecified=tuple((ours[n], theirs[n]) for n in shared if ours[n] != theirs[n]),
        values=tuple(difference for difference in found.values() if difference),
        equal=tuple(name for name, difference in found.items() if not difference),
        incomparable=tuple(dict.fromkeys((*first.unreadable, *second.unreadable))),
        others=tuple(dict.fromkeys((*first.not_tensors, *second.not_tensors))),
    )


def _missing(
    specs: Mapping[str, TensorSpec], there: Mapping[str, TensorSpec], other: Source
) -> tuple[TensorSpec, ...]:
    """Those that the other side has not at all: one that it has and cannot read is not missing."""
    unreadable = dict(other.unreadable)
    return tuple(s for name, s in specs.items() if name not in there and name not in unreadable)


def _compared(
    first: Source, second: Source, specs: Sequence[TensorSpec], progress: Progress
) -> Iterator[tuple[str, ValueDifference | None]]:
    with OneAtATime() as ours, OneAtATime() as theirs:
        for spec in specs:
            if pair := _places(first, second, spec.name):
                readers = ours.reader(pair[0].region.source), theirs.reader(pair[1].region.source)
                yield spec.name, _compare_places(spec, *pair, readers, progress)
            else:
                one, other = first.tensor(spec.name), second.tensor(spec.name)
                yield spec.name, _compare_numbers(spec, _parts(one, other))
                progress(one.nbytes)


def _places(first: Source, second: Source, name: str) -> tuple[Place, Place] | None:
    """Where both lie, if both lie in files and their numbers are in the same order there."""
    if not (isinstance(first, Checkpoint) and isinstance(second, Checkpoint)):
        return None
    one, other = first.place(name), second.place(name)
    return (one, other) if run_alike(one, other) else None


def _compare_places(
    spec: TensorSpec, one: Place, other: Place, readers: Readers, progress: Progress
) -> ValueDifference | None:
    agreed = bytes_that_agree(one, other, readers, progress)
    if agreed == spec.nbytes:
        return None
    # From the start again: what a difference is relative to may lie in the part that agrees.
    numbers = numbers_side_by_side(one, other, readers)
    return _compare_numbers(spec, _reported(numbers, one.itemsize, agreed, progress))


def _reported(numbers: Numbers, itemsize: int, reported: int, progress: Progress) -> Numbers:
    """The same, with progress for what lies behind the bytes ``reported`` already."""
    done = 0
    for one, other in numbers:
        yield one, other
        done += len(one) * itemsize
        if done > reported:
            progress(len(one) * itemsize)


def _parts(one: torch.Tensor, other: torch.Tensor) -> Numbers:
    import torch

    sides = (torch.split(side.reshape(-1), PART) for side in (one, other))
    return zip(*sides, strict=True)


@dataclass(slots=True)
class _Tally:
    """What the parts of a tensor seen so far come to; ``scale`` is the largest of either side."""

    elements: int = 0
    total: int = 0
    largest: float = 0.0
    scale: float = 0.0

    def add(self, one: torch.Tensor, other: torch.Tensor) -> None:
        import torch

        one, other = _comparable(one), _comparable(other)
        wide = torch.complex128 if one.is_complex() else torch.float64
        mine, theirs = one.to(wide), other.to(wide)
        gaps = (mine - theirs).abs()
        largest = float(gaps.max())
        differs = one != other
        if not math.isfinite(largest):
            # Infinite or NaN on either side: equal ones do not count, others are told by infinity.
            differs &= ~((one != one) & (other != other))
            finite = torch.isfinite(mine) & torch.isfinite(theirs)
            apart = bool((differs & ~finite).any())
            mine, theirs, gaps = mine[finite], theirs[finite], gaps[finite]
            largest = math.inf if apart else _most(gaps)
        self.elements += int(differs.sum())
        self.total += len(one)
        self.largest = max(self.largest, largest)
        self.scale = max(self.scale, _most(mine), _most(theirs))


def _most(numbers: torch.Tensor) -> float:
    """The largest absolute value, 0 of nothing."""
    return float(numbers.abs().max()) if len(numbers) else 0.0


def _compare_numbers(spec: TensorSpec, numbers: Numbers) -> ValueDifference | None:
    tally = _Tally()
    for one, other in numbers:
        if len(one):
            tally.add(one, other)
    if not tally.elements:
        return None
    relative = tally.largest / tally.scale if math.isfinite(tally.largest) else math.inf
    return ValueDifference(
        spec.name, spec.dtype, tally.elements, tally.total, tally.largest, relative
    )


def _comparable(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in a dtype that torch compares, which not all of the small ones are."""
    import torch

    if values.dtype == torch.float4_e2m1fn_x2:
        pairs = values.view(torch.uint8)
        return torch.tensor(_FOUR_BITS)[torch.stack((pairs & 15, pairs >> 4), -1).long()].view(-1)
    if values.dtype == torch.complex32:
        return values.to(torch.complex64)
    return values.float() if str(values.dtype).startswith("torch.float8") else values


# What the 16 codes of float4_e2m1fn stand for, by the OCP Microscaling Formats specification.
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_FOUR_BITS = (*_MAGNITUDES, *(-magnitude for magnitude in _MAGNITUDES))


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
