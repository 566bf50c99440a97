"""A storage in pieces is the storage, wherever the cuts fall and however it is packed."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surgery.checkpoint import pieces
from surgery.checkpoint.pieces import Garbled
from surgery.checkpoint.places import Region
from surgery.checkpoint.source import Source


def region_of(path: Path, data: bytes, deflated: bool, nbytes: int | None = None) -> Region:
    """The data behind three other bytes, and before two."""
    machine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    stored = machine.compress(data) + machine.flush() if deflated else data
    path.write_bytes(b"abc" + stored + b"de")
    nbytes = len(data) if nbytes is None else nbytes
    return Region(Source.of(path), 3, len(stored), nbytes, deflated=deflated)


def read(region: Region, start: int = 0, count: int | None = None) -> list[bytes]:
    with region.source.opened() as reader:
        return [bytes(piece) for piece in pieces.pieces(region, reader, start, count)]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    # Runs inflate to far more than they take, which is where a machine holds something back.
    parts=st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(1, 400)), max_size=5),
    deflated=st.booleans(),
    size=st.sampled_from([16, 32, 48, 1 << 17]),
    data=st.data(),
)
def test_pieces_are_the_whole(
    parts: list[tuple[bytes, int]],
    deflated: bool,
    size: int,
    data: st.DataObject,
    tmp_path: Path,
) -> None:
    whole = b"".join(text * times for text, times in parts)
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    region = region_of(tmp_path / "a", whole, deflated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "PIECE", size)
        found = read(region, start, count)
        assert b"".join(read(region)) == whole
    assert b"".join(found) == whole[start : start + count]
    assert all(len(piece) == size for piece in found[:-1])
    assert not found or 0 < len(found[-1]) <= size


@pytest.mark.parametrize(
    ("nbytes", "problem"),
    [(999, "found more than its 999 bytes"), (1001, "found 1,000 of its 1,001 bytes")],
)
@pytest.mark.parametrize("size", [16, 1 << 17])
def test_a_member_that_gives_another_size(
    nbytes: int, problem: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "PIECE", size)
    region = region_of(tmp_path / "a", bytes(1000), deflated=True, nbytes=nbytes)
    with pytest.raises(Garbled, match=problem):
        read(region)


def test_a_bomb_is_left_at_the_size_that_it_declares(tmp_path: Path) -> None:
    region = region_of(tmp_path / "a", bytes(50_000_000), deflated=True, nbytes=1000)
    given_out: list[int] = []
    with region.source.opened() as reader, pytest.raises(Garbled):
        given_out.extend(map(len, pieces.pieces(region, reader)))
    assert sum(given_out) <= 1000


def test_what_is_no_deflated_data_is_said_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" + b"\xff" * 20)
    region = Region(Source.of(tmp_path / "a"), 3, 20, 100, deflated=True)
    with pytest.raises(Garbled, match=r"a: the compressed member at byte 3 is damaged: found what"):
        read(region)


def test_a_storage_that_many_tensors_view_is_inflated_once(tmp_path, monkeypatch):
    region = region_of(tmp_path / "a", bytes(range(200)) * 10, deflated=True)
    inflated = []
    whole = pieces._inflated
    monkeypatch.setattr(pieces, "_inflated", lambda *args: inflated.append(1) or whole(*args))
    with region.source.opened() as reader:
        for start in range(0, 2000, 100):
            assert pieces.read_region(region, reader, start, 100) == bytes(
                (start + i) % 200 for i in range(100)
            )
    assert len(inflated) == 1
