"""Names and shapes of two implementations of one network -> which tensor feeds which.

Decided from names, shapes and nesting alone; no tensor is touched. What they do not settle is
refused, group by group, with its candidates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.collecting import collector_paused
from surgery.matching.matches import RefusedGroup
from surgery.matching.structure.attention import bias_alone, join_attention
from surgery.matching.structure.consistency import contradicted
from surgery.matching.structure.evidence import AS_REGISTERED, BY_HINT
from surgery.matching.structure.gates import join_gates, packed
from surgery.matching.structure.hints import Hints, read_hints
from surgery.matching.structure.layers import (
    Layer,
    Path,
    Signature,
    layers_of,
    squeezed,
    with_orientation,
)
from surgery.matching.structure.numbered import misnumbered
from surgery.matching.structure.pairing import LayerPair, Open, Orders, Pairing, pair_layers
from surgery.matching.structure.resized import Resized, resized_of
from surgery.matching.structure.rows import (
    LayoutUnknown,
    fused,
    makes_parts,
    may_turn,
    without_turned,
    words_of,
)
from surgery.matching.structure.sequence import Sequences
from surgery.matching.structure.siblings import row_pairs
from surgery.matching.structure.steps import StructureStep, steps_of
from surgery.matching.structure.words import concepts
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.wrappers import unwrap_name, unwrap_names


@dataclass(frozen=True)
class StructureMatch:
    """What structure decides: ``steps`` in the target's order, ``refused`` groups, and the names
    on either side that have no counterpart at all.

    ``different`` says why the two were not taken for one network; empty where they were.
    ``resized`` are names among those without a counterpart that are one thing in another size.
    """

    steps: tuple[StructureStep, ...]
    refused: tuple[RefusedGroup, ...]
    without_source: tuple[str, ...]
    unused: tuple[str, ...]
    different: str = ""
    resized: tuple[Resized, ...] = ()

    @property
    def by_registration(self) -> bool:
        """Whether any step goes by the order in which layers are registered: how they run may
        then contradict it.
        """
        return any(AS_REGISTERED in why for step in self.steps for why in step.evidence)

    def __str__(self) -> str:
        lines = [*([self.different] if self.different else []), *map(str, self.steps)]
        lines += [f"refused: {group}" for group in self.refused]
        lines += [f"of another size: {pair}" for pair in self.resized]
        lines += [f"without a source: {name}" for name in self.without_source]
        return "\n".join([*lines, *(f"unused: {name}" for name in self.unused)])


#: Of the smaller network's layers, the share that must have a counterpart. Below it the two are
#: different networks that happen to share some shapes.
_SAME_NETWORK = 0.5


@collector_paused()
def match_structure(
    source: SourceSpec,
    target: ModelSpec,
    *,
    hints: Iterable[str] | Mapping[str, str] = (),
    target_calls: Sequence[str] = (),
    source_model: ModelSpec | None = None,
    source_calls: Sequence[str] = (),
) -> StructureMatch:
    """Decide which source tensor feeds which tensor of another implementation of the network.

    ``hints`` are ``"source = target"``, whole segments or paths of them, for what stays open
    without; ``target_calls`` are the target's module paths in the order in which they run.
    The order of the source's entries means nothing; ``source_model`` tells the module types and
    the order of the code that made them, and ``source_calls`` how that runs. Raises
    :class:`~surgery.errors.SurgeryError` for hints that cannot be read or that settle nothing.
    """
    read = read_hints(hints).of_layers(_names(source.specs), _names(target.tensors))
    sides = (
        _layers(source.specs, _ties_of_both(source, target), source_model),
        _layers(target.tensors, target.ties, target),
    )
    widths = any(map(bias_alone, sides))
    ours, theirs = (join_attention(layers, read, widths=widths) for layers in sides)
    ours, theirs = (_with_packed(side) for side in _flattened(*join_gates(ours, theirs)))
    orders = Orders(
        _sequences(source_model, ours, source_calls), _sequences(target, theirs, target_calls)
    )
    pairing = pair_layers(*_shared(ours, theirs), read, orders)
    pairing = _consistent(pairing, ours, theirs, orders)
    made, refused = _made(pairing, read, turning=not any(map(_says_place, (*ours, *theirs))))
    if read:
        read.refuse_unused(_paths(ours, source.specs), _paths(theirs, target.tensors))
    different = _different(len(pairing.pairs), min(len(ours), len(theirs)))
    if different:
        return _result({}, [], source, target, different)
    resized = resized_of(*_left(pairing, ours, theirs), pairing.pairs)
    return _result(made, refused, source, target, resized=resized)


def _left(
    pairing: Pairing, ours: Sequence[Layer], theirs: Sequence[Layer]
) -> tuple[list[Layer], list[Layer]]:
    """The layers of either side that are in no pair and in no open group."""
    used = {id(layer) for pair in pairing.pairs for layer in (pair.source, pair.target)}
    used |= {id(layer) for group in pairing.open for layer in (*group.sources, *group.targets)}
    return [x for x in ours if id(x) not in used], [x for x in theirs if id(x) not in used]


def _names(specs: Iterable[TensorSpec]) -> Iterator[str]:
    return (spec.name for spec in specs)


def _paths(layers: Iterable[Layer], specs: Iterable[TensorSpec]) -> list[Path]:
    """All paths that a hint may speak of: of layers, of projections that make one layer, and of
    tensors, those under another name of a tied one included.
    """
    paths = [path for x in layers for path in dict.fromkeys((x.path, *words_of(x))) if path]
    return [*paths, *(tuple(spec.name.split(".")) for spec in specs)]


def _says_place(layer: Layer) -> bool:
    """Whether a layer tells the network where a token stands, so that nothing is turned."""
    return any(not concepts(segment).isdisjoint(("position", "relative")) for segment in layer.path)


def _layers(
    specs: Iterable[TensorSpec], ties: Iterable[tuple[str, ...]], model: ModelSpec | None
) -> list[Layer]:
    """The layers of one side; of tied names the one that says most plainly what it is counts."""
    layers = layers_of(_once(tuple(specs), ties))
    types = {module.path: module.types for module in model.modules} if model else {}
    return with_orientation(layers, {unwrap_name(path): found for path, found in types.items()})


def _ties_of_both(source: SourceSpec, target: ModelSpec) -> list[tuple[str, ...]]:
    """The source's ties that the target may have too. Where it has none of their shape, each name
    stands for itself: two tensors of the target may be given the values of one.
    """
    by_name = {spec.name: spec for spec in source.specs}
    tied = {squeezed(target.by_name[name].shape) for names in target.ties for name in names}
    return [names for names in source.ties if squeezed(by_name[names[0]].shape) in tied]


def _once(specs: Sequence[TensorSpec], ties: Iterable[tuple[str, ...]]) -> Iterator[TensorSpec]:
    """The specs, every tied tensor under one of its names: one that has its module for itself
    rather than a bias beside it, then one that speaks of an embedding.
    """
    modules = Counter(spec.name.rpartition(".")[0] for spec in specs)

    def plainness(name: str) -> tuple[bool, bool, str]:
        module = name.rpartition(".")[0]
        spoken = frozenset().union(*map(concepts, module.split(".")))
        return modules[module] > 1, "embed" not in spoken, name

    doubled = {name for names in ties for name in sorted(names, key=plainness)[1:]}
    yield from (spec for spec in specs if spec.name not in doubled)


def _sequences(model: ModelSpec | None, layers: Sequence[Layer], calls: Sequence[str]) -> Sequences:
    """The orders of one side's layers, where its code is known."""
    if model is None or not model.knows_types:
        return Sequences()
    clean = unwrap_names(spec.name for spec in model.tensors)
    places = {clean[spec.name]: at for at, spec in enumerate(model.tensors)}
    runs = {unwrap_name(path): at for at, path in reversed(list(enumerate(calls)))}
    return Sequences(
        dict(_firsts(layers, lambda name: places.get(name))),
        dict(_firsts(layers, lambda name: runs.get(name.rpartition(".")[0]))),
    )


