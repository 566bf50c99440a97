"""The header of a safetensors file, read strictly.

Eight bytes of length, that many bytes of JSON, then the values without gaps; see the format
section of the safetensors README, and ``Metadata::validate`` of its Rust sources, which refuses
what is refused here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any

from surgery.checkpoint.formats.json_text import parse_json
from surgery.checkpoint.holding import Contents, StateDict
from surgery.checkpoint.places import MOST_DIMENSIONS, Place, Region, contiguous_strides
from surgery.checkpoint.source import Reader
from surgery.collecting import collector_paused
from surgery.errors import CheckpointError
from surgery.specs import DTYPE_BITS
from surgery.wording import printable

#: The module versions of the saved state dict, as JSON; only files written here have it.
VERSIONS_KEY = "surgery.versions"

#: The tied names among the metadata, as a JSON list; only where they could be read wrongly.
ALIASES_KEY = "surgery.aliases"

#: Bytes; the limit of safetensors' own reader.
LARGEST_HEADER = 100_000_000

_METADATA = "__metadata__"
_ENTRY_KEYS = frozenset({"dtype", "shape", "data_offsets"})
_LARGEST = 1 << 63

#: The format's dtypes by torch's names.
DTYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "F4": "float4_e2m1fn_x2",
}

# Of an element; torch counts 4-bit numbers in pairs, and has none of 6 bits.
_BITS = {name: DTYPE_BITS[dtype] for name, dtype in DTYPES.items()}
_BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}

_AGAIN = "copy or download it again"


class _Fault(ValueError):
    """What the header gets wrong, in words."""


@collector_paused()
def read_safetensors(reader: Reader) -> Contents:
    """The file's one state dict, in the header's order. Raises CheckpointError for any fault."""
    try:
        return _read(reader)
    except _Fault as fault:
        raise CheckpointError(f"{reader.source.label}: safetensors header: {fault}") from fault


def _read(reader: Reader) -> Contents:
    length = _header_length(reader)
    header = _parse(bytes(reader.read(8, length)))
    metadata = _metadata(header.pop(_METADATA, {}))
    spans = {name: _span(name, entry) for name, entry in header.items()}
    _check_layout(spans, reader.source.size - 8 - length)
    places: dict[str, Place] = {}
    unreadable: list[tuple[str, str]] = []
    for name, entry in header.items():
        start, stop = spans[name]
        layout = _torch_layout(entry["dtype"], tuple(entry["shape"]))
        if layout is None:
            unreadable.append((name, f"of a dtype that torch has not ({entry['dtype']})"))
            continue
        region = Region(reader.source, 8 + length + start, stop - start, stop - start)
        places[name] = Place(region, *layout)
    aliases = _aliases(metadata, places)
    state = StateDict(
        None,
        {**places, **{name: places[kept] for name, kept in aliases.items()}},
        tuple(unreadable),
        versions=_versions(metadata),
        metadata={
            key: value
            for key, value in metadata.items()
            if key not in aliases and key not in (VERSIONS_KEY, ALIASES_KEY)
        },
    )
    return Contents(reader.source, "safetensors", (state,))


def _header_length(reader: Reader) -> int:
    size = reader.source.size
    if size < 8:
        raise _Fault(f"cut short: expected 8 bytes of length, have {size}")
    length = int.from_bytes(reader.read(0, 8), "little")
    if length > LARGEST_HEADER:
        raise _Fault(f"its length of {length:,} bytes is over the limit of {LARGEST_HEADER:,}")
    if 8 + length > size:
        raise _Fault(f"cut short: expected {8 + length:,} bytes, have {size:,}; {_AGAIN}")
    return length


def _parse(data: bytes) -> dict[str, Any]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Fault(f"not UTF-8 at byte {error.start:,}") from error
    if not text.startswith("{"):
        raise _Fault(f"expected a JSON object, found {text[:20]!r}")
    try:
        header = parse_json(text.rstrip(" "), parse_float=_no_float, parse_constant=_no_float)
        if "\\u" in text:  # which can spell half of a character
            json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise _Fault(f"not JSON of this format: {error}") from error
    assert isinstance(header, dict)
    return header


def _no_float(text: str) -> Any:
    raise ValueError(f"{text} is not a whole number")


def _metadata(value: Any) -> dict[str, str]:
    """Null stands for none, as in the library."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _Fault(f"{_METADATA} has values that are not text; no tensor may be called so")
    return value


