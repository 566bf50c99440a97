"""What a person wants of tensors of another shape, ``'fc=class-rows:0=7'``, read and checked.

::

    auto                              every tensor, by the first method that fits it
    pos_embed                         these tensors, by the first method that fits them
    vocabulary                        every tensor that this method fits
    pos_embed=pos-embed:new=14x28     these tensors by this method, with settings
    blocks=depth:how=stack            these layers, when there are more of them or fewer
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.errors import SurgeryError, did_you_mean
from surgery.patterns import Selector, parse_selector
from surgery.transfers.request import ResizeLike
from surgery.transfers.resize import RESIZERS
from surgery.transfers.resize.resizer import Resizer, Settings, setting_text

_LINE = re.compile(r"(?P<selector>.+?)=(?P<name>[a-z-]+)(?::(?P<settings>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Resize:
    """One option: for the target tensors that ``selector`` selects, or all where it is None, by
    ``resizer``, or the first that fits where it is None.
    """

    text: str
    selector: Selector | None = None
    resizer: Resizer | None = None
    settings: Settings = field(default_factory=dict)

    @property
    def is_depth(self) -> bool:
        """Whether it is about whole layers."""
        return self.resizer is not None and self.resizer.name == "depth"

    @property
    def is_exact(self) -> bool:
        """Whether it names both the tensors and the method: then it is taken at its word."""
        return self.selector is not None and self.resizer is not None


def read_options(resize: ResizeLike) -> tuple[Resize, ...]:
    """Raises :class:`~surgery.errors.SurgeryError` for what cannot be read, a method that there is
    not, and settings that it does not have.
    """
    if resize is None:
        return ()
    if isinstance(resize, Mapping):
        return tuple(_from_entries(resize))
    if isinstance(resize, str):
        return tuple(_read_one(resize))
    if not isinstance(resize, Iterable):
        raise SurgeryError(
            "resize is 'auto', 'PATTERN=METHOD', {'PATTERN': 'METHOD'} or a list of these, not "
            f"{resize!r}"
        )
    return tuple(option for each in resize for option in _read_one(each))


def _read_one(option: object) -> Iterable[Resize]:
    if isinstance(option, Mapping):
        return _from_entries(option)
    if not isinstance(option, str) or not option.strip():
        raise SurgeryError(
            f"expected auto, PATTERN, METHOD or PATTERN=METHOD:KEY=VALUE, found {option!r}"
        )
    return (_from_line(option),)


def _from_line(text: str) -> Resize:
    if match := _LINE.fullmatch(text):
        return _exact(match["selector"], match["name"], _settings(match["settings"] or "", text))
    if text == "auto":
        return Resize(text)
    name, _, settings = text.partition(":")
    if name in RESIZERS and name != "depth":
        resizer = RESIZERS[name]
        return Resize(text, None, resizer, resizer.read(_settings(settings, text)))
    return Resize(text, parse_selector(text))


def _settings(text: str, line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for piece in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not key or key in settings:
            raise SurgeryError(f"{line!r}: expected each KEY=VALUE once, found {piece!r}")
        settings[key] = value
    return settings


def _from_entries(entries: Mapping[Any, Any]) -> Iterator[Resize]:
    for selector, how in entries.items():
        if isinstance(how, str):
            yield _from_line(f"{selector}={how}")
        elif isinstance(how, tuple | list) and len(how) == 2 and isinstance(how[1], Mapping):
            settings = {str(key): setting_text(value) for key, value in how[1].items()}
            yield _exact(str(selector), str(how[0]), settings)
        else:
            raise SurgeryError(
                f"{selector!r}: expected a method's name or (name, settings), found {how!r}"
            )


def _exact(selector: str, name: str, settings: Mapping[str, str]) -> Resize:
    if name not in RESIZERS:
        near = did_you_mean(name, RESIZERS) or f"; there are {', '.join(RESIZERS)}"
        raise SurgeryError(f"there is no method {name!r} for another shape{near}")
    resizer = RESIZERS[name]
    return Resize(f"{selector}={name}", parse_selector(selector), resizer, resizer.read(settings))
