"""What names mean: tokens of a segment, synonyms, and the order that names speak of.

Nothing here knows a network. The words are those that people use for roles and places in any
network; they are evidence beside shapes and nesting, never instead of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

_TOKENS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_LONGEST_NUMBER = 18

NaturalKey = tuple[tuple[int, int, str], ...]


@cache
def tokens(segment: str) -> tuple[str, ...]:
    """The words and numbers of one segment, in lower case.

    >>> tokens("LayerNorm_12b")
    ('layer', 'norm', '12', 'b')
    """
    return tuple(token.lower() for token in _TOKENS.findall(segment))


@cache
def natural_key(segment: str) -> NaturalKey:
    """A sorting key by which ``layer2`` comes before ``layer10``."""
    parts = re.split(r"(\d+)", segment)
    return tuple(
        (0, int(part), part) if _is_number(part) else (1, 0, part) for part in parts if part
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER


@cache
def numbering(segment: str) -> tuple[str, tuple[int, ...]]:
    """The segment with its numbers left open, and the numbers.

    A letter a to f that stands alone, or right behind a number, counts as a number: RegNet's
    ``f.a``, ``f.b``, ``f.c``, and ``Mixed_5b``, ``Mixed_5c``.

    >>> numbering("Mixed_5c")
    ('mixed_##', (5, 2))
    """
    numbers: list[int] = []

    def opened(match: re.Match[str]) -> str:
        text = match[0]
        if len(text) > _LONGEST_NUMBER:
            return text
        numbers.append(int(text) if text.isdigit() else ord(text.lower()) - ord("a"))
        return "#"

    template = re.sub(r"\d+|(?<![A-Za-z])[A-Fa-f](?![A-Za-z])", opened, segment)
    return template.lower(), tuple(numbers)


#: Words that say which of two comes first. Attention stands before the feed-forward part in
#: every transformer block, normalised before or after.
_FIRST = frozenset({"first", "before", "pre", "input", "attn", "attention", "sa", "mha"})
_LAST = frozenset(
    {"second", "after", "post", "final", "last", "output"}
    | {"mlp", "ffn", "ff", "feedforward", "feed", "fc"}
)
_TURNING = frozenset({"pre", "post", "before", "after"})
#: Words for modules that run one behind the other, and for what holds them.
_STACK = frozenset(
    {"layer", "layers", "block", "blocks", "stage", "stages", "features", "encoder", "h", "s", "b"}
    | {"body", "trunk", "backbone", "model", "transformer", "resblocks", "denseblock", "output"}
    | {"denselayer", "modules", "units", "unit", "cells", "cell", "l"}
)
#: Words for the norm of what a network puts out; one that says nothing else is that by custom.
_END = frozenset(
    {"norm", "ln", "layernorm", "f", "final", "last", "head", "heads", "fc", "classifier", "post"}
    | {"pooler", "encoder", "layer", "n"}
)


@cache
def is_stack(segment: str) -> bool:
    """Whether every word is one for modules that run one behind the other."""
    return all(word.isdigit() or word in _STACK for word in tokens(segment))


def is_last_norm(path: Iterable[str]) -> bool:
    """Whether a norm is that of what the network puts out, by all words of its path."""
    return all(
        segment.isdigit() or all(word in _END for word in tokens(segment)) for segment in path
    )


def compare(one: str, other: str) -> int | None:
    """-1 or 1 where two sibling segments say which comes first, None where they do not.

    Numbers are compared between segments that are otherwise the same (``layer1``, ``layer2``),
    or by words: ``layernorm_before`` comes before ``layernorm_after``, and
    ``input_layernorm`` before ``post_attention_layernorm``.
    """
    template, numbers = numbering(one)
    other_template, other_numbers = numbering(other)
    if template == other_template and numbers != other_numbers:
        return -1 if numbers < other_numbers else 1
    rank, other_rank = _rank(one), _rank(other)
    if rank == other_rank:
        return None
    if rank is None or other_rank is None:
        return _beside_plain(one, other, rank, other_rank)
    return -1 if rank < other_rank else 1


def _rank(segment: str) -> int | None:
    """0 or 1 by the first word of order; what follows it belongs to it (post_attention)."""
    for token in tokens(segment):
        if token in _FIRST or token in _LAST:
            return 0 if token in _FIRST else 1
    return None


def _beside_plain(one: str, other: str, rank: int | None, other_rank: int | None) -> int | None:
    """``norm_pre`` comes before ``norm``: the same words, and one word of order."""
    if {*tokens(one)} ^ {*tokens(other)} <= _TURNING:
        first = rank == 0 or other_rank == 1
        return -1 if first else 1
    return None


#: One concept, many words. Only what can mean nothing else.
_CONCEPTS = (
    ("attention", "attn", "sa", "mha"),
    ("mlp", "ffn", "ff", "feedforward", "intermediate"),
    ("shortcut", "downsample", "skip", "identity"),
    ("embed", "embedding", "embeddings", "emb", "tok", "token", "tokens", "wte", "stem", "patch"),
    ("position", "positional", "pos", "wpe"),
    ("relative",),
    ("type", "segment"),
    ("class", "cls"),
    ("mask",),
    ("register", "registers"),
    ("dist", "distillation"),
    ("q", "query", "queries", "wq"),
    ("k", "key", "keys", "wk"),
    ("v", "value", "values", "wv"),
    ("head", "classifier", "score"),
    ("aux",),
    ("out", "o", "output", "wo"),
)
_CONCEPT = {word: words[0] for words in _CONCEPTS for word in words}


@cache
def concepts(segment: str) -> frozenset[str]:
    """What a segment speaks of, synonyms made one; ``mlp2`` is not ``mlp``.

    Words that are not known tell nothing, and neither do those for what any layer is.
    """
    words = tokens(segment)
    numbers = "".join(word for word in words if word.isdigit())
    return frozenset(_CONCEPT[word] + numbers for word in words if word in _CONCEPT)


#: Words for the parts of a projection: letters of q, k and v in the order of their blocks of rows,
#: and of what gates and what is gated.
_ATTENTION = {
    "q": "q", "query": "q", "queries": "q", "wq": "q",
    "k": "k", "key": "k", "keys": "k", "wk": "k",
    "v": "v", "value": "v", "values": "v", "wv": "v",
    "qkv": "qkv", "wqkv": "qkv", "kqv": "kqv", "qk": "qk", "kv": "kv", "wkv": "kv",
}  # fmt: skip
_GATES = {"gate": "g", "up": "u"}
#: Names of fused projections that are q, k and v in this order, each a block of rows, though they
#: do not say it, and words beside ``qkv`` that leave them blocks. With others (``qkv_proj``) they
#: are as often interleaved per head, or lie in groups of another order.
_BLOCKS = (("in", "proj"), ("c", "attn"))
_BESIDE_BLOCKS = frozenset({"to", "attn"})
_NORM = frozenset({"norm", "ln", "bn", "layernorm", "batchnorm", "normalization"})


@cache
def projection(segment: str) -> tuple[str, str] | None:
    """The parts that a projection makes, and its name without the words that say it; no parts
    where they are several in an order that the name does not tell.

    >>> projection("q_proj"), projection("to_kv"), projection("gate_up_proj")
    (('q', 'proj'), ('kv', 'to'), ('gu', 'proj'))
    >>> projection("query_key_value"), projection("fc1")
    (('', ''), None)
    """
    words = _bare(segment)
    if words in _BLOCKS:
        return "qkv", ""
    known = _GATES if _ATTENTION.keys().isdisjoint(words) else _ATTENTION
    said = [known[word] for word in words if word in known]
    parts, rest = "".join(said), [word for word in words if word not in (*known, "and")]
    if len(parts) != 1 and (not parts or not _NORM.isdisjoint(words)):
        return None
    blocks = len(said) == 1 and _BESIDE_BLOCKS.issuperset(rest)
    told = len(parts) == 1 or blocks or known is _GATES
    return (parts if told else ""), "_".join(rest)


@cache
def gate_part(segment: str) -> tuple[str, str] | None:
    """Which matrix of a gated layer a projection is, and its name without that word.

    Digits stand for themselves: ``w12`` holds ``w1`` and ``w2``.

    >>> gate_part("gate_proj"), gate_part("w12"), gate_part("q_proj")
    (('g', 'proj'), ('12', 'w'), None)
    """
    words = _bare(segment)
    if len(words) == 2 and words[1].isdigit() and len({*words[1]}) == len(words[1]) < 3:
        return words[1], words[0]
    found = projection(segment)
    return found if found and found[0] and {*found[0]} <= {*"gu"} else None


def _bare(segment: str) -> tuple[str, ...]:
    return tuple(word for word in tokens(segment) if word not in ("weight", "bias"))


#: Modules inside a projection: its matrix, and the norm of what it puts out.
_WITHIN = frozenset({"linear", "conv", "convolution", "c", "bn", "norm", "layer", "dense"})


@cache
def is_within(segment: str) -> bool:
    """Whether a module is but a part of the projection that holds it."""
    return all(word in _WITHIN or word.isdigit() for word in tokens(segment))
