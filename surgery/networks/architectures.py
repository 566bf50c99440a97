"""``"timm:resnet50"``, ``"torchvision:vit_b_16"``, ``"pkg.module:make"``: which one is meant.

Nothing is built and nothing heavy imported, where a library's names are remembered
(:mod:`surgery.networks.remembered`). :mod:`surgery.networks.blueprints` goes on from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from surgery.errors import ArchitectureError, did_you_mean
from surgery.networks.origins import FORMS, LIBRARIES, ORIGINS, PREFIXES
from surgery.networks.remembered import Memory, open_memory
from surgery.patterns import names_meant, read_pattern


@dataclass(frozen=True, slots=True)
class Architecture:
    """Which architecture was meant.

    ``origin`` is a name of :data:`surgery.networks.origins.ORIGINS` (``"timm"``, ``"factory"``);
    ``name`` is what that origin knows it by (``file#key`` for one state dict of several in a
    file). ``also`` names the other library where a bare name fits both.
    """

    origin: str
    name: str
    also: str = ""

    @property
    def label(self) -> str:
        """The name that says it all: ``timm:resnet50``, ``models.py:make``, ``like:x.pt``."""
        return ORIGINS[self.origin].label(self.name)

    @property
    def stem(self) -> str:
        """A file name without suffix: ``resnet50``, ``make``, ``like-x``."""
        return ORIGINS[self.origin].stem(self.name)

    def __str__(self) -> str:
        return f"{self.label} (also in {self.also})" if self.also else self.label


def find_architecture(text: str) -> Architecture:
    """Say which architecture ``text`` names; nothing is built yet.

    A bare name is timm's if timm has it, else torchvision's. Raises
    :class:`~surgery.errors.ArchitectureError` with the nearest names.
    """
    prefix, colon, name = text.partition(":")
    memory = open_memory()
    if not colon:
        return _find_bare(text, memory)
    if not prefix or not name:
        raise ArchitectureError(f"{text!r} names no architecture; expected {FORMS}")
    if prefix.lower().replace("_", "-") == "hf-hub":
        raise ArchitectureError(
            f"{text!r} names a model on a hub, and nothing is downloaded here; name the "
            "architecture (timm:NAME) and pass the downloaded file as the source"
        )
    if prefix not in PREFIXES:
        return Architecture("factory", text)
    if not ORIGINS[prefix].has(name, memory):
        near = did_you_mean(name, ORIGINS[prefix].names(memory), 3)
        raise ArchitectureError(f"{prefix} has no architecture {name!r}{near}")
    return Architecture(prefix, name)


def _find_bare(name: str, memory: Memory) -> Architecture:
    homes = [library.name for library in LIBRARIES if library.has(name, memory)]
    if homes:
        return Architecture(homes[0], name, also=" and ".join(homes[1:]))
    looks_like_file = Path(name).suffix in {".py", ".pt", ".pth", ".safetensors"}
    names = {known: None for library in LIBRARIES for known in library.names(memory)}
    hint = (
        "; a Python file is path/file.py:factory, another checkpoint's names are like:file"
        if looks_like_file
        else did_you_mean(name, names, 3) or "; `surgery archs` lists all names"
    )
    libraries = " nor ".join(library.name for library in LIBRARIES)
    raise ArchitectureError(f"neither {libraries} has an architecture {name!r}{hint}")


def list_architectures(pattern: str = "*") -> tuple[str, ...]:
    """All names that can be built, as ``timm:NAME`` and ``torchvision:NAME``.

    ``pattern`` is a glob over the name with or without its library, or a ``/regex/``; a plain
    name matches anywhere.
    """
    memory = open_memory()
    names = {library.label(name): name for library in LIBRARIES for name in library.names(memory)}
    read = read_pattern(pattern)
    if read.kind == "name":
        return tuple(label for label in names if pattern in label)
    found = names_meant(read, [*names, *names.values()], end=r"\Z")
    return tuple(label for label, name in names.items() if {label, name} & found)
