"""What a person says where names and shapes leave it open.

``conv3 = reduce`` pairs two layers. ``query_key_value = 8 x (q, k, v)`` says how the rows of a
fused projection lie, on whichever side it is: eight times those of q, k and v, a head at a time;
``qkv_proj = q, k, v`` are three blocks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgery.errors import SurgeryError, did_you_mean
from surgery.matching.structure.layers import Path


@dataclass(frozen=True, slots=True)
class Hint:
    """Whole segments, or paths of them, of the source and of the target."""

    source: Path
    target: Path

    def __str__(self) -> str:
        return f"{'.'.join(self.source)} = {'.'.join(self.target)}"

    def names_source(self, path: Path) -> bool:
        return _has(path, self.source)

    def names_target(self, path: Path) -> bool:
        return _has(path, self.target)


@dataclass(frozen=True, slots=True)
class LayoutHint:
    """The rows of a fused projection: ``parts`` in their order, ``groups`` times."""

    name: Path
    parts: str
    groups: int

    def __str__(self) -> str:
        return f"{'.'.join(self.name)} = {layout_text(self.parts, self.groups)}"


def layout_text(parts: str, groups: int) -> str:
    """``q, k, v``, or ``8 x (q, k, v)``."""
    text = ", ".join(parts)
    return text if groups == 1 else f"{groups} x ({text})"


_LAYOUT = re.compile(r"(?:([1-9]\d{0,5})\s*[xX*]\s*\()?\s*([qkv](?:\s*,\s*[qkv])+)\s*(\))?")


def _without_leaf(path: Path, names: Collection[str]) -> Path:
    return path[:-1] if len(path) > 1 and ".".join(path) in names else path


def _has(path: Path, part: Path) -> bool:
    return any(path[at : at + len(part)] == part for at in range(len(path) - len(part) + 1))


def _ends(paths: Sequence[Path], part: Path) -> bool:
    return any(path[-len(part) :] == part for path in paths)


@dataclass(frozen=True)
class Hints:
    """The hints, and which of them have settled something."""

    hints: tuple[Hint, ...] = ()
    layouts: tuple[LayoutHint, ...] = ()
    used: set[Hint | LayoutHint] = field(default_factory=set)

    def __iter__(self) -> Iterator[Hint]:
        return iter(self.hints)

    def __bool__(self) -> bool:
        return bool(self.hints or self.layouts)

    def use(self, hint: Hint | LayoutHint) -> None:
        self.used.add(hint)

    def of_layers(self, sources: Iterable[str], targets: Iterable[str]) -> Hints:
        """The same hints; one that names a whole tensor speaks of its layer."""
        if not self.hints:
            return self
        ours, theirs = set(sources), set(targets)
        return replace(
            self,
            hints=tuple(
                Hint(_without_leaf(x.source, ours), _without_leaf(x.target, theirs))
                for x in self.hints
            ),
        )

    def layout(self, path: Path) -> LayoutHint | None:
        """How the rows of the projection at a path lie, if a hint says so."""
        return next((x for x in self.layouts if path[-len(x.name) :] == x.name), None)

    def tell(self, sources: Sequence[Path], targets: Sequence[Path]) -> bool:
        """Whether a hint ends as one of either side's paths do; it counts as used then."""
        for hint in self.hints:
            if _ends(sources, hint.source) and _ends(targets, hint.target):
                self.use(hint)
                return True
        return False

    def refuse_unused(self, sources: Iterable[Path], targets: Iterable[Path]) -> None:
        """Raise :class:`~surgery.errors.SurgeryError` for hints that settled nothing."""
        sources, targets = list(sources), list(targets)
        problems = [
            *(_why_unused(x, sources, targets) for x in self.hints if x not in self.used),
            *(_why_no_layout(x, [*sources, *targets]) for x in self.layouts if x not in self.used),
        ]
        if problems:
            raise SurgeryError(problems[0], problems[1:])


def _why_unused(hint: Hint, sources: Sequence[Path], targets: Sequence[Path]) -> str:
    for part, paths, side in ((hint.source, sources, "source"), (hint.target, targets, "target")):
        if not any(_has(path, part) for path in paths):
            segments = dict.fromkeys(segment for path in paths for segment in path)
            near = did_you_mean(part[-1], segments)
            return f"hint '{hint}': no {side} name has the segments {'.'.join(part)!r}{near}"
    return (
        f"hint '{hint}' settles nothing: both names are there, but no layers of one shape that "
        "they could pair were left open; remove it"
    )


def _why_no_layout(hint: LayoutHint, paths: Sequence[Path]) -> str:
    if not _ends(paths, hint.name):
        near = did_you_mean(hint.name[-1], dict.fromkeys(s for path in paths for s in path))
        return f"hint '{hint}': no projection is called {'.'.join(hint.name)!r}{near}"
    return (
        f"hint '{hint}' settles nothing: no fused projection of that name has rows that make "
        f"{', '.join(hint.parts)} and could be left open by them"
    )


def read_hints(hints: Iterable[str] | Mapping[str, str]) -> Hints:
    """Texts ``"source = target"``, or a mapping, -> Hints.

    Raises :class:`~surgery.errors.SurgeryError` for a text that is not of this form.
    """
    if isinstance(hints, str):
        hints = [hints]
    texts = [f"{a} = {b}" for a, b in hints.items()] if isinstance(hints, Mapping) else hints
    read = list(dict.fromkeys(map(_read_hint, texts)))
    return Hints(
        tuple(hint for hint in read if isinstance(hint, Hint)),
        tuple(hint for hint in read if isinstance(hint, LayoutHint)),
    )


def _read_hint(text: str) -> Hint | LayoutHint:
    source, equals, target = (part.strip() for part in text.partition("="))
    if not (equals and source and target) or "=" in target:
        raise SurgeryError(
            "a hint is 'source = target', whole names or segments of them, or "
            f"'fused = 8 x (q, k, v)', not {text!r}"
        )
    if layout := _LAYOUT.fullmatch(target):
        return _read_layout(text, source, layout)
    return Hint(tuple(source.split(".")), tuple(target.split(".")))


def _read_layout(text: str, source: str, layout: re.Match[str]) -> LayoutHint:
    parts = "".join(c for c in layout[2] if c in "qkv")
    if len({*parts}) != len(parts) or bool(layout[1]) != bool(layout[3]):
        raise SurgeryError(
            f"hint {text!r}: rows are each of q, k and v once, as in 'q, k, v' or '8 x (q, k, v)'"
        )
    return LayoutHint(tuple(source.split(".")), parts, int(layout[1] or 1))
