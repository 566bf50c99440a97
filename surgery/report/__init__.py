"""Values -> text. A report is made by the function that has the kind of value.

:mod:`~surgery.report.tables` says what a report is and writes it, for a pipe and for a terminal;
every other file knows one kind of value, and is imported when one of that kind is shown.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from surgery.report.tables import Report

#: The file and the function that make a type's report. Types are named, not imported: a table must
#: not cost torch.
REPORTS = {
    "Comparison": "comparisons.comparison_report",
    "Contents": "contents.contents_report",
    "ConversionOutcome": "contents.conversion_report",
    "Difference": "differences.difference_report",
    "Identification": "identifications.identification_report",
    "ParamGroups": "groups.groups_report",
    "Proof": "proof.proof_report",
    "ScheduleCurve": "schedules.schedule_report",
    "TransferOutcome": "transfers.outcome_report",
    "TransferPlan": "transfers.plan_report",
    "Verification": "contents.verification_report",
    "Why": "groups.why_report",
}


def report_of(value: object, *, heading: Sequence[str] = (), **options: Any) -> Report:
    """The report of a value; ``heading`` are lines that come first.

    Raises TypeError for a value that has none.
    """
    kinds = [kind.__name__ for kind in type(value).__mro__]
    known = next((kind for kind in kinds if kind in REPORTS), None)
    if known is None:
        raise TypeError(f"there is no report of {kinds[0]}")
    file, function = REPORTS[known].split(".")
    make = getattr(importlib.import_module(f"surgery.report.{file}"), function)
    report: Report = make(value, **options)
    return replace(report, headline=(*heading, *report.headline))
