"""One set of values through both networks: what they give, and what moving one tensor does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from surgery.networks.inputs import Example
from surgery.proof.parts import Part
from surgery.proof.proof import (
    BEHIND,
    EQUALLY,
    OTHERWISE,
    TOLERANCE,
    UNSEEN,
    Movement,
    Point,
    Trial,
)
from surgery.proof.running import Named, Run, gradients, main_output, run
from surgery.proof.settings import place_of, shared_calls
from surgery.proof.sides import Sides
from surgery.proof.values import is_inexact, relative_difference, size_of, squeezed
from surgery.proof.watching import Call

#: Below this share of the largest effect of any tensor, an effect is rounding.
UNHEARD = 1e-10
#: What rounding may make of an effect, as a share of the largest.
ROUNDING = 1e-12

Gradients = Mapping[str, torch.Tensor]


def run_both(
    sides: Sides,
    named: str,
    values: Mapping[str, torch.Tensor],
    parts: Sequence[Part],
    example: Example,
) -> tuple[Trial, tuple[Movement, ...], list[Sequence[Call]]]:
    """Both networks on these values: what was compared, what moving each part alone did to it, and
    what either called.
    """
    leaves = {
        name: value.detach().requires_grad_() if is_inexact(value) else value
        for name, value in values.items()
    }
    runs = [run(side, leaves, example) for side in sides.both]
    shown = _comparable(*runs)
    points = tuple(
        Point(name, other, squeezed(one), relative_difference(one, two))
        for (name, one), (other, two) in zip(*shown, strict=True)
    )
    scales = [size_of(value) for _, value in shown[0]]
    moves = [gradients(each, leaves, scales) for each in shown]
    whole = all(each is found.outputs for each, found in zip(shown, runs, strict=True))
    ends = [] if whole else [end_moves(found, leaves) for found in runs]
    trial = Trial(named, points)
    found = _movements(parts, leaves, moves, ends, mixed_up=trial.agrees)
    return trial, tuple(found), [each.calls for each in runs]


def _movements(
    parts: Sequence[Part],
    values: Mapping[str, torch.Tensor],
    moves: Sequence[Gradients],
    ends: Sequence[Gradients],
    *,
    mixed_up: bool,
) -> Iterator[Movement]:
    """What moving each part alone did, by the gradients of what was compared in either network,
    and of all that they return (``ends``) where that is more.

    Where what both give agrees, a part that is not in its place moves the target as another one
    moves the source: that one's place it has.
    """
    parts = [part for part in parts if part.source in moves[0]]
    effects = [max(_effect(part, each, values) for each in moves) for part in parts]
    loudest = max(effects, default=0.0)
    for part, far in zip(parts, effects, strict=True):
        if far <= UNHEARD * loudest:
            # It may move what the whole network returns, though not what could be compared.
            behind = any(_effect(part, each, values) > UNHEARD for each in ends)
            yield Movement(part.name, part.targets, BEHIND if behind else UNSEEN)
            continue
        ours, theirs = (part.of(each[part.source]) for each in moves)
        difference = _difference(ours, theirs)
        if difference <= TOLERANCE + ROUNDING * loudest / far:
            yield Movement(part.name, part.targets, EQUALLY, difference)
        else:
            acts_as = tuple(_acts_as(parts, moves[0], theirs)) if mixed_up else ()
            yield Movement(part.name, part.targets, OTHERWISE, difference, acts_as)


def end_moves(found: Run, leaves: Mapping[str, torch.Tensor]) -> Gradients:
    """How all that a network returns moves."""
    return gradients(found.outputs, leaves, [size_of(value) for _, value in found.outputs])


def effect(gradient: torch.Tensor, value: torch.Tensor) -> float:
    """How far the points move where the whole tensor moves by its own size."""
    return float(gradient.norm()) * size_of(value)


def _effect(part: Part, moves: Gradients, values: Mapping[str, torch.Tensor]) -> float:
    return effect(part.of(moves[part.source]), part.of(values[part.source]))


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


def _acts_as(parts: Sequence[Part], ours: Gradients, acting: torch.Tensor) -> Iterator[str]:
    shape = squeezed(acting)
    other = acting.reshape(shape)
    for part in parts:
        gradient = part.of(ours[part.source])
        if squeezed(gradient) != shape:
            continue
        one = gradient.reshape(shape)
        square = len(shape) == 2 and shape[0] == shape[1]
        if _difference(one, other) <= TOLERANCE * 1e3:
            yield part.name
        elif square and _difference(one.T, other) <= TOLERANCE * 1e3:
            yield f"{part.name}, transposed"
