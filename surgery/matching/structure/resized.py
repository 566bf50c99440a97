"""Layers left over on both sides that are one thing in another size: heads for other classes,
tables of other places, vocabularies, stems of other channels.

Nothing is loaded by this. It says which shapes differ, and what a resizer could be asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from surgery.matching.structure.layers import Layer, Path, squeezed
from surgery.matching.structure.pairing import LayerPair
from surgery.matching.structure.words import concepts, numbering
from surgery.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class Resized:
    """A tensor of the source and its counterpart in the target, whose layer has another size.

    The two may have one shape all the same: the bias of a stem with other input channels.
    """

    source: TensorSpec
    target: TensorSpec
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        reasons = "; ".join(self.evidence)
        one, other = (f"{spec.name} {spec.shape}" for spec in (self.target, self.source))
        return f"{one} and {other} ({reasons})"


def resized_of(
    sources: Sequence[Layer], targets: Sequence[Layer], pairs: Sequence[LayerPair]
) -> tuple[Resized, ...]:
    """The counterparts among the layers that are left, tensor by tensor.

    Names must say one thing and stand in one place, and be alone in that on either side.
    """
    left = [[*sources], [*targets]]
    found: list[tuple[Layer, Layer, str]] = []
    for why, key in _rules(pairs) if sources and targets else ():
        keys: dict[Hashable, tuple[list[Layer], list[Layer]]] = defaultdict(lambda: ([], []))
        for side, layers in enumerate(left):
            for layer in layers:
                if (its_key := key(layer, side)) is not None:
                    keys[its_key][side].append(layer)
        taken = [(o[0], t[0], why) for o, t in keys.values() if len(o) == len(t) == 1]
        if key is _by_inputs:
            taken = [x for x in taken if any("head" in _spoken(layer) for layer in x[:2])]
        found += [pair for pair in taken if _comparable(*pair[:2])]
        gone = {id(layer) for pair in taken for layer in pair[:2]}
        left = [[x for x in side if id(x) not in gone] for side in left]
    return tuple(
        Resized(one, other, (why, "no other layer on either side that could be meant"))
        for source, target, why in sorted(found, key=lambda pair: pair[1].path)
        for one, other in _leaves(source, target)
    )


#: Makes one key of two layers that are one, by layer and side.
Key = Callable[[Layer, int], Hashable]


def _rules(pairs: Sequence[LayerPair]) -> Iterator[tuple[str, Key]]:
    for module in (_block_of, _parent):
        yield "names of one meaning", partial(_by_meaning, _places(pairs, module))
    yield "the only kernels of this size over pictures", _by_stem
    yield "the only matrices left with these inputs, and a head", _by_inputs


#: Concepts that say what a table or a head is for, whatever else a name says.
_TELLING = frozenset(
    {"position", "relative", "head", "embed", "class", "dist", "type", "mask", "register", "aux"}
)


def _by_meaning(place: Key, layer: Layer, side: int) -> Hashable:
    spoken = _spoken(layer)
    if not spoken.isdisjoint(("position", "type")):
        spoken -= {"embed"}
    if "head" in spoken:
        spoken -= {"embed", "class"}
    where = place(layer, side)
    if not spoken or where is None or any(leaf.part for leaf in layer.leaves):
        return None
    return where, spoken, tuple(role for role, _ in layer.signature)


def _by_stem(layer: Layer, _: int) -> Hashable:
    """Kernels of one size and number over pictures: only their input channels may differ."""
    shapes = [leaf.spec.shape for leaf in layer.of_role("weight")]
    if len(shapes) != 1 or len(shapes[0]) != 4 or max(shapes[0][2:]) == 1:
        return None
    return shapes[0][0], shapes[0][2:], tuple(role for role, _ in layer.signature)


def _by_inputs(layer: Layer, _: int) -> Hashable:
    """Linear layers of one number of inputs: a head for other classes may have any name, as long
    as it speaks of nothing else.
    """
    shape = layer.weight_shape
    if len(shape) != 2 or layer.transposed is None or not _spoken(layer) <= {"head", "class"}:
        return None
    return shape[1], tuple(role for role, _ in layer.signature)


def _spoken(layer: Layer) -> frozenset[str]:
    words = frozenset().union(*map(concepts, layer.path)) & _TELLING
    return words | {"head"} if "fc" in layer.path else words


def _comparable(source: Layer, target: Layer) -> bool:
    shapes = [(one.shape, other.shape) for one, other in _leaves(source, target)]
    return (
        len(shapes) == len(source.leaves) == len(target.leaves)
        and any(squeezed(one) != squeezed(other) for one, other in shapes)
        and all(
            len(one) == len(other) or len(squeezed(one)) == len(squeezed(other))
            for one, other in shapes
        )
    )


def _leaves(source: Layer, target: Layer) -> Iterator[tuple[TensorSpec, TensorSpec]]:
    for leaf in target.leaves:
        for other in source.of_role(leaf.role):
            yield other.spec, leaf.spec


def _block_of(path: Path) -> Path:
    """The innermost numbered module above a layer; ``()`` where it is in none."""
    depths = (d for d in range(len(path) - 1, 0, -1) if numbering(path[d - 1])[1])
    return path[: next(depths, 0)]


def _parent(path: Path) -> Path:
    return path[:-1]


def _places(pairs: Sequence[LayerPair], module: Callable[[Path], Path]) -> Key:
    """Where a layer stands, said alike for both sides by the pairs around it: the innermost such
    module with pairs in it, on both sides; both ``()`` where one of them is none.
    """
    images: tuple[dict[Path, set[Path]], ...] = (defaultdict(set), defaultdict(set))
    for pair in pairs:
        ends = module(pair.source.path), module(pair.target.path)
        images[0][ends[0]].add(ends[1])
        images[1][ends[1]].add(ends[0])

    def place(layer: Layer, side: int) -> Hashable:
        here = module(layer.path)
        while here and here not in images[side]:
            here = here[:-1]
        there = images[side].get(here, {()}) if here else {()}
        if len(there) != 1:
            return None
        (image,) = there
        if not here or not image:
            return (), ()
        return (here, image) if side == 0 else (image, here)

    return place