def _span(name: str, entry: Any) -> tuple[int, int]:
    """The first and last byte of a tensor's values, checked against its shape and dtype."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        raise _Fault(f"tensor {printable(name)}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise _Fault(f"tensor {printable(name)}: unknown dtype {printable(dtype)}")
    if not _are_sizes(shape):
        raise _Fault(f"tensor {printable(name)}: a shape that is not whole numbers from 0 up")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _Fault(f"tensor {printable(name)}: data_offsets that are not a begin and an end")
    if len(shape) > MOST_DIMENSIONS or math.prod(filter(None, shape)) >= _LARGEST:
        raise _Fault(f"tensor {printable(name)}: larger than any memory")
    bits = math.prod(shape) * _BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise _Fault(
            f"tensor {printable(name)}: expected {-(-bits // 8):,} bytes for {dtype} {shape}, "
            f"have {offsets[1] - offsets[0]:,}"
        )
    return offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for size in value:  # noqa: SIM110 (a generator would take twice as long)
        if type(size) is not int or not 0 <= size < _LARGEST:
            return False
    return True


def _check_layout(spans: Mapping[str, tuple[int, int]], available: int) -> None:
    """The values follow one another from the first byte to the last."""
    end = 0
    for name, (start, stop) in sorted(spans.items(), key=itemgetter(1)):
        if start < end:
            raise _Fault(f"tensor {printable(name)} overlaps the one before it")
        if start > end:
            raise _Fault(f"{start - end:,} unused bytes before tensor {printable(name)}")
        end = stop
    if end > available:
        raise _Fault(f"cut short: expected {end:,} bytes of values, have {available:,}; {_AGAIN}")
    if end < available:
        raise _Fault(f"{available - end:,} bytes after the last tensor")


@lru_cache
def _torch_layout(
    dtype: str, shape: tuple[int, ...]
) -> tuple[str, tuple[int, ...], tuple[int, ...]] | None:
    """Torch's dtype, shape and strides; None where it has no such tensor.

    Torch counts 4-bit numbers in pairs. Most tensors of a file have one of a few shapes.
    """
    if dtype not in DTYPES:
        return None
    if dtype == "F4":
        if not shape or shape[-1] % 2:
            return None
        shape = (*shape[:-1], shape[-1] // 2)
    return DTYPES[dtype], shape, contiguous_strides(shape)


def possible_aliases(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Tied names as ``safetensors.torch.save_model`` records them: the dropped to the kept one.

    A guess: a caller's own text may happen to be a tensor's name (``best_layer: fc.weight``). So
    the key has to be one that a parameter could have: the last segment of the kept name
    (``lm_head.weight``), or a place in a module that has tensors in the file.
    """
    references = _references(metadata, names)
    modules = {name.rpartition(".")[0] for name in names} if references else set()
    aliases = {}
    for dropped, kept in references.items():
        path, _, leaf = dropped.rpartition(".")
        if leaf == kept.rpartition(".")[2] or (path and path in modules):
            aliases[dropped] = kept
    return aliases


def _references(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Metadata whose text is a tensor's name, and whose key is none."""
    return {key: text for key, text in metadata.items() if text in names and key not in names}


def _aliases(metadata: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    known = _json(metadata, ALIASES_KEY, list)
    if known is None:
        return possible_aliases(metadata, names)
    references = _references(metadata, names)
    return {n: references[n] for n in known if isinstance(n, str) and n in references}


def _versions(metadata: Mapping[str, str]) -> dict[str, int]:
    versions: dict[str, Any] = _json(metadata, VERSIONS_KEY, dict) or {}
    if any(type(value) is not int for value in versions.values()):
        raise _Fault(f"{VERSIONS_KEY} does not map module paths to numbers")
    return versions


def _json(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """The JSON value of that kind in the metadata, None where there is none."""
    if key not in metadata:
        return None
    try:
        value = parse_json(metadata[key])
    except ValueError as error:
        raise _Fault(f"{key} is not JSON") from error
    if not isinstance(value, kind):
        raise _Fault(f"{key} is not a JSON {kind.__name__}")
    return value
