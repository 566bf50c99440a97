"""Whether two networks compute the same, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator

from surgery.collapse import patterns
from surgery.proof.proof import Proof
from surgery.proof.sentences import compared_text, effect, settings_rows, unseen_lines
from surgery.report.tables import Report, Table, number

_MOST_MOVES = 40


def proof_report(proof: Proof) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    moves = () if proof.networks_differ else proof.contrary[:_MOST_MOVES]
    rows = [
        (
            move.source,
            ", ".join(move.targets),
            f"{move.difference:.1e}",
            effect(move) if move.acts_as else move.verdict,
        )
        for move in moves
    ]
    against = ("source", "target", number("difference"), "what it does")
    settings = ("where", "what", "source", "target")
    return Report(
        headline=(proof.verdict, compared_text(proof)),
        tables=(
            Table("tensors that speak against it", against, rows, "odd"),
            Table("hyper-parameters that differ", settings, [*settings_rows(proof)], "odd"),
        ),
        notes=[*_proof_notes(proof)],
    )


def _proof_notes(proof: Proof) -> Iterator[str]:
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
    if unseen := [move.source for move in proof.unseen]:
        yield f"moved alone, these move neither network: {patterns(unseen)}"
    yield from unseen_lines(proof)
    if proof.hidden:
        yield f"the checkpoint's own values hide what these do: {patterns(proof.hidden)}"
    if proof.resized:
        yield f"resized, so no part of the claim: {_resized_text(proof)}"
    yield from proof.notes


def _resized_text(proof: Proof) -> str:
    by_resizer: dict[str, list[str]] = {}
    for name, resizer in proof.resized:
        by_resizer.setdefault(resizer, []).append(name)
    return "; ".join(f"{patterns(names)} ({resizer})" for resizer, names in by_resizer.items())
