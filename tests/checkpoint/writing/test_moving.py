"""Bytes from file to file: every way of moving them, and what stops them."""

import errno
import os
import zlib
from pathlib import Path

import pytest

from surgery.checkpoint.places import Region
from surgery.checkpoint.progress import unwatched
from surgery.checkpoint.source import OneAtATime, Reader, Source
from surgery.checkpoint.writing import moving
from surgery.checkpoint.writing.moving import Target, reserve
from surgery.checkpoint.writing.segments import Made, Placed, literal
from surgery.errors import CheckpointError

pytestmark = pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="Linux calls")

NOT_HERE = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
LARGE = 300_000


@pytest.fixture
def files(tmp_path):
    """Two sources of random bytes."""
    made = []
    for name in "ab":
        (tmp_path / name).write_bytes(os.urandom(LARGE + 100))
        made.append(Source.of(tmp_path / name))
    return made


def copied(source, start, nbytes, crc=None):
    """A range of a file, as it is."""
    return Region(source, start, nbytes, nbytes, crc=crc)


def plan(files):
    """Large and small ranges of both files, made bytes, and a hole of ten bytes."""
    a, b = files
    return [
        Placed(0, literal(b"head")),
        Placed(4, copied(a, 7, LARGE)),
        Placed(4 + LARGE, copied(b, 1, 50)),
        Placed(54 + LARGE, copied(b, 51, LARGE)),
        Placed(64 + 2 * LARGE, Made(70_003, lambda: (bytes(70_000), b"abc"))),
        Placed(64 + 2 * LARGE + 70_003, copied(a, 0, 0)),
    ]


def expected(files):
    a, b = (file.path.read_bytes() for file in files)
    return b"head" + a[7 : 7 + LARGE] + b[1:51] + b[51 : 51 + LARGE] + bytes(10 + 70_000) + b"abc"


def write(path, parts, progress=unwatched):
    with path.open("w+b", buffering=0) as file, OneAtATime() as sources:
        target = Target(file.fileno(), sources, progress)
        target.write(parts)
        target.flush()
    return path.read_bytes()


def failing(code, after=0):
    """A call that works ``after`` times and then fails."""

    def wrap(call):
        left = iter(range(after))

        def called(*args):
            if next(left, None) is None:
                raise OSError(code, os.strerror(code))
            return call(*args)

        return called

    return wrap


def short(position, most):
    """A call that moves only a few of the bytes wanted."""

    def wrap(call):
        def called(*args):
            wanted = list(args)
            wanted[position] = min(wanted[position], most)
            return call(*wanted)

        return called

    return wrap


def nothing(_):
    return lambda *_: 0


KERNEL = "copy_file_range"


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({}, id="as-it-is"),
        *(pytest.param({KERNEL: failing(code)}, id=str(code)) for code in NOT_HERE),
        pytest.param({KERNEL: failing(errno.EXDEV, after=1)}, id="fails-later"),
        pytest.param({KERNEL: nothing}, id="moves-nothing"),
        pytest.param({KERNEL: short(2, 10_007)}, id="moves-few"),
    ],
)
def test_every_way_moves_the_same_bytes(broken, files, tmp_path, monkeypatch):
    for name, wrap in broken.items():
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    done = []
    assert write(tmp_path / "out", plan(files), done.append) == expected(files)
    assert sum(done) == len(expected(files)) - 10  # the hole is nobody's


def test_a_system_without_the_calls(files, tmp_path, monkeypatch):
    for name in (KERNEL, "posix_fadvise", "posix_fallocate"):
        monkeypatch.delattr(os, name)
    assert write(tmp_path / "out", plan(files)) == expected(files)


def test_writes_may_be_short(files, tmp_path, monkeypatch):
    monkeypatch.setattr(os, KERNEL, nothing(None))
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, data, at: pwrite(file, data[:4099], at))
    assert write(tmp_path / "out", plan(files)) == expected(files)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EFBIG])
@pytest.mark.parametrize("name", [KERNEL, "pwrite"])
def test_real_errors_are_not_swallowed(name, code, files, tmp_path, monkeypatch):
    if name != KERNEL:
        monkeypatch.setattr(os, KERNEL, nothing(None))
    monkeypatch.setattr(os, name, failing(code)(getattr(os, name)))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        write(tmp_path / "out", plan(files))
    assert caught.value.errno == code


