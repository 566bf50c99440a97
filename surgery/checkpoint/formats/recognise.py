"""What a file is, by its first bytes: never by its suffix, which anyone can choose."""

from __future__ import annotations

from surgery.checkpoint.contents.finding import summary
from surgery.checkpoint.formats.torch_files import MAGIC, read_pickle
from surgery.checkpoint.formats.zipped import is_zip
from surgery.checkpoint.source import Reader
from surgery.errors import CheckpointError

_TAR_MAGIC_AT = 257
_PICKLE, _HIGHEST_PROTOCOL = 0x80, b"\x05"

# Torch's magic number in protocol 0, which has no mark of its own.
_TEXT_STREAM = f"L{MAGIC}L\n".encode()

_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"\x1f\x8b", "a gzip file: decompress it first"),
    (b"BZh", "a bzip2 file: decompress it first"),
    (b"\xfd7zXZ", "an xz file: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: decompress it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"Rar!", "a RAR archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file (Keras writes these)"),
    (b"\x93NUMPY", "a numpy array (.npy)"),
    (b"GGUF", "a GGUF file (llama.cpp)"),
    (b"\x7fELF", "a program"),
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself: run `git lfs pull`"),
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
    if named := _named(head):
        raise CheckpointError(f"{reader.source.label}: {named}")
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
    start = ascii(head[:16].decode("latin-1"))
    raise CheckpointError(
        f"{reader.source.label}: not a checkpoint in any format read here; it begins with {start}"
    )


def _named(head: bytes) -> str | None:
    for start, kind in _OTHERS:
        if head.startswith(start):
            return kind
    if head[_TAR_MAGIC_AT:].startswith(b"ustar"):
        return "a tar archive (torch wrote these before version 0.2): unpack it, or convert it"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, often an error page saved in place of the file"
    if text.startswith(b"<?xml"):
        return "an XML document, often an error message saved in place of the file"
    return None
