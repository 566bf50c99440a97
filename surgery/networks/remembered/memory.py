"""What is remembered between runs of what the installed libraries would say.

One value a file in the user's cache folder: given back whole and unchanged, or not at all. A file
is JSON of the key and the value, compressed, which puts a checksum behind it. No error of the file
system gets out: a folder that cannot be read holds nothing, and one that cannot be written stays
as it is.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import stat
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.text import read_regular
from surgery.checkpoint.writing.atomic import replacing
from surgery.errors import CheckpointError, SurgeryWarning
from surgery.json_values import texts
from surgery.networks.remembered.code import Code, about_to_import, installed_code, trusted_code

#: Names the folder; platformdirs' own for this user where it is not set.
FOLDER_VARIABLE = "SURGERY_CACHE_DIR"

#: The longest value that is read, in bytes: on the disk, and as JSON. A hundred times the largest
#: model of timm; beyond it something is wrong.
_LONGEST_FILE = 1 << 24
_LONGEST_TEXT = 1 << 28

#: Files that are kept; 4 to 12 kB each, and the outlines of all architectures 2 MB.
MOST_ENTRIES = 500

#: Only what is called so is ever removed: a person may have pointed us at a folder of theirs.
_ENTRY_NAME = re.compile(r"surgery-([0-9a-f]{16})-([0-9a-f]{32})-[0-9a-f]{32}\.entry")


@dataclass(frozen=True, slots=True)
class Memory:
    """Values by key, for the code that is installed now; without a folder it remembers nothing.

    The parts of a key, and the values, are JSON.
    """

    folder: Path | None = None
    code: Code | None = None

    def recall(self, *key: Any) -> Any | None:
        """What was kept under the key; None where nothing was, where it is damaged, or where
        another user could have written it.
        """
        text = _key_text(key)
        with suppress(OSError, ValueError, TypeError, RecursionError, zlib.error):
            path = self._path(text)
            if is_users_own(path.parent) and is_users_own(path):
                packed = read_regular(path, _LONGEST_FILE)
                unpacking = zlib.decompressobj()
                found, value = json.loads(unpacking.decompress(packed, _LONGEST_TEXT))
                whole = unpacking.eof and not unpacking.unused_data
                return value if whole and found == text else None
        return None

    def keep(self, value: Any, *key: Any) -> None:
        """Remember ``value``, if the code that it comes from is still installed; what is kept of
        other code in the same place is removed.
        """
        text = _key_text(key)
        if self.code is None or installed_code() != self.code:
            return
        with suppress(OSError, CheckpointError):
            path = self._path(text)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_users_own(path.parent):
                with replacing(path, part_of="surgery") as draft:
                    packed = json.dumps([text, value], separators=(",", ":")).encode()
                    draft.write_bytes(zlib.compress(packed))
                path.chmod(0o600)  # whatever the umask gives to a group
                _sweep(path.parent, self.code)

    def forget(self, *key: Any) -> None:
        """Remember nothing under the key."""
        with suppress(OSError):
            self._path(_key_text(key)).unlink(missing_ok=True)

    def names_of(self, origin: str, listed: Callable[[], list[str]]) -> tuple[str, ...]:
        """What ``listed`` says, which is called only where it is not remembered."""
        try:
            return texts(self.recall("names", origin))
        except ValueError:
            self.importing()
            names = listed()
            self.keep(names, "names", origin)
            return tuple(names)

    def importing(self) -> None:
        """Note that surgery itself imports the libraries next."""
        if self.code is not None:
            about_to_import(self.code)

    def _path(self, key: str) -> Path:
        if self.folder is None or self.code is None:
            raise FileNotFoundError("nothing is remembered")
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / f"surgery-{self.code.place}-{self.code.state}-{digest}.entry"


def open_memory(*, fresh: bool = False) -> Memory:
    """The user's memory. Opening it creates nothing and reads nothing.

    ``fresh``: what will be kept in it comes from a process of its own, so that it does not matter
    what this one has imported. A folder that another user can write to is not believed, with a
    warning.
    """
    code = installed_code() if fresh else trusted_code()
    folder = _folder() if code else None
    if folder is None:
        return Memory()
    with suppress(OSError):  # not there yet
        if not is_users_own(folder):
            warnings.warn(
                f"{folder} belongs to another user, or others can write to it: nothing is "
                f"remembered there; `chmod go-w` it, or set {FOLDER_VARIABLE} to a folder of "
                "your own",
                SurgeryWarning,
                stacklevel=3,
            )
            return Memory()
    return Memory(folder, code)


def arguments_key(arguments: Mapping[str, Any]) -> str | None:
    """Arguments as a text that no other arguments have; None where a value has no exact spelling.

    >>> arguments_key({"img_size": (2, 3), "depth": 1})
    "{'img_size': (2, 3), 'depth': 1}"
    """
    try:
        key = repr(dict(arguments))
        exact = bool(ast.literal_eval(key) == arguments)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return key if exact else None


def is_users_own(path: Path) -> bool:
    """Whether nobody else can have written there. Raises OSError where there is nothing."""
    found = path.stat()
    if not hasattr(os, "getuid"):  # Windows: a profile's folders are its user's
        return True
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folder() -> Path | None:
    if chosen := os.environ.get(FOLDER_VARIABLE):
        return Path(os.path.expanduser(chosen))  # noqa: PTH111 - without a home, Path's raises
    from platformdirs import user_cache_path

    folder = user_cache_path("model-surgery")
    # Without any home folder it would be one called ~ wherever the command is run.
    return folder if folder.is_absolute() else None


def _key_text(key: tuple[Any, ...]) -> str:
    """With the variables that timm's constructors read: one makes every ViT a NaFlexViT."""
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("TIMM_") or name == "FORK_LAST3"
    }
    return json.dumps([*key, variables], separators=(",", ":"))


def _sweep(folder: Path, code: Code) -> None:
    """Remove what nobody can ask for any more, and the oldest of what is too much."""
    kept: list[tuple[float, Path]] = []
    for path in [*folder.iterdir()]:
        match = _ENTRY_NAME.fullmatch(path.name)
        with suppress(OSError):  # someone else sweeps too
            if match and match[1] == code.place and match[2] != code.state:
                path.unlink()
            elif match:
                kept.append((-path.lstat().st_mtime, path))
    for _, path in sorted(kept)[MOST_ENTRIES:]:
        path.unlink(missing_ok=True)
