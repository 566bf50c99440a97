"""safetensors files: what plain safetensors makes of what is written."""

import json

import pytest
import torch
from every_dtype import every_dtype, same
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.conversion import convert
from surgery.checkpoint.writer import save
from surgery.checkpoint.writing import safetensors_layout
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.moving import Target
from surgery.checkpoint.writing.safetensors_layout import NAMES, lay_out, problems
from surgery.checkpoint.writing.values import Computed

WRITABLE = {
    name: value
    for name, value in every_dtype().items()
    if name.split(".")[0] in NAMES
    and not (value.dtype == torch.float4_e2m1fn_x2 and not value.ndim)
}


def test_plain_safetensors_reads_every_dtype_and_shape(tmp_path):
    path = save(WRITABLE, tmp_path / "a.safetensors")
    convert(path, tmp_path / "b.safetensors")
    for file in ("a", "b"):
        assert same(load_file(tmp_path / f"{file}.safetensors"), WRITABLE)
        with safe_open(tmp_path / f"{file}.safetensors", "pt") as opened:
            assert same({name: opened.get_tensor(name) for name in WRITABLE}, WRITABLE)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(sorted(NAMES)), st.lists(st.integers(0, 5), min_size=1)),
        max_size=9,
    )
)
def test_there_are_no_holes_and_no_overlaps(recipes):
    """And every tensor begins at a multiple of its element size."""
    values = {
        name: Computed(tuple(shape), dtype, lambda: iter(()))
        for name, (dtype, shape) in recipes.items()
    }
    draft, parts = Draft(values), []

    class Noting(Target):
        def __init__(self):
            pass

        def write(self, placed):
            parts.extend(placed)

    layout = lay_out(draft)
    layout.write(Noting())
    at = 0
    for part in parts:
        assert part.offset == at
        at = part.end
    assert layout.nbytes == at
    header = b"".join(parts[0].segment.pieces())
    entries = json.loads(header[8:])
    assert int.from_bytes(header[:8], "little") == len(header) - 8
    assert len(header) % 8 == 0
    for name, (dtype, _) in recipes.items():
        assert entries[name]["data_offsets"][0] % getattr(torch, dtype).itemsize == 0


def test_a_copy_keeps_its_place_within_a_block(tmp_path):
    """So that file systems can share it, whatever the new header holds."""
    path = save({"a": torch.randn(50_000)}, tmp_path / "a.safetensors")
    old = open_checkpoint(path)
    convert(path, tmp_path / "b.safetensors")
    again = open_checkpoint(tmp_path / "b.safetensors")
    assert (again.place("a").region.start - old.place("a").region.start) % 4096 == 0


def test_a_header_that_safetensors_would_not_read(monkeypatch):
    monkeypatch.setattr(safetensors_layout, "LARGEST_HEADER", 1000)
    fits = {str(i): torch.ones(1) for i in range(9)}
    assert lay_out(Draft(fits)).nbytes < 1000 + 8 + 36  # the filling is left out
    with pytest.raises(
        ValueError, match=r"a header of [\d,]+ bytes, and safetensors reads no more"
    ):
        lay_out(Draft({str(i): torch.ones(1) for i in range(99)}))


def test_every_problem_is_named():
    draft = Draft(
        {"a": torch.ones(1, dtype=torch.complex128), "__metadata__": torch.ones(1)},
        extras={"m._extra_state": 3, "n._extra_state": None},
        metadata={"x": "\ud800", "surgery.aliases": "mine"},
    )
    assert [problem.partition(": ")[0] for problem in problems(draft)] == [
        *("a", "m._extra_state", "'__metadata__'", "'x'", "metadata surgery.aliases"),
    ]
