"""Whether two projections of one attention have the same rows in the same order.

Of a fused projection the shape tells nothing of that: some libraries keep q, k and v as blocks,
others interleave them per head, or per group of heads. So a name must say it, or be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

from surgery.matching.structure.layers import Layer, Leaf, Path, rows_of
from surgery.matching.structure.pairing import LayerPair, Open
from surgery.matching.structure.words import attention_part, fused_order, tokens


class LayoutUnknown(Exception):
    """The rows of a fused projection cannot be told apart."""


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


#: Modules inside a projection: its matrix, and the norm of what it puts out.
_WITHIN = frozenset({"linear", "conv", "convolution", "c", "bn", "norm", "layer", "dense"})


def fused(name: str) -> Fused | None:
    """What the name of a tensor says of its rows; None where it is no fused projection."""
    above, _, segment = name.rpartition(".")
    found = _fused(segment)
    while above and found is None:
        above, _, segment = above.rpartition(".")
        found = _fused(segment)
        if not _is_within(segment):
            break
    return found


@cache
def _is_within(segment: str) -> bool:
    return all(word in _WITHIN or word.isdigit() for word in tokens(segment))


@cache
def _fused(segment: str) -> Fused | None:
    order = fused_order(segment)
    if order is None:
        return None
    return Fused(segment.removesuffix("_weight").removesuffix("_bias"), order)


def same_rows(source: Layer, target: Layer, one: Leaf, other: Leaf) -> str:
    """Why one leaf may be copied to the other as far as the order of its rows goes; empty where
    that is no question.

    Raises :class:`LayoutUnknown` where both are fused and their names do not say that it is in
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
    gated = source.packed or target.packed or _gates(ours) or _gates(theirs)
    raise LayoutUnknown(f"{said}: {_DOUBT[gated]}")


_DOUBT = {
    False: "rows of q, k and v may be interleaved per head",
    True: "gates, and what they gate, may come in any order",
}

#: torch's own words for the two matrices of a recurrent cell, whatever follows them.
_OF_CELLS = frozenset({"ih", "hh"})


def _plain(segment: str) -> str:
    """``ih_l0`` of a network is ``ih`` of a cell."""
    return next((word for word in tokens(segment) if word in _OF_CELLS), segment)


def _gates(found: Fused | None) -> bool:
    return found is not None and "g" in found.order


def _fused_leaf(layer: Layer, leaf: Leaf) -> Fused | None:
    found = None if len(leaf.part) == 1 else fused(leaf.spec.name)
    if found is None and layer.packed and not leaf.part:
        return Fused(_plain(layer.path[-1]), "")
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
    weights = layer.of_role("weight")
    if not all(w.spec.numel and w.spec.shape for w in weights):
        return False
    inputs = {w.spec.numel // rows_of(w, bool(layer.transposed)) for w in weights}
    rows = sum(rows_of(w, bool(layer.transposed)) for w in weights if len(w.part) != 1)
    flat = all(len(w.spec.shape) == 2 for w in weights)
    return flat and inputs == {rows / len(order)}


def apart(leaf: Leaf) -> None:
    """Check that the rows of a fused leaf can be taken apart.

    Raises :class:`LayoutUnknown` for a convolution: over pictures some interleave per head.
    """
    if len(leaf.part) > 1 and len(leaf.spec.shape) > 2 and not leaf.groups:
        raise LayoutUnknown(
            f"{leaf.spec.name} is a fused convolution: its rows may be interleaved per head"
        )


#: LLaMA's own words for the projections that are turned with the position, and those of
#: transformers.
_TURNED = ({"wq", "wk"}, {"q_proj", "k_proj"})


def without_turned(pair: LayerPair) -> tuple[LayerPair, Open | None]:
    """A pair of attention projections without q and k, and these as open, where two sides turn
    them for the position in other ways, going by their words.

    LLaMA's own code (``wq``) turns neighbouring rows of a head together, transformers
    (``q_proj``) those of one half with those of the other; the shapes are the same
    (transformers, convert_llama_weights_to_hf.py, ``permute``).
    """
    if not (_turns(pair.source) and _turns(pair.target)):
        return pair, None
    ours, theirs = _ends(pair.source), _ends(pair.target)
    one, other = _TURNED
    if not ((ours & one and theirs & other) or (ours & other and theirs & one)):
        return pair, None
    (source, q_and_k), (target, wanted) = _divided(pair.source), _divided(pair.target)
    return replace(pair, source=source, target=target), Open((q_and_k,), (wanted,), _EITHER_WAY)


_EITHER_WAY = (
    "one of wq and q_proj is usually turned for the position in pairs of neighbouring rows, the "
    "other in halves of a head; if both sides do it alike, a hint 'wq = q_proj' says so, the "
    "source's name first"
)


def _divided(layer: Layer) -> tuple[Layer, Layer]:
    q_and_k = tuple(leaf for leaf in layer.leaves if leaf.part in ("q", "k"))
    rest = tuple(leaf for leaf in layer.leaves if leaf not in q_and_k)
    return replace(layer, leaves=rest), replace(layer, leaves=q_and_k)


def may_turn(source: Layer, target: Layer) -> bool:
    """Whether both make q and k, under other words."""
    return _turns(source) and _turns(target) and _ends(source) != _ends(target)


def _turns(layer: Layer) -> bool:
    return any("q" in leaf.part or "k" in leaf.part for leaf in layer.leaves)


def _ends(layer: Layer) -> set[str]:
    return {path[-1] for path in words_of(layer) if path}


def makes_parts(layer: Layer) -> bool:
    """Whether a layer makes q, k or v, by its parts or by a name that fuses them."""
    return any(leaf.part or fused(leaf.spec.name) for leaf in layer.leaves)


def words_of(layer: Layer) -> list[Path]:
    """The paths down to the words that say which of q, k and v each tensor of a layer makes, or
    to the module where none does.
    """
    return [_word_of(leaf) for leaf in layer.leaves]


def _word_of(leaf: Leaf) -> Path:
    path = tuple(leaf.spec.name.split("."))
    for depth in range(len(path), 0, -1):
        if attention_part(path[depth - 1]) or fused_order(path[depth - 1]) is not None:
            return path[:depth]
    return path[:-1]
