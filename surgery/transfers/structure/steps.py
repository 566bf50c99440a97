"""Pairs of layers -> steps: for every tensor of the target, the rows that fill it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from surgery.specs import TensorSpec
from surgery.transfers.operations import Operation, Piece
from surgery.transfers.structure.layers import Layer, Leaf, rows_of
from surgery.transfers.structure.rows import LayoutUnknown, apart, in_words, same_rows
from surgery.transfers.structure.words import gate_part


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
        reason = "" if told else same_rows(source, target, same[0], leaf)
        return [_whole(source, same[0])], (reason,) if reason else ()
    if not found:
        return [], ()
    parts = max((x.part for x in (leaf, *found)), key=lambda part: len(part))
    if not leaf.part or not all(other.part for other in found):
        raise LayoutUnknown(
            f"which rows are {in_words(parts)} cannot be told from the names{_DOUBT[parts[:1]]}"
        )
    if not _holds(source, leaf) or not _under_one_word((leaf, *found)):
        raise LayoutUnknown(f"{leaf.spec.name} and its sources are not named alike")
    for fused in (leaf, *found):
        apart(fused)
    height = _height(source, target)
    reason = f"rows taken as blocks of {in_words(parts)}"
    return [_piece(source, found, part, height) for part in leaf.part], (reason,)


def _same_part(other: Leaf, leaf: Leaf, found: Sequence[Leaf], target: Layer) -> bool:
    """Whether two leaves are one, as far as the parts go that their names tell: a fused leaf is
    one with a whole one that does not tell its parts, if its word does.
    """
    whole = len(found) == len(target.of_role(leaf.role)) == 1
    return other.part == leaf.part or (whole and "" in (other.part, leaf.part))


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


def _height(source: Layer, target: Layer) -> int:
    """Rows of each part.

    Where q, k and v are not three of one height a fused projection may hold them group by group,
    as grouped-query attention does, and its name does not say so.
    """
    leaves = [(layer, leaf) for layer in (source, target) for leaf in layer.of_role("weight")]
    heights = {rows_of(leaf, bool(layer.transposed)) / len(leaf.part) for layer, leaf in leaves}
    if len(heights) > 1 or not (height := heights.pop()).is_integer():
        raise LayoutUnknown("q, k and v have different numbers of rows: they may be interleaved")
    return int(height)


def _piece(source: Layer, found: Sequence[Leaf], part: str, height: int) -> Piece:
    for leaf in found:
        if (at := leaf.part.find(part)) >= 0:
            return Piece(leaf.spec, at * height, (at + 1) * height, _turned(source, leaf))
    return Piece(None, 0, height)


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
