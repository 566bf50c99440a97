"""Names and shapes of two implementations of one network -> which tensor feeds which.

Decided from names, shapes and nesting alone; no tensor is touched. What they do not decide is
left open, group by group, with its candidates.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from surgery.collecting import collector_paused
from surgery.matching.matches import OpenGroup
from surgery.matching.structure.evidence import RULES, Rule
from surgery.matching.structure.fused import join_projections, with_packed
from surgery.matching.structure.hints import Hints, read_hints
from surgery.matching.structure.layers import (
    Layer,
    Path,
    Signature,
    layers_of,
    squeezed,
    with_orientation,
)
from surgery.matching.structure.numbers import Families
from surgery.matching.structure.pairing import Evidence, Open, Pairing, pair_layers
from surgery.matching.structure.resized import Resized, resized_of
from surgery.matching.structure.rows import LayoutUnknown, words_of
from surgery.matching.structure.steps import StructureStep, steps_of
from surgery.matching.structure.words import concepts
from surgery.specs import ModelSpec, SourceSpec, TensorSpec
from surgery.wrappers import unwrap_name


@dataclass(frozen=True)
class StructureMatch:
    """What structure decides: ``steps`` in the target's order, ``open`` groups, and the names
    on either side that have no counterpart at all.

    ``different`` says why the two were not taken for one network; empty where they were.
    ``resized`` are names among those without a counterpart that are one thing in another size.
    """

    steps: tuple[StructureStep, ...]
    open: tuple[OpenGroup, ...]
    without_source: tuple[str, ...]
    unused: tuple[str, ...]
    different: str = ""
    resized: tuple[Resized, ...] = ()

    def __str__(self) -> str:
        lines = [*([self.different] if self.different else []), *map(str, self.steps)]
        lines += [f"left open: {group}" for group in self.open]
        lines += [f"of another size: {pair}" for pair in self.resized]
        lines += [f"without a source: {name}" for name in self.without_source]
        return "\n".join([*lines, *(f"unused: {name}" for name in self.unused)])


@collector_paused()
def match_structure(
    source: SourceSpec,
    target: ModelSpec,
    *,
    hints: Iterable[str] = (),
    target_calls: Sequence[str] = (),
    source_model: ModelSpec | None = None,
    source_calls: Sequence[str] = (),
    rules: Sequence[Rule] = RULES,
) -> StructureMatch:
    """Decide which source tensor feeds which tensor of another implementation of the network.

    ``hints`` are ``"source -> target"``, whole segments or paths of them, for what stays open
    without; ``target_calls`` are the target's module paths in the order in which they run.
    The order of the source's entries means nothing; ``source_model`` tells the module types and
    the order of the code that made them, and ``source_calls`` how that runs. ``rules`` may be
    less than all: what they decide is then a part of what all of them do. Raises
    :class:`~surgery.errors.SurgeryError` for hints that cannot be read or that decide nothing.
    """
    names = ((spec.name for spec in side) for side in (source.specs, target.tensors))
    read = read_hints(hints).of_layers(*names)
    ours, theirs = join_projections(
        _layers(source.specs, _ties_of_both(source, target), source_model),
        _layers(target.tensors, target.ties, target),
        read,
    )
    ours, theirs = map(with_packed, _brought_together(ours, theirs))
    evidence = Evidence(
        rules,
        read,
        min(len(ours), len(theirs)),
        (Families.of(ours), Families.of(theirs)),
        _registered(target, theirs),
        [_places(source_calls if source_model else ()), _places(target_calls)],
    )
    # What the other side has none of, a head for other classes, a table that only one side keeps,
    # must not make two modules look different.
    both = {x.signature for x in ours} & {x.signature for x in theirs}
    shared = [[x for x in side if x.signature in both] for side in (ours, theirs)]
    pairing = pair_layers(shared[0], shared[1], evidence)
    made, left_open = _made(pairing, read, turning=not any(map(_says_place, (*ours, *theirs))))
    if read:
        read.refuse_unused(_paths(ours, source.specs), _paths(theirs, target.tensors))
    if different := _different(len(pairing.pairs), ours, theirs):
        return _result({}, [], source, target, different)
    used = {id(layer) for pair in pairing.pairs for layer in (pair.source, pair.target)}
    used |= {id(layer) for group in pairing.open for layer in (*group.sources, *group.targets)}
    left = [[x for x in side if id(x) not in used] for side in (ours, theirs)]
    resized = resized_of(left[0], left[1], pairing.pairs)
    return _result(made, left_open, source, target, resized=resized)


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
    specs: Sequence[TensorSpec], ties: Iterable[tuple[str, ...]], model: ModelSpec | None
) -> list[Layer]:
    """The layers of one side. Of tied names one counts: one that has its module for itself rather
    than a bias beside it, then one that speaks of an embedding.
    """
    modules = Counter(spec.name.rpartition(".")[0] for spec in specs) if ties else {}

    def plainness(name: str) -> tuple[bool, bool, str]:
        module = name.rpartition(".")[0]
        spoken = frozenset().union(*map(concepts, module.split(".")))
        return modules[module] > 1, "embed" not in spoken, name

    doubled = {name for names in ties for name in sorted(names, key=plainness)[1:]}
    layers = layers_of(spec for spec in specs if spec.name not in doubled)
    types = {module.path: module.types for module in model.modules} if model else {}
    return with_orientation(layers, {unwrap_name(path): found for path, found in types.items()})


def _ties_of_both(source: SourceSpec, target: ModelSpec) -> list[tuple[str, ...]]:
    """The source's ties that the target may have too. Where it has none of their shape, each name
    stands for itself: two tensors of the target may be given the values of one.
    """
    by_name = {spec.name: spec for spec in source.specs}
    tied = {squeezed(target.by_name[name].shape) for names in target.ties for name in names}
    return [names for names in source.ties if squeezed(by_name[names[0]].shape) in tied]


def _registered(model: ModelSpec, layers: Iterable[Layer]) -> dict[Path, int]:
    """The place of each layer's first tensor in the order of the code, where that is known."""
    places = {spec.name: at for at, spec in enumerate(model.tensors)}
    if not model.knows_types:
        return {}
    return {x.path: min(places[leaf.spec.name] for leaf in x.leaves) for x in layers}