def _firsts(
    layers: Sequence[Layer], place: Callable[[str], int | None]
) -> Iterator[tuple[Path, int]]:
    """The first place of any tensor of each layer."""
    clean = unwrap_names(leaf.spec.name for layer in layers for leaf in layer.leaves)
    for layer in layers:
        found = [place(clean[leaf.spec.name]) for leaf in layer.leaves]
        if known := [at for at in found if at is not None]:
            yield layer.path, min(known)


def _with_packed(layers: list[Layer]) -> list[Layer]:
    gating = packed(layers)
    return [replace(x, packed=True) if x.path in gating else x for x in layers]


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


def _consistent(
    pairing: Pairing, ours: Sequence[Layer], theirs: Sequence[Layer], orders: Orders
) -> Pairing:
    """Pairs that others speak against are open again."""
    rows = row_pairs(pairing.pairs, ours, theirs)
    wrong = contradicted(pairing.pairs, ours, theirs, orders, rows)
    wrong |= misnumbered(pairing.pairs, rows)
    told = {at for at in wrong if pairing.pairs[at].why.startswith(BY_HINT)}
    wrong = {at: why for at, why in wrong.items() if at not in told}  # a person knows better
    again = [
        Open((pair.source,), (pair.target,), f"of one shape, but {wrong[at]}")
        for at, pair in enumerate(pairing.pairs)
        if at in wrong
    ]
    kept = [pair for at, pair in enumerate(pairing.pairs) if at not in wrong]
    return Pairing(kept, [*pairing.open, *again])


