"""Pairs of layers -> steps: for every tensor of the target, the rows that fill it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.matching.recipes.recipe import Recipe, View, Zeros, join_rows
from surgery.matching.recipes.words import in_words as words_of
from surgery.matching.structure.hints import Hint, layout_text
from surgery.matching.structure.layers import Layer, Leaf, rows_of
from surgery.matching.structure.rows import (
    LayoutUnknown,
    check_turned,
    in_words,
    layouts_of,
    same_rows,
)
from surgery.matching.structure.words import gate_part
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class StructureStep:
    """One target tensor, how it is made, and every reason for it."""

    target: TensorSpec
    recipe: Recipe
    evidence: tuple[str, ...]

    @property
    def sources(self) -> tuple[TensorSpec, ...]:
        return self.recipe.sources

    def __str__(self) -> str:
        sources = " + ".join(spec.name for spec in self.sources)
        because = "; ".join(self.evidence)
        return f"{self.target.name} <- {sources} ({words_of(self.recipe)}; {because})"


#: Rows of a leaf from where to where; of none, for as many rows of zeros.
Span = tuple[Leaf | None, int, int]


def steps_of(
    source: Layer, target: Layer, why: str, hint: Hint | None, *, turning: bool
) -> list[StructureStep]:
    """The steps that fill the target layer. ``hint`` is one that names this very pair, so that
    rows of one count are taken to lie in one order; ``turning`` says that q and k may be turned
    for the position, as nothing else tells it.

    Raises :class:`~surgery.matching.structure.rows.LayoutUnknown` where the order of rows, or
    which axis they are, is not known.
    """
    source = _straightened(source, target, hint)
    unsaid = check_turned(source, target) if turning and not hint else ""
    steps = []
    for leaf in target.leaves:
        try:
            spans, order = _spans(source, target, leaf, bool(hint))
        except LayoutUnknown as problem:
            raise LayoutUnknown(str(problem), *layouts_of(source, target)) from None
        if spans:
            evidence = filter(None, (why, unsaid, *order, *_notes(source, target, leaf, spans)))
            recipe = _recipe(source, spans, leaf.spec, turned=_turned(target, leaf))
            steps.append(StructureStep(leaf.spec, recipe, tuple(evidence)))
    return steps


def _straightened(source: Layer, target: Layer, hint: Hint | None) -> Layer:
    """The source with an axis for its rows that is known, against that of the target."""
    if source.transposed is not None and target.transposed is not None:
        return source
    if hint:
        return replace(source, transposed=bool(target.transposed) != hint.turned)
    if source.bare and target.bare and source.path[-1] == target.path[-1]:
        return replace(source, transposed=bool(target.transposed))
    raise LayoutUnknown(
        "a square matrix may be stored (in, out) on one side and (out, in) on the other",
        f"{source.name}^T -> {target.name}",
        f"{source.name} -> {target.name}",
    )


def _recipe(source: Layer, spans: Sequence[Span], target: TensorSpec, *, turned: bool) -> Recipe:
    shape = tuple(reversed(target.shape)) if turned else target.shape
    parts: list[Recipe] = []
    try:
        for leaf, start, stop in spans:
            if leaf is None:
                parts.append(Zeros((stop - start, *shape[1:])))
            else:
                whole = View.of(leaf.spec)
                rows = whole.permute((1, 0)) if _turned(source, leaf) else whole
                parts.append(rows.rows(start, stop))
        made = join_rows(parts, shape)
    except ValueError as error:
        raise LayoutUnknown(f"{target.name} has other rows than its sources") from error
    return made.permute((1, 0)) if turned else made


def _turned(layer: Layer, leaf: Leaf) -> bool:
    return bool(layer.transposed) and leaf.role == "weight" and len(leaf.spec.shape) == 2


def _spans(
    source: Layer, target: Layer, leaf: Leaf, hinted: bool
) -> tuple[list[Span], tuple[str, ...]]:
    """The rows that fill a leaf, from top to bottom, and what was said of their order."""
    found = source.of_role(leaf.role)
    alone = len(found) == len(target.of_role(leaf.role)) == 1
    if same := next((other for other in found if _same_parts(other, leaf, alone)), None):
        rows = rows_of(same, _turned(source, same)) if same.spec.shape else 1
        order = "" if hinted or leaf.groups else same_rows(source, target, same, leaf)
        return [(same, 0, rows)], (order,)
    if not found:
        return [], ()
    if not leaf.part or not all(other.part for other in found):
        parts = "".join(dict.fromkeys(part for x in (*target.leaves, *found) for part in x.part))
        doubt = ": they may be interleaved per head" if {*parts} & {*"qkv"} else ""
        raise LayoutUnknown(
            f"which rows are {in_words(parts)} cannot be read from the names{doubt}"
        )
    if not {*leaf.part} <= _parts(source, "weight") or not _under_one_word((leaf, *found)):
        raise LayoutUnknown(f"{leaf.spec.name} and its sources are not named alike")
    fused = [x for x in (*found, leaf) if len(x.part) > 1]
    for x in fused:
        if len(x.spec.shape) > 2 and not x.groups:
            raise LayoutUnknown(
                f"{x.spec.name} is a fused convolution: its rows may be interleaved per head"
            )
    spans = _filling(leaf, found, _heights(source, target))
    return spans, tuple(dict.fromkeys(map(_layout, fused)))


def _same_parts(other: Leaf, leaf: Leaf, alone: bool) -> bool:
    """Whether two leaves are one, as far as the parts go that their names tell: a fused leaf is
    one with a whole one that does not tell its parts, if its word does.
    """
    if other.part == leaf.part:
        return len(leaf.part) < 2 or max(other.groups, 1) == max(leaf.groups, 1)
    return alone and "" in (other.part, leaf.part)


def _layout(leaf: Leaf) -> str:
    if leaf.groups:
        text = layout_text(in_words(leaf.part).split(", "), leaf.groups)
        return f"rows taken as {text}, as a hint says"
    return f"rows taken as blocks of {in_words(leaf.part)}"


def _under_one_word(leaves: Sequence[Leaf]) -> bool:
    """Whether parts that are known by their numbers alone (``w12``) are numbers of one word."""
    numbered = [leaf.spec.name.split(".") for leaf in leaves if leaf.part.isdigit()]
    words = (next(filter(None, map(gate_part, reversed(name))), ("", "")) for name in numbered)
    return len({word for _, word in words}) < 2


def _heights(source: Layer, target: Layer) -> dict[str, int]:
    """Rows of each part.

    Where q, k and v are not three of one height a fused projection may hold them group by group,
    as grouped-query attention does, and its name does not say so: then a hint has to.
    """
    leaves = [(layer, leaf) for layer in (source, target) for leaf in layer.of_role("weight")]
    rows = {leaf.part: rows_of(leaf, bool(layer.transposed)) for layer, leaf in leaves}
    alone = {part: count for part, count in rows.items() if len(part) == 1}
    heights = dict(alone)
    for parts, count in rows.items():
        unknown = [part for part in parts if part not in alone]
        left = count - sum(alone.get(part, 0) for part in parts)
        heights |= dict.fromkeys(unknown, left // max(len(unknown), 1))
        if left % max(len(unknown), 1) or (not unknown and left):
            raise LayoutUnknown(f"{count} rows do not make {in_words(parts)}")
    if not any(leaf.groups for _, leaf in leaves) and len({*heights.values()}) > 1:
        raise LayoutUnknown("q, k and v have different numbers of rows: they may be interleaved")
    return heights


def _filling(target: Leaf, sources: Sequence[Leaf], heights: Mapping[str, int]) -> list[Span]:
    """The rows of sources that fill a target, from top to bottom, neighbours joined.

    A part that no source makes, as a bias that it lacks, is zero.
    """
    held = []
    for leaf in sources:
        at = 0
        for part, first, last in _runs(leaf, heights):
            held.append((leaf, at, part, first, last))
            at += last - first
    spans: list[Span] = []
    for part, start, stop in _runs(target, heights):
        found: list[Span] = [
            (leaf, at + max(start, first) - first, at + min(stop, last) - first)
            for leaf, at, own, first, last in held
            if own == part and first < stop and start < last
        ]
        for holder, first, last in found or [(None, 0, stop - start)]:
            if spans and holder and spans[-1][0] is holder and spans[-1][2] == first:
                first = spans.pop()[1]
            spans.append((holder, first, last))
    return spans


def _runs(leaf: Leaf, heights: Mapping[str, int]) -> Iterator[tuple[str, int, int]]:
    """Which rows of which part lie in a leaf, from top to bottom."""
    groups = max(leaf.groups, 1)
    for group in range(groups):
        for part in leaf.part:
            height, rest = divmod(heights[part], groups)
            if rest:
                raise LayoutUnknown(
                    f"{heights[part]} rows of {part} cannot be cut into {groups} equal groups"
                )
            yield part, group * height, (group + 1) * height


def _notes(source: Layer, target: Layer, leaf: Leaf, spans: Sequence[Span]) -> Iterator[str]:
    if any(held is None for held, *_ in spans):
        yield "the source has no bias for k: zero"
    lost = _parts(source, "bias") - _parts(target, "bias")
    if leaf.role == "bias" and leaf.part and lost:
        yield f"the target has no bias for {' and '.join(sorted(lost))}: the source's is dropped"


def _parts(layer: Layer, role: str) -> set[str]:
    return {part for leaf in layer.of_role(role) for part in leaf.part}
