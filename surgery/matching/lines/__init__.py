"""The rename file: read, applied to names, and written from a plan.

:mod:`~surgery.matching.lines.renames` reads its lines and applies the plain ones,
:mod:`~surgery.matching.lines.recipes` those that make a tensor of rows of others, and
:mod:`~surgery.matching.lines.given` gathers all that a file says besides new names. The other
way, :mod:`~surgery.transfers.mapping` writes a plan as a file, with lines that
:mod:`~surgery.matching.lines.folding` and :mod:`~surgery.matching.lines.drafting` find.
"""
