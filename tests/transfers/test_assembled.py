"""Operations on places in files: the same bits as on tensors, and views wherever they can be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import surgery
from surgery.checkpoint.places import Place
from surgery.checkpoint.tensors import flat_pieces
from surgery.checkpoint.writing.values import Computed
from surgery.matching.operations import Operation, Piece
from surgery.specs import TensorSpec
from surgery.transfers.assembled import assembled, make_tensor

STATE = {
    "tall": torch.arange(24.0).reshape(12, 2),
    "wide": torch.arange(100.0, 124.0).reshape(2, 12),
    "picture": torch.arange(200.0, 224.0).reshape(12, 2, 1, 1),
    "deep": torch.arange(300.0, 324.0).reshape(2, 3, 2, 2),
    "row": torch.arange(400.0, 412.0),
    "column": torch.arange(500.0, 512.0).reshape(12, 1, 1),
    "one": torch.tensor(7.0),
    "view": torch.arange(600.0, 624.0).reshape(2, 12).t(),
}
SPECS = {name: TensorSpec(name, tuple(value.shape), "float32") for name, value in STATE.items()}


def rows(name, start=None, stop=None, turned=False):
    spec = SPECS[name]
    height = (spec.shape[-1] if turned else spec.shape[0]) if spec.shape else 1
    return Piece(spec, start or 0, height if stop is None else stop, turned)


def zeros(count):
    return Piece(None, 0, count)


#: What it is, the pieces, whether the target is (in, out), its shape, and if it is a mere view.
CASES = [
    ("a copy", [rows("tall")], False, (12, 2), True),
    ("a reshape", [rows("column")], False, (12,), True),
    ("ones added", [rows("tall")], False, (12, 2, 1, 1), True),
    ("ones dropped", [rows("picture")], False, (12, 2), True),
    ("flattened", [rows("deep")], False, (2, 12), True),
    ("rows", [rows("tall", 4, 8)], False, (4, 2), True),
    ("rows of a vector", [rows("row", 8, 12)], False, (4,), True),
    ("turned", [rows("wide", turned=True)], False, (12, 2), True),
    ("turned rows", [rows("wide", 4, 8, turned=True)], False, (4, 2), True),
    ("turned rows of a view", [rows("view", 1, 2, turned=True)], False, (1, 12), True),
    ("into (in, out)", [rows("tall")], True, (2, 12), True),
    ("rows into (in, out)", [rows("tall", 4, 8)], True, (2, 4), True),
    ("a picture into (in, out)", [rows("picture", 0, 4)], True, (2, 4), True),
    ("turned rows with ones", [rows("wide", 0, 4, turned=True)], False, (4, 2, 1, 1), True),
    ("turned and flattened", [rows("wide", turned=True)], False, (24,), False),
    ("joined", [rows("tall", 0, 4), rows("picture", 4, 8)], False, (8, 2), False),
    ("joined and turned", [rows("tall", 0, 4), rows("wide", 4, 8, True)], True, (2, 8), False),
    ("a third of zeros", [rows("row", 0, 4), zeros(4), rows("row", 8, 12)], False, (12,), False),
    ("zeros first", [zeros(2), rows("tall", 4, 8)], False, (6, 2), False),
    ("a scalar", [rows("one")], False, (1, 1), True),
]


@pytest.fixture(params=["safetensors", "pt", "memory"])
def held(request, tmp_path):
    """Name to what holds its values: a place in a file, or the tensor."""
    if request.param == "memory":
        return STATE
    path = tmp_path / f"state.{request.param}"
    if request.param == "pt":
        torch.save(STATE, path)  # keeps the strides of the view
    else:
        surgery.save(STATE, path)
    checkpoint = surgery.open_checkpoint(path)
    return {name: checkpoint.place(name) for name in STATE}


def in_memory(values, shape):
    if isinstance(values, torch.Tensor):
        return values
    return torch.cat([*flat_pieces(values)]).reshape(shape)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_the_same_bits_from_files_as_from_memory(held, case):
    _, pieces, turned, shape, is_view = case
    operation = Operation(tuple(pieces), turned)
    assert operation.fits(shape)
    expected = make_tensor(operation, shape, STATE.__getitem__)
    made = assembled(operation, shape, held)
    assert tuple(made.shape) == shape
    assert torch.equal(in_memory(made, shape), expected)
    if held is not STATE:
        assert isinstance(made, Place if is_view else Computed)


@given(
    heights=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    width=st.integers(1, 5),
    turned=st.lists(st.booleans(), min_size=4, max_size=4),
    into=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_slicing_undoes_joining(heights, width, turned, into):
    """Parts joined to one and cut out of it again are the parts, however each is stored."""
    parts = {
        f"part{at}": torch.randn(*((width, rows_) if turned[at] else (rows_, width)))
        for at, rows_ in enumerate(heights)
    }
    specs = [TensorSpec(name, tuple(part.shape), "float32") for name, part in parts.items()]
    pieces = tuple(
        Piece(spec, 0, rows_, turned[at])
        for at, (spec, rows_) in enumerate(zip(specs, heights, strict=True))
    )
    total = sum(heights)
    shape = (width, total) if into else (total, width)
    whole = make_tensor(Operation(pieces, into), shape, parts.__getitem__)
    fused = TensorSpec("fused", shape, "float32")
    start = 0
    for at, rows_ in enumerate(heights):
        cut = Operation((Piece(fused, start, start + rows_, into),), turned[at])
        start += rows_
        made = make_tensor(cut, specs[at].shape, {"fused": whole}.__getitem__)
        assert torch.equal(made, parts[f"part{at}"])


def test_an_operation_survives_json():
    for _, pieces, turned, _, _ in CASES:
        operation = Operation(tuple(pieces), turned)
        rows_ = [source.to_row() for source in operation.sources]
        assert Operation.from_dict(operation.to_dict(), rows_) == operation
