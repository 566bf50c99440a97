"""What heads are called, and which layers are one where nothing but names and shapes is known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile

from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_name, unwrap_names

Shape = tuple[int, ...]

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
    weights = _weights(tensors)
    mains = [path for path in weights if not is_auxiliary(path)]
    called = list(takewhile(_is_surely_called_a_head, reversed(mains)))[::-1]
    before = mains[: len(mains) - len(called)]
    heads = _ends({path: weights[path] for path in called if weights[path]})
    if not heads or not _are_one_head(heads):
        return ()
    rows = next(iter(heads.values()))[:1]
    tied = [unwrap_name(name) for names in ties if len(names) > 1 for name in names]
    if (
        any(weights[path] in heads.values() for path in before)
        or any(weights[path][:1] == rows and is_called_a_head(path) for path in before)
        or any(is_within(name, heads) for name in tied)
    ):
        return ()
    helpers = (path for path in weights if is_auxiliary(path) and weights[path][:1] == rows)
    return (*heads, *last_of_each_parent(helpers))


def _weights(tensors: Iterable[TensorSpec]) -> dict[str, Shape]:
    """The modules that own floating tensors of more than one element, in order: the path of each,
    and the shape of its weight; () where that is no matrix.
    """
    own = {t.name: t.shape for t in tensors if t.is_floating and t.numel > 1}
    found: dict[str, Shape] = {}
    for name, clean in unwrap_names(own).items():
        path, _, leaf = clean.rpartition(".")
        matrix = own[name] if leaf == "weight" and len(own[name]) > 1 else ()
        found[path] = matrix or found.get(path, ())
    return found


def _is_surely_called_a_head(path: str) -> bool:
    """A number says which of several, and not what they are: ``classifier.6``, ``merger.fc2``."""
    parent, _, leaf = path.rpartition(".")
    return is_called_a_head(parent if parent and leaf[-1:].isdigit() else path)


def _ends(called: dict[str, Shape]) -> dict[str, Shape]:
    """Those whose rows none of the later ones takes in: of ``classifier.0, 3, 6`` the last."""
    ends: dict[str, Shape] = {}
    taken: set[int] = set()
    for path, weight in reversed(called.items()):
        if weight[0] not in taken:
            ends[path] = weight
        taken.add(weight[1])
    return dict(reversed(ends.items()))


def _are_one_head(heads: Mapping[str, Shape]) -> bool:
    """Class rows for each place by itself, as many in each; the others learn from a teacher."""
    words = [{w for s in path.lower().split(".") for w in s.split("_")} for path in heads]
    return (
        all(math.prod(weight[2:]) == 1 for weight in heads.values())
        and len({weight[0] for weight in heads.values()}) == 1
        and all(each & _TEACHER_WORDS for each in words[1:])
    )
