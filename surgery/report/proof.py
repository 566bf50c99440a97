"""Whether two networks compute the same, and what speaks against it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from surgery.report.folding import patterns
from surgery.report.tables import Column, Report, Table
from surgery.report.texts import counted
from surgery.transfers.refusal import first_lines

if TYPE_CHECKING:
    from surgery.proof.proof import Movement, Proof


def proof_report(proof: Proof, *, heading: Sequence[str] = ()) -> Report:
    """The verdict, what was compared and how near it came, then what speaks against it."""
    return Report(
        headline=(*heading, proof.verdict, _trials_text(proof)),
        tables=(_against_table(proof), _settings_table(proof)),
        notes=tuple(_proof_notes(proof)),
    )


def proof_lines(proof: Proof) -> tuple[str, ...]:
    """The same in a few lines, below an error."""
    moves = () if proof.networks_differ else proof.contrary
    swaps = [
        f"{', '.join(move.targets) or 'nothing'} takes {move.source}, and {_acts(move)}"
        for move in sorted(moves, key=lambda move: not move.acts_as)
    ]
    behind = [_behind_text(proof)] if proof.behind else []
    settings = [
        f"{places}: {name} is {source} in the source, {target} in the target"
        for places, name, source, target in _settings_rows(proof)
    ]
    first = [f"the first difference: {proof.first}"] if proof.first else []
    return (_trials_text(proof), *first_lines(swaps, 8), *behind, *first, *first_lines(settings, 8))


def _trials_text(proof: Proof) -> str:
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
    return f"{text}; moved alone, {moved:,} of {total} move both alike"


def _against_table(proof: Proof) -> Table:
    columns = (
        Column("source"),
        Column("target"),
        Column("difference", number=True),
        Column("what it does"),
    )
    moves = () if proof.networks_differ else proof.contrary[:40]
    rows = tuple(
        (move.source, ", ".join(move.targets), f"{move.difference:.1e}", _acts_text(move))
        for move in moves
    )
    return Table("tensors that speak against it", columns, rows, "odd")


def _acts_text(move: Movement) -> str:
    return _acts(move) if move.acts_as else move.verdict


def _acts(move: Movement) -> str:
    acts_as = " or ".join(move.acts_as)
    return f"acts as {acts_as}" if acts_as else "moves the two networks differently"


def _behind_text(proof: Proof) -> str:
    behind = patterns(move.source for move in proof.behind)
    return f"these act only on what cannot be compared, so nothing is said of them: {behind}"


def _settings_table(proof: Proof) -> Table:
    columns = (Column("where"), Column("what"), Column("source"), Column("target"))
    return Table("hyper-parameters that differ", columns, tuple(_settings_rows(proof)), "odd")


def _settings_rows(proof: Proof) -> Iterator[tuple[str, str, str, str]]:
    """One row for all places that differ in the same."""
    by_text: dict[tuple[str, str, str], dict[str, None]] = {}
    for setting in proof.settings:
        text = (setting.name, setting.source, setting.target)
        by_text.setdefault(text, {})[setting.place] = None
    for text, places in by_text.items():
        yield (patterns(places), *text)


def _proof_notes(proof: Proof) -> Iterator[str]:
    if proof.networks_differ:
        yield (
            "they differ whichever of the tensors of one shape goes where; whether each is in its "
            "own place can be told once they agree"
        )
        if not proof.settings:
            yield (
                "no hyper-parameter shows why: look before the first difference, and at the order "
                "of rows in fused tensors (q, k and v in turn, or head by head)"
            )
    if proof.first:
        yield f"the first difference: {proof.first}"
    if unseen := [move.source for move in proof.unseen]:
        yield f"moved alone, these move neither network: {patterns(unseen)}"
    if proof.behind:
        yield _behind_text(proof)
    if proof.hidden:
        yield f"the checkpoint's own values hide what these do: {patterns(proof.hidden)}"
    if proof.adapted:
        yield f"adapted, so no part of the claim: {_adapted_text(proof)}"
    yield from proof.notes


def _adapted_text(proof: Proof) -> str:
    by_adapter: dict[str, list[str]] = {}
    for name, adapter in proof.adapted:
        by_adapter.setdefault(adapter, []).append(name)
    return "; ".join(f"{patterns(names)} ({adapter})" for adapter, names in by_adapter.items())
