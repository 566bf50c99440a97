"""What a file is, by its first bytes: never by its suffix, which anyone can choose."""

from __future__ import annotations

import re

from surgery.checkpoint.contents.finding import summary
from surgery.checkpoint.formats.torch_files import MAGIC, read_pickle
from surgery.checkpoint.formats.zipped import is_zip
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError

_PICKLE, _HIGHEST_PROTOCOL = 0x80, b"\x05"

# Torch's magic number in protocol 0, which has no mark of its own.
_TEXT_STREAM = f"L{MAGIC}L\n".encode()

#: How other files begin.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\x89PNG", "a PNG image"),
    (rb"\xff\xd8\xff", "a JPEG image"),
    (rb"GIF8", "a GIF image"),
    (rb"%PDF", "a PDF document"),
    (rb"\x1f\x8b", "a gzip file: decompress it first"),
    (rb"BZh", "a bzip2 file: decompress it first"),
    (rb"\xfd7zXZ", "an xz file: decompress it first"),
    (rb"\x28\xb5/\xfd", "a Zstandard file: decompress it first"),
    (rb"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (rb"Rar!", "a RAR archive: unpack it first"),
    (rb".{257}ustar", "a tar archive (torch wrote these before version 0.2): unpack it"),
    (rb"\x89HDF", "an HDF5 file (Keras writes these)"),
    (rb"\x93NUMPY", "a numpy array (.npy)"),
    (rb"GGUF", "a GGUF file (llama.cpp)"),
    (rb"\x7fELF", "a program"),
    (rb"version https://git-lfs", "a git-LFS pointer, not the file itself: run `git lfs pull`"),
    (rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype )?html", "an HTML page, often an error page in its place"),
    (rb"(\xef\xbb\xbf)?\s*<\?xml", "an XML document, often an error message in its place"),
)


def recognise(reader: Reader) -> str:
    """``"safetensors"``, ``"zip"``, ``"stream"`` or ``"index"``.

    Raises CheckpointError that names what the file is instead.
    """
    size = reader.source.size
    head = bytes(reader.read(0, min(size, 512)))
    if not head:
        raise CheckpointError(f"{reader.source.label}: an empty file")
    if is_zip(reader):
        return "zip"
    # Eight bytes of length, the highest ones zero, and a JSON object.
    if head[5:8] == bytes(3) and head[8:9] == b"{":
        return "safetensors"
    if head.startswith(_TEXT_STREAM):
        return "stream"
    if head.lstrip().startswith(b"{") and b"\x00" not in head:
        return "index"
    for start, kind in _OTHERS:
        if re.match(start, head, re.DOTALL):
            raise CheckpointError(f"{reader.source.label}: {kind}")
    if head[0] == _PICKLE and head[1:2] <= _HIGHEST_PROTOCOL:
        # A stream begins with a pickle of torch's magic number; any other pickle is not torch's.
        first, _, _ = read_pickle(reader, 0, lambda _: None)
        if first == MAGIC:
            return "stream"
        raise CheckpointError(
            f"{reader.source.label}: a plain pickle, not written by torch.save: {summary(first)}"
        )
    if reader.source.path.suffix.lower() == ".safetensors":
        return "safetensors"  # damaged: its own reader says where
    begin = ascii(head[:16].decode("latin-1"))
    raise CheckpointError(
        f"{reader.source.label}: not a checkpoint in any format read here; it begins with {begin}"
    )
