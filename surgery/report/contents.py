"""What a file holds, what checking it found, and what became of it in another format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from surgery.collapse import collapse
from surgery.report.folding import TENSORS, collapsed
from surgery.report.tables import Column, Report, Table, pairs_table
from surgery.report.texts import broken_notes, bytes_text, counted
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    from surgery.checkpoint import Contents, Verification
    from surgery.checkpoint.conversion import ConversionOutcome
    from surgery.checkpoint.holding import StateDict
    from surgery.checkpoint.verification import Finding


def contents_report(contents: Contents, verification: Verification | None = None) -> Report:
    """What a file holds: every state dict's tensors, then what lies beside them.

    With a ``verification`` what is amiss comes first.
    """
    states = contents.state_dicts
    alone = len(states) == 1
    return Report(
        headline=(_contents_text(contents), *_verified_text(verification)),
        tables=(
            *_verification_tables(verification, alone),
            *(table for state in states for table in _state_dict_tables(state, alone)),
            _unlisted_table(states, alone),
            pairs_table("beside them", ((key or ".", what) for key, what in contents.others)),
            _opaque_table(contents.opaque),
        ),
    )


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
    rows = tuple((" = ".join(names),) for names in ties)
    yield Table(f"tied{whose}", (Column("names of one tensor"),), rows)
    yield pairs_table(f"metadata{whose}", _metadata_rows(state.metadata))


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
        (pattern, f"{len(names):,}", shape, dtype, bytes_text(sum(sizes[name] for name in names)))
        for pattern, names, shape, dtype in collapsed((spec, spec.dtype) for spec in specs)
    )


def _unlisted_table(states: Iterable[StateDict], alone: bool) -> Table:
    rows = tuple(
        (name if alone else f"{state.key or '.'}: {name}", what)
        for state in states
        for name, what in state.unlisted
    )
    return Table("cannot be transferred", (Column("name"), Column("what")), rows, "odd")


def _opaque_table(opaque: Sequence[str]) -> Table:
    rows = tuple((name,) for name in opaque)
    return Table("not imported", (Column("global that the file names"),), rows)


def _verified_text(verification: Verification | None) -> Iterator[str]:
    if verification is None:
        return
    read = f"verified {counted(verification.tensors, 'tensor')}, {bytes_text(verification.nbytes)}"
    yield f"{read}: {_checked_text(verification)}"


def verified_note(verification: Verification) -> str:
    """What reading all of one file told."""
    return f"{verification.path}: {_checked_text(verification)}"


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


def _verification_tables(verification: Verification | None, alone: bool) -> Iterator[Table]:
    if verification is None:
        return
    columns = (
        *TENSORS[:2],
        Column("bytes"),
        Column("NaN", number=True),
        Column("Inf", number=True),
        Column("elements", number=True),
    )
    yield Table("amiss", columns, tuple(_finding_rows(verification.findings, alone)), "odd")
    parts = tuple((name,) for name in verification.damaged_parts)
    yield Table("damaged besides", (Column("part of the file"),), parts, "odd")


def _finding_rows(findings: Iterable[Finding], alone: bool) -> Iterator[tuple[str, ...]]:
    """Findings of one kind folded by layer: their counts are sums."""
    from surgery.checkpoint.verification import tensor_label

    kinds: dict[bool, dict[str, Finding]] = {}
    for finding in findings:
        names = (tensor_label(name, alone=alone) for name in finding.names)
        kinds.setdefault(finding.damaged, {})[" = ".join(names)] = finding
    for damaged, found in sorted(kinds.items(), reverse=True):
        for folded in collapse(found):
            group = [found[name] for name in folded.names]
            sums = (sum(f.nan for f in group), sum(f.inf for f in group))
            yield (
                folded.pattern,
                f"{len(group):,}",
                "damaged" if damaged else "",
                *(f"{number:,}" for number in (*sums, sum(f.elements for f in group))),
            )


def _metadata_rows(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """Long values (a transfer's record) are told by their length."""
    return [
        (key, value if len(value) <= 60 else f"{len(value):,} characters of text")
        for key, value in metadata.items()
    ]


def conversion_report(outcome: ConversionOutcome, *, heading: Sequence[str] = ()) -> Report:
    """What a conversion wrote, cast, broke and left out."""
    conversion = outcome.conversion
    casts = [f"{counted(n, 'tensor')} cast {cast}" for cast, n in conversion.casts.items()]
    total = f"{counted(len(conversion.specs), 'tensor')}, {bytes_text(conversion.nbytes)}"
    return Report(
        (*heading, "; ".join((total, *casts))),
        (pairs_table("left out", conversion.left_out),) if conversion.left_out else (),
        broken_notes(outcome.overflowed),
    )
