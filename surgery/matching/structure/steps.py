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
    reasons = [why]
    if turning and not hint and (unsaid := check_turned(source, target)):
        reasons.append(unsaid)
    steps = []
    for leaf in target.leaves:
        try:
            spans, more = _spans(source, target, leaf, bool(hint))
        except LayoutUnknown as problem:
            raise LayoutUnknown(str(problem), *layouts_of(source, target)) from None
        if spans:
            recipe = _recipe(source, spans, leaf.spec, turned=_turned(target, leaf))
            notes = _notes(source, target, leaf, spans)
            steps.append(StructureStep(leaf.spec, recipe, (*reasons, *more, *notes)))
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
    if same := [other for other in found if _same_part(other, leaf, found, target)]:
        reason = "" if hinted or leaf.groups else same_rows(source, target, same[0], leaf)
        return [_whole(source, same[0])], (reason,) if reason else ()
    if not found:
        return [], ()
    if not leaf.part or not all(other.part for other in found):
        parts = "".join(dict.fromkeys(part for x in (*target.leaves, *found) for part in x.part))
        doubt = ": they may be interleaved per head" if {*parts} & {*"qkv"} else ""
        raise LayoutUnknown(
            f"which rows are {in_words(parts)} cannot be read from the names{doubt}"
        )
    if not _holds(source, leaf) or not _under_one_word((leaf, *found)):
        raise LayoutUnknown(f"{leaf.spec.name} and its sources are not named alike")
    for fused in (leaf, *found):
        if len(fused.part) > 1 and len(fused.spec.shape) > 2 and not fused.groups:
            raise LayoutUnknown(
                f"{fused.spec.name} is a fused convolution: its rows may be interleaved per head"
            )
    rows = Rows(source, tuple(found), _heights(source, target))
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
        text = layout_text(in_words(leaf.part).split(", "), leaf.groups)
        return f"rows taken as {text}, as a hint says"
    return f"rows taken as blocks of {in_words(leaf.part)}"


def _holds(source: Layer, leaf: Leaf) -> bool:
    """Whether the source has the leaf's parts; of biases some may be missing, and are zero."""
    return {*leaf.part} <= {part for other in source.of_role("weight") for part in other.part}


def _under_one_word(leaves: Sequence[Leaf]) -> bool:
    """Whether parts that are known by their numbers alone (``w12``) are numbers of one word."""
    numbered = [leaf.spec.name.split(".") for leaf in leaves if leaf.part.isdigit()]
    words = (next(filter(None, map(gate_part, reversed(name))), ("", "")) for name in numbered)
    return len({word for _, word in words}) < 2


def _whole(source: Layer, leaf: Leaf) -> Span:
    return leaf, 0, rows_of(leaf, _turned(source, leaf)) if leaf.spec.shape else 1


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


@dataclass(frozen=True, slots=True)
class Rows:
    """Where the rows of each part lie among a source's leaves; ``heights`` are all of a part's."""

    source: Layer
    leaves: tuple[Leaf, ...]
    heights: Mapping[str, int]

    def of(self, target: Leaf) -> list[Span]:
        """The rows that fill a target leaf, from top to bottom, neighbours joined."""
        groups = max(target.groups, 1)
        spans: list[Span] = []
        for group in range(groups):
            for part in target.part:
                height = self._per_group(part, groups)
                for leaf, start, stop in self._spans(part, group * height, (group + 1) * height):
                    if spans and leaf and spans[-1][0] is leaf and spans[-1][2] == start:
                        start = spans.pop()[1]
                    spans.append((leaf, start, stop))
        return spans

    def _spans(self, part: str, start: int, stop: int) -> Iterator[Span]:
        """Rows ``start`` to ``stop`` of those that make a part."""
        leaf = next((leaf for leaf in self.leaves if part in leaf.part), None)
        if leaf is None:
            yield None, 0, stop - start
            return
        groups = max(leaf.groups, 1)
        height = self._per_group(part, groups)
        before = sum(self._per_group(p, groups) for p in leaf.part[: leaf.part.index(part)])
        stride = sum(self._per_group(p, groups) for p in leaf.part)
        while start < stop:
            group, within = divmod(start, height)
            count = min(stop - start, height - within)
            at = group * stride + before + within
            yield leaf, at, at + count
            start += count

    def _per_group(self, part: str, groups: int) -> int:
        height, rest = divmod(self.heights[part], groups)
        if rest:
            raise LayoutUnknown(
                f"{self.heights[part]} rows of {part} cannot be cut into {groups} equal groups"
            )
        return height


def _notes(source: Layer, target: Layer, leaf: Leaf, spans: Sequence[Span]) -> Iterator[str]:
    if any(held is None for held, *_ in spans):
        yield "the source has no bias for k: zero"
    if leaf.role == "bias" and leaf.part:
        lost = _parts(source, "bias") - _parts(target, "bias")
        if lost:
            parts = " and ".join(sorted(lost))
            yield f"the target has no bias for {parts}: the source's is dropped"


def _parts(layer: Layer, role: str) -> set[str]:
    return {part for leaf in layer.of_role(role) for part in leaf.part}
