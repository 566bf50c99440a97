"""Which known architecture a file's names and shapes are, by outlines of them all.

An outline is names and shapes alone, small enough to keep 1,500 of them.

Wrapper segments are looked through, and so is whatever the network is nested below (``model.``,
``backbone.``): the prefix below which most of the architecture is found. The head is compared
by itself, since another number of classes, or none, is still the same architecture.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from surgery.head_names import is_within
from surgery.json_values import fields, items, text, texts, whole_number
from surgery.showing import Shown
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

Shape = tuple[int, ...]

#: Of an architecture's body, in elements, from which on it fits: as much as a transfer asks for.
ENOUGH = 0.5

#: What a candidate must have in common with the file, of either: less would read "0 %".
_WORTH_NAMING = 0.01

#: Segments of the longest prefix that is thought of: a name may have thousands.
_LONGEST_PREFIX = 32


@dataclass(frozen=True, slots=True)
class Outline:
    """What a state dict of ``architecture`` (``"timm:resnet50"``) is called and how large it is.

    ``tensors`` are the floating ones by name, without wrapper segments: counters and index tables
    come and go between releases, and say nothing that the weights do not. ``heads`` are the paths
    of the head's layers, empty where they are not known or there are none. ``problem`` says why
    the architecture could not be built; then there are neither.
    """

    architecture: str
    tensors: Mapping[str, Shape]
    heads: tuple[str, ...] = ()
    problem: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON values that :meth:`from_dict` turns back into an equal outline."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_dict(cls, data: object) -> Outline:
        """The inverse. Any other data raise ValueError."""
        label, tensors, heads, why = fields(data, "architecture", "tensors", "heads", "problem")
        if not isinstance(tensors, dict):
            raise ValueError("expected an object of shapes")
        shapes = {name: tuple(map(whole_number, items(size))) for name, size in tensors.items()}
        return cls(text(label), shapes, texts(heads), text(why))


@dataclass(frozen=True, slots=True)
class Differing:
    """A tensor that is not the same on both sides.

    It has the architecture's name, or the file's where only the file has it: then
    ``in_architecture`` is None. ``in_file`` is None where only the architecture has it.
    """

    name: str
    in_file: Shape | None
    in_architecture: Shape | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """Architectures that agree with the file to the same tensor, and how far.

    Their bodies are the same in names and shapes, so no weights distinguish them. Shares are
    of elements, head aside: ``matched`` of ``body`` in the architecture and of ``present`` in the
    file, by name and shape. ``head`` is ``"same"``, ``"other"`` (another number of classes, or
    other layers), ``"missing"`` in the file, or ``"none"`` where the architecture's is not known.
    ``prefix`` is what the file nests it below. ``differing`` leaves the head out.
    """

    architectures: tuple[str, ...]
    prefix: str
    matched: int
    body: int
    present: int
    head: str
    differing: tuple[Differing, ...]

    @property
    def share(self) -> float:
        """Elements that both have, of those that either has, 0 to 1."""
        return self.matched / (self.body + self.present - self.matched)

    @property
    def of_architecture(self) -> float:
        """How much of the architecture is in the file, 0 to 1."""
        return self.matched / self.body

    @property
    def of_file(self) -> float:
        """How much of the file is the architecture, 0 to 1."""
        return self.matched / self.present

    @property
    def is_whole(self) -> bool:
        """Whether nothing but the head differs."""
        return not self.differing

    @property
    def fits(self) -> bool:
        """Whether a transfer into it would load enough."""
        return self.of_architecture >= ENOUGH

    def to_dict(self) -> dict[str, Any]:
        """The candidate as JSON values."""
        shares = {name: getattr(self, name) for name in ("share", "of_architecture", "of_file")}
        return {**asdict(self), **shares, "fits": self.fits}


@dataclass(frozen=True, slots=True)
class Identification(Shown):
    """The architectures that come nearest to a file, best first; those that fit stand first.

    ``tensors`` of the file were compared with ``known`` architectures. ``unknown`` are those that
    could not be built here, each with the reason.
    """

    candidates: tuple[Candidate, ...]
    tensors: int
    known: int
    unknown: tuple[tuple[str, str], ...] = ()

    @property
    def fits(self) -> bool:
        """Whether any known architecture does."""
        return any(candidate.fits for candidate in self.candidates)

    def to_dict(self) -> dict[str, Any]:
        """The identification as JSON values."""
        return {
            **asdict(self),
            "fits": self.fits,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "unknown": dict(self.unknown),
        }


def identify(
    specs: Iterable[TensorSpec],
    outlines: Sequence[Outline],
    *,
    most: int = 5,
) -> Identification:
    """The ``most`` candidates nearest to a file, with a hundredth of either in common.

    The result does not depend on the order of either side.
    """
    file = _File.of(specs, set().union(*(outline.tensors for outline in outlines)))
    found = filter(None, (_candidate(file, outline) for outline in outlines))
    same: dict[tuple[Any, ...], list[Candidate]] = {}
    for each in sorted(found, key=_best_first):
        same.setdefault((_rank(each), each.prefix, frozenset(each.differing)), []).append(each)
    best = (
        replace(first, architectures=tuple(each.architectures[0] for each in (first, *others)))
        for first, *others in list(same.values())[:most]
    )
    unknown = tuple((each.architecture, each.problem) for each in outlines if each.problem)
    return Identification(
        tuple(best),
        len(file.shapes),
        len(outlines) - len(unknown),
        unknown,
    )


@dataclass(frozen=True, slots=True)
class _File:
    """The floating tensors by unwrapped name, and what stands below which prefix.

    ``nested`` gives the prefixes below which a known name of that shape is found; ``below`` the
    elements of all tensors below each prefix. Prefixes end in their dot, the first is ``""``.
    """

    shapes: Mapping[str, Shape]
    nested: Mapping[tuple[str, Shape], Sequence[str]]
    below: Mapping[str, int]

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], known: Set[str]) -> _File:
        """``known`` are the names that matter: a stranger's may nest in thousands of ways."""
        floating = {spec.name: spec.shape for spec in specs if spec.is_floating}
        clean = unwrap_names(floating)
        shapes = {clean[name]: shape for name, shape in floating.items()}
        nested: dict[tuple[str, Shape], list[str]] = defaultdict(list)
        below: Counter[str] = Counter()
        for name, shape in shapes.items():
            for prefix, suffix in _splits(name):
                below[prefix] += math.prod(shape)
                if suffix in known:
                    nested[suffix, shape].append(prefix)
        return cls(shapes, nested, below)

    def elements(self, path: str) -> int:
        """Of the tensor at ``path``, and of all below it."""
        own = self.shapes.get(path)
        return self.below[f"{path}."] + (0 if own is None else math.prod(own))


