"""Vocabularies that grew: old words keep their rows, and every new word gets the mean of them.

That is where Hewitt ("Initializing New Word Embeddings for Pretrained Language Models", 2021)
starts new words, so that none of them is likelier than the old ones are on average. The setting
``new=fresh`` leaves the new rows as the target has them.
"""

from __future__ import annotations

import re
from math import prod

import torch

from surgery.transfers.resize.resizer import Case, Fit, Resizer, Settings, one_of

_WORDS = re.compile(
    r"(^|[._])(embed_tokens|tok(en)?s?_emb(ed(ding)?s?)?|word_emb(ed(ding)?s?)?|wte|embed_in"
    r"|lm_head|embed_out|output_projection)$"
)
#: Tables that are embeddings and hold no words.
_OTHER_TABLES = re.compile(r"pos|type|segment|query|queries|class|label|time")


def decide(case: Case) -> Fit | str:
    """Rows were added to a table of words, or to the layer or bias that scores them."""
    if not case.differs_in(0) or not (case.named or _is_of_words(case)):
        return ""
    old, new = case.source.shape[0], case.target.shape[0]
    if old > new:
        return f"the target drops words, and which ones is not known: {old} to {new}"
    how = case.settings.get("new", "mean")
    what = "the mean of the old" if how == "mean" else "fresh"
    fresh = (new - old) * prod(case.target.shape[1:]) if how == "fresh" else 0
    return Fit(f"{old} words to {new}, the new rows {what}", {"new": how}, fresh)


def _is_of_words(case: Case) -> bool:
    if is_called_words(case.target.name):
        return True
    layer = case.target.name.rpartition(".")[0].rpartition(".")[2]
    return "Embedding" in case.types and not _OTHER_TABLES.search(layer)


def is_called_words(name: str) -> bool:
    """Whether a tensor belongs to what libraries call a table of words, or its scores."""
    return bool(_WORDS.search(name.rpartition(".")[0]))


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(words, ...) to (more words, ...)."""
    target[: len(source)] = source
    if settings["new"] == "mean":
        target[len(source) :] = source.mean(0)
    return target


RESIZER = Resizer(
    "vocabulary",
    "tables of words that differ in their number of rows alone",
    "Hewitt 2021, Initializing New Word Embeddings",
    decide,
    compute,
    options={"new": one_of("mean", "fresh")},
)
