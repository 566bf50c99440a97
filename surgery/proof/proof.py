"""The value that says whether two networks compute the same with the planned weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from surgery.showing import Shown

#: Two numbers agree where they differ by less, relative to the largest of what they belong to.
TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that both networks gave: where, its shape (axes of one dropped), and ``largest``,
    the largest difference over the largest value; infinite where a value is not finite.
    """

    source: str
    target: str
    shape: tuple[int, ...]
    largest: float

    @property
    def agrees(self) -> bool:
        return self.largest <= TOLERANCE


@dataclass(frozen=True, slots=True)
class Trial:
    """Both networks on one set of values for the mapped tensors."""

    values: str
    points: tuple[Point, ...]

    @property
    def largest(self) -> float:
        return max((point.largest for point in self.points), default=float("inf"))

    @property
    def agrees(self) -> bool:
        return self.largest <= TOLERANCE

    @property
    def finite(self) -> bool:
        """Whether something was compared, and all of it could be."""
        return math.isfinite(self.largest)


#: What moving one tensor alone showed.
EQUALLY = "moves both equally"
OTHERWISE = "moves them differently"
UNSEEN = "moves neither"
BEHIND = "acts only on what cannot be compared"


@dataclass(frozen=True, slots=True)
class Movement:
    """What moving one source tensor alone does to both networks.

    Of a tensor that goes to several places each part moves alone; ``source`` is then its name
    with the rows, such as ``qkv.weight[0:64]``. ``targets`` are the names that take it.
    ``difference`` is that of the two gradients, relative to the larger. ``acts_as`` names the
    source tensors whose place it has in the target, where that is another one's.
    """

    source: str
    targets: tuple[str, ...]
    verdict: str
    difference: float = 0.0
    acts_as: tuple[str, ...] = ()

    @property
    def heard(self) -> bool:
        """Whether it moves what was compared."""
        return self.verdict in (EQUALLY, OTHERWISE)


@dataclass(frozen=True, slots=True)
class Setting:
    """A hyper-parameter, or a kind of layer, that is not the same on both sides."""

    place: str
    name: str
    source: str
    target: str


@dataclass(frozen=True)
class Proof(Shown):
    """Whether two networks compute the same, and what speaks against it. ``str()`` is the report.

    ``shown`` is the input. ``random`` is the proof of the mapping: every mapped tensor random, so
    that none hides another. ``own`` is the checkpoint's values, as they would be written;
    ``hidden`` names source tensors that they hide. ``by_shape`` is there where ``random`` fails:
    with one value for all tensors of a shape no mix-up of tensors shows, so where that fails too
    the networks differ. ``settings`` are then where; ``first`` is the first difference.
    ``resized`` are (target, resizer): what was computed is no part of the claim, and nothing is
    compared that it acts on.
    """

    source: str
    target: str
    shown: str
    random: Trial
    own: Trial
    movements: tuple[Movement, ...]
    by_shape: Trial | None = None
    settings: tuple[Setting, ...] = ()
    first: str = ""
    hidden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    resized: tuple[tuple[str, str], ...] = ()

    @property
    def moved(self) -> tuple[Movement, ...]:
        """Tensors that were seen to move both networks equally."""
        return tuple(move for move in self.movements if move.verdict == EQUALLY)

    @property
    def unseen(self) -> tuple[Movement, ...]:
        """Tensors that move neither network: a bias that a softmax takes away, an unused branch."""
        return tuple(move for move in self.movements if move.verdict == UNSEEN)

    @property
    def contrary(self) -> tuple[Movement, ...]:
        """Tensors that move the two differently. Where the networks differ most tensors do, which
        says nothing.
        """
        return tuple(move for move in self.movements if move.verdict == OTHERWISE)

    @property
    def behind(self) -> tuple[Movement, ...]:
        """Tensors of which nothing can be said: what is not transferred stands before them."""
        return tuple(move for move in self.movements if move.verdict == BEHIND)

    @property
    def against(self) -> tuple[Movement, ...]:
        """Tensors that speak against the mapping, or that nothing could be said of."""
        return (*self.contrary, *self.behind)

    @property
    def holds(self) -> bool:
        """Both trials agree, something was seen to move, and no tensor speaks against it."""
        return self.random.agrees and self.own.agrees and bool(self.moved) and not self.against

    @property
    def largest(self) -> float:
        """The largest relative difference of the outputs, over both trials."""
        return max(self.random.largest, self.own.largest)

    @property
    def networks_differ(self) -> bool:
        """Whether no mapping among tensors of one shape could make the two agree."""
        return self.by_shape is not None and self.by_shape.finite and not self.by_shape.agrees

    @property
    def verdict(self) -> str:
        """The proof in a sentence."""
        if self.holds:
            limit = " up to what is resized" if self.resized else ""
            return f"{self.source} and {self.target} compute the same{limit}"
        if not self.random.points:
            return "nothing that the two networks give can be compared"
        if self.networks_differ:
            return "weights agree, the networks do not"
        if swapped := [move for move in self.movements if move.acts_as]:
            return f"{len(swapped)} tensors are in another's place"
        if not (self.random.finite and self.own.finite):
            return "the networks give values that are not finite"
        if self.contrary:
            return "the same weights move the two networks differently"
        if not (self.random.agrees and self.own.agrees):
            return "the outputs differ"
        if self.behind:
            return "not all that is mapped acts on what can be compared"
        return "no mapped tensor moves what was compared, so nothing is proven"

    def to_dict(self) -> dict[str, Any]:
        """The proof as JSON values."""
        data = {
            "holds": self.holds,
            "verdict": self.verdict,
            "largest": self.largest,
            **asdict(self),
        }
        for name in ("random", "own", "by_shape"):
            if trial := getattr(self, name):
                data[name]["largest"] = trial.largest
        return data

    def __repr__(self) -> str:
        return f"<Proof: {self.verdict}; largest {self.largest:.1e}>"
