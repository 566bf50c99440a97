"""Names and shapes of two implementations of one network -> which tensor feeds which.

Decided from names, shapes and nesting alone; no tensor is touched. What they do not settle is
refused, group by group, with its candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.specs import ModelSpec, TensorSpec
from surgery.transfers.names import SourceNames
from surgery.transfers.plan import RefusedGroup
from surgery.transfers.structure.attention import join_attention
from surgery.transfers.structure.consistency import contradicted
from surgery.transfers.structure.hints import read_hints
from surgery.transfers.structure.layers import (
    Layer,
    Signature,
    layers_of,
    squeezed,
    with_orientation,
)
from surgery.transfers.structure.pairing import LayerPair, Open, Orders, Pairing, pair_layers
from surgery.transfers.structure.steps import LayoutUnknown, StructureStep, steps_of


@dataclass(frozen=True)
class StructureMatch:
    """What structure decides: ``steps`` in the target's order, ``refused`` groups, and the names
    on either side that have no counterpart at all.

    ``different`` says why the two were not taken for one network; empty where they were.
    """

    steps: tuple[StructureStep, ...]
    refused: tuple[RefusedGroup, ...]
    without_source: tuple[str, ...]
    unused: tuple[str, ...]
    different: str = ""

    def __str__(self) -> str:
        lines = [*([self.different] if self.different else []), *map(str, self.steps)]
        lines += [f"refused: {group}" for group in self.refused]
        lines += [f"without a source: {name}" for name in self.without_source]
        return "\n".join([*lines, *(f"unused: {name}" for name in self.unused)])


#: Of the smaller network's layers, the share that must have a counterpart. Below it the two are
#: different networks that happen to share some shapes.
_SAME_NETWORK = 0.5


def match_structure(
    source: SourceNames,
    target: ModelSpec,
    *,
    hints: Iterable[str] | Mapping[str, str] = (),
    target_calls: Sequence[str] = (),
) -> StructureMatch:
    """Decide which source tensor feeds which tensor of another implementation of the network.

    ``hints`` are ``"source = target"``, whole segments or paths of them, for what stays open
    without; ``target_calls`` are the target's module paths in the order in which they run.
    The order of the source's entries means nothing. Raises
    :class:`~surgery.errors.SurgeryError` for hints that cannot be read or that settle nothing.
    """
    read = read_hints(hints)
    ours = _layers(source.specs, source.ties, {})
    types = {module.path: module.types for module in target.modules}
    theirs = _layers(target.tensors, target.ties, types)
    ours, theirs = _flattened(ours, theirs)
    pairing = pair_layers(*_shared(ours, theirs), read, _orders(target, theirs, target_calls))
    read.refuse_unused([x.path for x in ours], [x.path for x in theirs])
    return _result(_consistent(pairing, ours, theirs), source, target, min(len(ours), len(theirs)))


def _layers(
    specs: Iterable[TensorSpec],
    ties: Iterable[tuple[str, ...]],
    types: Mapping[str, tuple[str, ...]],
) -> list[Layer]:
    """The layers of one side; of tied names the first by nature counts."""
    doubled = {name for names in ties for name in sorted(names)[1:]}
    layers = layers_of(spec for spec in specs if spec.name not in doubled)
    return join_attention(with_orientation(layers, types))


def _orders(target: ModelSpec, layers: Sequence[Layer], calls: Sequence[str]) -> Orders:
    if not target.knows_types:
        return Orders()
    places = {spec.name: at for at, spec in enumerate(target.tensors)}
    first = {x.path: min(places[leaf.spec.name] for leaf in x.leaves) for x in layers}
    registered = {path: at for at, path in enumerate(sorted(first, key=first.__getitem__))}
    runs = {path: at for at, path in reversed(list(enumerate(calls)))}
    run = {x.path: runs[x.name] for x in layers if x.name in runs}
    return Orders(registered, run)


def _flattened(ours: list[Layer], theirs: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Bring together a linear layer over a flattened feature map, (O, C*h*w), and the
    convolution (O, C, h, w) that spans it, where each is the only one that could be meant.

    C must be a width that other layers have: pixels of a picture may be flattened in any order.
    """
    lonely = ({x.signature for x in ours} - {x.signature for x in theirs},
              {x.signature for x in theirs} - {x.signature for x in ours})  # fmt: skip
    flat = [
        _flat_by_signature(side, alone) for side, alone in zip((ours, theirs), lonely, strict=True)
    ]
    both = {
        key
        for key in flat[0].keys() & flat[1].keys()
        if len(flat[0][key]) == len(flat[1][key]) == 1
    }
    chosen = {id(side[key][0]) for side in flat for key in both}
    return tuple(  # type: ignore[return-value]
        [replace(x, flat=True) if id(x) in chosen else x for x in side] for side in (ours, theirs)
    )