def _splits(name: str) -> list[tuple[str, str]]:
    """The name below each of its prefixes: none first, the others with their dot.

    >>> _splits("a.b.weight")
    [('', 'a.b.weight'), ('a.', 'b.weight'), ('a.b.', 'weight')]
    """
    ends = [0]
    while len(ends) <= _LONGEST_PREFIX and (dot := name.find(".", ends[-1])) >= 0:
        ends.append(dot + 1)
    return [(name[:end], name[end:]) for end in ends]


def _candidate(file: _File, outline: Outline) -> Candidate | None:
    """How far one outline agrees, below its best prefix; None where that is next to nothing."""
    shared = outline.tensors.items() & file.nested.keys()
    found: Counter[str] = Counter()
    for name, shape in shared:
        if not is_within(name, outline.heads):
            found.update(dict.fromkeys(file.nested[name, shape], math.prod(shape)))
    if not any(found.values()):
        return None
    prefix = min(found, key=lambda prefix: (-found[prefix], len(prefix), prefix))
    body = {n: s for n, s in outline.tensors.items() if not is_within(n, outline.heads)}
    heads = [prefix + path for path in outline.heads]
    candidate = Candidate(
        (outline.architecture,),
        prefix,
        matched=found[prefix],
        body=sum(map(math.prod, body.values())),
        present=file.below[""] - sum(map(file.elements, heads)),
        head=_head(file, outline, prefix),
        differing=(),
    )
    if max(candidate.of_architecture, candidate.of_file) < _WORTH_NAMING:
        return None
    return replace(candidate, differing=tuple(_differing(file, prefix, body, heads)))


def _differing(
    file: _File, prefix: str, body: Mapping[str, Shape], heads: Sequence[str]
) -> Iterator[Differing]:
    """What the architecture has in another shape or alone, in its order; then what only the file
    has.
    """
    for name, shape in body.items():
        if (found := file.shapes.get(prefix + name)) != shape:
            yield Differing(name, found, shape)
    expected = {prefix + name for name in body}
    for name, shape in file.shapes.items():
        if name not in expected and not is_within(name, heads):
            yield Differing(name, shape, None)


_HEADS = ("same", "none", "missing", "other")


def _head(file: _File, outline: Outline, prefix: str) -> str:
    expected = {n: s for n, s in outline.tensors.items() if is_within(n, outline.heads)}
    if not expected:
        return "none"
    if not any(file.elements(prefix + path) for path in outline.heads):
        return "missing"
    same = all(file.shapes.get(prefix + name) == shape for name, shape in expected.items())
    return "same" if same else "other"


def _rank(candidate: Candidate) -> tuple[Any, ...]:
    """Lower is better. The shares are compared as whole fractions, which never round."""
    either = candidate.body + candidate.present - candidate.matched
    return (
        not candidate.fits,
        -Fraction(candidate.matched, either),
        _HEADS.index(candidate.head),
    )


def _best_first(candidate: Candidate) -> tuple[Any, ...]:
    """Of those that are equal the shortest name."""
    (label,) = candidate.architectures
    return _rank(candidate), len(label.partition(":")[2]), label
