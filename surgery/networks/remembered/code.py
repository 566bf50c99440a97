"""Which code would build an architecture now: the installed files, found without importing them.

Versions alone would miss an edited or an editable install, and reading them
(``importlib.metadata``) takes longer than looking at every file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: The packages whose code decides what an architecture looks like, each with the folders to look
#: at. Timm uses torchvision's layers and feature extraction, which uses torch.fx. All of torch
#: would be 2,500 files: the layers, and the version below, stand for it. Our own code says what a
#: spec is, and what a head.
_PACKAGES = {
    "timm": ("",),
    "torchvision": ("",),
    "torch": ("nn", "fx"),
    "surgery": ("",),
}

#: Whoever imports one of these may change it: register models, patch classes, set torch's dtype.
_LIBRARIES = ("torch", "torchvision", "timm")


@dataclass(frozen=True, slots=True)
class Code:
    """Installed code: ``place`` tells one installation from another, ``state`` what is in it.

    Both are hexadecimal, of 16 and of 32 digits.
    """

    place: str
    state: str


def installed_code() -> Code | None:
    """The code that an import would find now; None where it is not all in plain files."""
    try:
        folders = {package: _folder(package) for package in _PACKAGES}
        lines = [
            line
            for package, folder in folders.items()
            for line in (_version(folder), *_files(folder, _PACKAGES[package]))
        ]
    except (ImportError, OSError, ValueError):
        return None
    places = [f"{package}={folder}" for package, folder in folders.items()]
    state = [sys.version, *places, *sorted(lines)]
    return Code(_digest(places, 8), _digest(state, 16))


def trusted_code() -> Code | None:
    """The installed code, if it is also what runs in this process; None where that is in doubt.

    Libraries that someone else has imported may have been changed since, and so may their files;
    and another default dtype makes other models.
    """
    if not _any_imported():
        return installed_code()
    torch = sys.modules.get("torch")
    usual = torch is None or torch.get_default_dtype() == torch.float32
    return _imported if usual and _imported and installed_code() == _imported else None


def about_to_import(code: Code) -> None:
    """Tell that surgery itself imports the libraries next, as they are in ``code``."""
    global _imported
    if not _any_imported():
        _imported = code


#: The code as it was when surgery imported it; None while it has not, or others were first.
_imported: Code | None = None


def _any_imported() -> bool:
    return any(library in sys.modules for library in _LIBRARIES)


def _folder(package: str) -> str:
    """Where the package lies. Looking for a top-level name imports nothing."""
    spec = importlib.util.find_spec(package)
    folders = spec and spec.submodule_search_locations
    if not folders or len(folders) != 1:
        raise ImportError(f"{package} is not in one folder")
    return os.path.realpath(folders[0])


def _version(folder: str) -> str:
    """By what the file says: images of containers may be made with all times the same."""
    file = Path(folder, "version.py")
    return f"{folder} version {file.read_bytes()!r}" if file.is_file() else f"{folder} no version"


def _files(folder: str, inner: tuple[str, ...]) -> Iterator[str]:
    """A line for each Python file: its path, size and times.

    The time of the last change of status (``st_ctime``) is in it because ``cp -p`` and ``rsync``
    set the other one back.
    """
    seen: set[tuple[int, int]] = set()
    for part in inner:
        for place, folders, names in os.walk(f"{folder}/{part}", followlinks=True):
            here = os.stat(place)  # noqa: PTH116 - a hot path
            if (here.st_dev, here.st_ino) in seen or place.endswith("__pycache__"):
                folders.clear()  # a link that leads back to a folder above would never end
                continue
            seen.add((here.st_dev, here.st_ino))
            for path in (f"{place}/{name}" for name in names if name.endswith(".py")):
                now = os.stat(path)  # noqa: PTH116
                yield f"{path} {now.st_size} {now.st_mtime_ns} {now.st_ctime_ns}"


def _digest(lines: list[str], size: int) -> str:
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=size).hexdigest()
