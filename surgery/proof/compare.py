"""Two sides -> a :class:`~surgery.proof.proof.Proof`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch

from surgery.errors import SurgeryError
from surgery.networks.inputs import Example, examples, own_shapes
from surgery.proof.movements import (
    UNHEARD,
    Both,
    Gradients,
    effect,
    hidden,
    misplaced,
    movements,
    seen_at_last,
)
from surgery.proof.outputs import main_output
from surgery.proof.parts import Part, by_part, parts_of
from surgery.proof.proof import TOLERANCE, Proof
from surgery.proof.running import Named, Run, as_leaves, gradients, run
from surgery.proof.settings import differing_settings, first_difference, shared_calls
from surgery.proof.sides import Side
from surgery.proof.values import (
    is_inexact,
    random_values,
    relative_difference,
    size_of,
    squeezed,
    values_by_shape,
)
from surgery.wording import listed


def prove(
    source: Side,
    target: Side,
    own: Mapping[str, torch.Tensor],
    *,
    shape: tuple[int, ...] | None = None,
    seed: int = 0,
) -> Proof:
    """Run both sides on the same input and values, and compare what they give and how it moves.

    ``own`` are the values of the checkpoint's tensors that steps use, in float64. Raises
    :class:`~surgery.errors.SurgeryError` where no input suits both networks.
    """
    proof = _proof_on(source, target, own, shape, seed)
    # A layer with another hyper-parameter is made good by no size of the input.
    arguments = any(not setting.name.startswith("called") for setting in proof.settings)
    if shape or not proof.networks_differ or arguments:
        return proof
    # Windows as large as the whole of a small image are shifted by some and not by others.
    for made_for in _agreed_on(source, target, own, seed):
        other = _proof_on(source, target, own, made_for, seed)
        if other.holds:
            note = f"on {proof.shown} they differ by {proof.largest:.1e}; it is not their own size"
            return replace(other, notes=(*other.notes, note))
    return proof


def _agreed_on(
    source: Side, target: Side, own: Mapping[str, torch.Tensor], seed: int
) -> Iterator[tuple[int, ...]]:
    """Sizes that the networks are made for and on which no setting distinguishes them."""
    even = values_by_shape(own, parts_of(target.takings.values(), even=True), seed)
    for shape in own_shapes((source.model, target.model)):
        (example,) = examples((source.model, target.model), shape, seed)
        try:
            with torch.no_grad():
                points = _comparable(*(run(side, even, example) for side in (source, target)))
        except Exception:  # one of them takes no such size, and says so in its own way
            continue
        if points[0] and _are_equal(*points):
            yield shape


def _are_equal(ours: Named, theirs: Named) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(relative_difference(one, other) <= TOLERANCE for (_, one), (_, other) in pairs)


def _proof_on(
    source: Side,
    target: Side,
    own: Mapping[str, torch.Tensor],
    shape: tuple[int, ...] | None,
    seed: int,
) -> Proof:
    """The proof on one input: of that shape, or the first that suits both."""
    parts, values = parts_of(target.takings.values()), random_values(own, seed)
    example, (source, target) = _fitting(source, target, values, shape, seed)
    # One after the other: two graphs and their gradients at a time are memory enough.
    both = _both(source, target, values, parts, example)
    random, moves, loud = both.trial("random values"), movements(both, parts), both.effects()
    del both, values  # as large as the network each
    both = _both(source, target, own, parts, example)
    real, quiet = both.trial("the checkpoint's own values"), both.effects()
    proof = Proof(
        source.label,
        target.label,
        example.text,
        random,
        real,
        seen_at_last(moves, movements(both, parts)),
        hidden=hidden(loud, quiet),
        notes=tuple(_notes(source, target, own)),
        resized=tuple(target.resized.items()),
    )
    del both
    if random.agrees and real.agrees:
        return proof
    parts = parts_of(target.takings.values(), even=True)
    even = values_by_shape(own, parts, seed)
    both = _both(source, target, even, parts, example, copies=True)
    by_shape = both.trial("one value for all tensors of a shape")
    chance = _of_chance((source, target), own, example, seed)
    proof = replace(proof, by_shape=by_shape, notes=(*proof.notes, *chance))
    if by_shape.agrees:
        return replace(proof, movements=misplaced(both, parts))
    calls = [each.calls for each in both.runs]
    settings = differing_settings(source, target, *calls)
    return replace(proof, settings=settings, first=first_difference(*calls))


def _fitting(
    source: Side,
    target: Side,
    values: Mapping[str, torch.Tensor],
    shape: tuple[int, ...] | None,
    seed: int,
) -> tuple[Example, tuple[Side, Side]]:
    """The first input that both take, and both sides, foreign tensors that do nothing dropped."""
    refused: dict[str, None] = {}
    for example in examples((source.model, target.model), shape, seed):
        heard = []
        for side in (source, target):
            try:
                heard.append(_heard(side, values, example))
            except SurgeryError:
                raise
            except Exception as error:
                first = next(iter(str(error).splitlines()), "")
                refused[f"{side.label} on {example.text}: {type(error).__name__}: {first}"] = None
                break
        if len(heard) == 2:
            return example, (heard[0], heard[1])
    advice = "say its shape without the batch, as in --input 3x224x224"
    if target.resized:
        name, resizer = next(iter(target.resized.items()))
        advice = (
            f"{name} is resized ({resizer}), and where that changes the input nothing is proven"
        )
    raise SurgeryError(f"no input was found that both networks take; {advice}", list(refused))


def _heard(side: Side, values: Mapping[str, torch.Tensor], example: Example) -> Side:
    """The side without those foreign tensors that move nothing it returns."""
    if not side.foreign:
        with torch.no_grad():
            run(side, values, example)
        return side
    found = run(side, values, example)
    moves = _end_moves(found, found.foreign)
    unheard = (name for name in moves if effect(moves[name], found.foreign[name]) <= UNHEARD)
    return side.without((*unheard, *(side.foreign - moves.keys())))


def _both(
    source: Side,
    target: Side,
    values: Mapping[str, torch.Tensor],
    parts: Sequence[Part],
    example: Example,
    *,
    copies: bool = False,
) -> Both:
    leaves = as_leaves(values)
    ours, theirs = (run(side, leaves, example, copies=copies) for side in (source, target))
    points = _comparable(ours, theirs)
    scales = [size_of(value) for _, value in points[0]]
    moves = [by_part(parts, gradients(shown, leaves, scales)) for shown in points]
    ends = (by_part(parts, _end_moves(each, leaves)) for each in (ours, theirs))
    is_less = points[0] is not ours.outputs or points[1] is not theirs.outputs
    bare = [[(name, value.detach()) for name, value in shown] for shown in points]
    return Both(
        by_part(parts, values),
        (ours.without_graph(copies=copies), theirs.without_graph(copies=copies)),
        (bare[0], bare[1]),
        (moves[0], moves[1]),
        tuple(ends) if is_less else (),
    )


def _end_moves(found: Run, leaves: Mapping[str, torch.Tensor]) -> Gradients:
    return gradients(found.outputs, leaves, [size_of(value) for _, value in found.outputs])


def _comparable(source: Run, target: Run) -> tuple[Named, Named]:
    """What both sides have to show: all of it, the main output, or the last call they share."""
    pairs = [(source.points, target.points)]
    if source.whole and target.whole:
        pairs.append((main_output(source.outputs), main_output(target.outputs)))
    for ours, theirs in pairs:
        shapes = [[squeezed(value) for _, value in points] for points in (ours, theirs)]
        if ours and shapes[0] == shapes[1]:
            return ours, theirs
    return _last_shared(source, target)


def _last_shared(source: Run, target: Run) -> tuple[Named, Named]:
    for each in reversed(shared_calls(source.calls, target.calls)):
        one, other = each.source, each.target
        if one.clean and other.clean and squeezed(one.gave) == squeezed(other.gave):
            name = f"{one.name} of {each.place}"
            return [(name, one.gave)], [(name, other.gave)]
    return [], []


def _of_chance(
    sides: Iterable[Side], own: Mapping[str, torch.Tensor], example: Example, seed: int
) -> Iterator[str]:
    """Both sides draw from one seed; in another order they draw other numbers all the same."""
    values = random_values(own, seed)
    for side in sides:
        with torch.no_grad():
            one, other = (run(side, values, example, seed=seed).outputs for seed in (0, 1))
        if not _are_equal(one, other):
            yield f"{side.label} draws random numbers in eval mode: two of its own runs differ"


def _notes(source: Side, target: Side, own: Mapping[str, torch.Tensor]) -> Iterator[str]:
    if whole := [name for name, value in own.items() if not is_inexact(value)]:
        yield f"integers are not moved: {len(whole)} tensors, the first is {whole[0]}"
    yield from filter(None, (source.note, target.note))
    for side in (source, target):
        if names := sorted(side.foreign - side.resized.keys()):
            yield (
                f"not transferred in {side.label}: {listed(names)}; what it acts on is not compared"
            )
