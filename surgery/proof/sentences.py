"""What a proof found, in sentences: below the error of one that fails, and in its report."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.collapse import patterns
from surgery.proof.proof import Movement, Proof
from surgery.wording import counted, first_lines


def proof_lines(proof: Proof) -> tuple[str, ...]:
    """What was compared, how near it came and what speaks against it, in a few lines."""
    moves = () if proof.networks_differ else proof.contrary
    swaps = [
        f"{', '.join(move.targets) or 'nothing'} takes {move.source}, and {effect(move)}"
        for move in sorted(moves, key=lambda move: not move.acts_as)
    ]
    settings = [
        f"{places}: {name} is {source} in the source, {target} in the target"
        for places, name, source, target in settings_rows(proof)
    ]
    return (
        compared_text(proof),
        *first_lines(swaps, 8),
        *unseen_lines(proof),
        *first_lines(settings, 8),
    )


def compared_text(proof: Proof) -> str:
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


def effect(move: Movement) -> str:
    """What a tensor does that moves the two networks differently."""
    acts_as = " or ".join(move.acts_as)
    return f"acts as {acts_as}" if acts_as else "moves the two networks differently"


def unseen_lines(proof: Proof) -> Iterator[str]:
    """Of which tensors nothing is known, and where the two networks part first."""
    if proof.behind:
        behind = patterns(move.source for move in proof.behind)
        yield f"these act only on what cannot be compared, so nothing is said of them: {behind}"
    if proof.first:
        yield f"the first difference: {proof.first}"


def settings_rows(proof: Proof) -> Iterator[tuple[str, str, str, str]]:
    """(places, hyper-parameter, its value in the source, in the target), one for all places that
    differ in the same.
    """
    by_text: dict[tuple[str, str, str], list[str]] = {}
    for setting in proof.settings:
        text = (setting.name, setting.source, setting.target)
        by_text.setdefault(text, []).append(setting.place)
    for text, places in by_text.items():
        yield (patterns(places), *text)
