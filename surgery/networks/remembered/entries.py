"""Values in a folder, one a file: given back whole and unchanged, or not at all.

A file is a line with the format, a digest of the rest, and the rest: compressed JSON of the key
and the value. No error of the file system gets out: a folder that cannot be read holds nothing,
and one that cannot be written stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.networks.remembered.code import Code

_HEADER = b"surgery-cache 1\n"
_DIGEST_BYTES = 32

#: The longest value that is read, in bytes: on the disk, and as JSON. A hundred times the largest
#: model of timm; beyond it something is wrong.
_LONGEST_FILE = 1 << 24
_LONGEST_TEXT = 1 << 28

#: Files that are kept; 4 to 12 kB each, outlines 30 to 70 kB.
MOST_ENTRIES = 500
_DRAFT_SECONDS = 3600

#: Only what is called so is ever removed: a person may have pointed us at a folder of theirs.
_ENTRY_NAME = re.compile(r"surgery-([0-9a-f]{16})-([0-9a-f]{32})-[0-9a-f]{32}\.entry")
_DRAFT_NAME = re.compile(r"surgery-[0-9a-f]{16}\.draft")


@dataclass(frozen=True, slots=True)
class Entries:
    """What a folder holds of one installation's code. The keys are text, the values JSON."""

    folder: Path
    code: Code

    def read(self, key: str) -> Any | None:
        """The value kept under ``key``; None where there is none, or where it is damaged."""
        try:
            return _decode(_read(self._path(key)), key)
        except (OSError, ValueError, KeyError, TypeError, RecursionError, zlib.error):
            return None

    def write(self, key: str, value: Any) -> None:
        """Keep a value, and remove those of other code in the same place."""
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._replace(self._path(key), _encode(key, value))
            self._sweep()

    def remove(self, key: str) -> None:
        """Keep nothing under ``key``."""
        with suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        digest = hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return self.folder / f"surgery-{self.code.place}-{self.code.state}-{digest}.entry"

    def _replace(self, path: Path, data: bytes) -> None:
        """In one step, for others who read or write it now. Nothing is flushed to the disk: what
        a power cut leaves of it has another digest.
        """
        draft = self.folder / f"surgery-{os.urandom(8).hex()}.draft"
        try:
            draft.write_bytes(data)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what nobody can ask for any more, and the oldest of what is too much."""
        kept: list[tuple[float, Path]] = []
        for path in [*self.folder.iterdir()]:
            with suppress(OSError):  # someone else sweeps too
                age = time.time() - path.lstat().st_mtime
                if self._is_stale(path.name, age):
                    path.unlink()
                elif _ENTRY_NAME.fullmatch(path.name):
                    kept.append((age, path))
        for _, path in sorted(kept)[MOST_ENTRIES:]:
            path.unlink(missing_ok=True)

    def _is_stale(self, name: str, age: float) -> bool:
        """``age`` in seconds. A draft that old was left by a process that was killed."""
        if match := _ENTRY_NAME.fullmatch(name):
            place, state = match.groups()
            return place == self.code.place and state != self.code.state
        return bool(_DRAFT_NAME.fullmatch(name)) and age > _DRAFT_SECONDS


def _read(path: Path) -> bytes:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LONGEST_FILE:
        raise ValueError("no file of ours")
    return path.read_bytes()


def _encode(key: str, value: Any) -> bytes:
    body = zlib.compress(json.dumps([key, value], separators=(",", ":")).encode())
    return _HEADER + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() + body


def _decode(data: bytes, key: str) -> Any:
    """The value. Raises ValueError, KeyError, TypeError or zlib.error where it is not that."""
    start = len(_HEADER) + _DIGEST_BYTES
    body = data[start:]
    digest = hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()
    if data[:start] != _HEADER + digest:
        raise ValueError("of another format, or damaged")
    found, value = json.loads(zlib.decompressobj().decompress(body, _LONGEST_TEXT))
    if found != key:
        raise ValueError("another key's")
    return value
