"""Torch's zip format: what plain torch and Python's zipfile make of what is written."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from every_dtype import every_dtype, same
from torch.utils.serialization import config

from surgery.checkpoint import open_checkpoint
from surgery.checkpoint.conversion import convert
from surgery.checkpoint.places import Region
from surgery.checkpoint.source import Source
from surgery.checkpoint.writer import save
from surgery.checkpoint.writing import torch_layout
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.moving import Target
from surgery.checkpoint.writing.segments import Made
from surgery.checkpoint.writing.torch_layout import lay_out
from surgery.checkpoint.writing.values import Computed


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("calculated", [False, True])
def test_plain_torch_reads_every_dtype_and_shape(mmap, calculated, tmp_path):
    """Torch may compute where members lie, but only in files that follow its own layout."""
    state = every_dtype()
    state["large"] = torch.randn(1 << 19)
    state["behind"] = torch.randn(3)
    path = save(state, tmp_path / "a.pt")
    convert(path, tmp_path / "b.pt")
    with config.patch({"load.calculate_storage_offsets": calculated}):
        assert same(torch.load(path, weights_only=True, mmap=mmap), state)
        assert same(torch.load(tmp_path / "b.pt", weights_only=True, mmap=mmap), state)


def test_checksums_are_right(tmp_path):
    state = {**every_dtype(), "large": torch.randn(100_000)}
    save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "t.pt")
    for name in ("a", "t"):
        convert(tmp_path / f"{name}.pt", tmp_path / f"{name}2.pt")
        with zipfile.ZipFile(tmp_path / f"{name}2.pt") as archive:
            assert archive.testzip() is None


def test_the_checksum_of_a_damaged_member_stays_wrong(tmp_path):
    """Or else a copy would hide the damage."""
    path = save({"a": torch.zeros(100_000), "b": torch.ones(3)}, tmp_path / "a.pt")
    place = open_checkpoint(path).place("a")
    with path.open("r+b") as file:
        file.seek(place.region.start + 5)
        file.write(b"\x01")
    convert(path, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        assert archive.testzip() == "archive/data/0"


def test_members_begin_where_memory_maps_them(tmp_path):
    """At multiples of 64; without holes between one member's end and the next one's header."""
    path = save(every_dtype(), tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        end = 0
        for member in archive.infolist():
            assert member.header_offset == end
            file.seek(end + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            start = end + 30 + name + extra
            assert start % 64 == 0
            end = start + member.file_size
        assert archive.start_dir == end


def test_extra_state_of_every_plain_kind(tmp_path):
    tensor = torch.arange(6).reshape(2, 3).t()
    extra = {"t": tensor, "list": [1, (2.5, None), {"x": b"\xff"}], "deep": {"t": tensor[:1]}}
    path = save({"w": torch.ones(1), "m._extra_state": extra}, tmp_path / "a.pt")
    for mmap in (False, True):
        found = torch.load(path, weights_only=True, mmap=mmap)["m._extra_state"]
        assert found["list"] == extra["list"]
        assert torch.equal(found["t"], tensor)
        assert torch.equal(found["deep"]["t"], tensor[:1])


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param(torch.eye(2).to_sparse(), "a tensor of layout sparse_coo", id="sparse"),
        pytest.param(torch.ones(1, device="meta"), "a meta tensor", id="meta"),
        pytest.param({1}, "a builtins.set", id="set"),
    ],
)
def test_extra_state_that_cannot_be_kept_is_named(value, problem):
    draft = Draft({}, extras={"m._extra_state": {"x": [value]}})
    (found,) = torch_layout.problems(draft)
    assert found.startswith(f"m._extra_state: {problem}")


def test_more_members_than_16_bits_count(tmp_path):
    state = {str(i): torch.full((), i) for i in range(65_540)}
    path = save(state, tmp_path / "a.pt")
    with zipfile.ZipFile(path) as archive:
        assert len(archive.infolist()) == 65_543
        assert archive.testzip() is None
    assert int(torch.load(path, weights_only=True, mmap=True)["65539"]) == 65_539


class Sparse(io.RawIOBase):
    """A file of which only what was written is kept: holes are zeros."""

    def __init__(self, parts, size):
        self.parts, self.size, self.at = sorted(parts), size, 0

    def readable(self):
        return True

    seekable = readable

    def seek(self, offset, whence=0):
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self):
        return self.at

    def read(self, count=-1):
        count = self.size - self.at if count < 0 else min(count, self.size - self.at)
        data = bytearray(count)
        for start, part in self.parts:
            low, high = max(start, self.at), min(start + len(part), self.at + count)
            if low < high:
                data[low - self.at : high - self.at] = part[low - start : high - start]
        self.at += count
        return bytes(data)


class Pretending(Target):
    """Takes headers and leaves values out."""

    def __init__(self):
        self.parts = []

    def put(self, offset, piece):
        self.parts.append((offset, bytes(piece)))

    def write_behind_header(self, part, at, header):
        self.put(at, header(7))
        if part.segment.nbytes < 10_000:
            for piece in part.segment.pieces():
                self.put(part.offset, piece)
        return 7


@pytest.mark.parametrize(
    "elements",
    [
        pytest.param([(1 << 30) - 1, 4, 4], id="just-below"),
        pytest.param([1 << 30, 4, 4], id="a-size-of-4-GiB"),
        pytest.param([(1 << 30) - 100, 200, 4], id="an-offset-beyond"),
        pytest.param([1 << 42, 4, 1 << 42], id="beyond-any-disk"),
    ],
)
def test_sizes_and_offsets_beyond_32_bits(elements):
    """Laid out, not written: Python's zipfile finds every member where it was laid."""
    values = {str(i): Computed((n,), "float32", lambda: iter(())) for i, n in enumerate(elements)}
    layout, target = lay_out(Draft(values)), Pretending()
    layout.write(target)
    with zipfile.ZipFile(Sparse(target.parts, layout.nbytes)) as archive:
        sizes = {m.filename: (m.file_size, m.compress_size, m.CRC) for m in archive.infolist()}
        headers = sorted(m.header_offset for m in archive.infolist())
    for i, n in enumerate(elements):
        assert sizes[f"archive/data/{i}"] == (4 * n, 4 * n, 7)
    assert set(headers) <= {at for at, _ in target.parts}


def test_a_large_range_keeps_its_place_within_a_block(tmp_path):
    """So that file systems can share it."""
    (tmp_path / "x").write_bytes(bytes((2 << 20) + 64 * 5))
    large = Region(Source.of(tmp_path / "x"), 64 * 5, 2 << 20, 2 << 20)
    member = torch_layout._member(b"archive/data/0", 1000, large)
    assert member.data.offset % 4096 == 64 * 5
    small = torch_layout._member(b"archive/data/0", 1000, Made(5, lambda: (b"12345",)))
    assert small.data.offset % 64 == 0


def test_the_folder_of_the_archive_is_ours(tmp_path):
    with zipfile.ZipFile(save({"a": torch.ones(1)}, tmp_path / "a.pt")) as archive:
        assert [Path(name).name for name in archive.namelist()] == [
            *("data.pkl", "byteorder", "0", "version"),
        ]
