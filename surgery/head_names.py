"""What heads are called, and which layers are one where nothing but names and shapes is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile

from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_name, unwrap_names

#: What people call a head, as a word of a path's last two segments (``lm_head``, ``cls_score``),
_HEAD_WORDS = frozenset(
    {"head", "heads", "fc", "classifier", "classification", "score", "logits", "summary"}
)
#: or as a whole segment: inside others (``out_proj``, ``linear2``) these are no heads.
_HEAD_SEGMENTS = frozenset({"last_linear", "linear", "out", "output", "predictor"})

#: Words of the second of a pair of heads, which learns from a teacher (DeiT's ``head_dist``).
_TEACHER_WORDS = frozenset({"dist", "distillation"})


def is_called_a_head(path: str) -> bool:
    """Never inside a numbered block: ``blocks.11.mlp.fc2`` is called like a head and is none."""
    segments = path.lower().split(".")
    if any(segment.isdigit() for segment in segments[:-1]):
        return False
    words = {word.rstrip("0123456789") for end in segments[-2:] for word in end.split("_")}
    return bool(words & _HEAD_WORDS or set(segments[-2:]) & _HEAD_SEGMENTS)


def is_auxiliary(path: str) -> bool:
    """Whether a segment of the path says so: ``AuxLogits.fc``, ``aux1.fc2``."""
    return any(segment.lower().startswith("aux") for segment in path.split("."))


def is_within(name: str, paths: Iterable[str]) -> bool:
    """Whether the tensor or module called ``name`` is at one of these paths, or below it."""
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def last_of_each_parent(paths: Iterable[str]) -> list[str]:
    """An inner layer of a head may happen to be as wide as its last one. Layers that hang on
    the model itself are heads of their own (DeiT's pair).
    """
    return list({path.rpartition(".")[0] or path: path for path in paths}.values())


@dataclass(frozen=True, slots=True)
class _Layer:
    """A module by its path, and its weight's shape; () where it has no matrix of that name."""

    path: str
    weight: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return self.weight[0]


def heads_by_name(
    tensors: Iterable[TensorSpec], ties: Iterable[Sequence[str]] = ()
) -> tuple[str, ...]:
    """Where the layers of the head are, without wrappers, the main one first; () in any doubt.

    ``tensors`` are a state dict's, in the order in which modules were registered. The head is a
    matrix (or a convolution that looks at one place) that is called like one and that no layer
    follows but those of the same head. Beside it stand the one that learns from a teacher
    (``head_dist``) and those called auxiliary, if they have as many rows. Nothing is a head
    that another layer called like one rivals with as many rows, whose weight is ``ties`` to
    another, or that has an embedding's shape: what a language model ends in.

    >>> heads_by_name(describe(torchvision.models.vgg11()).tensors)
    ('classifier.6',)
    """
    layers = _layers(tensors)
    helpers = [layer for layer in layers if is_auxiliary(layer.path) and layer.weight]
    mains = [layer for layer in layers if not is_auxiliary(layer.path)]
    backwards = list(takewhile(lambda layer: _is_surely_called_a_head(layer.path), reversed(mains)))
    called = [layer for layer in reversed(backwards) if layer.weight]
    heads = _ends(called)
    if not heads or not _are_one_head(heads):
        return ()
    rows = heads[0].rows
    before = mains[: len(mains) - len(backwards)]
    shapes = {layer.weight for layer in heads}
    tied = [unwrap_name(name) for names in ties if len(names) > 1 for name in names]
    if (
        any(layer.weight in shapes for layer in before)
        or any(layer.weight[:1] == (rows,) and is_called_a_head(layer.path) for layer in before)
        or any(is_within(name, [layer.path for layer in heads]) for name in tied)
    ):
        return ()
    helping = last_of_each_parent(layer.path for layer in helpers if layer.rows == rows)
    return (*(layer.path for layer in heads), *helping)


def _layers(tensors: Iterable[TensorSpec]) -> list[_Layer]:
    """The modules that own floating tensors of more than one element, in order."""
    own = {t.name: t.shape for t in tensors if t.is_floating and t.numel > 1}
    found: dict[str, _Layer] = {}
    for name, clean in unwrap_names(own).items():
        path, _, leaf = clean.rpartition(".")
        matrix = own[name] if leaf == "weight" and len(own[name]) > 1 else ()
        found[path] = _Layer(path, matrix or found.get(path, _Layer(path)).weight)
    return list(found.values())


def _is_surely_called_a_head(path: str) -> bool:
    """A number says which of several, and not what they are: ``classifier.6``, ``merger.fc2``."""
    parent, _, leaf = path.rpartition(".")
    return is_called_a_head(parent if parent and leaf[-1:].isdigit() else path)


def _ends(called: Sequence[_Layer]) -> list[_Layer]:
    """Those whose rows none of the later ones takes in: of ``classifier.0, 3, 6`` the last."""
    ends: list[_Layer] = []
    taken: set[int] = set()
    for layer in reversed(called):
        if layer.rows not in taken:
            ends.append(layer)
        taken.add(layer.weight[1])
    return ends[::-1]


def _are_one_head(heads: Sequence[_Layer]) -> bool:
    """Class rows for each place by itself, as many in each; the others learn from a teacher."""
    words = [{w for s in layer.path.lower().split(".") for w in s.split("_")} for layer in heads]
    return (
        all(math.prod(layer.weight[2:]) == 1 for layer in heads)
        and len({layer.rows for layer in heads}) == 1
        and all(each & _TEACHER_WORDS for each in words[1:])
    )
