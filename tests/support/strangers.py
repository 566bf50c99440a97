"""Files as a stranger could write them, byte by byte: what no library will write for us."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

#: Opcodes of a storage of three floats (a stream's has a sixth field), and of a tensor on it.
STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x03tQ"
VIEW = b"K\x00K\x03\x85K\x01\x85tR"

#: A whole number of 19,000 digits, far beyond those that Python prints.
WIDE = b"\x8b" + struct.pack("<i", 8000) + b"\x01" * 8000


def tensor(storage: bytes = STORAGE, view: bytes = VIEW) -> bytes:
    """Opcodes that push one tensor; ``view`` is offset, shape, strides and the call."""
    return b"ctorch._utils\n_rebuild_tensor\n(" + storage + view


def text(value: str) -> bytes:
    """Opcodes that push a text."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def dict_of(entries: Mapping[str, bytes]) -> bytes:
    """Opcodes that push a dictionary; the values are opcodes too."""
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def number(value: int) -> bytes:
    """Opcodes that push a whole number of any width."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(data)) + data


def deep(depth: int) -> bytes:
    """Opcodes that push a list in a list in a list."""
    return b"]" * depth + b"a" * (depth - 1)


def zip_of(
    value: bytes,
    storages: Mapping[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    more: Mapping[str, bytes] | None = None,
) -> bytes:
    """A file of torch.save whose pickle is ``value``."""
    members = {f"data/{key}": data for key, data in (storages or {"0": bytes(12)}).items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in {
            "data.pkl": b"\x80\x02" + value + b".",
            **members,
            **(more or {}),
        }.items():
            archive.writestr(f"archive/{name}", data)
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


def stream_of(value: bytes, keys: bytes = b"](U\x010e", storages: bytes | None = None) -> bytes:
    """A file of the older stream format whose object is ``value``."""
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    held = struct.pack("<q", 3) + bytes(12) if storages is None else storages
    return start + b"\x80\x02" + value + b"." + b"\x80\x02" + keys + b"." + held


def safetensors_of(header: Any, values: bytes = b"") -> bytes:
    """A safetensors file; ``header`` is JSON values, or the text itself as bytes."""
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + values


def members_of(data: bytes) -> dict[str, bytes]:
    """The members of a zip file, by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file of these members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