def _places(calls: Sequence[str]) -> dict[Path, int]:
    """The place at which each module first runs."""
    runs = reversed(list(enumerate(calls)))
    return {tuple(unwrap_name(path).split(".")): at for at, path in runs}


def _brought_together(ours: list[Layer], theirs: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Layers of a shape that the other side has not, in another form that it has.

    A bias on one side only does not count. A linear layer over a flattened feature map,
    (O, C*h*w), is the convolution (O, C, h, w) that spans it, and a bare matrix (in, out) is one
    of (out, in), where each is the only one that could be meant.
    """
    sides = [ours, theirs]
    for form in (_without_bias, _flat, _turned):
        shapes = [{x.signature for x in side} for side in sides]
        found: list[dict[Signature, dict[int, Layer]]] = [defaultdict(dict), defaultdict(dict)]
        for side, forms, others in zip(sides, found, reversed(shapes), strict=True):
            for layer in side:
                if layer.signature not in others:
                    for new in (layer, form(layer, side)):
                        forms[new.signature][id(layer)] = new
        for at, forms in enumerate(found):
            chosen: dict[int, Layer] = {}
            for key in forms.keys() & found[1 - at].keys():
                if form is _without_bias or len(forms[key]) == len(found[1 - at][key]) == 1:
                    chosen |= forms[key]
            sides[at] = [chosen.get(id(x), x) for x in sides[at]]
    return sides[0], sides[1]


def _without_bias(layer: Layer, _: Sequence[Layer]) -> Layer:
    return replace(layer, without_bias=True) if layer.is_matrix else layer


def _flat(layer: Layer, beside: Sequence[Layer]) -> Layer:
    """Pixels of a picture may be flattened in any order: C is a width that other layers have."""
    shapes = [leaf.spec.shape for leaf in layer.of_role("weight")]
    if len(shapes) != 1 or len(squeezed(shapes[0])) < 2:
        return layer
    if len(shapes[0]) > 2 and not any(
        leaf.spec.shape[:1] == shapes[0][1:2] for x in beside for leaf in x.of_role("weight")
    ):
        return layer
    return replace(layer, flat=True)


def _turned(layer: Layer, _: Sequence[Layer]) -> Layer:
    return replace(layer, transposed=True) if layer.bare else layer


def _result(
    made: Mapping[str, StructureStep],
    left_open: list[OpenGroup],
    source: SourceSpec,
    target: ModelSpec,
    different: str = "",
    resized: tuple[Resized, ...] = (),
) -> StructureMatch:
    made = _tied(made, target)
    steps = tuple(made[spec.name] for spec in target.tensors if spec.name in made)
    spoken = {name for group in left_open for name in group.targets} | made.keys()
    used = {spec.name for step in steps for spec in step.sources}
    tied = {name for names in source.ties if used & {*names} for name in names}
    named = used | tied | {name for group in left_open for name in group.sources}
    return StructureMatch(
        steps,
        tuple(sorted(left_open, key=lambda group: group.targets)),
        tuple(spec.name for spec in target.tensors if spec.name not in spoken),
        tuple(sorted(spec.name for spec in source.specs if spec.name not in named)),
        different,
        resized,
    )


def _tied(made: Mapping[str, StructureStep], target: ModelSpec) -> dict[str, StructureStep]:
    """Every name of a tied tensor takes the step of the one that was matched."""
    steps = dict(made)
    for names in target.ties:
        for found in [made[name] for name in names if name in made][:1]:
            for name in names:
                steps.setdefault(name, replace(found, target=target.by_name[name]))
    return steps


def _different(pairs: int, ours: Sequence[Layer], theirs: Sequence[Layer]) -> str:
    """Why two networks are not taken for one; empty where they are.

    Of the smaller one's layers half must have a counterpart; where most of them have shapes that
    the other has more or less often, as with another depth, nearly all.
    """
    sides = (Counter(x.signature for x in side) for side in (ours, theirs))
    one, other = sorted(sides, key=Counter.total)
    layers = one.total()
    alike = sum(number for shapes, number in one.items() if other[shapes] in (0, number))
    if pairs >= (0.5 if alike >= layers / 2 else 0.9) * layers:
        return ""
    return (
        f"not taken for one network: {pairs} of {layers} layers of the smaller one have a "
        "counterpart that is certain"
    )


def _made(
    pairing: Pairing, hints: Hints, *, turning: bool
) -> tuple[dict[str, StructureStep], list[OpenGroup]]:
    """The steps of all pairs, and what stays open, asked once for all blocks that are alike."""
    made: dict[str, StructureStep] = {}
    groups: list[tuple[Open, tuple[str, ...]]] = [(group, ()) for group in pairing.open]
    for pair in pairing.pairs:
        words = words_of(pair.source), words_of(pair.target)
        hint = hints.naming(*words) if hints.hints else None
        try:
            steps = steps_of(pair.source, pair.target, pair.why, hint, turning=turning)
            made |= {step.target.name: step for step in steps}
        except LayoutUnknown as problem:
            group = Open((pair.source,), (pair.target,), pair.columns, str(problem))
            groups.append((group, problem.hints))
    alike: dict[object, list[tuple[Open, tuple[str, ...]]]] = defaultdict(list)
    for group, hints_for in groups:
        alike[group.columns, group.reason].append((group, hints_for))
    opened = [_open_group([group for group, _ in found], found[0][1]) for found in alike.values()]
    return made, opened


def _open_group(groups: Sequence[Open], hints: tuple[str, ...]) -> OpenGroup:
    blocks = [(_names_of(group.targets), _names_of(group.sources)) for group in groups]
    return OpenGroup(
        tuple(name for targets, _ in blocks for name in targets),
        tuple(name for _, sources in blocks for name in sources),
        groups[0].reason,
        hints,
        blocks[0] if len(blocks) > 1 else None,
    )


def _names_of(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(leaf.spec.name for layer in layers for leaf in layer.leaves)
