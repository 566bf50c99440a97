"""Which known architectures a file's names and shapes are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from surgery.networks.identification import Candidate, Differing, Identification
from surgery.report.folding import TENSORS, tensor_rows
from surgery.report.tables import Columns, Report, Table, number
from surgery.specs import TensorSpec
from surgery.wording import counted, percent_text, shape_text


def identification_report(found: Identification) -> Report:
    """The best candidates with their shares, who is the same as whom, and what the best differs in.

    Shares are cut, never rounded up: 100% is said of nothing less.
    """
    shares = map(number, ("share", "of architecture", "of file"))
    columns: Columns = ("architecture", *shares, "head", "what differs")
    rows = [_candidate_row(candidate) for candidate in found.candidates]
    tables = [Table("nearest", columns, rows, "good" if found.fits else "odd")]
    notes = []
    if found.fits:
        best = found.candidates[0]
        tables.append(_differing_table(best))
        if len(best.architectures) > 1:
            notes.append(
                "their weights have the same names and shapes, so the file cannot distinguish "
                f"them: {', '.join(best.architectures)}"
            )
    for architecture, why in found.unknown:
        notes.append(f"{architecture} could not be built here and was not compared: {why}")
    return Report([_identified_text(found)], tables, notes)


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
    counts = Counter(_difference(tensor) for tensor in differing)
    parts = (f"{counts[how]:,} {how}" for how in sorted(counts, reverse=True))
    return ", ".join(parts) or "nothing"


def _difference(tensor: Differing) -> str:
    if tensor.in_file is None:
        return "missing"
    return "more in the file" if tensor.in_architecture is None else "of another shape"


def _differing_table(best: Candidate) -> Table:
    """Folded by layer, with the shapes in the file but for what is missing there."""
    rows = tensor_rows(
        (TensorSpec(each.name, _shape(each), "float32"), _expected(each))
        for each in sorted(best.differing, key=_difference, reverse=True)
    )
    title = f"differs from {best.architectures[0]}"
    return Table(title, (*TENSORS, "what differs"), rows, "odd")


def _shape(tensor: Differing) -> tuple[int, ...]:
    return (tensor.in_architecture if tensor.in_file is None else tensor.in_file) or ()


def _expected(tensor: Differing) -> str:
    if tensor.in_file is None or tensor.in_architecture is None:
        return _difference(tensor)
    return f"expected {shape_text(tensor.in_architecture)}"
