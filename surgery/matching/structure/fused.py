"""Projections of one layer -> one layer, whether they are fused, split, or half of each: q, k and
v of one attention, gate and up of a gated feed-forward part.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from surgery.matching.structure.hints import Hints
from surgery.matching.structure.layers import Layer, Path, Shape, rows_of
from surgery.matching.structure.words import concepts, gate_part, projection

#: The parts that a layer makes, and its name without the words that tell them.
Named = tuple[str, str] | None
#: By the module that holds them, and the rest of their name: layers with the parts that they make.
Families = dict[tuple[Path, str], list[tuple[str, Layer]]]


def join_projections(
    ours: Iterable[Layer], theirs: Iterable[Layer], hints: Hints
) -> tuple[list[Layer], list[Layer]]:
    """Join sibling projections that make one layer; others stay as they are.

    A joined layer stands at the projections' parent, and its signature is that of the fused
    projection, so that either form finds the other. q, k and v are joined always, gate and up
    only where the other side has none of their shape but has one of both. ``hints`` may say what
    the rows of fused ones are.
    """
    laid = [[_laid_out(x, at, hints) for x in side] for at, side in enumerate((ours, theirs))]
    sides = [_replaced(side, _attentions(side)) for side in laid]
    shapes = [{layer.signature for layer in side} for side in sides]
    found: list[list[Layer]] = []
    for at, side in enumerate(sides):
        gates = _gates((x for x in side if x.signature not in shapes[1 - at]), at, hints)
        fused = shapes[1 - at] - shapes[at]
        joined = {path: x for path, x in gates.items() if x.signature in fused}
        found.append(_replaced(side, joined))
        shapes.append({x.signature for x in joined.values()})
    one, other = (
        [_ordered(x) if x.signature in joined else x for x in side]
        for side, joined in zip(found, reversed(shapes[2:]), strict=True)
    )
    return one, other


def _laid_out(layer: Layer, side: int, hints: Hints) -> Layer:
    layout = hints.layout(layer.path, side)
    if layout is None or not _is_projection(layer):
        return layer
    hints.use(layout)
    leaves = (replace(leaf, part=layout.parts, groups=layout.groups) for leaf in layer.leaves)
    return replace(layer, leaves=tuple(leaves))


def _families(layers: Iterable[Layer], name: Callable[[Layer], Named]) -> Families:
    found: Families = defaultdict(list)
    for layer in layers:
        if layer.path and _is_projection(layer) and (named := name(layer)):
            parts, stem = named
            found[layer.path[:-1], stem if len(parts) < 3 else ""].append((parts, layer))
    return found


def _is_projection(layer: Layer) -> bool:
    """A matrix with or without its bias, or the lone bias of one."""
    weights, biases = layer.of_role("weight"), layer.of_role("bias")
    if len(weights) + len(biases) != len(layer.leaves):
        return False
    return not weights or sum(size > 1 for size in weights[0].spec.shape) == 2


def _attentions(layers: Iterable[Layer]) -> dict[Path, Layer]:
    """By the path of any of its projections, the layer that makes q, k and v."""
    families = _families(layers, _attention_of)
    joined: dict[Path, Layer] = {}
    for (parent, stem), members in families.items():
        lone = families.get((parent, ""), []) if stem else []
        if not any(layer.of_role("weight") for _, layer in lone):  # a bias for all of them
            members = [*members, *lone]
        members = sorted(members, key=lambda member: "qkv".find(member[0][0]))
        segment = "_".join(filter(None, (stem, "qkv")))
        if len(members) == 1:
            segment = members[0][1].path[-1]
        whole = _whole((*parent, segment), members)
        if _makes_all(whole, members):
            joined |= {member.path: whole for _, member in members}
    return joined


def _attention_of(layer: Layer) -> Named:
    parts, stem = projection(layer.path[-1]) or ("", "")
    parts = layer.leaves[0].part or parts
    return (parts, stem) if parts and {*parts} <= {*"qkv"} else None


def _gates(layers: Iterable[Layer], side: int, hints: Hints) -> dict[Path, Layer]:
    """By the path of any of its projections, the layer that makes what gates and what is gated."""

    def gate_of(layer: Layer) -> Named:
        part = hints.part(layer.path, side)
        return (part, "") if part else gate_part(layer.path[-1])

    families = _families((x for x in layers if not x.leaves[0].part), gate_of)
    joined: dict[Path, Layer] = {}
    for (parent, stem), members in families.items():
        if len(members) == 2 and all(len(part) == 1 for part, _ in members):
            members.sort(key=lambda member: member[0])
            name = "_".join((stem, *(part for part, _ in members)))
            whole = _whole((*parent, name), members)
            joined |= {layer.path: whole for _, layer in members}
    return joined


def _makes_all(whole: Layer, members: Sequence[tuple[str, Layer]]) -> bool:
    """Whether a layer makes each of q, k and v exactly once, in rows that can be blocks."""
    weights, biases = whole.of_role("weight"), whole.of_role("bias")
    flags = {layer.transposed for _, layer in members if layer.of_role("weight")}
    parts = "".join(leaf.part for leaf in biases)
    if sorted("".join(leaf.part for leaf in weights)) != ["k", "q", "v"] or len(flags) != 1:
        return False
    if len(parts) != len({*parts}):
        return False
    if len(weights) > 1 or weights[0].groups:
        return True
    rows = rows_of(weights[0], True in flags)
    flat = len(weights[0].spec.shape) == 2
    return rows % 3 == 0 if flat else rows * rows == 3 * weights[0].spec.numel


def _whole(path: Path, members: Sequence[tuple[str, Layer]]) -> Layer:
    leaves = [replace(leaf, part=part) for part, layer in members for leaf in layer.leaves]
    flags = [layer.transposed for _, layer in members if layer.of_role("weight")]
    return Layer(path, tuple(leaves), flags[0] if flags else False)


def _ordered(layer: Layer) -> Layer:
    """A fused layer with the order of its rows; as it is where its name does not say it."""
    parts, _ = next(filter(None, map(gate_part, layer.path[-1:])), ("", ""))
    if len(parts) != 2 or layer.leaves[0].part:
        return layer
    return replace(layer, leaves=tuple(replace(leaf, part=parts) for leaf in layer.leaves))


def _replaced(layers: Iterable[Layer], joined: Mapping[Path, Layer]) -> list[Layer]:
    return list({id(layer): layer for layer in (joined.get(x.path, x) for x in layers)}.values())


#: A module with more linear layers than this is no block.
_BLOCK = 16


def with_packed(layers: Iterable[Layer]) -> list[Layer]:
    """Say which linear layers may make several things by their shape, in an order of their own:
    one half gates the other, (2n, c) beside (c, n); or they make q, k and v, or the gates of a
    recurrent cell, (3n, n) and (4n, n) beside another one of 4n rows. None leads on from as many
    rows as they make. Tables of embeddings are none, whatever their size.
    """
    layers = list(layers)
    shapes = {x.path: shape for x in layers if (shape := _linear(x))}
    double = {(2 * inputs, outputs) for outputs, inputs in shapes.values()}
    beside: dict[Path, dict[Path, Shape]] = defaultdict(dict)
    wanted = [p for p, s in shapes.items() if s in double or s[0] in (3 * s[1], 4 * s[1])]
    for path, shape in shapes.items() if wanted else ():
        for depth in range(len(path)):
            beside[path[:depth]][path] = shape
    found: dict[Path, int] = {}
    for path in wanted:
        found |= _packed_beside(path, shapes[path], beside)
    return [replace(x, packed=found[x.path]) if x.path in found else x for x in layers]


def _packed_beside(
    path: Path, shape: Shape, beside: Mapping[Path, Mapping[Path, Shape]]
) -> dict[Path, int]:
    rows, inputs = shape
    for depth in range(len(path) - 1, 0, -1):
        held = beside[path[:depth]]
        if len(held) > _BLOCK or (inputs, rows) in held.values():
            return {}
        if rows > inputs and (inputs, rows // 2) in held.values() and rows % 2 == 0:
            return {path: 2}
    held = beside[path[:-1]]
    cell = {other for other, (same, _) in held.items() if same == rows}
    if len(held) > _BLOCK or any(taken == rows for _, taken in held.values()):
        return {}
    if rows == 3 * inputs or (rows == 4 * inputs and len(cell) % 2 == 0):
        return dict.fromkeys(cell, 3 if len(cell) == 1 else 4)
    return {}


def _linear(layer: Layer) -> Shape:
    weights = layer.of_role("weight")
    if len(weights) != 1 or len(weights[0].spec.shape) != 2:
        return ()
    if any(not concepts(segment).isdisjoint(("embed", "position")) for segment in layer.path):
        return ()
    shape = dict(layer.signature)["weight"]
    return shape if len(shape) == 2 else ()  # one output or input alone is no width
