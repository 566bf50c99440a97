"""``conv3 = reduce``: what a person says where names and shapes leave it open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from surgery.errors import SurgeryError, did_you_mean
from surgery.transfers.structure.layers import Path


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


def _has(path: Path, part: Path) -> bool:
    return any(path[at : at + len(part)] == part for at in range(len(path) - len(part) + 1))


def _ends(paths: Sequence[Path], part: Path) -> bool:
    return any(path[-len(part) :] == part for path in paths)


@dataclass(frozen=True)
class Hints:
    """The hints, and which of them have settled something."""

    hints: tuple[Hint, ...] = ()
    used: set[Hint] = field(default_factory=set)

    def __iter__(self) -> Iterator[Hint]:
        return iter(self.hints)

    def use(self, hint: Hint) -> None:
        self.used.add(hint)

    def tell(self, sources: Sequence[Path], targets: Sequence[Path]) -> bool:
        """Whether a hint ends as one of either side's paths do; it counts as used then."""
        for hint in self.hints:
            if _ends(sources, hint.source) and _ends(targets, hint.target):
                self.use(hint)
                return True
        return False

    def refuse_unused(self, sources: Iterable[Path], targets: Iterable[Path]) -> None:
        """Raise :class:`~surgery.errors.SurgeryError` for hints that settled nothing."""
        unused = [hint for hint in self.hints if hint not in self.used]
        if unused:
            sources, targets = list(sources), list(targets)
            first, *more = (_why_unused(hint, sources, targets) for hint in unused)
            raise SurgeryError(first, more)


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


def read_hints(hints: Iterable[str] | Mapping[str, str]) -> Hints:
    """Texts ``"source = target"``, or a mapping, -> Hints.

    Raises :class:`~surgery.errors.SurgeryError` for a text that is not of this form.
    """
    if isinstance(hints, str):
        hints = [hints]
    texts = [f"{a} = {b}" for a, b in hints.items()] if isinstance(hints, Mapping) else hints
    return Hints(tuple(dict.fromkeys(map(_read_hint, texts))))


def _read_hint(text: str) -> Hint:
    source, equals, target = (part.strip() for part in text.partition("="))
    if not (equals and source and target) or "=" in target:
        raise SurgeryError(
            f"a hint is 'source = target', whole names or segments of them, not {text!r}"
        )
    return Hint(tuple(source.split(".")), tuple(target.split(".")))
