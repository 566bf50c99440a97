"""What a user asks for, ``'pos_embed=pos-embed:old=14x14'``, read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from surgery.errors import SurgeryError, did_you_mean
from surgery.patterns import Selector, parse_selector
from surgery.transfers.resize import ADAPTERS
from surgery.transfers.resize.adapter import Adapter, Settings, setting_text

#: ``{"pos_embed": "pos-embed:old=14x14"}``, ``{"fc": ("class-rows", {0: 7})}``, or lines of text.
AdaptersLike: TypeAlias = (
    "Mapping[str, str | tuple[str, Mapping[object, object]]] | Iterable[str] | None"
)

_LINE = re.compile(r"(?P<selector>.+?)=(?P<name>[a-z-]+)(?::(?P<settings>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Asked:
    """An adapter for all target tensors that ``selector`` selects by name or type."""

    text: str
    selector: Selector
    adapter: Adapter
    settings: Settings


def read_asked(adapters: AdaptersLike) -> tuple[Asked, ...]:
    """Read ``PATTERN=ADAPTER[:KEY=VALUE,...]``, or a mapping that says the same.

    Raises :class:`~surgery.errors.SurgeryError` for what cannot be read, an adapter that there
    is not, and settings that it does not have.
    """
    if adapters is None:
        return ()
    if isinstance(adapters, str):
        raise SurgeryError("adapters are {'pattern': 'adapter'} or a list of 'pattern=adapter'")
    if isinstance(adapters, Mapping):
        return tuple(_from_entry(selector, asked) for selector, asked in adapters.items())
    return tuple(map(_from_line, adapters))


def _from_line(text: str) -> Asked:
    match = _LINE.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise SurgeryError(f"expected PATTERN=ADAPTER or PATTERN=ADAPTER:KEY=VALUE, found {text!r}")
    return _asked(match["selector"], match["name"], _settings(match["settings"] or "", text))


def _settings(text: str, line: str) -> dict[str, str]:
    settings: dict[str, str] = {}
    for piece in filter(None, text.split(",")):
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not equals or not key or key in settings:
            raise SurgeryError(f"{line!r}: expected each KEY=VALUE once, found {piece!r}")
        settings[key] = value
    return settings


def _from_entry(selector: str, asked: str | tuple[str, Mapping[object, object]]) -> Asked:
    if isinstance(asked, str):
        return _from_line(f"{selector}={asked}")
    if not (isinstance(asked, tuple | list) and len(asked) == 2 and isinstance(asked[1], Mapping)):
        raise SurgeryError(
            f"{selector!r}: expected an adapter's name or (name, settings), found {asked!r}"
        )
    name, settings = asked
    return _asked(
        selector, name, {str(key): setting_text(value) for key, value in settings.items()}
    )


def _asked(selector: str, name: str, settings: Mapping[str, str]) -> Asked:
    if name not in ADAPTERS:
        near = did_you_mean(name, ADAPTERS) or f"; there are {', '.join(ADAPTERS)}"
        raise SurgeryError(f"there is no adapter {name!r}{near}")
    adapter = ADAPTERS[name]
    return Asked(f"{selector}={name}", parse_selector(selector), adapter, adapter.read(settings))
