"""Make the corpus again: ``python -m fuzz.make``.

Small files of every kind, and the inputs that once went wrong (``found-*``): those are written
by hand below and not copied from a fuzzer, so that each says what it is about.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

_HERE = Path(__file__).parent
_FIXTURES = _HERE.parent / "fixtures" / "checkpoints"

_STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x010U\x03cpuK\x03tQ"
_OLD_STORAGE = b"(U\x07storagectorch\nFloatStorage\nU\x01kU\x03cpuK\x03NtQ"
_REBUILD = b"ctorch._utils\n_rebuild_tensor\n("
_VIEW = b"K\x00K\x03\x85K\x01\x85tR"
_WIDE = b"\x8b" + struct.pack("<i", 2000) + b"\x01" * 2000


def tensor(storage: bytes = _STORAGE, view: bytes = _VIEW) -> bytes:
    """The opcodes of one tensor of three floats."""
    return _REBUILD + storage + view


def stream(value: bytes, keys: bytes = b"\x80\x02](U\x01ke.") -> bytes:
    """A file of the stream format: one storage ``k`` of three floats."""
    start = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    return start + value + keys + (3).to_bytes(8, "little") + bytes(12)


def deep(opcode: bytes, end: bytes, depth: int = 1500) -> bytes:
    """So many containers, each inside the one before."""
    return opcode * depth + end * (depth - 1)


def _safetensors() -> Iterable[tuple[str, bytes]]:
    one = torch.arange(4.0)
    yield "plain", save({"a.weight": one, "b": torch.ones(2, 1, dtype=torch.int8)})
    yield "metadata", save({"a.weight": one}, {"format": "pt", "b.weight": "a.weight"})
    yield "empty", save({})
    yield "zero-size", save({"a": torch.empty(0, 3), "b": torch.tensor(1.0)})
    yield "halves", save({"a": one.half(), "b": one.bfloat16(), "c": one.to(torch.float8_e5m2)})


def _headers() -> Iterable[tuple[str, bytes]]:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for name, header in {
        "plain": {"a": entry},
        "two": {
            "a": {**entry, "shape": [1, 2], "data_offsets": [0, 8]},
            "b": {"dtype": "F4", "shape": [16], "data_offsets": [8, 16]},
        },
        "versions": {"__metadata__": {"surgery.versions": '{"": 1, "a": 2}'}, "a": entry},
        "aliases": {"__metadata__": {"surgery.aliases": '["b"]', "b": "a"}, "a": entry},
        "six-bits": {"a": {"dtype": "F6_E2M3", "shape": [16], "data_offsets": [0, 12]}},
        "found-dots": {"__metadata__": {"x.weight": "." * 1000}, "." * 1000: entry},
        "found-numbers": {"1." * 1200 + "w": entry},
    }.items():
        yield name, json.dumps(header).encode()
    yield (
        "escapes",
        b'{"\\u00e9\\ud83d\\ude00\\n":{"dtype":"U8","shape":[16],"data_offsets":[0,16]}}',
    )
    yield "brackets", b'{"a":{"dtype":' + b"[" * 900 + b"]" * 900 + b',"shape":[]}}'


def _zips() -> Iterable[tuple[str, bytes]]:
    for name, value in _values().items():
        buffer = io.BytesIO()
        torch.save(value, buffer)
        yield name, buffer.getvalue()


def _values() -> Mapping[str, Any]:
    one = torch.arange(3.0)
    state = OrderedDict({"a.weight": one, "b.weight": one, "part": one[1:]})
    return {
        "state": state,
        "nested": {"state_dict": state, "ema": {"a.weight": one + 1}, "epoch": 3},
        "kinds": {"half": one.half(), "conj": one.to(torch.complex64).conj(), "b": one > 1},
        "sparse": {"s": one.to_sparse(), "a": one, "c": one + 1},
        "strided": {"t": torch.ones(2, 3).t(), "x": one[:1].expand(4)},
        "parameter": torch.nn.Linear(2, 1).state_dict(),
        "module": torch.nn.Linear(1, 1),
        "optimizer": {"state": {0: {"exp_avg": one}}, "param_groups": [{"lr": 0.1}]},
    }


def _pickles() -> Iterable[tuple[str, bytes]]:
    state = b"\x80\x02}U\x01a" + tensor() + b"s."
    yield "state", state
    yield "ordered", b"\x80\x02ccollections\nOrderedDict\n)R(U\x01a" + tensor() + b"u."
    yield (
        "metadata",
        (
            b"\x80\x02ccollections\nOrderedDict\n)R(U\x01a"
            + tensor()
            + b"u}U\x09_metadata}U\x00}U\x07versionK\x02sssb."
        ),
    )
    yield (
        "namespace",
        b"\x80\x02}(U\x01m}U\x01a"
        + tensor()
        + b"sU\x04argscargparse\nNamespace\n)R}U\x02lrK\x01sbu.",
    )
    yield (
        "module",
        (
            b"\x80\x02cfoo\nBar\n)\x81}(U\x0b_parameters}U\x01w"
            + tensor()
            + b"sU\x08_buffers}U\x08_modules}U\x01c"
            + b"cfoo\nBar\n)\x81}(U\x0b_parameters}U\x08_modules}ubsub."
        ),
    )
    yield (
        "v3",
        (
            b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v3\n("
            + _STORAGE
            + b"K\x00K\x03\x85K\x01\x85\x89ccollections\nOrderedDict\n)Rctorch\nint32\ntRs."
        ),
    )
    yield (
        "from-type",
        (
            b"\x80\x02}U\x01actorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor\n"
            b"N(" + _STORAGE + b"K\x00K\x03\x85K\x01\x85t}tRs."
        ),
    )
    yield "protocol-0", b"(dp0\nS'a'\np1\n(lp2\nI1\naF1.5\naL3L\nasVb\np3\nI01\ns."
    yield "protocol-4", pickle.dumps({"a": [1, (2.5, None)], "b": {3}, "c": b"x" * 9}, 4)
    yield (
        "found-wide-shape",
        (
            b"\x80\x02}(U\x01m}U\x01a"
            + tensor()
            + b"sU\x01x"
            + tensor(view=b"K\x00" + _WIDE + b"\x85K\x01\x85tR")
            + b"u."
        ),
    )
    yield (
        "found-wide-count",
        (b"\x80\x02}U\x01a" + tensor(_STORAGE.replace(b"K\x03tQ", _WIDE + b"tQ")) + b"s."),
    )
    yield (
        "found-deep-type",
        (b"\x80\x02(U\x07storage" + deep(b"]", b"a") + b"U\x010U\x03cpuK\x03tQ."),
    )
    yield (
        "found-long-module-names",
        (
            b"\x80\x02cfoo\nBar\n)\x81q\x00}(U\x0b_parameters}U\x01w"
            + tensor()
            + b"sU\x08_modules}T"
            + struct.pack("<I", 2000)
            + b"n" * 2000
            + b"h\x00sub."
        ),
    )


def _streams() -> Iterable[tuple[str, bytes]]:
    value = b"\x80\x02}U\x01a" + tensor(_OLD_STORAGE) + b"s."
    yield "state", stream(value)
    yield (
        "view",
        stream(value.replace(b"NtQ", b"(U\x01kK\x01K\x02ttQ").replace(b"K\x03\x85", b"K\x02\x85")),
    )
    yield "python-2", (_FIXTURES / "python2.pkl").read_bytes()
    yield "found-deep-keys", stream(value, b"](U\x01k" + deep(b"]", b"a") + b"e.")
    yield "found-wide-key", stream(value, b"](" + _WIDE + b"e.")


def main() -> None:
    """Write everything below fuzz/corpus."""
    corpora = {
        "safetensors": _safetensors(),
        "header": _headers(),
        "zip": _zips(),
        "pickle": _pickles(),
        "stream": _streams(),
    }
    for target, inputs in corpora.items():
        folder = _HERE / "corpus" / target
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in inputs:
            (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
