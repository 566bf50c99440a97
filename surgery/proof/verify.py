"""Two networks and a plan -> a :class:`~surgery.proof.proof.Proof`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgery.errors import SurgeryError
from surgery.networks.inputs import Example, examples, own_shapes
from surgery.proof.comparison import relative_difference, size_of
from surgery.proof.outputs import main_output
from surgery.proof.parts import Part, by_part, parts_of
from surgery.proof.proof import (
    ALIKE,
    BEHIND,
    OTHERWISE,
    TOLERANCE,
    UNSEEN,
    Movement,
    Point,
    Proof,
    Setting,
    Trial,
)
from surgery.proof.running import Named, Run, Side, as_leaves, gradients, run
from surgery.proof.settings import (
    differing_attributes,
    differing_settings,
    first_difference,
    merged,
    place_of,
    shared_calls,
)
from surgery.proof.values import is_inexact, random_values, squeezed, values_by_shape

if TYPE_CHECKING:
    import torch

#: Below this share of the largest effect of any tensor, an effect is rounding.
UNHEARD = 1e-10
#: What rounding may make of an effect, as a share of the largest.
ROUNDING = 1e-12

Gradients = Mapping[str, "torch.Tensor"]
#: How far each tensor moves the source and the target.
Effects = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class _Both:
    """One set of values through both networks: the points, and how they move.

    ``values``, ``moves`` and ``ends`` are by the names of parts.
    """

    values: Mapping[str, torch.Tensor]
    runs: tuple[Run, Run]
    points: tuple[Named, Named]
    moves: tuple[Gradients, Gradients]
    ends: tuple[Gradients, Gradients] | None

    def trial(self, values: str) -> Trial:
        return Trial(
            values,
            tuple(
                Point(name, other, squeezed(one), relative_difference(one, two))
                for (name, one), (other, two) in zip(*self.points, strict=True)
            ),
        )


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
    if shape or not proof.networks_differ or any(map(_is_argument, proof.settings)):
        return proof
    # Windows as large as the whole of a small image are shifted by some and not by others.
    for made_for in _agreed_on(source, target, own, seed):
        other = _proof_on(source, target, own, made_for, seed)
        if other.holds:
            note = f"on {proof.shown} they differ by {proof.largest:.1e}; it is not their own size"
            return replace(other, notes=(*other.notes, note))
    return proof


def _is_argument(setting: Setting) -> bool:
    """Whether a layer has another hyper-parameter, which no size of the input makes good."""
    return not setting.name.startswith("called")


def _agreed_on(
    source: Side, target: Side, own: Mapping[str, torch.Tensor], seed: int
) -> Iterator[tuple[int, ...]]:
    """Sizes that the networks are made for and on which no setting tells them apart."""
    import torch

    even = values_by_shape(own, parts_of(target.steps.values(), even=True), seed)
    for shape in own_shapes((source.model, target.model)):
        (example,) = examples((source.model, target.model), shape, seed)
        try:
            with torch.no_grad():
                points = _comparable(*(run(side, even, example) for side in (source, target)))
        except Exception:  # one of them takes no such size, and says so in its own way
            continue
        pairs = zip(*points, strict=True)
        if points[0] and all(relative_difference(a, b) <= TOLERANCE for (_, a), (_, b) in pairs):
            yield shape


def _proof_on(
    source: Side,
    target: Side,
    own: Mapping[str, torch.Tensor],
    shape: tuple[int, ...] | None,
    seed: int,
) -> Proof:
    """The proof on one input: of that shape, or the first that suits both."""
    parts, values = parts_of(target.steps.values()), random_values(own, seed)
    example, (source, target) = _fitting(source, target, values, shape, seed)
    # One after the other: two graphs and their gradients at a time are memory enough.
    random = _both(source, target, values, parts, example)
    trial, movements = random.trial("random values"), _movements(random, parts)
    loud = _effects(random)
    whole = [name for name, value in own.items() if not is_inexact(value)]
    del random, values  # as large as the network each
    real = _both(source, target, own, parts, example)
    own_trial, quiet = real.trial("the checkpoint's own values"), _effects(real)
    movements = _seen_at_last(movements, _movements(real, parts))
    del real
    alike = by_shape = None
    if not (trial.agrees and own_trial.agrees):
        parts = parts_of(target.steps.values(), even=True)
        even = values_by_shape(own, parts, seed)
        alike = _both(source, target, even, parts, example, copies=True)
        by_shape = alike.trial("one value for all tensors of a shape")
        movements = _misplaced(alike, parts) if by_shape.agrees else movements
    told = by_shape is not None and not by_shape.agrees
    return Proof(
        source.label,
        target.label,
        example.text,
        trial,
        own_trial,
        movements,
        by_shape=by_shape,
        settings=_settings(source, target, alike) if alike and told else (),
        first=_first(alike) if alike and told else "",
        hidden=_hidden(loud, quiet),
        notes=(
            *_notes(source, target, whole),
            *(_of_chance((source, target), own, example, seed) if by_shape else ()),
        ),
        adapted=tuple(target.adapted.items()),
    )


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
    if target.adapted:
        name, adapter = next(iter(target.adapted.items()))
        advice = (
            f"{name} is adapted ({adapter}), and where that changes the input nothing is proven"
        )
    raise SurgeryError(f"no input was found that both networks take; {advice}", list(refused)[:8])


def _heard(side: Side, values: Mapping[str, torch.Tensor], example: Example) -> Side:
    """The side without those foreign tensors that move nothing it returns."""
    import torch

    if not side.foreign:
        with torch.no_grad():
            run(side, values, example)
        return side
    moves = _foreign_moves(side, values, example)
    return side.without(name for name in side.foreign if moves.get(name, 0.0) <= UNHEARD)


def _foreign_moves(
    side: Side, values: Mapping[str, torch.Tensor], example: Example
) -> dict[str, float]:
    found = run(side, values, example)
    scales = [size_of(value) for _, value in found.outputs]
    moves = gradients(found.outputs, found.foreign, scales)
    return {name: _effect(moves[name], found.foreign[name]) for name in moves}


def _both(
    source: Side,
    target: Side,
    values: Mapping[str, torch.Tensor],
    parts: Sequence[Part],
    example: Example,
    *,
    copies: bool = False,
) -> _Both:
    leaves = as_leaves(values)
    runs = (
        run(source, leaves, example, copies=copies),
        run(target, leaves, example, copies=copies),
    )
    points = _comparable(*runs)
    scales = [size_of(value) for _, value in points[0]]
    moves = _both_by_part(parts, *(gradients(shown, leaves, scales) for shown in points))
    ends = None
    if any(shown is not each.outputs for shown, each in zip(points, runs, strict=True)):
        ends = _both_by_part(parts, *(_end_moves(each, leaves) for each in runs))
    shut = tuple([(name, value.detach()) for name, value in shown] for shown in points)
    left = (runs[0].settled(copies=copies), runs[1].settled(copies=copies))
    return _Both(by_part(parts, values), left, (shut[0], shut[1]), moves, ends)


def _both_by_part(
    parts: Sequence[Part], ours: Gradients, theirs: Gradients
) -> tuple[Gradients, Gradients]:
    return by_part(parts, ours), by_part(parts, theirs)


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
    for call, other in reversed(shared_calls(source.calls, target.calls)):
        if call.clean and other.clean and squeezed(call.gave) == squeezed(other.gave):
            name = f"{call.name} of {place_of(call.key)}"
            return [(name, call.gave)], [(name, other.gave)]
    return [], []


def _effect(gradient: torch.Tensor, value: torch.Tensor) -> float:
    """How far the points move where the whole tensor moves by its own size."""
    return float(gradient.norm()) * size_of(value)


def _movements(both: _Both, parts: Sequence[Part]) -> tuple[Movement, ...]:
    """What moving each part alone did, by the gradients of what was compared."""
    effects = _effects(both)
    loudest = max((max(pair) for pair in effects.values()), default=0.0)
    moved = (part for part in parts if part.name in effects)
    return tuple(_movement(part, both, effects[part.name], loudest) for part in moved)


def _seen_at_last(random: Iterable[Movement], own: Iterable[Movement]) -> tuple[Movement, ...]:
    """Random values may drive an activation so far that nothing moves it: the checkpoint's own
    then have the word.
    """
    by_source = {move.source: move for move in own}
    return tuple(by_source[move.source] if move.verdict == UNSEEN else move for move in random)


def _effects(both: _Both) -> Effects:
    ours, theirs = both.moves
    return {
        name: (_effect(ours[name], both.values[name]), _effect(theirs[name], both.values[name]))
        for name in ours
    }


def _movement(part: Part, both: _Both, effects: tuple[float, float], loudest: float) -> Movement:
    name, targets = part.name, part.targets
    if max(effects) <= UNHEARD * loudest:
        return Movement(name, targets, BEHIND if _acts_behind(name, both) else UNSEEN)
    ours, theirs = (moves[name] for moves in both.moves)
    apart = _apart(ours, theirs)
    noise = ROUNDING * loudest / max(effects)
    return Movement(name, targets, ALIKE if apart <= TOLERANCE + noise else OTHERWISE, apart)


def _acts_behind(name: str, both: _Both) -> bool:
    """Whether it moves what the whole network returns, though not what could be compared."""
    return any(_effect(moves[name], both.values[name]) > UNHEARD for moves in both.ends or ())


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    larger = max(float(one.norm()), float(other.norm()))
    return float((one - other).norm()) / larger if larger else 0.0


def _misplaced(alike: _Both, parts: Sequence[Part]) -> tuple[Movement, ...]:
    """With one value for each shape: whose place in the target a part has.

    A part in its place moves the target as it moves the source; one in another's place moves it
    as that other moves the source.
    """
    ours, theirs = alike.moves
    return tuple(
        Movement(
            move.source, move.targets, OTHERWISE, move.difference, tuple(_like(move, ours, theirs))
        )
        if move.verdict == OTHERWISE
        else move
        for move in _movements(alike, parts)
    )


def _like(move: Movement, ours: Gradients, theirs: Gradients) -> Iterator[str]:
    acting = theirs[move.source]
    for name, gradient in ours.items():
        if squeezed(gradient) != squeezed(acting):
            continue
        same = _apart(gradient.reshape(acting.shape), acting)
        turned = _turned(gradient, acting)
        if same <= TOLERANCE * 1e3:
            yield name
        elif turned <= TOLERANCE * 1e3:
            yield f"{name}, transposed"


def _turned(gradient: torch.Tensor, acting: torch.Tensor) -> float:
    shape = squeezed(gradient)
    if len(shape) != 2 or shape[0] != shape[1]:
        return float("inf")
    return _apart(gradient.reshape(shape).T, acting.reshape(shape))


def _settings(source: Side, target: Side, alike: _Both) -> tuple[Setting, ...]:
    calls = differing_settings(alike.runs[0].calls, alike.runs[1].calls)
    return merged(calls, differing_attributes(source, target))


def _first(alike: _Both) -> str:
    return first_difference(alike.runs[0].calls, alike.runs[1].calls)


def _hidden(loud: Effects, quiet: Effects) -> tuple[str, ...]:
    """Tensors that random values showed and that the checkpoint's own hide."""
    most = max((pair[0] for pair in loud.values()), default=0.0)
    own = max((pair[0] for pair in quiet.values()), default=0.0)
    return tuple(
        name for name in loud if loud[name][0] > UNHEARD * most and quiet[name][0] <= UNHEARD * own
    )


def _of_chance(
    sides: Iterable[Side], own: Mapping[str, torch.Tensor], example: Example, seed: int
) -> Iterator[str]:
    """Both sides draw from one seed; in another order they draw other numbers all the same."""
    import torch

    values = random_values(own, seed)
    for side in sides:
        with torch.no_grad():
            one, other = (run(side, values, example, seed=seed).outputs for seed in (0, 1))
        pairs = zip(one, other, strict=True)
        if any(relative_difference(a, b) > TOLERANCE for (_, a), (_, b) in pairs):
            yield f"{side.label} draws random numbers in eval mode: two of its own runs differ"


def _notes(source: Side, target: Side, whole: Sequence[str]) -> Iterator[str]:
    if whole:
        yield f"integers are not moved: {len(whole)} tensors, the first is {whole[0]}"
    yield from filter(None, (source.note, target.note))
    for side in (source, target):
        if names := sorted(side.foreign - side.adapted.keys()):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            yield (
                f"not transferred in {side.label}: {', '.join(names[:3])}{more}; what it acts "
                "on is not compared"
            )
