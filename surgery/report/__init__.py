"""Values -> text. A report is a function of the value, it never decides anything.

:mod:`~surgery.report.tables` says what a report is; every other file tells one kind of value.
``Report.text()`` is plain and aligned, for pipes and for ``str()``; on a terminal rich draws the
same cells as tables (:mod:`surgery.report.drawing`).
"""
