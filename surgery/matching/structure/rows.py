"""Whether two projections of one attention, or of one gated layer, have the same rows.

Of a fused projection the shape tells nothing of that: some libraries keep q, k and v as blocks,
others interleave them per head, or per group of heads. So a name must say it, or be the same.
"""

from __future__ import annotations

from surgery.matching.structure.layers import Layer, Leaf, Path, rows_of
from surgery.matching.structure.words import is_within, projection, tokens


class LayoutUnknown(Exception):
    """The rows of a projection are not known; each of ``hints`` says them in one way."""

    def __init__(self, reason: str, *hints: str) -> None:
        super().__init__(reason)
        self.hints = hints


def in_words(parts: str) -> str:
    """``"qkv"`` is q, k, v, and ``"gu"`` gate, up."""
    return ", ".join({"g": "gate", "u": "up"}.get(part, part) for part in parts)


#: The word in a tensor's name that says that it makes several parts, and the order of their blocks
#: of rows; empty where the word does not say that there are any.
Fused = tuple[str, str]


def same_rows(source: Layer, target: Layer, one: Leaf, other: Leaf) -> str:
    """Why one leaf may be copied to the other as far as the order of its rows goes; empty where
    that is no question.

    Raises :class:`LayoutUnknown` where they are fused and their names do not say that it is in
    one order.
    """
    ours, theirs = _fused(source, one), _fused(target, other)
    if ours is None and theirs is None:
        return ""
    if ours and theirs:
        if ours[0] == theirs[0]:
            return f"rows of {ours[0]} in one order on both sides, as it is one word"
        if ours[1] and ours[1] == theirs[1] and _even(source, ours[1]):
            return f"rows in the order {in_words(ours[1])} by both names"
    said = f"{_said(ours, one)} and {_said(theirs, other)}"
    gated = _gated(source, target, "".join(order for _, order in filter(None, (ours, theirs))))
    raise LayoutUnknown(f"{said}: {_DOUBT[gated]}")


_DOUBT = {
    False: "rows of q, k and v may be interleaved per head",
    True: "gates, and what they gate, may come in any order",
}


def _said(fused: Fused | None, leaf: Leaf) -> str:
    if fused is None:
        return f"{leaf.spec.name} says nothing"
    word, order = fused
    return f"{word} says {in_words(order)}" if order else f"{word} does not say how its rows lie"


def _gated(source: Layer, target: Layer, order: str) -> bool:
    return "g" in order or not {source.packed, target.packed} <= {0, 3}


#: torch's own words for the two matrices of a recurrent cell: ``ih_l0`` of a network is ``ih`` of
#: a cell.
_OF_CELLS = frozenset({"ih", "hh"})


def _fused(layer: Layer, leaf: Leaf) -> Fused | None:
    """What the name of a tensor says of its rows; None where it makes one part or none."""
    found = None if len(leaf.part) == 1 else _fused_name(leaf.spec.name)
    if found is None and layer.packed and not leaf.part:
        last = layer.path[-1]
        return next((word for word in tokens(last) if word in _OF_CELLS), last), ""
    # An input projection of three times its inputs is torch's fused attention, others are not.
    if found and found[0].endswith("in_proj") and not _even(layer, found[1]):
        return None
    return found


def _fused_name(name: str) -> Fused | None:
    for at, segment in enumerate(reversed(name.split("."))):
        said = projection(segment)
        if said and len(said[0]) != 1:
            return segment.removesuffix("_weight").removesuffix("_bias"), said[0]
        if at and not is_within(segment):
            break
    return None


def _even(layer: Layer, order: str) -> bool:
    """Whether a linear layer has as many rows for each part as it has inputs: then there are
    neither groups of heads nor heads of another width, which are interleaved as a rule. A gate
    has none of that.
    """
    if "g" in order:
        return True
    weights = layer.of_role("weight")
    if any(len(leaf.spec.shape) != 2 for leaf in weights):
        return False
    outputs = {leaf: rows_of(leaf, bool(layer.transposed)) for leaf in weights}
    inputs = {leaf.spec.numel // outputs[leaf] for leaf in weights}
    return inputs == {sum(outputs[x] for x in weights if len(x.part) != 1) / len(order)}


#: LLaMA's own words for the projections that are turned with the position, and those of
#: transformers: there neighbouring rows of a head are turned together, here those of one half
#: with those of the other (transformers, convert_llama_weights_to_hf.py, ``permute``).
_TURNED = ({"wq", "wk"}, {"q_proj", "k_proj"})


def check_turned(source: Layer, target: Layer) -> str:
    """What is not known of how the rows of q and k are turned for the position; empty where both
    sides use one word, or one makes neither.

    Raises :class:`LayoutUnknown` where two sides do it in two ways, going by their words.
    """
    ours, theirs = ({path[-1] for path in words_of(x) if path} for x in (source, target))
    one, other = _TURNED
    if (ours & one and theirs & other) or (ours & other and theirs & one):
        raise LayoutUnknown(
            "one of wq and q_proj is usually turned for the position in pairs of neighbouring "
            "rows, the other in halves of a head; if both sides do it alike, a hint says so",
            "q_proj -> wq" if ours & other else "wq -> q_proj",
        )
    made = [{part for leaf in x.leaves for part in leaf.part} & {*"qk"} for x in (source, target)]
    if ours == theirs or not all(made):
        return ""
    return "rows of q and k in their own order: no name tells how they are turned for the position"


def words_of(layer: Layer) -> list[Path]:
    """The paths down to the words that say what each tensor of a layer makes, or that of the layer
    where none does.
    """
    found = []
    for leaf in layer.leaves:
        path = tuple(leaf.spec.name.split("."))
        above = (path[:depth] for depth in range(len(path), 0, -1))
        found.append(next((x for x in above if projection(x[-1])), layer.path))
    return found


def layouts_of(source: Layer, target: Layer) -> tuple[str, ...]:
    """Hints that say how the rows of a fused projection lie, of the one whose name says least."""
    found = [
        (bool(said[1]), side, said)
        for side, layer in enumerate((source, target))
        for leaf in layer.leaves
        if len(leaf.part) != 1 and (said := _fused(layer, leaf))
    ]
    if not found:
        return ()
    _, side, (word, order) = min(found, key=lambda each: each[:2])
    forms = ("q, k, v", "8 x (q, k, v)")
    if _gated(source, target, order):
        forms = ("gate, up", "up, gate")
    return tuple(f"{form} -> {word}" if side else f"{word} -> {form}" for form in forms)
