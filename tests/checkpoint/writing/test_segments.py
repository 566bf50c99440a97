"""Segments: merging changes no byte."""

from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from surgery.checkpoint.places import Region
from surgery.checkpoint.source import Source
from surgery.checkpoint.writing.segments import (
    BLOCK,
    Placed,
    literal,
    merged,
    shared_residue,
)

FILES = [Source(Path(name), 10_000, (1, 1, 1)) for name in "ab"]

PARTS = st.lists(
    st.tuples(
        st.sampled_from([*FILES, None]), st.integers(0, 20), st.integers(0, 9), st.booleans()
    ),
    max_size=12,
)


def copied(source, start, nbytes, crc=None):
    """A range of a file, as it is."""
    return Region(source, start, nbytes, nbytes, crc=crc)


def laid(parts):
    """One behind the other, with a hole where wanted; ``None`` is made, the rest copied."""
    placed, at, follow = [], 0, {}
    for file, start, nbytes, hole in parts:
        at += hole
        start = follow.get(file, start) if start % 2 else start
        segment = copied(file, start, nbytes, crc=7) if file else literal(bytes([start] * nbytes))
        placed.append(Placed(at, segment))
        at, follow[file] = at + nbytes, start + nbytes
    return placed


def written(placed):
    """Where every byte of the new file comes from."""
    out = {}
    for part in placed:
        match part.segment:
            case Region(source, start, _, nbytes):
                found = [(source.path.name, start + i) for i in range(nbytes)]
            case made:
                found = list(b"".join(made.pieces()))
        for i, byte in enumerate(found):
            assert part.offset + i not in out
            out[part.offset + i] = byte
    return out


@given(PARTS)
def test_merging_covers_the_same_bytes(parts):
    placed = laid(parts)
    together = list(merged(placed))
    assert written(together) == written(placed)
    assert len(together) <= len(placed)
    assert all(part.segment.nbytes for part in together)
    for one, other in pairwise(together):
        assert not (
            isinstance(one.segment, Region)
            and isinstance(other.segment, Region)
            and one.end == other.offset
            and one.segment.source == other.segment.source
            and one.segment.start + one.segment.nbytes == other.segment.start
        ), "neighbours that could have been one"


@given(PARTS, st.sampled_from([1, 8, 64]))
def test_a_shift_is_a_multiple_within_a_block(parts, step):
    shift = shared_residue(laid(parts), step)
    assert 0 <= shift < BLOCK
    assert shift % step == 0


def test_the_most_bytes_decide_the_shift():
    few, many = copied(FILES[0], 8, 10), copied(FILES[1], BLOCK + 72, 1000)
    assert shared_residue([Placed(0, few), Placed(10, many)], 1) == 62
    assert shared_residue([Placed(0, few), Placed(10, many)], 8) == 8  # 62 is no multiple
    assert shared_residue([], 8) == shared_residue([Placed(3, literal(b"abc"))], 8) == 0
