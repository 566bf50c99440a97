"""Which row of one network is which of the other, where they take the same data.

All uses of one value are looked at together: q, k and v may be three matrices or one, in any
order, with their heads and rotary halves in any. Every row is given the same stand-in for its
output, both networks are followed to their next uses, and a number that does not depend on any
order is computed of what arrives there. Its gradient at a row's output says which role the row
plays: rows of one colour correspond, and rows of one network that share a colour are symmetric.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from surgery.matching.code.fingerprints import Fingerprint, align_columns, fingerprint, slack
from surgery.matching.code.origins import ZERO, Origins
from surgery.matching.code.side import Side, Unknown, downstream, stand_in
from surgery.matching.code.uses import Use

#: A row of a group: which use it belongs to, and its place there.
Rows = np.ndarray
#: A row that is given a stand-in of its own: use, place, variant.
Marked = tuple[int, int, int]

#: How many orders of symmetric uses are tried.
_MOST_ORDERS = 24
#: How many rows are distinguished one by one where their colours do not tell them apart.
_MOST_MARKS = 40
#: Differences of moments, relative to the largest, that are no rounding.
_GAP = 1e-8
#: Moments that are rounding alone.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Pairing:
    """Pairs of rows, by their places in the two lists of all rows; ``lonely`` is how many have no
    counterpart, ``tied`` are colours of several rows on either side.
    """

    source: Rows
    target: Rows
    lonely: int
    colours: int
    tied: Rows


class Group:
    """The uses of rows on either side that take the same data."""

    def __init__(self, sides: tuple[Side, Side], uses: tuple[Sequence[Use], Sequence[Use]]) -> None:
        self.sides, self.uses = sides, uses
        self.rows = tuple(map(_rows, uses))
        self._wanted: list[Fingerprint] | None = None

    def match(self, origins: Origins) -> str:
        """Write down which rows are which, and count the uses as matched.

        What stays doubtful is said; empty where what both networks compute of the rows agrees up
        to their next uses. Raises :class:`~surgery.matching.code.side.Unknown` where no row can be
        said to be another.
        """
        before = origins.snapshot(torch.cat([*map(_elements, self.uses[1])]))
        first: Pairing | None = None
        for pairing in self._pairings():
            origins.restore(before)
            self._mark(pairing, matched=False)
            self._assign(pairing, origins)
            self._mark(pairing, matched=True)
            if self._agrees():
                return f"{pairing.lonely} rows have no counterpart" if pairing.lonely else ""
            first = first or pairing
            self._mark(pairing, matched=False)
        if first is None:
            first = self._in_order()
        if first is None:
            raise Unknown("the source makes another number of rows of this data")
        origins.restore(before)
        self._assign(first, origins)
        self._mark(first, matched=True)
        return "what the rows give differs before the next use"

    def _pairings(self) -> Iterator[Pairing]:
        """Pairings to try: by colour; then symmetric uses in other orders; then with single rows
        told apart.
        """
        colours = self._refined(self._kinds(), ((), ()))
        many = len(self.uses[0])
        orders = itertools.islice(itertools.permutations(range(many)), _MOST_ORDERS)
        for order in orders if many <= 4 else [tuple(range(many))]:
            pairing = self._paired(colours, order)
            if len(pairing.source):
                yield pairing
        marks: tuple[tuple[Marked, ...], tuple[Marked, ...]] = ((), ())
        for variant in range(1, _MOST_MARKS + 1):
            pairing = self._paired(colours, range(many))
            if pairing.lonely or not len(pairing.tied):
                return
            found = self._marked(colours, marks, pairing, variant)
            if found is None:
                return
            colours, marks = found
            yield self._paired(colours, range(many))

    def _in_order(self) -> Pairing | None:
        """Rows in the order in which they stand, where both sides have the same sizes: what comes
        of them shows what is different.
        """
        sizes = [[(use.how, _height(use)) for use in side] for side in self.uses]
        if sizes[0] != sizes[1]:
            return None
        rows = np.arange(len(self.rows[0]))
        return Pairing(rows, rows, 0, 0, rows[:0])

    def _marked(
        self,
        colours: Rows,
        marks: tuple[tuple[Marked, ...], tuple[Marked, ...]],
        pairing: Pairing,
        variant: int,
    ) -> tuple[Rows, tuple[tuple[Marked, ...], tuple[Marked, ...]]] | None:
        """Tell the first row of a large colour apart on both sides, and see what that tells of
        the others; None where it tells nothing.
        """
        ours, theirs = self.rows
        for colour in pairing.tied[:8]:
            one = int(np.nonzero(colours[: len(ours)] == colour)[0][0])
            other = int(np.nonzero(colours[len(ours) :] == colour)[0][0])
            apart = colours.copy()
            apart[[one, len(ours) + other]] = colours.max() + 1
            more = (
                (*marks[0], (*map(int, ours[one]), variant)),
                (*marks[1], (*map(int, theirs[other]), variant)),
            )
            found = self._refined(apart, more)  # type: ignore[arg-type]
            refined = self._paired(found, range(len(self.uses[0])))
            if not refined.lonely and refined.colours > pairing.colours + 1:
                return found, more  # type: ignore[return-value]
        return None

    def _kinds(self) -> Rows:
        """One colour for each kind of use: rows over other inputs are others."""
        kinds = list(dict.fromkeys(use.how for side in self.uses for use in side))
        return np.concatenate(
            [np.full(_height(use), kinds.index(use.how)) for side in self.uses for use in side]
        )

    def _refined(self, colours: Rows, marks: tuple[Sequence[Marked], Sequence[Marked]]) -> Rows:
        """Colours, split by the moments of the gradient at each row's output."""
        moments = np.concatenate(
            [
                _moments(side, uses, marked)
                for side, uses, marked in zip(self.sides, self.uses, marks, strict=True)
            ]
        )
        moments = moments / np.maximum(np.abs(moments).max(0), _NOTHING)
        for column in moments.T:
            order = np.lexsort((column, colours))
            changed = np.diff(colours[order]) != 0
            changed |= np.abs(np.diff(column[order])) > _GAP * slack()
            refined = np.empty_like(colours)
            refined[order] = np.concatenate([[0], np.cumsum(changed)])
            colours = refined
        return colours

    def _paired(self, colours: Rows, order: Sequence[int]) -> Pairing:
        """Rows of one colour in their own order; ``order`` is that of the source's uses."""
        ours, theirs = self.rows
        one, other = colours[: len(ours)], colours[len(ours) :]
        counts = [np.bincount(x, minlength=colours.max() + 1) for x in (one, other)]
        even = (counts[0] == counts[1]) & (counts[0] > 0)
        rank = np.argsort(np.array(order))
        source = np.lexsort((ours[:, 1], rank[ours[:, 0]], one))
        target = np.lexsort((theirs[:, 1], theirs[:, 0], other))
        tied = np.nonzero(even & (counts[0] > 1))[0]
        return Pairing(
            source[even[one[source]]],
            target[even[other[target]]],
            int(np.abs(counts[0] - counts[1]).sum()),
            int((counts[0] > 0).sum()),
            tied[np.argsort(-counts[0][tied], kind="stable")],
        )

    def _paired_uses(self, pairing: Pairing) -> tuple[list[Use], list[Use]]:
        ours, theirs = (
            [uses[at] for at in np.unique(rows[places, 0])]
            for uses, rows, places in zip(
                self.uses, self.rows, (pairing.source, pairing.target), strict=True
            )
        )
        return ours, theirs

    def _mark(self, pairing: Pairing, *, matched: bool) -> None:
        for side, uses in zip(self.sides, self._paired_uses(pairing), strict=True):
            side.mark(uses, matched=matched)

    def _agrees(self) -> bool:
        """Whether what the target makes of its rows is what the source makes of its own."""
        if self._wanted is None:
            self._wanted = [*map(fingerprint, self._next(0))]
        try:
            found = [*map(fingerprint, self._next(1))]
        except (Unknown, RuntimeError, IndexError):
            return False
        return all(x in self._wanted for x in found) and bool(found or not self._wanted)

    def _next(self, at: int) -> list[torch.Tensor]:
        side = self.sides[at]
        outputs = {use.operation: use.operation.run(side.value)[0] for use in self.uses[at]}
        return downstream(side, outputs)

    def _assign(self, pairing: Pairing, origins: Origins) -> None:
        ours, theirs = self.rows
        pairs = np.concatenate([ours[pairing.source], theirs[pairing.target]], 1)
        for one, other in np.unique(pairs[:, [0, 2]], axis=0):
            here = (pairs[:, 0] == one) & (pairs[:, 2] == other)
            source, target = self.uses[0][one], self.uses[1][other]
            rows = torch.from_numpy(pairs[here])
            self._assign_use(source, target, rows[:, 1], rows[:, 3], origins)

    def _assign_use(
        self,
        source: Use,
        target: Use,
        ours: torch.Tensor,
        theirs: torch.Tensor,
        origins: Origins,
    ) -> None:
        assert source.elements is not None
        assert target.elements is not None
        columns = self._columns(source, target)
        if columns is None:
            return
        origins.put(target.elements[theirs], source.elements[ours][:, columns])
        if target.bias is not None:
            assert target.bias.elements is not None
            bias = target.bias.elements.reshape(-1)[theirs]
            found = torch.full_like(bias, ZERO)
            if source.bias is not None:
                assert source.bias.elements is not None
                found = source.bias.elements.reshape(-1)[ours]
            origins.put(bias, found)

    def _columns(self, source: Use, target: Use) -> torch.Tensor | None:
        """The source's input that each of the target's inputs is."""
        assert source.elements is not None
        if source.how[0] == "embedding":
            return torch.arange(source.elements.shape[1])
        one, other = (
            use.features(side.value(use.data))
            for side, use in zip(self.sides, (source, target), strict=True)
        )
        found = align_columns(one, other)
        if found is not None and len(found) != source.elements.shape[1]:  # groups
            return torch.arange(source.elements.shape[1])
        return found


