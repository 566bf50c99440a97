"""What moving one tensor of the checkpoint alone does to both networks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

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
from surgery.proof.running import Named, Run
from surgery.proof.values import relative_difference, size_of, squeezed

#: Below this share of the largest effect of any tensor, an effect is rounding.
UNHEARD = 1e-10
#: What rounding may make of an effect, as a share of the largest.
ROUNDING = 1e-12

Gradients = Mapping[str, torch.Tensor]
#: How far each tensor moves the source and the target.
Effects = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Both:
    """One set of values through both networks: the points, and how they move.

    ``values``, ``moves`` and ``ends`` are by the names of parts; ``ends`` are moves of all that
    the networks return, where that is more than the points.
    """

    values: Mapping[str, torch.Tensor]
    runs: tuple[Run, Run]
    points: tuple[Named, Named]
    moves: tuple[Gradients, Gradients]
    ends: tuple[Gradients, ...]

    def trial(self, values: str) -> Trial:
        """Point by point, how far the two are apart; ``values`` says on what."""
        return Trial(
            values,
            tuple(
                Point(name, other, squeezed(one), relative_difference(one, two))
                for (name, one), (other, two) in zip(*self.points, strict=True)
            ),
        )

    def effects(self) -> Effects:
        """How far each part moves the source and the target."""
        ours, theirs = self.moves
        return {
            name: (effect(ours[name], self.values[name]), effect(theirs[name], self.values[name]))
            for name in ours
        }


def effect(gradient: torch.Tensor, value: torch.Tensor) -> float:
    """How far the points move where the whole tensor moves by its own size."""
    return float(gradient.norm()) * size_of(value)


def movements(both: Both, parts: Sequence[Part]) -> tuple[Movement, ...]:
    """What moving each part alone did, by the gradients of what was compared."""
    effects = both.effects()
    loudest = max((max(pair) for pair in effects.values()), default=0.0)
    moved = (part for part in parts if part.name in effects)
    return tuple(_movement(part, both, effects[part.name], loudest) for part in moved)


def _movement(part: Part, both: Both, effects: tuple[float, float], loudest: float) -> Movement:
    name, targets = part.name, part.targets
    if max(effects) <= UNHEARD * loudest:
        # It may move what the whole network returns, though not what could be compared.
        at_the_end = (effect(moves[name], both.values[name]) for moves in both.ends)
        return Movement(name, targets, BEHIND if max(at_the_end, default=0) > UNHEARD else UNSEEN)
    ours, theirs = (moves[name] for moves in both.moves)
    difference = _difference(ours, theirs)
    noise = ROUNDING * loudest / max(effects)
    verdict = EQUALLY if difference <= TOLERANCE + noise else OTHERWISE
    return Movement(name, targets, verdict, difference)


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    larger = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / larger if larger else 0.0


def seen_at_last(random: Iterable[Movement], own: Iterable[Movement]) -> tuple[Movement, ...]:
    """Random values may drive an activation so far that nothing moves it: the checkpoint's own
    then have the word.
    """
    by_source = {move.source: move for move in own}
    return tuple(by_source[move.source] if move.verdict == UNSEEN else move for move in random)


def misplaced(both: Both, parts: Sequence[Part]) -> tuple[Movement, ...]:
    """With one value for each shape: whose place in the target a part has.

    A part in its place moves the target as it moves the source; one in another's place moves it
    as that other moves the source.
    """
    return tuple(
        replace(move, acts_as=tuple(_acts_as(both.moves[0], both.moves[1][move.source])))
        if move.verdict == OTHERWISE
        else move
        for move in movements(both, parts)
    )


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


def hidden(loud: Effects, quiet: Effects) -> tuple[str, ...]:
    """Tensors that random values showed and that the checkpoint's own hide."""
    most = max((pair[0] for pair in loud.values()), default=0.0)
    own = max((pair[0] for pair in quiet.values()), default=0.0)
    return tuple(
        name for name in loud if loud[name][0] > UNHEARD * most and quiet[name][0] <= UNHEARD * own
    )
