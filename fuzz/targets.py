"""What is fuzzed: five ways to make a file of the fuzzer's bytes.

Raw bytes exercise what surrounds a header or a pickle; wrapped ones reach what is inside, as a
mutation seldom repairs a length.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping

#: Storages of every wrapped pickle, by key, and the bytes of each.
STORAGES = ("0", "1", "2")
STORAGE_BYTES = 64


def headed(text: bytes) -> bytes:
    """A safetensors file with ``text`` as its header, and 16 bytes of values."""
    return len(text).to_bytes(8, "little") + text + bytes(range(16))


def zipped(pickle: bytes) -> bytes:
    """A file of torch.save with ``pickle`` as its ``data.pkl``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a/data.pkl", pickle)
        for key in STORAGES:
            archive.writestr(f"a/data/{key}", bytes(STORAGE_BYTES))
        archive.writestr("a/version", b"3\n")
    return buffer.getvalue()


def raw(data: bytes) -> bytes:
    """The bytes as they are."""
    return data


#: Name of the target -> bytes of the fuzzer to bytes of the file.
TARGETS: Mapping[str, Callable[[bytes], bytes]] = {
    "safetensors": raw,
    "header": headed,
    "zip": raw,
    "pickle": zipped,
    "stream": raw,
}

#: Name of the target -> its words in fuzz/tokens, which a fuzzer would be long in guessing.
TOKENS: Mapping[str, str] = {
    "safetensors": "header.dict",
    "header": "header.dict",
    "zip": "zip.dict",
    "pickle": "pickle.dict",
    "stream": "pickle.dict",
}
