"""Values -> text. A report is a function of the value, registered by the value's type.

:mod:`~surgery.report.tables` says what a report is and writes it, for a pipe and for a terminal;
every other file knows one kind of value, and is imported when one of that kind is shown.
"""

from __future__ import annotations

import importlib
from functools import singledispatch
from typing import Any

from surgery.report.tables import Report

#: The file that has a type's report. Types are named, not imported: a table must not cost torch.
HOMES = {
    "Contents": "contents",
    "ConversionOutcome": "contents",
    "Difference": "differences",
    "Identification": "identifications",
    "Origins": "transfers",
    "ParamGroups": "groups",
    "Proof": "proof",
    "ScheduleCurve": "schedules",
    "TransferOutcome": "transfers",
    "TransferPlan": "transfers",
    "Verification": "contents",
    "Why": "groups",
}


@singledispatch
def report_of(value: object, **options: Any) -> Report:
    """The report of a value. All take ``heading=``, lines that come first.

    Raises TypeError for a value that has none.
    """
    kind = type(value)
    if kind.__name__ not in HOMES:
        raise TypeError(f"there is no report of {kind.__name__}")
    importlib.import_module(f"surgery.report.{HOMES[kind.__name__]}")
    report = report_of.dispatch(kind)
    assert report is not report_of.dispatch(object), kind
    return report(value, **options)
