"""Layers left over on both sides that are one thing in another size: heads for other classes,
tables of other places, vocabularies, stems of other channels.

Nothing is loaded by this. It says which shapes differ, and what an adapter could be asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from surgery.matching.structure.layers import Layer, Path, squeezed
from surgery.matching.structure.pairing import LayerPair
from surgery.matching.structure.tree import block_of
from surgery.matching.structure.words import concepts
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
    if not sources or not targets:
        return ()
    places = _Places(pairs)
    left = [*sources], [*targets]
    found: list[tuple[Layer, Layer, str]] = []
    for rule, why in _rules(places):
        taken = _alone(*left, rule)
        taken = [pair for pair in taken if rule is not _by_inputs or any(map(_is_head, pair))]
        found += [(*pair, why) for pair in taken if _comparable(*pair)]
        gone = {id(layer) for pair in taken for layer in pair}
        ours, theirs = left
        left = [x for x in ours if id(x) not in gone], [x for x in theirs if id(x) not in gone]
    return tuple(
        resized
        for source, target, why in sorted(found, key=lambda pair: pair[1].path)
        for resized in _tensors(source, target, why)
    )


Rule = Callable[[Layer, int], Hashable]


def _rules(places: _Places) -> tuple[tuple[Rule, str], ...]:
    """What makes one key of two layers, the plainest first."""
    return (
        (lambda layer, side: _by_meaning(places.block, layer, side), "names of one meaning"),
        (lambda layer, side: _by_meaning(places.module, layer, side), "names of one meaning"),
        (_by_stem, "the only kernels of this size over pictures"),
        (_by_inputs, "the only matrices left with these inputs, and a head"),
    )


def _alone(
    sources: Sequence[Layer], targets: Sequence[Layer], rule: Rule
) -> list[tuple[Layer, Layer]]:
    """Pairs that a rule gives one key, and no other layer of either side."""
    keys: dict[Hashable, tuple[list[Layer], list[Layer]]] = defaultdict(lambda: ([], []))
    for side, layers in enumerate((sources, targets)):
        for layer in layers:
            if (key := rule(layer, side)) is not None:
                keys[key][side].append(layer)
    return [(o[0], t[0]) for o, t in keys.values() if len(o) == len(t) == 1]


#: Concepts that say what a table or a head is for, whatever else a name says.
_TELLING = frozenset(
    {"position", "relative", "head", "embed", "class", "dist", "type", "mask", "register", "aux"}
)


def _by_meaning(place: Callable[[Path, int], object], layer: Layer, side: int) -> Hashable:
    spoken = _spoken(layer)
    if not spoken.isdisjoint(("position", "type")):
        spoken -= {"embed"}
    if "head" in spoken:
        spoken -= {"embed", "class"}
    if not spoken or any(leaf.part for leaf in layer.leaves):
        return None
    where = place(layer.path, side)
    roles = tuple(role for role, _ in layer.signature)
    return None if where is None else (where, spoken, roles)


def _by_stem(layer: Layer, _: int) -> Hashable:
    """Kernels of one size and number over pictures: only their input channels may differ."""
    return (layer.kernels, tuple(role for role, _ in layer.signature)) if layer.kernels else None


def _by_inputs(layer: Layer, _: int) -> Hashable:
    """Linear layers of one number of inputs: a head for other classes may have any name, as long
    as it speaks of nothing else.
    """
    shapes = dict(layer.signature)
    if len(shapes.get("weight", ())) != 2 or layer.transposed is None:
        return None
    return (shapes["weight"][1], tuple(shapes)) if _spoken(layer) <= {"head", "class"} else None


def _is_head(layer: Layer) -> bool:
    return "head" in _spoken(layer)


def _spoken(layer: Layer) -> frozenset[str]:
    return frozenset().union(*map(concepts, layer.path)) & _TELLING


def _comparable(source: Layer, target: Layer) -> bool:
    pairs = list(_leaves(source, target))
    shapes = [(one.shape, other.shape) for one, other in pairs]
    return (
        len(pairs) == len(source.leaves) == len(target.leaves)
        and any(squeezed(one) != squeezed(other) for one, other in shapes)
        and all(_of_one_rank(one, other) for one, other in shapes)
    )


def _of_one_rank(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) or len(squeezed(one)) == len(squeezed(other))


def _leaves(source: Layer, target: Layer) -> Iterator[tuple[TensorSpec, TensorSpec]]:
    for leaf in target.leaves:
        for other in source.of_role(leaf.role):
            yield other.spec, leaf.spec


def _tensors(source: Layer, target: Layer, why: str) -> Iterator[Resized]:
    for one, other in _leaves(source, target):
        yield Resized(one, other, (why, "no other layer on either side that could be meant"))


class _Places:
    """Where a layer stands, said alike for both sides by the pairs around it."""

    def __init__(self, pairs: Sequence[LayerPair]) -> None:
        paths = [(pair.source.path, pair.target.path) for pair in pairs]
        self._blocks = _images(paths, block_of), _images([p[::-1] for p in paths], block_of)
        self._modules = _images(paths, _parent), _images([p[::-1] for p in paths], _parent)

    def block(self, path: Path, side: int) -> tuple[Path, Path] | None:
        """The innermost numbered block on both sides; both ``()`` where one of them is none."""
        return _place(block_of(path), self._blocks[side], side)

    def module(self, path: Path, side: int) -> tuple[Path, Path] | None:
        """The innermost module with pairs in it, on both sides."""
        return _place(_parent(path), self._modules[side], side)


def _place(module: Path, images: Mapping[Path, set[Path]], side: int) -> tuple[Path, Path] | None:
    while module and module not in images:
        module = module[:-1]
    there = images.get(module, {()}) if module else {()}
    if len(there) != 1:
        return None
    (image,) = there
    if not module or not image:
        return (), ()
    return (module, image) if side == 0 else (image, module)


def _images(
    paths: Sequence[tuple[Path, Path]], module: Callable[[Path], Path]
) -> dict[Path, set[Path]]:
    found: dict[Path, set[Path]] = defaultdict(set)
    for path, other in paths:
        found[module(path)].add(module(other))
    return found


def _parent(path: Path) -> Path:
    return path[:-1]
