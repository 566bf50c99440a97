"""The rename file: read, applied to names, and written from a plan.

:mod:`~surgery.transfers.renaming.renames` reads its lines and applies the plain ones,
:mod:`~surgery.transfers.renaming.recipes` those that make a tensor of rows of others, and
:mod:`~surgery.transfers.renaming.given` gathers all that a file says besides new names. The other
way, :mod:`~surgery.transfers.renaming.mapping` writes a plan as a file, with lines that
:mod:`~surgery.transfers.renaming.folding` and :mod:`~surgery.transfers.renaming.drafting` find.
"""
