"""Whether two projections of one attention, or of one gated layer, have the same rows.

Of a fused projection the shape tells nothing of that: some libraries keep q, k and v as blocks,
others interleave them per head, or per group of heads. So a name must say it, or be the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from surgery.matching.structure.layers import Layer, Leaf, Path, rows_of
from surgery.matching.structure.words import attention_part, fused_order, is_within, tokens


class LayoutUnknown(Exception):
    """The rows of a projection are not known; each of ``hints`` says them in one way."""

    def __init__(self, reason: str, *hints: str) -> None:
        super().__init__(reason)
        self.hints = hints


def in_words(parts: str) -> str:
    """``"qkv"`` is q, k, v, and ``"gu"`` gate, up."""
    return ", ".join({"g": "gate", "u": "up"}.get(part, part) for part in parts)


@dataclass(frozen=True, slots=True)
class Fused:
    """The word in a tensor's name that says that it makes several of q, k and v, or gate and up.

    ``order`` is that of its blocks of rows; empty where the word does not say that there are any.
    """

    word: str
    order: str

    def __str__(self) -> str:
        if not self.order:
            return f"{self.word} does not say how its rows lie"
        return f"{self.word} says {in_words(self.order)}"


def fused(name: str) -> Fused | None:
    """What the name of a tensor says of its rows; None where it is no fused projection."""
    above, _, segment = name.rpartition(".")
    found = _fused(segment)
    while above and found is None:
        above, _, segment = above.rpartition(".")
        found = _fused(segment)
        if not is_within(segment):
            break
    return found


@cache
def _fused(segment: str) -> Fused | None:
    order = fused_order(segment)
    if order is None:
        return None
    return Fused(segment.removesuffix("_weight").removesuffix("_bias"), order)


def same_rows(source: Layer, target: Layer, one: Leaf, other: Leaf) -> str:
    """Why one leaf may be copied to the other as far as the order of its rows goes; empty where
    that is no question.

    Raises :class:`LayoutUnknown` where they are fused and their names do not say that it is in
    one order.
    """
    ours, theirs = _fused_leaf(source, one), _fused_leaf(target, other)
    if ours is None and theirs is None:
        return ""
    if ours and theirs:
        if ours.word == theirs.word:
            return f"rows of {ours.word} in one order on both sides, as it is one word"
        if ours.order and ours.order == theirs.order and _even(source, ours.order):
            return f"rows in the order {in_words(ours.order)} by both names"
    names = one.spec.name, other.spec.name
    said = " and ".join(
        str(x or f"{n} says nothing") for x, n in zip((ours, theirs), names, strict=True)
    )
    words = "".join(x.order for x in (ours, theirs) if x)
    raise LayoutUnknown(f"{said}: {_DOUBT[_gated(source, target, words)]}")


_DOUBT = {
    False: "rows of q, k and v may be interleaved per head",
    True: "gates, and what they gate, may come in any order",
}


def _gated(source: Layer, target: Layer, words: str) -> bool:
    return "g" in words or not {source.packed, target.packed} <= {0, 3}


#: torch's own words for the two matrices of a recurrent cell: ``ih_l0`` of a network is ``ih`` of
#: a cell.
_OF_CELLS = frozenset({"ih", "hh"})


def _fused_leaf(layer: Layer, leaf: Leaf) -> Fused | None:
    found = None if len(leaf.part) == 1 else fused(leaf.spec.name)
    if found is None and layer.packed and not leaf.part:
        last = layer.path[-1]
        return Fused(next((word for word in tokens(last) if word in _OF_CELLS), last), "")
    # An input projection of three times its inputs is torch's fused attention, others are not.
    if found and found.word.endswith("in_proj") and not _even(layer, found.order):
        return None
    return found


def _even(layer: Layer, order: str) -> bool:
    """Whether a linear layer has as many rows for each part as it has inputs: then there are
    neither groups of heads nor heads of another width, which are interleaved as a rule. A gate
    has none of that.
    """
    if "g" in order:
        return True
    weights = [leaf for leaf in layer.of_role("weight") if len(leaf.spec.shape) == 2]
    if len(weights) != len(layer.of_role("weight")):
        return False
    outputs = {leaf: rows_of(leaf, bool(layer.transposed)) for leaf in weights}
    inputs = {leaf.spec.numel // outputs[leaf] for leaf in weights}
    rows = sum(outputs[leaf] for leaf in weights if len(leaf.part) != 1)
    return inputs == {rows / len(order)}


#: LLaMA's own words for the projections that are turned with the position, and those of
#: transformers: there neighbouring rows of a head are turned together, here those of one half
#: with those of the other (transformers, convert_llama_weights_to_hf.py, ``permute``).
_TURNED = ({"wq", "wk"}, {"q_proj", "k_proj"})


def check_turned(source: Layer, target: Layer) -> str:
    """What is not known of how the rows of q and k are turned for the position; empty where both
    sides use one word, or one makes neither.

    Raises :class:`LayoutUnknown` where two sides do it in two ways, going by their words.
    """
    ours, theirs = map(_ends, (source, target))
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


def _ends(layer: Layer) -> set[str]:
    """The words that say which of q, k and v each tensor makes, or the layer's own name."""
    made = any(leaf.part for leaf in layer.leaves)
    return {path[-1] for path in (words_of(layer) if made else [layer.path]) if path}


def words_of(layer: Layer) -> list[Path]:
    """The paths down to the words that say which of q, k and v each tensor of a layer makes, or
    that of the layer where none does.
    """
    found = []
    for leaf in layer.leaves:
        path = tuple(leaf.spec.name.split("."))
        known = (path[:depth] for depth in range(len(path), 0, -1) if _tells(path[depth - 1]))
        found.append(next(known, layer.path))
    return found


def _tells(segment: str) -> bool:
    return attention_part(segment) is not None or fused_order(segment) is not None


def layouts_of(source: Layer, target: Layer) -> tuple[str, ...]:
    """Hints that say how the rows of a fused projection lie, of the one whose name says least."""
    found = []
    for side, layer in enumerate((source, target)):
        for leaf in layer.leaves:
            if len(leaf.part) != 1 and (word := _fused_leaf(layer, leaf)):
                found.append((bool(word.order), side, word))
    if not found:
        return ()
    _, side, word = min(found, key=lambda each: each[:2])
    gated = _gated(source, target, word.order)
    forms = ("gate, up", "up, gate") if gated else ("q, k, v", "8 x (q, k, v)")
    return tuple(f"{form} -> {word.word}" if side else f"{word.word} -> {form}" for form in forms)
