"""How the values of a target tensor are made of source tensors, as one expression.

:mod:`~surgery.matching.recipes.recipe` has what moves values, in the strided views of
:mod:`~surgery.matching.recipes.strides`, and :mod:`~surgery.matching.recipes.arithmetic` what
computes them. :mod:`~surgery.matching.recipes.text` reads recipes as a person writes them,
:mod:`~surgery.matching.recipes.writing` is the way back, as text and as JSON, and
:mod:`~surgery.matching.recipes.words` says in a few words what they do;
:mod:`~surgery.matching.recipes.ranges` says which elements they move. What their values are is
known to :mod:`surgery.transfers.recipe_values`.
"""
