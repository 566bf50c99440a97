"""Casts in pieces are casts of the whole, and their counts are too."""

import math

import pytest
import torch

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.tensors.casting import cast, widened
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writer import cast_later, refuse_broken, save
from surgery.errors import ValueRefused

FLOATS = [
    *("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz"),
    *("float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
INTEGERS = [
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
]
PAIRS = [
    *((one, other) for one in FLOATS for other in FLOATS if one != other),
    *((one, other) for one in INTEGERS for other in (*INTEGERS, *FLOATS[:-1]) if one != other),
    *((one, "complex64") for one in FLOATS[:4]),
    *(("complex128", "complex64"), ("complex64", "complex128")),
]
NUMBERS = [
    *(0.0, -0.0, 1.0, -1.0, 2.0, 0.3, 100.0, -129.0, 240.0, 300.0, 449.0, 65504.0, 70000.0),
    *(1e6, -1e30, 1e39, 1e300, math.inf, -math.inf, math.nan, 16777217.0, 3e-39, 1e-300),
]


def sample(dtype):
    numbers = torch.tensor(NUMBERS, dtype=torch.float64).repeat(7)
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return numbers != 0
    if not kind.is_floating_point and not kind.is_complex:
        limits = torch.iinfo(kind)
        whole = numbers.nan_to_num(0, 2.0**52, -(2.0**52))
        return whole.clamp(max(limits.min, -(2**52)), min(limits.max, 2**52)).to(kind)
    return numbers.to(kind).reshape(7, -1)


def broken(value, result):
    """One element after the other, in Python's own numbers."""

    def finite(number):
        return math.isfinite(abs(number))

    wide = torch.complex128 if value.is_complex() or result.is_complex() else torch.float64
    count = 0
    if not value.is_floating_point() and not value.is_complex():
        back = result.to(value.dtype)
        return sum(a != b for a, b in zip(value.tolist(), back.tolist(), strict=True))
    ours, theirs = value.to(wide).flatten().tolist(), result.to(wide).flatten().tolist()
    for old, new in zip(ours, theirs, strict=True):
        lost_sign = result.dtype == torch.float8_e8m0fnu and old.real < 0
        count += finite(old) and (not finite(new) or lost_sign)
    return count


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)
def test_in_pieces_as_in_one(source, target, tmp_path, monkeypatch):
    value = sample(source)
    whole, lost = cast(value, target)
    assert whole.dtype == getattr(torch, target)
    assert lost == broken(value, whole)
    path = save({"x": value}, tmp_path / "a.pt")
    monkeypatch.setattr("surgery.checkpoint.pieces.PIECE", 32)
    counts = {}
    made = cast_later("x", open_checkpoint(path).place("x"), target, counts)
    parts = list(flat_pieces(made))
    assert len(parts) > 5
    together, whole = widened(torch.cat(parts)), widened(whole.flatten())
    # Which NaN comes out depends on torch's vector width.
    assert bool(((together == whole) | ((together != together) & (whole != whole))).all())
    assert counts == ({"x": lost} if lost else {})


def test_nothing_is_computed_before_it_is_asked_for():
    made = cast_later("x", torch.ones(3), "float16", {})
    assert (made.shape, made.dtype) == ((3,), "float16")
    same = torch.ones(3)
    assert cast_later("x", same, "float32", {}) is same


def test_integers_beyond_what_a_float_counts():
    value = torch.tensor([2**53 + 1, 2**53, -(2**53) - 1, 2**62])
    assert cast(value, "float64")[1] == 2
    assert cast(torch.tensor([2**63 - 1, 0]), "float32")[1] == 1


def test_refusing():
    refuse_broken({})
    with pytest.raises(ValueRefused, match="casts break 5 values in 2 tensors, the first is a;"):
        refuse_broken({"a": 2, "b": 3})


def test_a_tensor_in_memory_is_cast_too():
    counts = {}
    made = cast_later("x", torch.tensor([[1e9, 1.0], [2.0, 3.0]]).t(), "float16", counts)
    (result,) = flat_pieces(made)
    assert result.tolist() == [math.inf, 2.0, 1.0, 3.0]
    assert counts == {"x": 1}


def test_pieces_are_small_enough_for_one_thread(tmp_path):
    """Torch splits longer ones over threads, which wait for each other after every operation."""
    path = save({"x": torch.zeros(100_000, dtype=torch.float16)}, tmp_path / "a.pt")
    for values in (open_checkpoint(path).place("x"), torch.zeros(100_000)):
        parts = [part.numel() for part in flat_pieces(values)]
        assert sum(parts) == 100_000
        assert max(parts) <= 32_768
