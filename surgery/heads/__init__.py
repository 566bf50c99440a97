"""Replace a model's classification head: decide, show, do.

>>> swap = plan_head(torchvision.models.alexnet(), 10)    # touches nothing
>>> print(swap)
classifier.6: Linear 4096 -> 1000 becomes Linear 4096 -> 10 (the output comes through it)
class rows carried over: none, all 10 are fresh
note: make the optimizer after this, one made before holds the old head's parameters
>>> swap.apply(model)

Read from the top: ``plan`` decides, ``swap`` is the value and does it. ``find`` says who is
trusted to name the head: ``libraries`` that know their models, or ``output``, which follows the
forward. Below are ``places``, where layers sit behind what wrappers insert, and ``layers``, what a
class layer is and how one is rebuilt. What needs no model stands on the ground:
``surgery.head_names`` and ``surgery.class_rows``, which says which classes are carried over.
"""

from __future__ import annotations

from surgery.heads.plan import head_paths, plan_head, replace_head
from surgery.heads.swap import HeadLayer, HeadSwap

__all__ = ["HeadLayer", "HeadSwap", "head_paths", "plan_head", "replace_head"]
