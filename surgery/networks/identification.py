"""Which known architecture a file's names and shapes are, by outlines of them all.

Wrapper segments are looked through, and so is whatever the network is nested below (``model.``,
``backbone.``): the prefix below which most of the architecture is found. The head is compared
apart from the body, since another number of classes, or none, is still the same architecture.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any

from surgery.networks.remembered import Outline
from surgery.specs import TensorSpec
from surgery.wrappers import unwrap_names

Shape = tuple[int, ...]

#: Of an architecture's body, in elements, from which on it fits: as much as a transfer asks for.
ENOUGH = 0.5

#: Segments of the longest prefix that is thought of: a name may have thousands.
_LONGEST_PREFIX = 32


@dataclass(frozen=True, slots=True)
class Differing:
    """A tensor that is not the same on both sides.

    It has the architecture's name, or the file's where only the file has it: then
    ``in_architecture`` is None. ``in_file`` is None where only the architecture has it.
    """

    name: str
    in_file: Shape | None
    in_architecture: Shape | None

    def to_dict(self) -> dict[str, Any]:
        """The tensor as JSON values."""
        return {
            "name": self.name,
            "in_file": None if self.in_file is None else list(self.in_file),
            "in_architecture": (
                None if self.in_architecture is None else list(self.in_architecture)
            ),
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """Architectures that agree with the file to the same tensor, and how far.

    Their bodies are the same in names and shapes, so no weights can tell them apart. Shares are
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
        return {
            "architectures": list(self.architectures),
            "share": self.share,
            "of_architecture": self.of_architecture,
            "of_file": self.of_file,
            "prefix": self.prefix,
            "head": self.head,
            "fits": self.fits,
            "differing": [tensor.to_dict() for tensor in self.differing],
        }


@dataclass(frozen=True, slots=True)
class Identification:
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
            "fits": self.fits,
            "candidates": [candidate.to_dict() for candidate in self.candidates],
            "tensors": self.tensors,
            "known": self.known,
            "unknown": dict(self.unknown),
        }

    def __str__(self) -> str:
        from surgery.report.identifications import identification_report

        return identification_report(self).text()


def identify(
    specs: Iterable[TensorSpec],
    outlines: Sequence[Outline],
    *,
    most: int = 5,
    unknown: Iterable[tuple[str, str]] = (),
) -> Identification:
    """The ``most`` candidates nearest to a file, of those that have anything in common with it.

    ``unknown`` is handed on. The result does not depend on the order of either side.
    """
    file = _File.of(specs, set().union(*(outline.tensors for outline in outlines)))
    scores = [score for outline in outlines if (score := _score(file, outline)) is not None]
    nearest = _nearest(scores, most)
    return Identification(
        tuple(_candidate(file, alike) for alike in nearest),
        len(file.shapes),
        len(outlines),
        tuple(unknown),
    )


@dataclass(frozen=True)
class _File:
    """The floating tensors by unwrapped name, and what stands below which prefix.

    ``nested`` gives the prefixes below which a known name of that shape is found. ``names`` are
    in order, ``sums`` the elements of all before each of them, and of all at the end.
    """

    shapes: Mapping[str, Shape]
    nested: Mapping[tuple[str, Shape], Sequence[str]]
    names: Sequence[str]
    sums: Sequence[int]

    @classmethod
    def of(cls, specs: Iterable[TensorSpec], known: Set[str]) -> _File:
        """``known`` are the names that matter: a stranger's may nest in thousands of ways."""
        floating = {spec.name: spec.shape for spec in specs if spec.is_floating}
        clean = unwrap_names(floating)
        shapes = {clean[name]: shape for name, shape in floating.items()}
        nested: dict[tuple[str, Shape], list[str]] = defaultdict(list)
        for name, shape in shapes.items():
            for prefix, suffix in _splits(name):
                if suffix in known:
                    nested[suffix, shape].append(prefix)
        names = sorted(shapes)
        sums = accumulate((math.prod(shapes[name]) for name in names), initial=0)
        return cls(shapes, nested, names, tuple(sums))

    def elements(self, path: str) -> int:
        """Of the tensor at ``path``, and of all below it."""
        return self._between(path, f"{path}\0") + self._between(f"{path}.", f"{path}/")

    def _between(self, first: str, end: str) -> int:
        """``/`` follows the dot in the order of characters, and nothing comes before NUL."""
        at, stop = bisect_left(self.names, first), bisect_left(self.names, end)
        return self.sums[stop] - self.sums[at]


