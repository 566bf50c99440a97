"""Where architectures come from: a file for each origin, and here the list of them all."""

from __future__ import annotations

from collections.abc import Mapping

from surgery.networks.origins.like import Like
from surgery.networks.origins.origin import Library, Origin
from surgery.networks.origins.own_code import OwnCode
from surgery.networks.origins.timm import Timm
from surgery.networks.origins.torchvision import Torchvision

__all__ = ["FORMS", "LIBRARIES", "ORIGINS", "PREFIXES"]

#: In the order in which bare names are looked for.
LIBRARIES: tuple[Library, ...] = (Timm(), Torchvision())

_PREFIXED: tuple[Origin, ...] = (*LIBRARIES, Like())

#: What may stand before the colon; anything else is a person's own code.
PREFIXES = tuple(origin.name for origin in _PREFIXED)

#: By what an architecture's ``origin`` says.
ORIGINS: Mapping[str, Origin] = {origin.name: origin for origin in (*_PREFIXED, OwnCode(PREFIXES))}

#: How an architecture is written, for messages.
FORMS = ", ".join(origin.form for origin in ORIGINS.values())
