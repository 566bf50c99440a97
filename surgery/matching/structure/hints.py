"""What a person says where names and shapes leave it open.

``conv3 -> reduce`` pairs two layers, or two modules with all that agrees in them, and
``proj^T -> proj`` says that one of them is stored (in, out). ``query_key_value -> 8 x (q, k, v)``
says how the rows of the source's fused projection lie: eight times those of q, k and v, a head at
a time; ``q, k, v -> qkv_proj`` are three blocks of the target's. ``fc1 -> gate, up`` and
``fc1 -> w1, w3`` are those of a gated layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from surgery.errors import SurgeryError, did_you_mean
from surgery.matching.structure.layers import Path
from surgery.matching.structure.words import projection
from surgery.wording import shortened

SIDES = ("source", "target")


@dataclass(frozen=True, slots=True)
class Hint:
    """Whole segments, or paths of them, of the source and of the target; ``turned`` says that one
    of them is stored (in, out) and the other (out, in), as ``^T`` does; None where no side has it.
    """

    text: str
    ends: tuple[Path, Path]
    turned: bool = False

    def __str__(self) -> str:
        return self.text

    def names(self, path: Path, side: int) -> bool:
        """Whether the segments stand anywhere in a path."""
        part = self.ends[side]
        return any(path[at : at + len(part)] == part for at in range(len(path) - len(part) + 1))

    def calls(self, path: Path, side: int) -> bool:
        """Whether a path ends in the segments."""
        return _ends(path, self.ends[side])


@dataclass(frozen=True, slots=True)
class LayoutHint:
    """The rows of a fused projection on one side: ``parts`` in their order, ``groups`` times.
    ``names`` are what they are called, which may be names of the other side's projections.
    """

    text: str
    name: Path
    side: int
    names: tuple[str, ...]
    groups: int

    def __str__(self) -> str:
        return self.text

    @property
    def parts(self) -> str:
        return "".join(self.part_of(name) for name in self.names)

    def part_of(self, segment: str) -> str:
        """A letter for one of the parts; one that no word has where only the name tells it."""
        found = projection(segment)
        if found and len(found[0]) == 1:
            return found[0]
        return chr(0xE000 + self.names.index(segment))


def layout_text(names: Sequence[str], groups: int) -> str:
    """``q, k, v``, or ``8 x (q, k, v)``."""
    text = ", ".join(names)
    return text if groups == 1 else f"{groups} x ({text})"


_LAYOUT = re.compile(r"([1-9]\d{0,5})\s*[xX*]\s*\(([^()]*)\)|([^()]*,[^()]*)")


def _ends(path: Path, part: Path) -> bool:
    return path[-len(part) :] == part


@dataclass(frozen=True)
class Hints:
    """The hints, and which of them have decided something."""

    hints: tuple[Hint, ...] = ()
    layouts: tuple[LayoutHint, ...] = ()
    used: set[Hint | LayoutHint] = field(default_factory=set)

    def __iter__(self) -> Iterator[Hint]:
        return iter(self.hints)

    def __bool__(self) -> bool:
        return bool(self.hints or self.layouts)

    def use(self, hint: Hint | LayoutHint) -> None:
        self.used.add(hint)

    def of_layers(self, *names: Iterable[str]) -> Hints:
        """The same hints; one that names a whole tensor speaks of its layer."""
        if not self.hints:
            return self
        known = [set(side) for side in names]

        def layer(path: Path, side: int) -> Path:
            return path[:-1] if len(path) > 1 and ".".join(path) in known[side] else path

        hints = (replace(x, ends=(layer(x.ends[0], 0), layer(x.ends[1], 1))) for x in self.hints)
        return replace(self, hints=tuple(hints))

    def layout(self, path: Path, side: int) -> LayoutHint | None:
        """How the rows of the projection at a path lie, if a hint says so."""
        found = (x for x in self.layouts if x.side == side and _ends(path, x.name))
        return next(found, None)

    def part(self, path: Path, side: int) -> str:
        """The part of the other side's fused projection that a hint calls by a path's name."""
        found = (x for x in self.layouts if x.side != side and path[-1] in x.names)
        return next((x.part_of(path[-1]) for x in found), "")

    def naming(self, sources: Sequence[Path], targets: Sequence[Path]) -> Hint | None:
        """The hint that ends as one of either side's paths do; it counts as used then."""
        for hint in self.hints:
            if all(
                any(hint.calls(path, side) for path in paths)
                for side, paths in enumerate((sources, targets))
            ):
                self.use(hint)
                return hint
        return None

    def refuse_unused(self, *paths: Sequence[Path]) -> None:
        """Raise :class:`~surgery.errors.SurgeryError` for hints that decided nothing."""
        problems = [
            *(_why_unused(x, paths) for x in self.hints if x not in self.used),
            *(_why_no_layout(x, paths[x.side]) for x in self.layouts if x not in self.used),
        ]
        if problems:
            raise SurgeryError(problems[0], problems[1:])


