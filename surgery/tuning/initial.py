"""A rules file to start from, for one model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from surgery.specs import ModelSpec, ParameterSpec
from surgery.tuning.stages import knows_depths
from surgery.wrappers import unwrap_name

_HEADER = (
    "# Who learns how fast. Lines run top to bottom, each attribute for itself; the last = wins."
)

#: More parts than a person wants to give a rate each.
_MOST_BLOCKS = 8


def initial_rules(spec: ModelSpec, arch: str | None = None) -> str:
    """A commented rules file with the model's own names, which resolves on it as it is.

    Depth-wise decay where the model knows its depths, else a rate for each of its blocks, lower
    towards the input; no decay on one-dimensional parameters; a higher rate for the head; and,
    as comments, how to freeze and unfreeze.
    """
    return "\n".join((_HEADER, *_lines(spec, arch))).rstrip() + "\n"


def _lines(spec: ModelSpec, arch: str | None) -> Iterator[str]:
    head = _head(spec)
    blocks = _blocks(spec, head)
    if arch:
        yield f"model {arch}"
    yield "base optimizer=adamw lr=1e-3 wd=0.05"
    yield ""
    if head:
        yield from _rates(spec, blocks)
    if head:
        yield "# The head is new: it has further to go."
        yield f"{head} lr*=5"
        yield ""
    if any(_is_vector(parameter) for parameter in spec.parameters):
        yield "# Biases, norms and other vectors are not regularised."
        yield ":1d wd=0"
        yield ""
    if head:
        yield from _freezing(blocks, head)


def _rates(spec: ModelSpec, blocks: Sequence[str]) -> Iterator[str]:
    if knows_depths(spec) or len(blocks) > _MOST_BLOCKS:
        yield "# Each layer learns at three quarters of the rate of the layer above it."
        yield ":all decay=0.75"
        yield ""
    else:
        yield "# What is closer to the input is more general, and learns slower."
        for index, block in enumerate(blocks):
            yield f"{block} lr*={0.1 ** (1 - index / len(blocks)):.2g}"
        yield ""


def _freezing(blocks: Sequence[str], head: str) -> Iterator[str]:
    yield "# To keep the input side as it is, and let the next part join in after two epochs:"
    yield f"# {blocks[0]} freeze"
    yield from (f"# {block} unfreeze@2" for block in blocks[1:2])
    yield "# To train nothing but the head:"
    yield f"# !{head} freeze"


def _head(spec: ModelSpec) -> str | None:
    """The path of the last layer with a matrix; None where there is nothing besides it."""
    matrices = [parameter for parameter in spec.parameters if not _is_vector(parameter)]
    path = _path(matrices[-1]).rpartition(".")[0] if matrices else ""
    others = any(not _within(_path(parameter), path) for parameter in spec.parameters)
    return path if path and others else None


def _blocks(spec: ModelSpec, head: str | None) -> list[str]:
    """Selectors for the parts of the model below the head, in order: ``conv1, bn1``, ``layer1``.

    Scales, shifts and single parameters (a class token) are no part of their own: they join the
    part before them, or the first.
    """
    blocks: list[list[str]] = []
    waiting: list[str] = []
    for part, members in _parts(spec, head).items():
        if part != _path(members[0]) and not all(map(_is_vector, members)):
            blocks.append([*waiting, part])
            waiting = []
        else:
            (blocks[-1] if blocks else waiting).append(part)
    if waiting:
        blocks.append(waiting)
    return [", ".join(block) for block in blocks]


def _parts(spec: ModelSpec, head: str | None) -> dict[str, list[ParameterSpec]]:
    """Everything but the head by the child that holds it.

    The children are the root's, or those of the only one that holds everything (``features``,
    ``bert``); what holds the head as well is taken apart.
    """
    body = [p for p in spec.parameters if head is None or not _within(_path(p), head)]
    depth = _shared_segments([_path(parameter) for parameter in body])
    parts: dict[str, list[ParameterSpec]] = {}
    for parameter in body:
        path = _path(parameter).split(".")
        length = depth + 1
        while head and _within(head, ".".join(path[:length])):
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


def _within(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")
