"""Which known architectures a file's names and shapes are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from surgery.report.folding import TENSORS, collapsed_rows
from surgery.report.tables import Column, Report, Table
from surgery.report.texts import counted, percent_text
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    from surgery.networks.identification import Candidate, Differing, Identification


def identification_report(found: Identification, *, heading: Sequence[str] = ()) -> Report:
    """The best candidates with their shares, who is the same as whom, and what the best differs in.

    Shares are cut, never rounded up: 100% is said of nothing less.
    """
    columns = (
        Column("architecture"),
        Column("share", number=True),
        Column("of architecture", number=True),
        Column("of file", number=True),
        Column("head"),
        Column("what differs"),
    )
    rows = tuple(_candidate_row(candidate) for candidate in found.candidates)
    best = found.candidates[0] if found.candidates else None
    return Report(
        (*heading, _identified_text(found)),
        (
            Table("nearest", columns, rows, "good" if found.fits else "odd"),
            *(_differing_tables(best) if best and found.fits else ()),
        ),
        tuple(_identification_notes(found)),
    )


def _identified_text(found: Identification) -> str:
    compared = f"{counted(found.tensors, 'tensor')} compared with {found.known:,} architectures"
    if not found.fits:
        return f"nothing known fits: {compared}, none of which is at least half in this file"
    best = found.candidates[0]
    more = len(best.architectures) - 1
    also = f" (and {more} more that are the same)" if more else ""
    below = f", below {best.prefix.removesuffix('.')}" if best.prefix else ""
    whole = "every tensor" if best.is_whole else percent_text(best.share)
    head = {"other": ", with another head", "missing": ", without its head"}.get(best.head, "")
    return f"{best.architectures[0]}{also}: {whole}{head}{below}; {compared}"


def _candidate_row(candidate: Candidate) -> tuple[str, ...]:
    more = len(candidate.architectures) - 1
    return (
        candidate.architectures[0] + (f" +{more}" if more else ""),
        percent_text(candidate.share),
        percent_text(candidate.of_architecture),
        percent_text(candidate.of_file),
        candidate.head if candidate.head != "none" else "",
        _differing_text(candidate.differing),
    )


def _differing_text(differing: Sequence[Differing]) -> str:
    counts = Counter(_how_differing(tensor) for tensor in differing)
    return ", ".join(f"{counts[how]:,} {how}" for how in _DIFFERENCES if counts[how]) or "nothing"


_DIFFERENCES = ("of another shape", "missing", "more in the file")


def _how_differing(tensor: Differing) -> str:
    if tensor.in_file is None:
        return "missing"
    return "more in the file" if tensor.in_architecture is None else "of another shape"


def _differing_tables(best: Candidate) -> Iterator[Table]:
    """Titles as in the column above; a shape each, folded by layer."""
    for how, title in zip(
        _DIFFERENCES,
        (
            "of another shape than in {}",
            "in {}, and missing in the file",
            "in the file, and not in {}",
        ),
        strict=True,
    ):
        tensors = [tensor for tensor in best.differing if _how_differing(tensor) == how]
        rows = collapsed_rows((_shown_spec(t), _expected_text(t)) for t in tensors)
        columns = (*TENSORS, Column("expected")) if how == _DIFFERENCES[0] else TENSORS
        cut = tuple(row[: len(columns)] for row in rows)
        yield Table(title.format(best.architectures[0]), columns, cut, "odd")


def _shown_spec(tensor: Differing) -> TensorSpec:
    shape = tensor.in_architecture if tensor.in_file is None else tensor.in_file
    return TensorSpec(tensor.name, shape or (), "float32")


def _expected_text(tensor: Differing) -> str:
    shape = tensor.in_architecture if tensor.in_file is not None else None
    return "" if shape is None else f"({', '.join(map(str, shape))})"


def _identification_notes(found: Identification) -> Iterator[str]:
    best = found.candidates[0] if found.fits else None
    if best and len(best.architectures) > 1:
        yield (
            "their weights have the same names and shapes, so the file cannot tell them apart: "
            + ", ".join(best.architectures)
        )
    for architecture, why in found.unknown:
        yield f"{architecture} could not be built here and was not compared: {why}"
