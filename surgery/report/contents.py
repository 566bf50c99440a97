"""What a file holds, what checking it found, and what became of it in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from surgery.checkpoint import Contents
from surgery.checkpoint.conversion import ConversionOutcome
from surgery.checkpoint.holding import StateDict
from surgery.checkpoint.verification import Finding, Verification, tensor_label
from surgery.collapse import collapse_kinds
from surgery.report.folding import TENSORS, Row, broken_notes, fold_tensors, named
from surgery.report.tables import Report, Table, number
from surgery.specs import TensorSpec
from surgery.wording import bytes_text, counted

_PAIR = ("name", "value")


def contents_report(contents: Contents, *, verification: Verification | None = None) -> Report:
    """What a file holds: every state dict's tensors, then what lies beside them.

    With a ``verification`` what is amiss comes first.
    """
    states = contents.state_dicts
    alone = len(states) == 1
    total = sum(len(state.places) for state in states)
    headline = [
        f"{contents.path}: {contents.format}, {bytes_text(contents.size)}, "
        f"{counted(len(states), 'state dict')}, {counted(total, 'tensor')}"
    ]
    tables: list[Table] = []
    if verification:
        tensors, nbytes = counted(verification.tensors, "tensor"), bytes_text(verification.nbytes)
        headline.append(f"verified {tensors}, {nbytes}: {_checked_text(verification)}")
        tables += _verification_tables(verification, alone)
    for state in states:
        tables += _state_dict_tables(state, alone)
    unlisted = [
        (name if alone else f"{state.key or '.'}: {name}", what)
        for state in states
        for name, what in state.unlisted
    ]
    others = [(key or ".", what) for key, what in contents.others]
    tables += [
        Table("cannot be transferred", ("name", "what"), unlisted, "odd"),
        Table("beside them", _PAIR, others),
        Table("not imported", ("global that the file names",), [(x,) for x in contents.opaque]),
    ]
    return Report(headline, tables)


def _state_dict_tables(state: StateDict, alone: bool) -> Iterator[Table]:
    """Its tensors, the ties between them, and the metadata kept with it."""
    whose = "" if alone else f" of {state.key or '.'!r}"
    title = "tensors" if state.key is None and alone else f"state dict {state.key or '.'!r}"
    specs, ties = state.specs, state.ties
    sizes = {spec.name: spec.nbytes for spec in specs}
    rows = [
        (*cells, dtype, bytes_text(sum(sizes[name] for name in names)))
        for cells, names, dtype in fold_tensors((spec, spec.dtype) for spec in specs)
    ]
    columns = (*TENSORS, "dtype", number("size"))
    yield Table(f"{title}: {_state_dict_text(specs, ties)}", columns, rows)
    yield Table(f"tied{whose}", ("names of one tensor",), [(" = ".join(tie),) for tie in ties])
    texts = [
        (key, value if len(value) <= 60 else f"{len(value):,} characters of text")
        for key, value in state.metadata.items()
    ]
    yield Table(f"metadata{whose}", _PAIR, texts)


def _state_dict_text(specs: Sequence[TensorSpec], ties: Iterable[Sequence[str]]) -> str:
    """Tensors by name; elements and bytes with a tied tensor counted once."""
    repeated = {name for names in ties for name in names[1:]}
    once = [spec for spec in specs if spec.name not in repeated]
    dtypes = Counter(spec.dtype for spec in specs)
    kinds = [dtype if len(dtypes) == 1 else f"{n:,} {dtype}" for dtype, n in dtypes.most_common()]
    elements, nbytes = sum(spec.numel for spec in once), sum(spec.nbytes for spec in once)
    sums = (counted(len(specs), "tensor"), f"{elements:,} elements", bytes_text(nbytes))
    return ", ".join((*sums, *kinds))


def verification_report(verification: Verification) -> Report:
    """What reading all of one file showed, in a line."""
    return Report([f"{verification.path}: {_checked_text(verification)}"])


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
    columns = (*TENSORS[:2], "bytes", number("NaN"), number("Inf"), number("elements"))
    yield Table("amiss", columns, list(_finding_rows(verification.findings, alone)), "odd")
    parts = [(part,) for part in verification.damaged_parts]
    yield Table("damaged besides", ("part of the file",), parts, "odd")


def _finding_rows(findings: Iterable[Finding], alone: bool) -> Iterator[Row]:
    """Damaged ones first; findings of one kind folded by layer, their counts are sums."""
    found = {
        " = ".join(tensor_label(name, alone=alone) for name in finding.names): finding
        for finding in sorted(findings, key=lambda finding: not finding.damaged)
    }
    for folded, damaged in collapse_kinds({name: each.damaged for name, each in found.items()}):
        group = [found[name] for name in folded.names]
        counts = ((each.nan, each.inf, each.elements) for each in group)
        sums = map(sum, zip(*counts, strict=True))
        yield (*named(folded), "damaged" if damaged else "", *sums)


def conversion_report(outcome: ConversionOutcome) -> Report:
    """What a conversion wrote, cast, broke and left out."""
    conversion = outcome.conversion
    casts = [f"{counted(n, 'tensor')} cast {cast}" for cast, n in conversion.casts.items()]
    total = f"{counted(len(conversion.specs), 'tensor')}, {bytes_text(conversion.nbytes)}"
    return Report(
        ["; ".join((total, *casts))],
        [Table("left out", _PAIR, list(conversion.left_out))],
        broken_notes(outcome.overflowed),
    )