def _splits(name: str) -> list[tuple[str, str]]:
    """The name below each of its prefixes: none first, the others with their dot.

    >>> _splits("a.b.weight")
    [('', 'a.b.weight'), ('a.', 'b.weight'), ('a.b.', 'weight')]
    """
    ends = [0]
    while len(ends) <= _LONGEST_PREFIX and (dot := name.find(".", ends[-1])) >= 0:
        ends.append(dot + 1)
    return [(name[:end], name[end:]) for end in ends]


@dataclass(frozen=True, slots=True)
class _Score:
    """How far one outline agrees, below its best prefix; see :class:`Candidate`."""

    outline: Outline
    prefix: str
    matched: int
    body: int
    present: int
    head: str

    @property
    def rank(self) -> tuple[Any, ...]:
        """Lower is better. The shares are compared as whole fractions, which never round."""
        share = Fraction(self.matched, self.body + self.present - self.matched)
        enough = self.matched >= ENOUGH * self.body
        return (not enough, -share, _HEADS.index(self.head))


_HEADS = ("same", "none", "missing", "other")


def _score(file: _File, outline: Outline) -> _Score | None:
    common = outline.tensors.items() & file.nested.keys()
    found: Counter[str] = Counter()
    for name, shape in common:
        if not _is_below(name, outline.heads):
            found.update(dict.fromkeys(file.nested[name, shape], math.prod(shape)))
    if not any(found.values()):
        return None
    prefix = min(found, key=lambda prefix: (-found[prefix], len(prefix), prefix))
    heads = sum(file.elements(prefix + path) for path in outline.heads)
    return _Score(
        outline,
        prefix,
        found[prefix],
        sum(math.prod(shape) for _, shape in _body(outline)),
        file.sums[-1] - heads,
        _head(file, outline, prefix),
    )


def _is_below(name: str, paths: Iterable[str]) -> bool:
    return any(name == path or name.startswith(f"{path}.") for path in paths)


def _head(file: _File, outline: Outline, prefix: str) -> str:
    expected = {n: s for n, s in outline.tensors.items() if _is_below(n, outline.heads)}
    if not expected:
        return "none"
    if not any(file.elements(prefix + path) for path in outline.heads):
        return "missing"
    same = all(file.shapes.get(prefix + name) == shape for name, shape in expected.items())
    return "same" if same else "other"


def _nearest(scores: Iterable[_Score], most: int) -> list[list[_Score]]:
    """The best ``most`` ranks, each a list of scores of one body and one head."""
    by_rank: dict[tuple[Any, ...], list[_Score]] = defaultdict(list)
    for score in scores:
        by_rank[score.rank].append(score)
    alike: list[list[_Score]] = []
    for rank in sorted(by_rank):
        if len(alike) >= most:
            break
        bodies: dict[frozenset[tuple[str, Shape]], list[_Score]] = defaultdict(list)
        for score in sorted(by_rank[rank], key=_shortest_first):
            bodies[frozenset(_body(score.outline))].append(score)
        alike += bodies.values()
    return alike[:most]


def _shortest_first(score: _Score) -> tuple[int, str]:
    label = score.outline.architecture
    return len(label.partition(":")[2]), label


def _body(outline: Outline) -> list[tuple[str, Shape]]:
    tensors = outline.tensors.items()
    return [(name, shape) for name, shape in tensors if not _is_below(name, outline.heads)]


def _candidate(file: _File, alike: Sequence[_Score]) -> Candidate:
    best = alike[0]
    return Candidate(
        tuple(score.outline.architecture for score in alike),
        best.prefix,
        best.matched,
        best.body,
        best.present,
        best.head,
        _differing(file, best),
    )


def _differing(file: _File, score: _Score) -> tuple[Differing, ...]:
    """In the architecture's order, then what only the file has."""
    body = dict(_body(score.outline))
    ours = {score.prefix + name for name in body}
    expected = [
        Differing(name, shape, body[name])
        for name in body
        if (shape := file.shapes.get(score.prefix + name)) != body[name]
    ]
    heads = [score.prefix + path for path in score.outline.heads]
    others = [
        Differing(name, shape, None)
        for name, shape in file.shapes.items()
        if name not in ours and not _is_below(name, heads)
    ]
    return (*expected, *others)
