"""Vocabularies that grew: old words keep their rows, and every new word gets the mean of them.

That is where Hewitt ("Initializing New Word Embeddings for Pretrained Language Models", 2021)
starts new words, so that none of them is likelier than the old ones are on average. The setting
``new=fresh`` leaves the new rows as the target has them.
"""

from __future__ import annotations

import re
from math import prod

import torch

from surgery.transfers.resize.resizer import Case, Fit, NoFit, Resizer, Settings, one_of

_WORDS = re.compile(
    r"(^|[._])(embed_tokens|tok(en)?s?_emb(ed(ding)?s?)?|word_emb(ed(ding)?s?)?|wte|embed_in"
    r"|lm_head|embed_out|output_projection)$"
)
#: Tables that are embeddings and hold no words.
_OTHER_TABLES = re.compile(r"pos|type|segment|query|queries|class|label|time")


def decide(case: Case) -> Fit | NoFit:
    """Rows were added to a table of words, or to the layer or bias that scores them."""
    source, target = case.source.shape, case.target.shape
    if not source or len(source) != len(target) or source[1:] != target[1:]:
        return NoFit("more than the number of rows differs")
    if not case.named and not _is_of_words(case):
        return NoFit("it is no table of words")
    old, new = source[0], target[0]
    if old >= new:
        why = "has no more words" if old == new else "drops words, and which ones is not known"
        return NoFit(f"the target {why}: {old} to {new}", near=True)
    how = case.settings.get("new", "mean")
    what = "the mean of the old" if how == "mean" else "fresh"
    fresh = (new - old) * prod(target[1:]) if how == "fresh" else 0
    return Fit(f"{old} words to {new}, the new rows {what}", {"new": how}, fresh)


def _is_of_words(case: Case) -> bool:
    path = case.target.name.rpartition(".")[0]
    if _OTHER_TABLES.search(path.rpartition(".")[2]):
        return False
    return "Embedding" in case.types or bool(_WORDS.search(path))


def compute(source: torch.Tensor, target: torch.Tensor, settings: Settings) -> torch.Tensor:
    """(words, ...) to (more words, ...)."""
    target[: len(source)] = source
    if settings["new"] == "mean":
        target[len(source) :] = source.mean(0)
    return target


RESIZER = Resizer(
    "vocabulary",
    "Hewitt 2021, Initializing New Word Embeddings",
    decide,
    compute,
    options={"new": one_of("mean", "fresh")},
)
