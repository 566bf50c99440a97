"""Two checkpoints -> what differs: names, shapes, dtypes and values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.pieces import run_alike, same_bytes
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.source import OneAtATime, Reader
from surgery.checkpoint.weights import Weights
from surgery.showing import Shown
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

if TYPE_CHECKING:
    import torch


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
class Difference(Shown):
    """What two checkpoints do not share. Empty (false) where they are equal, bit for bit aside:
    two zeros of unlike sign are equal, and so are two NaN.

    Names are compared without what wrappers put before them (``module.``, ``_orig_mod.``), and
    tensors of both sides are called what the first calls them: ``wrapped`` pairs the names of
    those that the second calls otherwise, which is no difference.

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
    wrapped: tuple[tuple[str, str], ...] = ()

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
            "wrapped": [list(names) for names in self.wrapped],
        }


def compare(first: Weights, second: Weights, *, progress: Progress = unwatched) -> Difference:
    """Compare two checkpoints, tensor by tensor, below wrappers.

    Tensors that both files keep in the same order of elements are read a piece at a time, and
    torch is imported only for those whose bytes differ; others are in memory one of each at a
    time. ``progress`` is called with the bytes just compared: in all, those of the tensors that
    have the same spec on both sides.
    """
    ours = {spec.name: spec for spec in first.specs}
    theirs = {spec.name: spec for spec in second.specs}
    shared = _shared_names(ours, theirs)
    pairs = [(ours[name], theirs[other]) for name, other in shared.items()]
    alike = [(one, other) for one, other in pairs if replace(other, name=one.name) == one]
    found: dict[str, ValueDifference | None] = {}
    with OneAtATime() as mine, OneAtATime() as other:
        for specs in alike:
            name = specs[0].name
            found[name] = _compare_values(specs, (first, second), (mine, other))
            progress(specs[0].nbytes)
    return Difference(
        only_first=_missing(ours, shared.keys(), second),
        only_second=_missing(theirs, set(shared.values()), first),
        respecified=tuple(pair for pair in pairs if pair[0].name not in found),
        values=tuple(difference for difference in found.values() if difference),
        equal=tuple(name for name, difference in found.items() if not difference),
        incomparable=tuple(dict.fromkeys((*first.unreadable, *second.unreadable))),
        others=tuple(dict.fromkeys((*first.not_tensors, *second.not_tensors))),
        wrapped=tuple((name, other) for name, other in shared.items() if name != other),
    )


def _shared_names(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """What both sides have, by the first's name: the same name, else the same without wrappers."""
    names = set(theirs)
    by_clean = {clean: name for name, clean in unwrap_names(names).items()}
    found = {name: name for name in ours if name in names}
    for name, clean in unwrap_names(ours).items():
        other = by_clean.get(clean)
        if name not in found and other is not None and other not in found:
            found[name] = other
    return {name: found[name] for name in ours if name in found}


def _missing(
    specs: Mapping[str, TensorSpec], there: Set[str], other: Weights
) -> tuple[TensorSpec, ...]:
    """Those that the other side has not at all: one that it has and cannot read is not missing."""
    unreadable = _shared_names(specs, dict(other.unreadable))
    return tuple(s for name, s in specs.items() if name not in there and name not in unreadable)


def _compare_values(
    specs: tuple[TensorSpec, TensorSpec],
    both: tuple[Weights, Weights],
    sources: tuple[OneAtATime, OneAtATime],
) -> ValueDifference | None:
    sides: list[tuple[Place, Reader] | torch.Tensor]
    sided = tuple(zip(both, specs, strict=True))
    one, other = (weights.place(spec.name) for weights, spec in sided)
    if isinstance(one, Place) and isinstance(other, Place) and run_alike(one, other):
        readers = sources[0].reader(one.region.source), sources[1].reader(other.region.source)
        if same_bytes(one, other, readers):
            return None
        sides = [(one, readers[0]), (other, readers[1])]
    else:
        sides = [weights.tensor(spec.name) for weights, spec in sided]
    from surgery.checkpoint.tensors.differing import count_differences

    tally = count_differences(*sides)
    if not tally.elements:
        return None
    relative = tally.largest / tally.scale if math.isfinite(tally.largest) else math.inf
    return ValueDifference(
        specs[0].name, specs[0].dtype, tally.elements, tally.total, tally.largest, relative
    )


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
