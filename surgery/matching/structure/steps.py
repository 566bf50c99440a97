"""Pairs of layers -> steps: for every tensor of the target, the rows that fill it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.matching.operations import Operation, Piece
from surgery.matching.structure.hints import layout_text
from surgery.matching.structure.layers import Layer, Leaf, rows_of
from surgery.matching.structure.rows import LayoutUnknown, apart, in_words, same_rows
from surgery.matching.structure.words import gate_part
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class StructureStep:
    """One target tensor, how it is made, and every reason for it."""

    target: TensorSpec
    operation: Operation
    evidence: tuple[str, ...]

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        return self.operation.sources

    def __str__(self) -> str:
        sources = " + ".join(spec.name for spec in self.sources)
        name = self.operation.name(self.target.shape)
        return f"{self.target.name} <- {sources} ({name}; {'; '.join(self.evidence)})"


def steps_of(
    source: Layer, target: Layer, why: tuple[str, ...], *, told: bool = False
) -> list[StructureStep]:
    """The steps that fill the target layer; ``told`` says that a person named this pair, so that
    rows of one count are taken to lie in one order.

    Raises :class:`LayoutUnknown` where one side is fused in an order that its name does not say
    and the other is not fused alike.
    """
    steps = []
    for leaf in target.leaves:
        pieces, reasons = _pieces(source, target, leaf, told)
        if pieces:
            turned = _turned(target, leaf)
            if (
                turned
                and all(piece.transposed for piece in pieces)
                and len(pieces) == 1
                and pieces[0].whole
            ):
                pieces, turned = [_straight(pieces[0])], False
            operation = Operation(tuple(pieces), turned)
            if not operation.fits(leaf.spec.shape):
                raise LayoutUnknown(f"{leaf.spec.name} has other rows than its sources")
            notes = _notes(source, target, leaf, pieces)
            steps.append(StructureStep(leaf.spec, operation, (*why, *reasons, *notes)))
    return steps


def _turned(layer: Layer, leaf: Leaf) -> bool:
    return bool(layer.transposed) and leaf.role == "weight" and len(leaf.spec.shape) == 2


def _straight(piece: Piece) -> Piece:
    assert piece.source is not None
    return Piece(piece.source, 0, piece.source.shape[0])


def _pieces(
    source: Layer, target: Layer, leaf: Leaf, told: bool
) -> tuple[list[Piece], tuple[str, ...]]:
    """The rows that fill a leaf, from top to bottom, and what was said of their order."""
    found = source.of_role(leaf.role)
    if same := [other for other in found if _same_part(other, leaf, found, target)]:
        reason = "" if told or leaf.groups else same_rows(source, target, same[0], leaf)
        return [_whole(source, same[0])], (reason,) if reason else ()
    if not found:
        return [], ()
    if not leaf.part or not all(other.part for other in found):
        parts = "".join(dict.fromkeys(part for x in (*target.leaves, *found) for part in x.part))
        raise LayoutUnknown(
            f"which rows are {in_words(parts)} cannot be told from the names{_DOUBT[parts[:1]]}"
        )
    if not _holds(source, leaf) or not _under_one_word((leaf, *found)):
        raise LayoutUnknown(f"{leaf.spec.name} and its sources are not named alike")
    for fused in (leaf, *found):
        apart(fused)
    heights = _heights(source, target)
    rows = Rows(source, tuple(found), heights)
    layouts = dict.fromkeys(_layout(x) for x in (*found, leaf) if len(x.part) > 1)
    return list(rows.of(leaf)), tuple(layouts)


def _same_part(other: Leaf, leaf: Leaf, found: Sequence[Leaf], target: Layer) -> bool:
    """Whether two leaves are one, as far as the parts go that their names tell: a fused leaf is
    one with a whole one that does not tell its parts, if its word does.
    """
    if other.part == leaf.part:
        return len(leaf.part) < 2 or max(other.groups, 1) == max(leaf.groups, 1)
    whole = len(found) == len(target.of_role(leaf.role)) == 1
    return whole and "" in (other.part, leaf.part)


def _layout(leaf: Leaf) -> str:
    if leaf.groups:
        return f"rows taken as {layout_text(leaf.part, leaf.groups)}, as a hint says"
    return f"rows taken as blocks of {in_words(leaf.part)}"


_DOUBT = defaultdict(lambda: ": they may be interleaved per head", {"g": "", "u": "", "1": ""})


def _holds(source: Layer, leaf: Leaf) -> bool:
    """Whether the source has the leaf's parts; of biases some may be missing, and are zero."""
    return {*leaf.part} <= {part for other in source.of_role("weight") for part in other.part}