def _called(hint: Hint | LayoutHint) -> str:
    return f"hint '{shortened(str(hint))}'"


def _why_unused(hint: Hint, paths: Sequence[Sequence[Path]]) -> str:
    for side, part in enumerate(hint.ends):
        if not any(hint.names(path, side) for path in paths[side]):
            near = did_you_mean(part[-1], _segments(paths[side]))
            segments = shortened(".".join(part))
            return f"{_called(hint)}: no {SIDES[side]} name has the segments {segments!r}{near}"
    return (
        f"{_called(hint)} decides nothing: both names are there, but no layers of one shape that "
        "they could pair were left open; remove it"
    )


def _why_no_layout(hint: LayoutHint, paths: Sequence[Path]) -> str:
    name = ".".join(hint.name)
    if not any(_ends(path, hint.name) for path in paths):
        near = did_you_mean(hint.name[-1], _segments(paths))
        side = SIDES[hint.side]
        return f"{_called(hint)}: no projection of the {side} is called {shortened(name)!r}{near}"
    return (
        f"{_called(hint)} decides nothing: no fused projection of that name has rows that make "
        f"{', '.join(hint.names)} and could be left open by them"
    )


def _segments(paths: Iterable[Path]) -> dict[str, None]:
    return dict.fromkeys(segment for path in paths for segment in path)


def read_hints(hints: Iterable[str]) -> Hints:
    """Texts ``"source -> target"`` -> Hints.

    Raises :class:`~surgery.errors.SurgeryError` for a text that is not of this form.
    """
    read = list(dict.fromkeys(map(_read_hint, [hints] if isinstance(hints, str) else hints)))
    return Hints(
        tuple(hint for hint in read if isinstance(hint, Hint)),
        tuple(hint for hint in read if isinstance(hint, LayoutHint)),
    )


def _read_hint(text: str) -> Hint | LayoutHint:
    ends = [part.strip() for part in text.split("->")]
    if len(ends) != 2 or not all(ends):
        raise SurgeryError(
            "a hint is 'source -> target', whole names or segments of them, or "
            f"'fused -> 8 x (q, k, v)', not {shortened(text)!r}"
        )
    text = " -> ".join(ends)
    layouts = [_LAYOUT.fullmatch(end) for end in ends]
    for side, layout in enumerate(reversed(layouts)):
        if layout:
            return _read_layout(text, ends[side], side, layout)
    if any("," in end or "(" in end for end in ends):
        raise SurgeryError(_EACH_ONCE.format(shortened(text)))
    turned = [end.endswith("^T") for end in ends]
    source, target = (tuple(end.removesuffix("^T").split(".")) for end in ends)
    return Hint(text, (source, target), turned[0] != turned[1])


_EACH_ONCE = "hint {!r}: rows are each of q, k and v once, as in 'q, k, v' or '8 x (q, k, v)'"


def _read_layout(text: str, name: str, side: int, layout: re.Match[str]) -> LayoutHint:
    names = tuple(part.strip() for part in (layout[2] or layout[3]).split(","))
    if len({*names}) != len(names) or not all(names) or "," in name or "(" in name:
        raise SurgeryError(_EACH_ONCE.format(shortened(text)))
    return LayoutHint(text, tuple(name.split(".")), side, names, int(layout[1] or 1))