def test_the_disk_that_fails_is_named(files, tmp_path, monkeypatch):
    """The kernel copies between two files and does not say which of them it was."""
    monkeypatch.setattr(os, "copy_file_range", failing(errno.EIO)(os.copy_file_range))
    monkeypatch.setattr(Reader, "_fill", failing(errno.EIO)(Reader._fill))
    with pytest.raises(CheckpointError, match="a: cannot be read: Input/output error"):
        write(tmp_path / "out", plan(files))


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_source_that_is_cut_short_meanwhile_is_noticed(in_kernel, files, tmp_path, monkeypatch):
    if not in_kernel:
        monkeypatch.setattr(os, KERNEL, nothing(None))
    for name in (KERNEL, "pwrite") if in_kernel else ("pwrite",):
        call = getattr(os, name)

        def cutting(*args, call=call):
            os.truncate(files[0].path, 1000)
            return call(*args)

        monkeypatch.setattr(os, name, cutting)
    with pytest.raises(CheckpointError, match=r"a: (became shorter|changed since)"):
        write(tmp_path / "out", [Placed(0, literal(b"x" * 70_000)), *plan(files)[1:2]])


@pytest.mark.parametrize("small", [True, False])
def test_a_source_that_is_changed_meanwhile_is_noticed(small, files, tmp_path):
    def change():
        files[0].path.write_bytes(bytes(files[0].size))
        yield b"made"

    nbytes = 10 if small else LARGE
    parts = [Placed(0, copied(files[0], 0, nbytes)), Placed(nbytes, Made(4, change))]
    with pytest.raises(CheckpointError, match="changed since"):
        write(tmp_path / "out", parts)


def test_a_range_that_the_source_has_not(files, tmp_path):
    for nbytes in (10, LARGE):
        with pytest.raises(
            CheckpointError, match=r"cut short: expected [\d,]+ bytes, have 300,100"
        ):
            write(tmp_path / "out", [Placed(0, copied(files[0], LARGE + 95, nbytes))])


@pytest.mark.parametrize("nbytes", [0, 10, LARGE])
@pytest.mark.parametrize("kind", ["known", "copied", "made"])
def test_a_header_has_the_checksum_of_what_follows(kind, nbytes, files, tmp_path):
    data = files[0].path.read_bytes()[5 : 5 + nbytes]
    segment = {
        "known": copied(files[0], 5, nbytes, crc=123),  # trusted, right or wrong
        "copied": copied(files[0], 5, nbytes),
        "made": literal(data),
    }[kind]
    crc = 123 if kind == "known" else zlib.crc32(data)
    with (tmp_path / "out").open("w+b") as file, OneAtATime() as sources:
        target = Target(file.fileno(), sources)
        found = target.write_behind_header(
            Placed(6, segment), 2, lambda crc: crc.to_bytes(4, "big")
        )
        target.flush()
    assert found == crc
    assert (tmp_path / "out").read_bytes() == b"\0\0" + crc.to_bytes(4, "big") + data


def test_pieces_must_add_up(tmp_path):
    with pytest.raises(AssertionError, match="add up"):
        write(tmp_path / "out", [Placed(0, Made(5, lambda: (b"abc",)))])


def test_many_small_pieces_are_few_writes(tmp_path, monkeypatch):
    calls, pwrite = [], os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *args: calls.append(1) or pwrite(*args))
    write(tmp_path / "out", [Placed(i, literal(bytes([i % 256]))) for i in range(10_000)])
    assert len(calls) == 1
    assert (tmp_path / "out").read_bytes() == bytes(i % 256 for i in range(10_000))


@pytest.mark.parametrize("code", NOT_HERE)
def test_room_is_not_reserved_where_that_cannot_be_done(code, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fallocate", failing(code)(None))
    with (tmp_path / "out").open("wb") as file:
        reserve(file.fileno(), 10)
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC)(None))
    with (tmp_path / "out").open("wb") as file, pytest.raises(OSError, match="No space"):
        reserve(file.fileno(), 10)


def test_advice_that_is_not_taken_is_no_failure(files, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "posix_fadvise", failing(errno.EINVAL)(None))
    assert write(tmp_path / "out", plan(files)) == expected(files)


def test_only_one_source_is_open_at_a_time(tmp_path):
    parts = []
    for i in range(50):
        path = tmp_path / f"{i}"
        path.write_bytes(bytes([i]) * 70_000)
        parts.append(Placed(i * 70_000, copied(Source.of(path), 0, 70_000)))
    most = []
    write(tmp_path / "out", parts, lambda _: most.append(len([*Path("/proc/self/fd").iterdir()])))
    assert max(most) - min(most) <= 1


def test_the_strides_of_a_copy(files, tmp_path, monkeypatch):
    monkeypatch.setattr(moving, "_STRIDE", 65_537)
    assert write(tmp_path / "out", plan(files)) == expected(files)