def _height(use: Use) -> int:
    assert use.elements is not None
    return int(use.elements.shape[0])


def _rows(uses: Sequence[Use]) -> Rows:
    return np.array([(at, row) for at, use in enumerate(uses) for row in range(_height(use))])


def _elements(use: Use) -> torch.Tensor:
    assert use.elements is not None
    bias = () if use.bias is None or use.bias.elements is None else (use.bias.elements,)
    return torch.cat([x.reshape(-1) for x in (use.elements, *bias)])


def _moments(side: Side, uses: Sequence[Use], marks: Sequence[Marked]) -> Rows:
    """Of each row, sums over the tokens: the gradient, its square, and both with the stand-in."""
    with torch.enable_grad():
        bases = [stand_in(use, side.value(use.data)) for use in uses]
        leaves = []
        for at, (use, base) in enumerate(zip(uses, bases, strict=True)):
            leaf = base.expand(use.operation.outputs[0].shape).clone()
            for marked, row, variant in marks:
                if marked == at:
                    own = stand_in(use, side.value(use.data), variant)
                    leaf.select(use.axis, row).copy_(own.select(use.axis, 0))
            leaves.append(leaf.requires_grad_())
        reached = downstream(
            side, {use.operation: leaf for use, leaf in zip(uses, leaves, strict=True)}
        )
        loss = torch.zeros((), dtype=torch.float64)
        seen: list[Fingerprint] = []
        for value in reached:
            if value.requires_grad and (its := fingerprint(value)) not in seen:
                seen.append(its)
                real = torch.view_as_real(value) if value.is_complex() else value
                loss = loss + (1.3 * real + 0.2).sin().sum() + real.square().mean()
        gradients: Sequence[torch.Tensor | None] = [None] * len(leaves)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    found: list[torch.Tensor] = []
    for use, base, leaf, gradient in zip(uses, bases, leaves, gradients, strict=True):
        if gradient is None:
            found.append(torch.zeros(_height(use), 4, dtype=torch.float64))
            continue
        moved, weights = (
            x.movedim(use.axis, -1).reshape(-1, leaf.shape[use.axis])
            for x in (gradient, base.expand(leaf.shape))
        )
        squares = moved.square()
        sums = (moved.sum(0), squares.sum(0), (moved * weights).sum(0), (squares * weights).sum(0))
        found.append(torch.stack(sums, 1).detach())
    moments: Rows = torch.cat(found).numpy()
    return moments
