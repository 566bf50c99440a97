"""Tensors that are mapped from a file, and values that come in pieces."""

import zipfile

import pytest
import torch
from every_dtype import every_dtype, same

import surgery
from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.tensors.reading import flat_pieces
from surgery.checkpoint.writer import save


def large():
    return {
        "float": torch.randn(200, 300),
        "bfloat": torch.randn(70_001).bfloat16(),
        "byte": torch.arange(70_001).to(torch.uint8),
        "few": torch.ones(3),
        "none": torch.empty(0, 4),
    }


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_mapped_tensors_have_the_bits_and_are_nobody_elses(suffix, tmp_path):
    path = save(large(), tmp_path / f"a{suffix}")
    before = path.read_bytes()
    opened = open_checkpoint(path)
    state = opened.state_dict(mapped=True)
    assert same(state, large_of(opened))
    for name, value in state.items():
        value.zero_()
        assert torch.equal(opened.tensor(name, mapped=True), opened.tensor(name))
    assert path.read_bytes() == before


def large_of(opened):
    return {spec.name: opened.tensor(spec.name) for spec in opened.specs}


def test_mapped_tensors_outlive_everything(tmp_path):
    path = save(large(), tmp_path / "a.pt")
    value = open_checkpoint(path).tensor("float", mapped=True)
    expected = open_checkpoint(path).tensor("float")
    save({"float": torch.zeros(1)}, path)  # another file takes its name
    assert torch.equal(value, expected)


def test_offsets_that_no_element_may_begin_at(tmp_path):
    """A header of odd length moves all values to odd offsets; torch wants them aligned."""
    value = torch.randn(50_000)
    header = b'{"x":{"dtype":"F32","shape":[50000],"data_offsets":[0,200000]}}'
    header += b" " * (1 - len(header) % 2)
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + value.numpy().tobytes())
    opened = open_checkpoint(path)
    assert opened.place("x").region.start % 2
    assert torch.equal(opened.tensor("x", mapped=True), value)
    surgery.convert(path, tmp_path / "b.pt")
    surgery.convert(path, tmp_path / "b.safetensors")
    for name in ("b.pt", "b.safetensors"):
        assert torch.equal(open_checkpoint(tmp_path / name).tensor("x", mapped=True), value)


def odd_files(folder):
    """One state dict in all the ways that memory does not have it."""
    state = {**every_dtype(), **large(), "t": torch.randn(300, 400).t(), "part": torch.randn(9)[3:]}
    torch.save(state, folder / "plain.pt")
    with zipfile.ZipFile(folder / "plain.pt") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(folder / "deflated.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in members.items():
            new.writestr(name, data)
    torch.save(state, folder / "stream.pt", _use_new_zipfile_serialization=False)
    return state


@pytest.mark.parametrize("name", ["plain.pt", "deflated.pt", "stream.pt"])
def test_pieces_are_the_values(name, tmp_path, monkeypatch):
    state = odd_files(tmp_path)
    monkeypatch.setattr("surgery.checkpoint.pieces.PIECE", 1008)
    opened = open_checkpoint(tmp_path / name)
    found = {}
    for spec in opened.specs:
        parts = list(flat_pieces(opened.place(spec.name)))
        assert len(parts) > 1 or not opened.place(spec.name).is_plain or spec.nbytes <= 1008
        value = state[spec.name]
        found[spec.name] = (
            torch.cat([part.view(torch.uint8) for part in parts]).view(value.dtype)
            if parts
            else torch.empty(0, dtype=value.dtype)
        ).reshape(value.shape)
    assert same(found, state)
    assert same(opened.state_dict(mapped=True), state)


def test_big_endian_values(tmp_path):
    state = {
        "x": torch.randn(5, 7),
        "i": torch.arange(4),
        "z": torch.empty(0),
        "s": torch.tensor(2.5),
    }
    state["c"] = torch.randn(3, dtype=torch.complex64)
    torch.save(state, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as old:
        members = {name: old.read(name) for name in old.namelist()}
    widths = [4, 8, 4, 4, 4]
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name, data in members.items():
            if name.endswith("byteorder"):
                data = b"big"
            if "/data/" in name:
                data = swapped(data, widths[int(name.rpartition("/")[2])])
            new.writestr(name, data)
    assert same(open_checkpoint(tmp_path / "big.pt").state_dict(), state)
    for suffix in (".pt", ".safetensors"):
        surgery.convert(tmp_path / "big.pt", tmp_path / f"out{suffix}")
        assert same(open_checkpoint(tmp_path / f"out{suffix}").state_dict(), state)


def swapped(data, width):
    return b"".join(data[at : at + width][::-1] for at in range(0, len(data), width))