def _result(
    made: Mapping[str, StructureStep],
    refused: list[RefusedGroup],
    source: SourceSpec,
    target: ModelSpec,
    different: str = "",
    resized: tuple[Resized, ...] = (),
) -> StructureMatch:
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
        resized,
    )


def _different(pairs: int, layers: int) -> str:
    if pairs >= _SAME_NETWORK * layers:
        return ""
    return (
        f"not taken for one network: {pairs} of {layers} layers of the smaller one have a "
        "counterpart that is certain"
    )


def _made(
    pairing: Pairing, hints: Hints, *, turning: bool
) -> tuple[dict[str, StructureStep], list[RefusedGroup]]:
    """The steps of all pairs, and what stays open. ``turning`` says that q and k may be turned
    for the position, as nothing else tells it.
    """
    made: dict[str, StructureStep] = {}
    refused = [_refused(group) for group in pairing.open]
    for pair in pairing.pairs:
        told = _told(pair, hints)
        rest, turned = (pair, None) if told or not turning else without_turned(pair)
        try:
            made |= {step.target.name: step for step in _steps(rest, told, turning)}
        except LayoutUnknown as problem:
            open_pair = Open((pair.source,), (pair.target,), str(problem))
            refused.append(_refused(open_pair, _unknown_rows(pair)))
        else:
            refused += [_refused(turned)] if turned else []
    return made, refused


def _told(pair: LayerPair, hints: Hints) -> bool:
    """Whether a hint names the projections of an attention, so that no word has to say more."""
    if not hints.hints or not (makes_parts(pair.source) or makes_parts(pair.target)):
        return False
    return hints.tell(words_of(pair.source), words_of(pair.target))


def _steps(pair: LayerPair, told: bool, turning: bool) -> list[StructureStep]:
    source, target = pair.source, pair.target
    if source.transposed is None or target.transposed is None:
        raise LayoutUnknown("a square matrix beside both (in, out) and (out, in) ones")
    unsaid = _UNSAID if turning and not told and may_turn(source, target) else ()
    return steps_of(source, target, (pair.why, *unsaid), told=told)


_UNSAID = (
    "rows of q and k in their own order: no name tells how they are turned for the position",
)


def _refused(group: Open, fused: str = "") -> RefusedGroup:
    return RefusedGroup(
        tuple(leaf.spec.name for layer in group.targets for leaf in layer.leaves),
        tuple(leaf.spec.name for layer in group.sources for leaf in layer.leaves),
        group.reason,
        fused,
    )


def _unknown_rows(pair: LayerPair) -> str:
    """The word of a fused projection in a pair, rather one that says no order of its rows."""
    leaves = (leaf for layer in (pair.source, pair.target) for leaf in layer.leaves)
    found = [word for leaf in leaves if (word := fused(leaf.spec.name)) and "g" not in word.order]
    return min(found, key=lambda word: bool(word.order)).word if found else ""


def _tied(made: Mapping[str, StructureStep], target: ModelSpec) -> dict[str, StructureStep]:
    """Every name of a tied tensor takes the step of the one that was matched."""
    steps = dict(made)
    for names in target.ties:
        for found in [made[name] for name in names if name in made][:1]:
            for name in names:
                steps.setdefault(name, replace(found, target=target.by_name[name]))
    return steps