def _flat_by_signature(
    layers: Sequence[Layer], alone: set[Signature]
) -> dict[Signature, list[Layer]]:
    widths = {leaf.spec.shape[0] for x in layers for leaf in x.of_role("weight") if leaf.spec.shape}
    found: dict[Signature, list[Layer]] = defaultdict(list)
    for layer in layers:
        weights = layer.of_role("weight")
        if (
            layer.signature in alone
            and len(weights) == 1
            and len(squeezed(weights[0].spec.shape)) > 1
        ):
            shape = weights[0].spec.shape
            if len(shape) == 2 or shape[1] in widths:
                found[replace(layer, flat=True).signature].append(layer)
    return found


def _shared(ours: Sequence[Layer], theirs: Sequence[Layer]) -> tuple[list[Layer], list[Layer]]:
    """The layers of which the other side has any of this form: a head for other classes, a table
    that only one side keeps, must not make two modules look different.
    """
    both = {x.signature for x in ours} & {x.signature for x in theirs}
    return [x for x in ours if x.signature in both], [x for x in theirs if x.signature in both]


def _consistent(pairing: Pairing, ours: Sequence[Layer], theirs: Sequence[Layer]) -> Pairing:
    """Pairs that others speak against are open again."""
    wrong = contradicted(pairing.pairs, ours, theirs)
    again = [
        Open((pair.source,), (pair.target,), f"of one shape, but {wrong[at]}")
        for at, pair in enumerate(pairing.pairs)
        if at in wrong
    ]
    kept = [pair for at, pair in enumerate(pairing.pairs) if at not in wrong]
    return Pairing(kept, [*pairing.open, *again])


def _result(
    pairing: Pairing, source: SourceNames, target: ModelSpec, layers: int
) -> StructureMatch:
    made, refused = _made(pairing)
    refused += [_refused(group) for group in pairing.open]
    different = _different(len(pairing.pairs), layers)
    if different:
        made, refused = {}, []
    made = _tied(made, target)
    steps = tuple(made[spec.name] for spec in target.tensors if spec.name in made)
    spoken = {name for group in refused for name in group.targets} | made.keys()
    used = {spec.name for step in steps for spec in step.sources}
    tied = {name for names in source.ties if used & {*names} for name in names}
    named = used | tied | {name for group in refused for name in group.sources}
    return StructureMatch(
        steps,
        tuple(sorted(refused, key=lambda group: group.targets)),
        tuple(spec.name for spec in target.tensors if spec.name not in spoken),
        tuple(sorted(spec.name for spec in source.specs if spec.name not in named)),
        different,
    )


def _different(pairs: int, layers: int) -> str:
    if pairs >= _SAME_NETWORK * layers:
        return ""
    return (
        f"not taken for one network: {pairs} of {layers} layers of the smaller one have a "
        "counterpart that is certain"
    )


def _made(pairing: Pairing) -> tuple[dict[str, StructureStep], list[RefusedGroup]]:
    made: dict[str, StructureStep] = {}
    refused = []
    for pair in pairing.pairs:
        try:
            made |= {step.target.name: step for step in _steps(pair)}
        except LayoutUnknown as problem:
            refused.append(_refused(Open((pair.source,), (pair.target,), str(problem))))
    return made, refused


def _steps(pair: LayerPair) -> list[StructureStep]:
    if pair.source.transposed is None or pair.target.transposed is None:
        raise LayoutUnknown("a square matrix beside both (in, out) and (out, in) ones")
    return steps_of(pair.source, pair.target, (pair.why,))


def _refused(group: Open) -> RefusedGroup:
    return RefusedGroup(
        tuple(leaf.spec.name for layer in group.targets for leaf in layer.leaves),
        tuple(leaf.spec.name for layer in group.sources for leaf in layer.leaves),
        group.reason,
    )


def _tied(made: Mapping[str, StructureStep], target: ModelSpec) -> dict[str, StructureStep]:
    """Every name of a tied tensor takes the step of the one that was matched."""
    steps = dict(made)
    for names in target.ties:
        for found in [made[name] for name in names if name in made][:1]:
            for name in names:
                steps.setdefault(name, replace(found, target=target.by_name[name]))
    return steps
