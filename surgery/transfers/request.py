"""What somebody wants of a transfer, made by Python's keywords and by the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from surgery.errors import SurgeryError, did_you_mean
from surgery.matching.lines.mapping import MappingLike
from surgery.patterns import Selector, parse_selector
from surgery.specs import DTYPE_BITS, ModelSpec, SourceSpec, TensorSpec, is_real
from surgery.wording import shortened

if TYPE_CHECKING:
    from torch import nn

    from surgery.checkpoint.weights import SourceLike

#: The ways in which tensors are brought together.
MATCHES = ("names", "structure")

#: ``"auto"``, ``"pos_embed"``, ``"fc=class-rows:0=7"``, several of these, or a mapping from
#: patterns: ``{"fc": ("class-rows", {0: 7})}``. See :mod:`surgery.transfers.resize.options`.
ResizeLike: TypeAlias = (
    "str | Mapping[str, str | tuple[str, Mapping[object, object]]] | Iterable[object] | None"
)

#: ``"conv3 -> reduce"``, several of these, or a mapping from one side to the other.
HintsLike: TypeAlias = "str | Iterable[str] | Mapping[str, str]"

TargetLike: TypeAlias = "nn.Module | ModelSpec | Iterable[TensorSpec] | str"


@dataclass(frozen=True, kw_only=True)
class TransferRequest:
    """One transfer as it was asked for; nothing is opened or built yet.

    The fields of :func:`surgery.plan_transfer`'s keywords mean what it says of them. A ``target``
    that is an architecture's name may have ``arguments``, ``num_classes``, and the ``seed`` of its
    initial values; ``source_arguments`` are those of ``source_arch``. ``dtype`` is that of the
    target's real floating tensors, where it is not its own.

    Raises :class:`~surgery.errors.SurgeryError` for a value that no transfer has.
    """

    source: SourceLike | SourceSpec | Iterable[TensorSpec]
    target: TargetLike
    match: str = "names"
    mapping: MappingLike = None
    hints: HintsLike = ()
    resize: ResizeLike = None
    key: str | None = None
    dtype: str | None = None
    fresh: str | Iterable[str] = ()
    min_loaded: float | None = None
    strict: bool = False
    keep_open: bool = False
    source_arch: str | None = None
    source_arguments: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("key", "source_arch"):
            _check_type(name, getattr(self, name), "a text", str, type(None))
        for name in ("strict", "keep_open"):
            _check_type(name, getattr(self, name), "True or False", bool)
        object.__setattr__(self, "hints", _lines("hints", self.hints))
        _check_match(self.match, self.hints)
        _check_share(self.min_loaded)
        _check_dtype(self.dtype)
        if self.source_arguments and self.source_arch is None:
            raise SurgeryError(
                "source arguments (--source-arg) are for the architecture that source_arch "
                "(--source-arch) names, and none is named"
            )
        object.__setattr__(self, "fresh", _texts("fresh", self.fresh))
        if self.resize in ((), [], {}, ""):
            object.__setattr__(self, "resize", None)  # nothing was asked for

    @property
    def accepted_fresh(self) -> tuple[Selector, ...]:
        """What ``fresh`` names, read."""
        return tuple(map(parse_selector, self.fresh))

    @property
    def source_label(self) -> str:
        """The source as a person named it; what has no name is called by its kind."""
        named = isinstance(self.source, str | Path)
        return str(self.source) if named else f"a {type(self.source).__name__}"


def _check_match(match: str, hints: HintsLike) -> None:
    if match not in MATCHES:
        expected = " or ".join(map(repr, MATCHES))
        near = did_you_mean(str(match), MATCHES)
        raise SurgeryError(f"match={match!r} is not known; expected {expected}{near}")
    if match == "names" and hints:
        raise SurgeryError(
            "hints are for what structure leaves open, and names leave nothing open; add "
            "match='structure' (--match structure), or say it by a mapping"
        )


def _check_share(share: float | None) -> None:
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if share is not None and not (number and 0 <= share <= 1):
        raise SurgeryError(f"min_loaded is a share from 0 to 1, not {share!r}")


def _check_dtype(dtype: str | None) -> None:
    if dtype is None:
        return
    floating = list(filter(is_real, DTYPE_BITS))
    if dtype not in floating:
        near = did_you_mean(str(dtype), floating) or f"; there are {', '.join(floating)}"
        raise SurgeryError(f"dtype={dtype!r} is no floating dtype of torch{near}")


def _texts(name: str, given: object) -> tuple[str, ...]:
    """One text or several as a row of them."""
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping)
    texts: list[Any] = [*cast("Iterable[object]", given)] if several else [given]
    for text in texts:
        _check_type(name, text, "a text or several", str)
    return tuple(texts)


def _lines(name: str, given: object) -> tuple[str, ...]:
    """``left -> right`` as they are, or of a mapping from one side to the other."""
    if not isinstance(given, Mapping):
        return _texts(name, given)
    sides = zip(_texts(name, given.keys()), _texts(name, given.values()), strict=True)
    return tuple(f"{left} -> {right}" for left, right in sides)


def _check_type(name: str, value: object, expected: str, *types: type) -> None:
    if not isinstance(value, types):
        raise SurgeryError(f"{name}: expected {expected}, found {shortened(repr(value))}")
