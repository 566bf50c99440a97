"""gate and up of a gated feed-forward layer -> one layer, where the other side has them fused.

Both are matrices of one shape, so only where one side lacks them is there a fused one to look for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace

from surgery.matching.structure.layers import Layer, Path, Shape, Signature
from surgery.matching.structure.words import concepts, gate_part


def join_gates(ours: list[Layer], theirs: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Join pairs of sibling matrices whose names make one gated layer, where the other side has
    none of their shape but has one of both; there the name of the fused one tells its order.
    """
    mine, yours = ({x.signature for x in side} for side in (ours, theirs))
    here = _whole(ours, mine - yours, yours - mine)
    there = _whole(theirs, yours - mine, mine - yours)
    return _replaced(ours, here, there), _replaced(theirs, there, here)


#: A module with more linear layers than this is no block.
_BLOCK = 16


def packed(layers: Iterable[Layer]) -> frozenset[Path]:
    """The linear layers that make twice as many rows as another one beside them takes in: (2n, c)
    where the innermost module with either has (c, n), and not (c, 2n). One half of them gates
    the other, and it may be either. Tables of embeddings are none, whatever their size.
    """
    shapes = {x.path: shape for x in layers if (shape := _linear(x))}
    known = {*shapes.values()}
    wide = {
        path: (rows, inputs)
        for path, (rows, inputs) in shapes.items()
        if rows > inputs and rows % 2 == 0 and (inputs, rows // 2) in known
    }
    beside: dict[Path, list[Shape]] = defaultdict(list)
    for path, shape in shapes.items() if wide else ():
        for depth in range(1, len(path)):
            beside[path[:depth]].append(shape)
    gates = {path for path, shape in wide.items() if _gates(path, shape, beside)}
    return frozenset(gates | _recurrent(shapes))


#: Gates of torch's LSTM and GRU, the new state among them.
_RECURRENT = (4, 3)


def _recurrent(shapes: Mapping[Path, Shape]) -> set[Path]:
    """Sibling matrices from the input and from the last state to all gates of a recurrent cell,
    or of several layers of cells: (4n, c) beside (4n, n), and nothing beside them leads on from
    4n. Gates come in any order.
    """
    beside: dict[Path, dict[Path, Shape]] = defaultdict(dict)
    for path, shape in shapes.items():
        beside[path[:-1]][path] = shape
    found: set[Path] = set()
    for held in beside.values():
        for times in _RECURRENT if len(held) <= _BLOCK else ():
            for rows in {rows for rows, inputs in held.values() if rows == times * inputs}:
                cell = [path for path, shape in held.items() if shape[0] == rows]
                if len(cell) % 2 == 0 and all(inputs != rows for _, inputs in held.values()):
                    found.update(cell)
    return found


def _linear(layer: Layer) -> Shape:
    weights = layer.of_role("weight")
    if len(weights) != 1 or len(weights[0].spec.shape) != 2 or _embeds(layer.path):
        return ()
    shape = dict(layer.signature)["weight"]
    return shape if len(shape) == 2 else ()  # one output or input alone is no width


def _embeds(path: Path) -> bool:
    return any(not concepts(segment).isdisjoint(("embed", "position")) for segment in path)


def _gates(path: Path, shape: Shape, beside: Mapping[Path, Sequence[Shape]]) -> bool:
    rows, inputs = shape
    for depth in range(len(path) - 1, 0, -1):
        held = beside[path[:depth]]
        if len(held) > _BLOCK:
            return False
        if (inputs, rows) in held or (inputs, rows // 2) in held:
            return (inputs, rows) not in held
    return False


def _whole(
    layers: Sequence[Layer], alone: Set[Signature], wanted: Set[Signature]
) -> dict[Path, Layer]:
    """By the path of either matrix, the layer that both make."""
    families: dict[tuple[Path, str, Signature], dict[str, Layer]] = defaultdict(dict)
    for layer in layers:
        found = gate_part(layer.path[-1]) if layer.signature in alone and layer.path else None
        if found and len(found[0]) == 1 and layer.is_matrix:
            families[layer.path[:-1], found[1], layer.signature][found[0]] = layer
    joined: dict[Path, Layer] = {}
    for (parent, stem, _), members in families.items():
        if len(members) == 2 and (whole := _join(parent, stem, members)).signature in wanted:
            joined |= {member.path: whole for member in members.values()}
    return joined


def _join(parent: Path, stem: str, members: Mapping[str, Layer]) -> Layer:
    leaves = tuple(
        replace(leaf, part=part) for part in sorted(members) for leaf in members[part].leaves
    )
    first = members[min(members)]
    return Layer((*parent, "_".join((stem, *sorted(members)))), leaves, first.transposed)


def _replaced(
    layers: Iterable[Layer], joined: Mapping[Path, Layer], other: Mapping[Path, Layer]
) -> list[Layer]:
    fused = {whole.signature for whole in other.values()}
    found = (joined.get(x.path) or (_ordered(x) if x.signature in fused else x) for x in layers)
    return list({id(layer): layer for layer in found}.values())


def _ordered(layer: Layer) -> Layer:
    """A fused layer with the order of its rows; as it is where its name does not say it."""
    parts = next((found[0] for found in map(gate_part, layer.path[-1:]) if found), "")
    if len(parts) != 2:
        return layer
    return replace(layer, leaves=tuple(replace(leaf, part=parts) for leaf in layer.leaves))
