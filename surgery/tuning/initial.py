"""A rules file to start from, for one model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from surgery.head_names import heads_by_name, is_within
from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.rules import as_selector
from surgery.tuning.stages import knows_depths, layer_depths
from surgery.wrappers import paths_of, unwrap_name

_HEADER = (
    "# Who learns how fast. Lines run top to bottom, each attribute for itself; the last = wins."
)

#: The learning rate of the ``base`` line below, as a number.
_RATE = 1e-3

#: More parts than a person wants to give a learning rate each.
_MOST_BLOCKS = 8

#: What the layer at the input learns at, as a share of the one at the output. Deeper models take
#: a decay closer to 1: with 0.75 for each of a hundred layers the lower ones would stand still.
_LOWEST_SHARE = 0.07

#: Last segments of tokens and tables of positions, which timm's ``no_weight_decay()`` leaves out
#: though they are no vectors.
_POSITIONS = re.compile(
    r"(cls|class|dist|distillation|reg|register|mask)_tokens?|(.+_)?pos(ition(al)?)?_embed(ding)?s?"
    r"|.*rel(ative)?_pos.*|attention_biases"
)


def initial_rules(
    spec: ModelSpec, arch: str | None = None, heads: Sequence[str] | None = None
) -> str:
    """A commented rules file with the model's own names, which resolves on it as it is.

    Depth-wise decay where the model knows its depths, else a learning rate for each of its blocks,
    lower towards the input; no weight decay on one-dimensional parameters, tokens and positions; a
    higher learning rate for the head; and, as comments, how to freeze and unfreeze.

    ``heads`` are the paths of the head's layers, as ``surgery.heads.head_paths(model)`` gives
    them; none, and the file does not speak of a head. Without a model (None) a layer is taken
    for the head only where its name leaves no doubt.
    """
    heads = heads_by_name(spec.tensors, spec.ties) if heads is None else tuple(heads)
    body = [p for p in spec.parameters if not is_within(_path(p), heads)]
    if not body:  # a head alone needs no line of its own
        heads, body = (), list(spec.parameters)
    blocks = [", ".join(map(as_selector, parts)) for parts in _blocks(body, heads)]
    named = [as_selector(path) for path in heads]
    return "\n".join((_HEADER, *_lines(spec, arch, named, blocks))).rstrip() + "\n"


def _lines(
    spec: ModelSpec, arch: str | None, heads: Sequence[str], blocks: Sequence[str]
) -> Iterator[str]:
    if arch:
        yield f"model {arch}"
    yield "base optimizer=adamw lr=1e-3 wd=0.05"
    yield ""
    if heads or len(blocks) > 1:
        yield from _rates(spec, blocks)
    if heads:
        yield "# The head is new: it has further to go."
        yield f"{', '.join(heads)} lr*=5"
        yield ""
    yield from _regularisation(spec)
    if heads:
        yield from _freezing(blocks, heads)


def _rates(spec: ModelSpec, blocks: Sequence[str]) -> Iterator[str]:
    if knows_depths(spec) or len(blocks) > _MOST_BLOCKS:
        steps = max(layer_depths(spec).values())
        # What leaves _LOWEST_SHARE after so many steps, within what people use.
        exact = math.pow(_LOWEST_SHARE, 1 / max(steps, 1))
        decay = min(max(round(exact, 3), 0.5), 0.99)
        yield f"# Each layer learns at {decay:g} of the learning rate of the layer above it: the"
        yield f"# lowest of {steps + 1} at {_RATE * decay**steps:.2g}."
        yield f":all decay={decay:g}"
    else:
        yield "# What is closer to the input is more general, and learns slower."
        for index, block in enumerate(blocks):
            yield f"{block} lr*={0.1 ** (1 - index / len(blocks)):.2g}"
    yield ""


def _regularisation(spec: ModelSpec) -> Iterator[str]:
    """One line for all: a line of their own for the tokens would have no effect, which is an
    error, as soon as the layers that hold them are frozen.
    """
    vectors = [":1d"] if any(_is_vector(parameter) for parameter in spec.parameters) else []
    positions = _positions(spec)
    if vectors:
        yield "# Biases, norms and other vectors are not regularised."
    if positions:
        yield "# Tokens and positions are added, not multiplied with; timm spares them too."
    if vectors or positions:
        yield f"{', '.join([*vectors, *positions])} wd=0"
        yield ""


def _positions(spec: ModelSpec) -> list[str]:
    """Selectors for tokens and position tables; ``**.name`` where many modules have one."""
    paths: dict[str, list[str]] = {}
    for parameter in spec.parameters:
        leaf = _path(parameter).rpartition(".")[2]
        if not _is_vector(parameter) and _POSITIONS.fullmatch(leaf):
            paths.setdefault(leaf, []).append(_path(parameter))
    return [
        as_selector(found[0]) if len(found) == 1 else f"**.{leaf}" for leaf, found in paths.items()
    ]


def _freezing(blocks: Sequence[str], heads: Sequence[str]) -> Iterator[str]:
    yield "# To keep the input side as it is, and let the next part join in after two epochs:"
    yield f"# {blocks[0]} freeze"
    yield from (f"# {block} unfreeze@2" for block in blocks[1:2])
    yield "# To train nothing but the head:"
    yield f"# {' & '.join(f'!{head}' for head in heads)} freeze"


def _blocks(body: Sequence[ParameterSpec], heads: Sequence[str]) -> list[list[str]]:
    """The parts of the model below the head, in order: ``conv1`` and ``bn1``, ``layer1``.

    Scales, shifts and single parameters (a class token) are no part of their own: they join the
    part before them, or the first.
    """
    blocks: list[list[str]] = []
    waiting: list[str] = []
    for part, members in _parts(body, heads).items():
        if part != _path(members[0]) and not all(map(_is_vector, members)):
            blocks.append([*waiting, part])
            waiting = []
        else:
            (blocks[-1] if blocks else waiting).append(part)
    return [block for block in (*blocks, waiting) if block]


def _parts(body: Sequence[ParameterSpec], heads: Sequence[str]) -> dict[str, list[ParameterSpec]]:
    """Everything but the head by the child that holds it.

    The children are the root's, or those of the only one that holds everything (``features``,
    ``bert``); of what holds the head as well, its children.
    """
    holders = zip(*(_path(parameter).split(".")[:-2] for parameter in body), strict=False)
    shared = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, holders))
    parts: dict[str, list[ParameterSpec]] = {}
    for parameter in body:
        below = list(paths_of(_path(parameter)))[shared:]
        part = next(path for path in below if not any(is_within(head, [path]) for head in heads))
        parts.setdefault(part, []).append(parameter)
    return parts


def _path(parameter: ParameterSpec) -> str:
    return unwrap_name(parameter.name)


def _is_vector(parameter: ParameterSpec) -> bool:
    return len(parameter.tensor.shape) <= 1
