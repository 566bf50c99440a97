"""Text files: what is read, what is refused without being opened, and what a failure leaves."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from surgery.checkpoint.text import MOST_BYTES, lines_of, read_text, write_text
from surgery.errors import CheckpointError, RuleError


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\nb", ["a", "b"]),
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb\rc\n\nd", ["a", "b", "c", "", "d"]),
        (b"\xef\xbb\xbfa\n", ["a"]),
        ("a\x0b\x0c\x1c\x85\u2028b\nc".encode(), ["a\x0b\x0c\x1c\x85\u2028b", "c"]),
    ],
)
def test_lines_end_where_an_editor_ends_them(tmp_path: Path, content: bytes, lines: list[str]):
    path = tmp_path / "map.txt"
    path.write_bytes(content)
    assert lines_of(read_text(path)) == lines


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("a -> b".encode("utf-16"), "not UTF-8 text, at byte 0 in line 1", id="utf-16"),
        pytest.param(b"a\nb\xff", "not UTF-8 text, at byte 3 in line 2", id="binary"),
        pytest.param(b"a" * (MOST_BYTES + 1), "more than 16 MB", id="large"),
    ],
)
def test_content_that_is_refused(tmp_path: Path, content: bytes, why: str):
    path = tmp_path / "map.txt"
    path.write_bytes(content)
    with pytest.raises(RuleError, match=rf"map\.txt: cannot be read: .*{why}"):
        read_text(path, RuleError)


def test_what_is_no_file_is_never_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(4 << 30)
    for path, what in (
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is a named pipe"),
        (tmp_path / "socket", "it is a socket"),
        ("/dev/zero", "it is a character device"),
        (large, "more than 16 MB"),
        (tmp_path / "nowhere", "No such file"),
        ("a\0b", "null byte"),
        ("\ud800", "can't encode"),
    ):
        with pytest.raises(RuleError) as caught:
            read_text(path, RuleError)
        assert what in caught.value.message
        assert caught.value.message.isprintable()


def test_a_file_is_written_whole_through_a_link_or_stays_as_it_was(tmp_path: Path, monkeypatch):
    path, link = tmp_path / "map.txt", tmp_path / "link"
    link.symlink_to(path)
    write_text(link, "a -> ж\n")
    assert path.read_bytes() == "a -> ж\n".encode()
    assert link.is_symlink()

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match=r"map\.txt: cannot be written: No space left"):
        write_text(path, "c -> d\n")
    assert path.read_text(encoding="utf-8") == "a -> ж\n"
    assert sorted(tmp_path.iterdir()) == [link, path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_device_is_no_place_for_a_file():
    with pytest.raises(CheckpointError, match="a character device"):
        write_text("/dev/full", "a")


def test_half_a_character_cannot_be_written(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"'\\ud800' is no character"):
        write_text(tmp_path / "map.txt", "a -> \ud800")
    assert not list(tmp_path.iterdir())
