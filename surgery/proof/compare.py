"""Two sides -> a :class:`~surgery.proof.proof.Proof`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch

from surgery.errors import SurgeryError
from surgery.networks.inputs import Example, examples, own_shapes
from surgery.proof.movements import UNHEARD, effect, end_moves, run_both
from surgery.proof.parts import parts_of
from surgery.proof.proof import TOLERANCE, UNSEEN, Proof
from surgery.proof.running import run
from surgery.proof.settings import differences
from surgery.proof.sides import Side, Sides
from surgery.proof.values import (
    is_inexact,
    random_values,
    relative_difference,
    values_by_shape,
)
from surgery.wording import listed


def prove(sides: Sides, shape: tuple[int, ...] | None = None) -> Proof:
    """Run both sides on the same input and values, and compare what they give and how it moves.

    Raises :class:`~surgery.errors.SurgeryError` where no input suits both networks.
    """
    heard, example = _fitting(sides, shape)
    proof = _compared(heard, example)
    if proof.random.agrees and proof.own.agrees:
        return proof
    proof = _explained(proof, heard, example)
    # A layer with another hyper-parameter is made good by no size of the input.
    arguments = any(not setting.name.startswith("called") for setting in proof.settings)
    if shape or not proof.networks_differ or arguments:
        return proof
    # Windows as large as the whole of a small image are shifted by some and not by others.
    for made_for in own_shapes((sides.source.model, sides.target.model)):
        try:
            other = _compared(*_fitting(sides, made_for))
        except SurgeryError:  # one of them takes no such size
            continue
        if other.holds:
            note = f"on {proof.shown} they differ by {proof.largest:.1e}; it is not their own size"
            return replace(other, notes=(*other.notes, note))
    return proof


def _compared(sides: Sides, example: Example) -> Proof:
    """With random values and with the checkpoint's own, one after the other: two graphs and their
    gradients at a time are memory enough.
    """
    parts = parts_of(sides.target.recipes)
    values = random_values(sides.own)
    random, loud = run_both(sides, "random values", values, parts, example)[:2]
    own, quiet = run_both(sides, "the checkpoint's own values", sides.own, parts, example)[:2]
    pairs = [*zip(loud, quiet, strict=True)]
    return Proof(
        sides.source.label,
        sides.target.label,
        example.text,
        random,
        own,
        # Random values may drive an activation so far that nothing moves it any more: then the
        # checkpoint's own have the word.
        tuple(last if first.verdict == UNSEEN else first for first, last in pairs),
        hidden=tuple(first.source for first, last in pairs if first.heard and not last.heard),
        notes=tuple(_notes(sides)),
        resized=tuple(sides.target.resized.items()),
    )


def _explained(proof: Proof, sides: Sides, example: Example) -> Proof:
    """Whether tensors are mixed up or the networks differ, and in what."""
    parts = parts_of(sides.target.recipes, even=True)
    values = values_by_shape(sides.own, parts)
    named = "one value for all tensors of a shape"
    by_shape, movements, calls = run_both(sides, named, values, parts, example)
    proof = replace(proof, by_shape=by_shape, notes=(*proof.notes, *_of_chance(sides, example)))
    if by_shape.agrees:
        return replace(proof, movements=movements)
    settings, first = differences(*sides.both, *calls)
    return replace(proof, settings=settings, first=first)


def _fitting(sides: Sides, shape: tuple[int, ...] | None) -> tuple[Sides, Example]:
    """The first input that both take, and both sides, foreign tensors that do nothing dropped."""
    refused: dict[str, None] = {}
    values = random_values(sides.own)
    for example in examples([side.model for side in sides.both], shape):
        heard = []
        for side in sides.both:
            try:
                heard.append(_heard(side, values, example))
            except Exception as error:  # a network refuses an input in its own way
                first = next(iter(str(error).splitlines()), "")
                refused[f"{side.label} on {example.text}: {type(error).__name__}: {first}"] = None
                break
        if len(heard) == 2:
            return replace(sides, source=heard[0], target=heard[1]), example
    resized = (
        f"{name} is resized ({how}), and where that changes the input nothing is proven"
        for name, how in sides.target.resized.items()
    )
    raise SurgeryError(
        "no input was found that both networks take; say its shape without the batch, as in "
        "--input 3x224x224",
        [*resized, *refused],
    )


def _heard(side: Side, values: Mapping[str, torch.Tensor], example: Example) -> Side:
    """The side without those foreign tensors that move nothing it returns."""
    found = run(side, values, example)
    moves = end_moves(found, found.foreign)
    heard = (name for name in moves if effect(moves[name], found.foreign[name]) > UNHEARD)
    return replace(side, foreign=tuple(heard))


def _of_chance(sides: Sides, example: Example) -> Iterator[str]:
    """Both sides draw from one seed; in another order they draw other numbers all the same."""
    values = random_values(sides.own)
    for side in sides.both:
        one, other = (run(side, values, example, seed=seed).outputs for seed in (0, 1))
        pairs = zip(one, other, strict=True)
        if any(relative_difference(ours, theirs) > TOLERANCE for (_, ours), (_, theirs) in pairs):
            yield f"{side.label} draws random numbers in eval mode: two of its own runs differ"


def _notes(sides: Sides) -> Iterator[str]:
    if whole := [name for name, value in sides.own.items() if not is_inexact(value)]:
        yield f"integers are not moved: {len(whole)} tensors, the first is {whole[0]}"
    if sides.note:
        yield sides.note
    for side in sides.both:
        if names := [name for name in side.foreign if name not in side.resized]:
            yield (
                f"not transferred in {side.label}: {listed(names)}; what it acts on is not compared"
            )
