"""Values and segments: a range where the file has the bytes as they are, else made bytes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.places import Place, Region, contiguous_strides
from surgery.checkpoint.source import Source
from surgery.checkpoint.tensors.memory import tensor_problem
from surgery.checkpoint.writing.segments import Made, segment_of
from surgery.specs import TensorSpec


@pytest.fixture
def region(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100) + bytes(range(96)))
    return Region(Source.of(tmp_path / "a"), 100, 96, 96, crc=7)


@pytest.mark.parametrize(
    ("shape", "strides", "offset", "start", "crc"),
    [
        pytest.param((4, 6), (6, 1), 0, 100, 7, id="the-whole-storage"),
        pytest.param((2, 6), (6, 1), 2, 108, None, id="a-part"),
        pytest.param((1, 6), (99, 1), 0, 100, None, id="a-stride-that-is-never-taken"),
        pytest.param((), (), 23, 192, None, id="a-scalar"),
        pytest.param((0, 3), (5, 5), 0, 100, None, id="nothing"),
    ],
)
def test_ranges(shape, strides, offset, start, crc, region):
    place = Place(region, "float32", shape, strides, offset)
    segment = segment_of(place)
    assert isinstance(segment, Region)
    nbytes = 4 * torch.Size(shape).numel()
    assert (segment.start, segment.nbytes, segment.crc) == (start, nbytes, crc)


@pytest.mark.parametrize(
    ("strides", "settings"),
    [
        pytest.param((1, 4), {}, id="transposed"),
        pytest.param((0, 1), {}, id="repeated"),
        pytest.param((6, 1), {"conjugate": True}, id="conjugate"),
        pytest.param((6, 1), {"negative": True}, id="negative"),
    ],
)
def test_what_the_file_does_not_have_is_made(strides, settings, region):
    place = Place(region, "complex64", (2, 3), strides, **settings)
    assert not place.is_plain
    segment = segment_of(place)
    assert isinstance(segment, Made)
    assert sum(map(len, segment.pieces())) == segment.nbytes == 48


@given(st.lists(st.integers(0, 3), max_size=4), st.permutations(range(4)))
def test_bytes_are_those_of_a_contiguous_tensor(shape, order):
    value = torch.arange(torch.Size(shape).numel()).reshape(shape)
    value = value.permute([axis for axis in order if axis < value.ndim]) if shape else value
    segment = segment_of(value)
    made = b"".join(segment.pieces())
    assert made == value.contiguous().numpy().tobytes()
    assert segment.nbytes == len(made)


def test_strides_of_a_tensor():
    for shape in ((), (3,), (2, 0, 3), (2, 3, 4)):
        assert contiguous_strides(shape) == torch.empty(shape).stride()


def test_specs():
    assert TensorSpec.of("x", torch.ones(2, 3).half()).dtype == "float16"
    assert TensorSpec.of("x", torch.ones(2, 3)).shape == (2, 3)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: torch.ones(2), None),
        (lambda: torch.eye(2).to_sparse(), "a tensor of layout sparse_coo"),
        (lambda: torch.ones(2, device="meta"), "a meta tensor, which has no values"),
    ],
)
def test_tensors_that_cannot_be_copied(make, problem):
    assert tensor_problem(make()) == problem
