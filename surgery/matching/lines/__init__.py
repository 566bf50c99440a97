"""A mapping: what a person says of tensors, line by line.

:mod:`~surgery.matching.lines.mapping` reads it; :mod:`~surgery.matching.lines.renames` gives new
names, :mod:`~surgery.matching.lines.recipe_lines` makes tensors of others, and
:mod:`~surgery.matching.lines.given` is all that this decides. The other way,
:mod:`~surgery.transfers.mapping` writes a plan as a mapping.
"""
