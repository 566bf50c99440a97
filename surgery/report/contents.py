"""What a file holds, what checking it found, and what became of it in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from surgery.checkpoint import Contents
from surgery.checkpoint.conversion import ConversionOutcome
from surgery.checkpoint.holding import StateDict
from surgery.checkpoint.verification import Finding, Verification, tensor_label
from surgery.collapse import collapse_kinds
from surgery.report import report_of
from surgery.report.folding import TENSORS, broken_notes, fold_tensors, named
from surgery.report.tables import Column, Report, Table, text_table
from surgery.specs import TensorSpec
from surgery.wording import bytes_text, counted


@report_of.register(Contents)
def contents_report(
    contents: Contents,
    *,
    heading: Sequence[str] = (),
    verification: Verification | None = None,
) -> Report:
    """What a file holds: every state dict's tensors, then what lies beside them.

    With a ``verification`` what is amiss comes first.
    """
    states = contents.state_dicts
    alone = len(states) == 1
    return Report(
        headline=(*heading, _contents_text(contents), *_verified_text(verification)),
        tables=(
            *(_verification_tables(verification, alone) if verification else ()),
            *(table for state in states for table in _state_dict_tables(state, alone)),
            text_table("cannot be transferred", ("name", "what"), _unlisted(states, alone), "odd"),
            text_table("beside them", _PAIR, ((key or ".", what) for key, what in contents.others)),
            text_table("not imported", ("global that the file names",), zip(contents.opaque)),
        ),
    )


_PAIR = ("name", "value")


def _contents_text(contents: Contents) -> str:
    total = sum(len(state.places) for state in contents.state_dicts)
    return (
        f"{contents.path}: {contents.format}, {bytes_text(contents.size)}, "
        f"{counted(len(contents.state_dicts), 'state dict')}, {counted(total, 'tensor')}"
    )


def _state_dict_tables(state: StateDict, alone: bool) -> Iterator[Table]:
    """Its tensors, the ties between them, and the metadata kept with it."""
    whose = "" if alone else f" of {state.key or '.'!r}"
    title = "tensors" if state.key is None and alone else f"state dict {state.key or '.'!r}"
    columns = (*TENSORS, Column("dtype"), Column("size", number=True))
    specs, ties = state.specs, state.ties
    yield Table(f"{title}: {_state_dict_text(specs, ties)}", columns, _sized_rows(specs))
    yield text_table(f"tied{whose}", ("names of one tensor",), zip(map(" = ".join, ties)))
    texts = (
        (key, value if len(value) <= 60 else f"{len(value):,} characters of text")
        for key, value in state.metadata.items()
    )
    yield text_table(f"metadata{whose}", _PAIR, texts)


def _state_dict_text(specs: Sequence[TensorSpec], ties: Iterable[Sequence[str]]) -> str:
    """Tensors by name; elements and bytes with a tied tensor counted once."""
    repeated = {name for names in ties for name in names[1:]}
    once = [spec for spec in specs if spec.name not in repeated]
    dtypes = Counter(spec.dtype for spec in specs)
    kinds = [dtype if len(dtypes) == 1 else f"{n:,} {dtype}" for dtype, n in dtypes.most_common()]
    return ", ".join(
        (
            counted(len(specs), "tensor"),
            f"{sum(spec.numel for spec in once):,} elements",
            bytes_text(sum(spec.nbytes for spec in once)),
            *kinds,
        )
    )


def _sized_rows(specs: Sequence[TensorSpec]) -> tuple[tuple[str, ...], ...]:
    sizes = {spec.name: spec.nbytes for spec in specs}
    return tuple(
        (*cells, dtype, bytes_text(sum(sizes[name] for name in names)))
        for cells, names, dtype in fold_tensors((spec, spec.dtype) for spec in specs)
    )


def _unlisted(states: Iterable[StateDict], alone: bool) -> Iterator[tuple[str, str]]:
    for state in states:
        for name, what in state.unlisted:
            yield (name if alone else f"{state.key or '.'}: {name}"), what


def _verified_text(verification: Verification | None) -> Iterator[str]:
    if verification:
        tensors = counted(verification.tensors, "tensor")
        nbytes = bytes_text(verification.nbytes)
        yield f"verified {tensors}, {nbytes}: {_checked_text(verification)}"


@report_of.register(Verification)
def verification_report(verification: Verification, *, heading: Sequence[str] = ()) -> Report:
    """What reading all of one file showed, in a line."""
    return Report((*heading, f"{verification.path}: {_checked_text(verification)}"))


def _checked_text(verification: Verification) -> str:
    special = f"{verification.nan:,} NaN and {verification.inf:,} Inf"
    return f"{_checksums_text(verification)}; {special}"


def _checksums_text(verification: Verification) -> str:
    damaged = sum(finding.damaged for finding in verification.findings)
    if damaged:
        return f"{counted(damaged, 'tensor')} DAMAGED, at odds with the checksum in the file"
    if verification.damaged_parts:
        return "DAMAGED, though in no tensor shown here"
    if not verification.unchecked:
        return "every checksum agrees"
    if verification.unchecked == verification.nbytes:
        return "the file records no checksums, so damage would not show"
    return f"checksums agree, but {bytes_text(verification.unchecked)} have none"


def _verification_tables(verification: Verification, alone: bool) -> Iterator[Table]:
    columns = (
        *TENSORS[:2],
        Column("bytes"),
        Column("NaN", number=True),
        Column("Inf", number=True),
        Column("elements", number=True),
    )
    yield Table("amiss", columns, tuple(_finding_rows(verification.findings, alone)), "odd")
    parts = zip(verification.damaged_parts)
    yield text_table("damaged besides", ("part of the file",), parts, "odd")


def _finding_rows(findings: Iterable[Finding], alone: bool) -> Iterator[tuple[str, ...]]:
    """Damaged ones first; findings of one kind folded by layer, their counts are sums."""
    found = {
        " = ".join(tensor_label(name, alone=alone) for name in finding.names): finding
        for finding in sorted(findings, key=lambda finding: not finding.damaged)
    }
    for folded, damaged in collapse_kinds({name: each.damaged for name, each in found.items()}):
        group = [found[name] for name in folded.names]
        counts = ((each.nan, each.inf, each.elements) for each in group)
        sums = map(sum, zip(*counts, strict=True))
        yield (*named(folded), "damaged" if damaged else "", *(f"{number:,}" for number in sums))


@report_of.register(ConversionOutcome)
def conversion_report(outcome: ConversionOutcome, *, heading: Sequence[str] = ()) -> Report:
    """What a conversion wrote, cast, broke and left out."""
    conversion = outcome.conversion
    casts = [f"{counted(n, 'tensor')} cast {cast}" for cast, n in conversion.casts.items()]
    total = f"{counted(len(conversion.specs), 'tensor')}, {bytes_text(conversion.nbytes)}"
    return Report(
        (*heading, "; ".join((total, *casts))),
        (text_table("left out", _PAIR, conversion.left_out),),
        broken_notes(outcome.overflowed),
    )
