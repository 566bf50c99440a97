"""A rules file to start from, for one model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.stages import knows_depths, layer_depths
from surgery.wrappers import unwrap_name

_HEADER = (
    "# Who learns how fast. Lines run top to bottom, each attribute for itself; the last = wins."
)

#: The rate of the ``base`` line below, as a number.
_RATE = 1e-3

#: More parts than a person wants to give a rate each.
_MOST_BLOCKS = 8

#: What the layer at the input learns at, as a share of the one at the output. Deeper models take
#: a decay closer to 1: with 0.75 for each of a hundred layers the lower ones would stand still.
_LOWEST_SHARE = 0.07

#: Paths that only a head has, for a model of which no more is known than names.
_HEAD = re.compile(
    r"([^.]+\.)?(head|heads|fc|classifier|score|(head|classifier)_dist|classification_head"
    r"|(cls|distillation)_classifier)(\.(fc|head|linear|out_proj|\d+))?"
)

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

    Depth-wise decay where the model knows its depths, else a rate for each of its blocks, lower
    towards the input; no weight decay on one-dimensional parameters, tokens and positions; a
    higher rate for the head; and, as comments, how to freeze and unfreeze.

    ``heads`` are the paths of the head's layers, as ``surgery.heads.head_paths(model)`` tells
    them; none, and the file does not speak of a head. Without a model (None) a layer is taken
    for the head only where its name leaves no doubt.
    """
    return "\n".join((_HEADER, *_lines(spec, arch, _heads(spec, heads)))).rstrip() + "\n"


def _lines(spec: ModelSpec, arch: str | None, heads: Sequence[str]) -> Iterator[str]:
    blocks = _blocks(spec, heads)
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
        decay = _decay(steps)
        yield f"# Each layer learns at {decay:g} of the rate of the layer above it: the lowest of"
        yield f"# {steps + 1} at {_RATE * decay**steps:.2g}."
        yield f":all decay={decay:g}"
        yield ""
    else:
        yield "# What is closer to the input is more general, and learns slower."
        for index, block in enumerate(blocks):
            yield f"{block} lr*={0.1 ** (1 - index / len(blocks)):.2g}"
        yield ""


def _decay(steps: int) -> float:
    """The factor that leaves ``_LOWEST_SHARE`` after ``steps``; within what people use."""
    exact = math.pow(_LOWEST_SHARE, 1 / max(steps, 1))
    return min(max(round(exact, 3), 0.5), 0.99)


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
    return [found[0] if len(found) == 1 else f"**.{leaf}" for leaf, found in paths.items()]


def _freezing(blocks: Sequence[str], heads: Sequence[str]) -> Iterator[str]:
    yield "# To keep the input side as it is, and let the next part join in after two epochs:"
    yield f"# {blocks[0]} freeze"
    yield from (f"# {block} unfreeze@2" for block in blocks[1:2])
    yield "# To train nothing but the head:"
    yield f"# {' & '.join(f'!{head}' for head in heads)} freeze"


def _heads(spec: ModelSpec, given: Sequence[str] | None) -> tuple[str, ...]:
    """Empty where there is nothing besides the head, which then needs no line of its own."""
    heads = _named_heads(spec) if given is None else tuple(given)
    others = any(not _within_any(_path(parameter), heads) for parameter in spec.parameters)
    return heads if others else ()


def _named_heads(spec: ModelSpec) -> tuple[str, ...]:
    """Layers called like a head, all of one width; of a numbered row (``classifier.6``) the last.

    A tied one is none: its other name says what else it is.
    """
    matrices = [p for p in spec.parameters if not _is_vector(p) and len(p.aliases) == 1]
    widths = {_path(p).rpartition(".")[0]: p.tensor.shape[0] for p in matrices}
    called = [path for path in widths if _HEAD.fullmatch(path)]
    last = {re.sub(r"\.\d+$", "", path): path for path in called}
    return tuple(last.values()) if len({widths[path] for path in last.values()}) == 1 else ()


def _blocks(spec: ModelSpec, heads: Sequence[str]) -> list[str]:
    """Selectors for the parts of the model below the head, in order: ``conv1, bn1``, ``layer1``.

    Scales, shifts and single parameters (a class token) are no part of their own: they join the
    part before them, or the first.
    """
    blocks: list[list[str]] = []
    waiting: list[str] = []
    for part, members in _parts(spec, heads).items():
        if part != _path(members[0]) and not all(map(_is_vector, members)):
            blocks.append([*waiting, part])
            waiting = []
        else:
            (blocks[-1] if blocks else waiting).append(part)
    if waiting:
        blocks.append(waiting)
    return [", ".join(block) for block in blocks]


def _parts(spec: ModelSpec, heads: Sequence[str]) -> dict[str, list[ParameterSpec]]:
    """Everything but the head by the child that holds it.

    The children are the root's, or those of the only one that holds everything (``features``,
    ``bert``); what holds the head as well is taken apart.
    """
    body = [p for p in spec.parameters if not _within_any(_path(p), heads)]
    depth = _shared_segments([_path(parameter) for parameter in body])
    parts: dict[str, list[ParameterSpec]] = {}
    for parameter in body:
        path = _path(parameter).split(".")
        length = depth + 1
        while any(_within(head, ".".join(path[:length])) for head in heads):
            length += 1
        parts.setdefault(".".join(path[:length]), []).append(parameter)
    return parts


def _shared_segments(names: Sequence[str]) -> int:
    """How many leading segments all names share above their layers and their own last segment."""
    paths = [name.split(".")[:-2] for name in names]
    levels = zip(*paths, strict=False)
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))


def _path(parameter: ParameterSpec) -> str:
    return unwrap_name(parameter.name)


def _is_vector(parameter: ParameterSpec) -> bool:
    return len(parameter.tensor.shape) <= 1


def _within_any(name: str, paths: Sequence[str]) -> bool:
    return any(_within(name, path) for path in paths)


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
