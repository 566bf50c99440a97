"""Whether two networks compute the same, and what speaks against it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import TypeVar

from surgery.collapse import patterns
from surgery.proof.proof import Movement, Proof
from surgery.report.tables import Report
from surgery.wording import counted, first_lines

Fact = TypeVar("Fact", bound=Hashable)

#: Lines of a kind that are shown; JSON has all of them.
_MOST = 20


def proof_report(proof: Proof) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    return Report([proof.verdict, _compared_text(proof)], notes=[*_lines(proof)])


def _compared_text(proof: Proof) -> str:
    """What of both was compared on which input, and the largest differences."""
    points = ", ".join(
        point.source if point.source == point.target else f"{point.source} = {point.target}"
        for point in proof.random.points
    )
    text = (
        f"{points or 'nothing'} compared in float64 on {proof.shown}: relative difference "
        f"{proof.random.largest:.1e} with random values in every mapped tensor, "
        f"{proof.own.largest:.1e} with the checkpoint's own"
    )
    if proof.networks_differ:
        return text
    moved, total = len(proof.moved), counted(len(proof.movements), "tensor")
    return f"{text}; moved alone, {moved:,} of {total} move both equally"


def _lines(proof: Proof) -> Iterator[str]:
    """What speaks against it, what nothing is known of, and what else a reader has to know."""
    if proof.networks_differ:
        yield (
            "they differ whichever of the tensors of one shape goes where; whether each is in its "
            "own place can be said once they agree"
        )
        if not proof.settings:
            yield (
                "no hyper-parameter shows why: look before the first difference, and at the order "
                "of rows in fused tensors (q, k and v in turn, or head by head)"
            )
    else:
        moves = sorted(proof.contrary, key=lambda move: not move.acts_as)
        yield from first_lines([_misplaced(move) for move in moves], _MOST)
    if proof.first:
        yield f"the first difference: {proof.first}"
    settings = ((s.place, (s.name, s.source, s.target)) for s in proof.settings)
    differing = [
        f"{places}: {name} is {source} in the source, {target} in the target"
        for (name, source, target), places in _grouped(settings)
    ]
    yield from first_lines(differing, _MOST)
    if behind := [move.source for move in proof.behind]:
        yield (
            "these act only on what cannot be compared, so nothing is said of them: "
            f"{patterns(behind)}"
        )
    if unseen := [move.source for move in proof.unseen]:
        yield f"moved alone, these move neither network: {patterns(unseen)}"
    if proof.hidden:
        yield f"the checkpoint's own values hide what these do: {patterns(proof.hidden)}"
    if proof.resized:
        resized = (f"{names} ({how})" for how, names in _grouped(proof.resized))
        yield f"resized, so no part of the claim: {'; '.join(resized)}"
    yield from proof.notes


def _misplaced(move: Movement) -> str:
    acts_as = " or ".join(move.acts_as)
    effect = f"acts as {acts_as}" if acts_as else "moves the two networks differently"
    return f"{', '.join(move.targets) or 'nothing'} takes {move.source}, and {effect}"


def _grouped(pairs: Iterable[tuple[str, Fact]]) -> Iterator[tuple[Fact, str]]:
    """Facts, each with the pattern of all names that it is true of."""
    names: dict[Fact, list[str]] = {}
    for name, fact in pairs:
        names.setdefault(fact, []).append(name)
    for fact, found in names.items():
        yield fact, patterns(found)
