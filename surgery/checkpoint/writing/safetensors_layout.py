"""A draft as a safetensors file: a header that says where everything is, then the values.

Tensors with wide elements come first, so that every tensor begins at a multiple of its element
size, as safetensors' own writer has it; among equals the order is the state dict's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from surgery.checkpoint.formats.safetensors import (
    ALIASES_KEY,
    DTYPES,
    LARGEST_HEADER,
    VERSIONS_KEY,
    possible_aliases,
)
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.moving import Layout
from surgery.checkpoint.writing.segments import (
    BLOCK,
    Placed,
    literal,
    segment_of,
    shared_residue,
)
from surgery.specs import DTYPE_BITS, TensorSpec
from surgery.wording import printable

#: What safetensors calls torch's dtypes.
NAMES: Mapping[str, str] = {dtype: name for name, dtype in DTYPES.items()}

_ALIGNMENT = 8
_PAIRS = "float4_e2m1fn_x2"


def problems(draft: Draft) -> list[str]:
    """What the format cannot keep of a draft, in words."""
    texts = {**dict.fromkeys(draft.values, ""), **draft.metadata}
    needed = {VERSIONS_KEY, ALIASES_KEY, *draft.aliases}
    return [
        *(problem for spec in draft.specs.values() if (problem := _spec_problem(spec))),
        *(
            f"{printable(name)}: not a tensor, and safetensors keeps only tensors; save as .pt"
            for name, value in draft.extras.items()
            if value is not None
        ),
        *(
            f"{text!a}: not a name that safetensors can keep"
            for text, value in texts.items()
            if text == "__metadata__" or not _is_unicode(text + value)
        ),
        *(
            f"metadata {printable(key)}: a key that the file needs for itself"
            for key in draft.metadata
            if key in needed
        ),
    ]


def lay_out(draft: Draft) -> Layout:
    """The whole file. ``draft`` has no problems.

    Raises ValueError for a header longer than safetensors reads.
    """
    order = sorted(draft.specs.values(), key=lambda spec: -DTYPE_BITS[spec.dtype])
    entries: dict[str, Any] = {"__metadata__": _metadata(draft)}
    placed, at = [], 0
    for spec in order:
        part = Placed(at, segment_of(draft.values[spec.name]))
        placed.append(part)
        entries[spec.name] = {
            "dtype": NAMES[spec.dtype],
            "shape": _shape(spec),
            "data_offsets": [at, part.end],
        }
        at = part.end
    header = _header(entries, shared_residue(placed, _ALIGNMENT))
    shifted = (Placed(len(header) + part.offset, part.segment) for part in placed)
    parts = (Placed(0, literal(header)), *shifted)
    return Layout(len(header) + at, lambda target: target.write(parts))


def _header(entries: Mapping[str, Any], residue: int) -> bytes:
    """Length and text, filled with spaces until the values begin at the wanted place."""
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    filled = text + b" " * ((residue - 8 - len(text)) % BLOCK)
    if len(filled) <= LARGEST_HEADER:
        text = filled
    if len(text) > LARGEST_HEADER:
        raise ValueError(
            f"a header of {len(text):,} bytes, and safetensors reads no more than "
            f"{LARGEST_HEADER:,}; save as .pt, or in shards"
        )
    return len(text).to_bytes(8, "little") + text


def _metadata(draft: Draft) -> dict[str, str]:
    """Sorted: equal input, equal bytes."""
    metadata = {**draft.metadata, "format": "pt", **draft.aliases}
    if possible_aliases(metadata, draft.specs.keys()) != draft.aliases:
        metadata[ALIASES_KEY] = json.dumps(list(draft.aliases))
    if draft.versions:
        metadata[VERSIONS_KEY] = json.dumps(dict(draft.versions), separators=(",", ":"))
    return dict(sorted(metadata.items()))


def _shape(spec: TensorSpec) -> list[int]:
    """Torch counts 4-bit numbers in pairs, safetensors singly."""
    return [*spec.shape[:-1], 2 * spec.shape[-1]] if spec.dtype == _PAIRS else [*spec.shape]


def _spec_problem(spec: TensorSpec) -> str | None:
    if spec.dtype not in NAMES:
        return f"{printable(spec.name)}: safetensors has no dtype {spec.dtype}"
    if spec.dtype == _PAIRS and not spec.shape:
        return f"{printable(spec.name)}: a pair of 4-bit numbers, which is no scalar in safetensors"
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
