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

from surgery.errors import SurgeryError
from surgery.patterns import parse_selector
from surgery.transfers.request import ResizeLike
from surgery.transfers.resize import RESIZERS, resizer_called
from surgery.transfers.resize.resizer import Resize

_LINE = re.compile(r"(?P<selector>.+?)=(?P<name>[a-z_-]+)(?::(?P<settings>.*))?", re.DOTALL)


def read_options(resize: ResizeLike) -> tuple[Resize, ...]:
    """Raises :class:`~surgery.errors.SurgeryError` for what cannot be read, a method that there is
    not, and settings that it does not have.
    """
    if isinstance(resize, str | Mapping) or not isinstance(resize, Iterable):
        resize = [resize]
    return tuple(option for each in resize for option in _read(each))


def _read(option: object) -> Iterator[Resize]:
    if isinstance(option, Mapping):
        for selector, how in option.items():
            yield _from_entry(str(selector), how)
    elif isinstance(option, str) and option.strip():
        yield _from_line(option)
    else:
        raise SurgeryError(
            f"resize: expected auto, PATTERN, METHOD or PATTERN=METHOD:KEY=VALUE, found {option!r}"
        )


def _from_line(text: str) -> Resize:
    if match := _LINE.fullmatch(text):
        return _exact(match["selector"], match["name"], _settings(match["settings"] or "", text))
    if text == "auto":
        return Resize(text)
    if text in RESIZERS and text != "depth":
        return Resize(text, None, RESIZERS[text], RESIZERS[text].read({}))
    return Resize(text, parse_selector(text))


def _settings(text: str, line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for piece in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not key or key in settings:
            raise SurgeryError(f"{line!r}: expected each KEY=VALUE once, found {piece!r}")
        settings[key] = value
    return settings


def _from_entry(selector: str, how: object) -> Resize:
    if isinstance(how, str):
        return _from_line(f"{selector}={how}")
    if isinstance(how, tuple | list) and len(how) == 2 and isinstance(how[1], Mapping):
        settings = {str(key): _setting_text(value) for key, value in how[1].items()}
        return _exact(selector, str(how[0]), settings)
    raise SurgeryError(f"{selector!r}: expected a method's name or (name, settings), found {how!r}")


def _setting_text(value: object) -> str:
    """A setting as it would be typed: ``14x14`` for a grid."""
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _exact(selector: str, name: str, settings: Mapping[str, str]) -> Resize:
    resizer = resizer_called(name)
    return Resize(f"{selector}={name}", parse_selector(selector), resizer, resizer.read(settings))