def _under_one_word(leaves: Sequence[Leaf]) -> bool:
    """Whether parts that are known by their numbers alone (``w12``) are numbers of one word."""
    numbered = [leaf.spec.name.split(".") for leaf in leaves if leaf.part.isdigit()]
    words = (next(filter(None, map(gate_part, reversed(name))), ("", "")) for name in numbered)
    return len({word for _, word in words}) < 2


def _whole(source: Layer, leaf: Leaf) -> Piece:
    transposed = _turned(source, leaf)
    shape = leaf.spec.shape
    return Piece(leaf.spec, 0, rows_of(leaf, transposed) if shape else 1, transposed)


def _heights(source: Layer, target: Layer) -> dict[str, int]:
    """Rows of each part.

    Where q, k and v are not three of one height a fused projection may hold them group by group,
    as grouped-query attention does, and its name does not say so: then a hint has to.
    """
    leaves = [(layer, leaf) for layer in (source, target) for leaf in layer.of_role("weight")]
    rows = {leaf.part: rows_of(leaf, bool(layer.transposed)) for layer, leaf in leaves}
    alone = {part: count for part, count in rows.items() if len(part) == 1}
    told = any(leaf.groups for _, leaf in leaves)
    heights = dict(alone)
    for parts, count in rows.items():
        unknown = [part for part in parts if part not in alone]
        left = count - sum(alone.get(part, 0) for part in parts)
        if unknown:
            heights |= dict.fromkeys(unknown, left // len(unknown))
        if left % max(len(unknown), 1) or (not unknown and left):
            raise LayoutUnknown(f"{count} rows do not make {in_words(parts)}")
    if not told and len({*heights.values()}) > 1:
        raise LayoutUnknown("q, k and v have different numbers of rows: they may be interleaved")
    return heights


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of each part lie among a source's leaves; ``heights`` are all of a part's."""

    source: Layer
    leaves: tuple[Leaf, ...]
    heights: Mapping[str, int]

    def of(self, target: Leaf) -> Iterator[Piece]:
        """The pieces that fill a target leaf, from top to bottom, neighbours joined."""
        groups = max(target.groups, 1)
        pieces: list[Piece] = []
        for group in range(groups):
            for part in target.part:
                height = self._per_group(part, groups)
                for piece in self._pieces(part, group * height, (group + 1) * height):
                    if pieces and _follows(pieces[-1], piece):
                        piece = replace(pieces.pop(), stop=piece.stop)
                    pieces.append(piece)
        yield from pieces

    def _pieces(self, part: str, start: int, stop: int) -> Iterator[Piece]:
        """Rows ``start`` to ``stop`` of those that make a part."""
        leaf = next((leaf for leaf in self.leaves if part in leaf.part), None)
        if leaf is None:
            yield Piece(None, 0, stop - start)
            return
        groups, turned = max(leaf.groups, 1), _turned(self.source, leaf)
        height = self._per_group(part, groups)
        before = sum(self._per_group(p, groups) for p in leaf.part[: leaf.part.index(part)])
        stride = sum(self._per_group(p, groups) for p in leaf.part)
        while start < stop:
            group, within = divmod(start, height)
            count = min(stop - start, height - within)
            at = group * stride + before + within
            yield Piece(leaf.spec, at, at + count, turned)
            start += count

    def _per_group(self, part: str, groups: int) -> int:
        height, rest = divmod(self.heights[part], groups)
        if rest:
            raise LayoutUnknown(
                f"{self.heights[part]} rows of {part} cannot be cut into {groups} equal groups"
            )
        return height


def _follows(one: Piece, other: Piece) -> bool:
    """Whether two pieces are rows one behind the other of one source."""
    same = (one.source, one.transposed) == (other.source, other.transposed)
    return same and one.source is not None and one.stop == other.start


def _notes(source: Layer, target: Layer, leaf: Leaf, pieces: Sequence[Piece]) -> Iterator[str]:
    if any(piece.source is None for piece in pieces):
        yield "the source has no bias for k: zero"
    if leaf.role == "bias" and leaf.part:
        lost = _parts(source, "bias") - _parts(target, "bias")
        if lost:
            parts = " and ".join(sorted(lost))
            yield f"the target has no bias for {parts}: the source's is dropped"


def _parts(layer: Layer, role: str) -> set[str]:
    return {part for leaf in layer.of_role(role) for part in leaf.part}
