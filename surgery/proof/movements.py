"""One set of values through both networks: what they give, and what moving one tensor does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from surgery.networks.inputs import Example
from surgery.proof.parts import Part, by_part
from surgery.proof.proof import (
    BEHIND,
    EQUALLY,
    OTHERWISE,
    TOLERANCE,
    UNSEEN,
    Movement,
    Point,
)
from surgery.proof.running import Named, Run, as_leaves, gradients, main_output, run
from surgery.proof.settings import place_of, shared_calls
from surgery.proof.sides import Sides
from surgery.proof.values import relative_difference, size_of, squeezed
from surgery.proof.watching import Call

#: Below this share of the largest effect of any tensor, an effect is rounding.
UNHEARD = 1e-10
#: What rounding may make of an effect, as a share of the largest.
ROUNDING = 1e-12

Gradients = Mapping[str, torch.Tensor]
#: How far each tensor moves the source and the target.
Effects = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Both:
    """One set of values through both networks.

    ``moves`` and ``effects`` are by the names of parts: how the compared points move in either,
    and how far. ``ends`` is how far all moves that the networks return, where that is more.
    """

    points: tuple[Point, ...]
    moves: tuple[Gradients, Gradients]
    effects: Effects
    ends: Effects
    calls: tuple[Sequence[Call], Sequence[Call]]

    def movements(self, parts: Iterable[Part]) -> tuple[Movement, ...]:
        """What moving each part alone did, by the gradients of what was compared."""
        loudest = max((max(pair) for pair in self.effects.values()), default=0.0)
        moved = (part for part in parts if part.name in self.effects)
        return tuple(self._movement(part, loudest) for part in moved)

    def _movement(self, part: Part, loudest: float) -> Movement:
        name, effect = part.name, max(self.effects[part.name])
        if effect <= UNHEARD * loudest:
            # It may move what the whole network returns, though not what could be compared.
            behind = max(self.ends.get(name, (0.0,))) > UNHEARD
            return Movement(name, part.targets, BEHIND if behind else UNSEEN)
        difference = _difference(*(moves[name] for moves in self.moves))
        noise = ROUNDING * loudest / effect
        verdict = EQUALLY if difference <= TOLERANCE + noise else OTHERWISE
        return Movement(name, part.targets, verdict, difference)

    def misplaced(self, parts: Iterable[Part]) -> tuple[Movement, ...]:
        """With one value for each shape: whose place in the target a part has.

        A part in its place moves the target as it moves the source; one in another's place moves
        it as that other moves the source.
        """
        ours, theirs = self.moves
        return tuple(
            replace(move, acts_as=tuple(_acts_as(ours, theirs[move.source])))
            if move.verdict == OTHERWISE
            else move
            for move in self.movements(parts)
        )


def run_both(
    sides: Sides, values: Mapping[str, torch.Tensor], parts: Sequence[Part], example: Example
) -> Both:
    """Both networks on these values, and what a proof needs of it."""
    leaves = as_leaves(values)
    runs = [run(side, leaves, example) for side in sides.both]
    points = _comparable(*runs)
    scales = [size_of(value) for _, value in points[0]]
    ours, theirs = (by_part(parts, gradients(shown, leaves, scales)) for shown in points)
    given = by_part(parts, values)
    ends: Effects = {}
    if any(shown is not each.outputs for shown, each in zip(points, runs, strict=True)):
        first, last = (by_part(parts, end_moves(each, leaves)) for each in runs)
        ends = _effects(first, last, given)
    return Both(
        tuple(
            Point(name, other, squeezed(one), relative_difference(one, two))
            for (name, one), (other, two) in zip(*points, strict=True)
        ),
        (ours, theirs),
        _effects(ours, theirs, given),
        ends,
        (runs[0].calls, runs[1].calls),
    )


def end_moves(found: Run, leaves: Mapping[str, torch.Tensor]) -> Gradients:
    """How all that a network returns moves."""
    return gradients(found.outputs, leaves, [size_of(value) for _, value in found.outputs])


def effect(gradient: torch.Tensor, value: torch.Tensor) -> float:
    """How far the points move where the whole tensor moves by its own size."""
    return float(gradient.norm()) * size_of(value)


def _effects(ours: Gradients, theirs: Gradients, values: Gradients) -> Effects:
    return {
        name: (effect(ours[name], values[name]), effect(theirs[name], values[name]))
        for name in ours
    }


def _comparable(source: Run, target: Run) -> tuple[Named, Named]:
    """What both sides have to show: all of it, the main output, or the last call they share."""
    pairs = [(source.points, target.points)]
    if source.whole and target.whole:
        pairs.append((main_output(source.outputs), main_output(target.outputs)))
    for one, other in reversed(shared_calls(source.calls, target.calls)):
        if one.clean and other.clean:
            name = f"{one.name} of {place_of(other)}"
            pairs.append(([(name, one.gave)], [(name, other.gave)]))
    for ours, theirs in pairs:
        shapes = [[squeezed(value) for _, value in points] for points in (ours, theirs)]
        if ours and shapes[0] == shapes[1]:
            return ours, theirs
    return [], []


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    larger = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / larger if larger else 0.0


def _acts_as(ours: Gradients, acting: torch.Tensor) -> Iterator[str]:
    shape = squeezed(acting)
    for name, gradient in ours.items():
        if squeezed(gradient) != shape:
            continue
        one, other = gradient.reshape(shape), acting.reshape(shape)
        square = len(shape) == 2 and shape[0] == shape[1]
        if _difference(one, other) <= TOLERANCE * 1e3:
            yield name
        elif square and _difference(one.T, other) <= TOLERANCE * 1e3:
            yield f"{name}, transposed"


def seen_at_last(random: Iterable[Movement], own: Iterable[Movement]) -> tuple[Movement, ...]:
    """Random values may drive an activation so far that nothing moves it: the checkpoint's own
    then have the word.
    """
    by_source = {move.source: move for move in own}
    return tuple(by_source[move.source] if move.verdict == UNSEEN else move for move in random)


def hidden(loud: Effects, quiet: Effects) -> tuple[str, ...]:
    """Tensors that random values showed and that the checkpoint's own hide."""
    most = max((pair[0] for pair in loud.values()), default=0.0)
    own = max((pair[0] for pair in quiet.values()), default=0.0)
    return tuple(
        name for name in loud if loud[name][0] > UNHEARD * most and quiet[name][0] <= UNHEARD * own
    )
