"""Reading forward through the bytes of a pickle, with the position at hand for messages."""

from __future__ import annotations

from surgery.errors import CheckpointError

_LONGEST_LINE = 1 << 16


class MoreWanted(Exception):
    """The pickle goes on behind the bytes at hand."""


class Cursor:
    """A position ``at`` in ``data``, which only moves forward.

    ``label`` opens every message; ``start`` is where the data begin in the file or member, which
    has ``more`` bytes behind them: whatever ends in those raises MoreWanted.
    """

    def __init__(self, data: bytes, label: str, start: int = 0, more: int = 0) -> None:
        self.data = data
        self.at = 0
        self._label = label
        self._start = start
        self._more = more

    @property
    def position(self) -> int:
        """Bytes from the beginning of the file or member."""
        return self._start + self.at

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at + self._more

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Checked against what remains before anything is allocated."""
        end = self.at + count
        if end > len(self.data):
            raise self.cut_short(count)
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def line(self) -> bytes:
        r"""Up to the next ``\n``, which is read and left out."""
        end = self.data.find(b"\n", self.at, self.at + _LONGEST_LINE)
        if end < 0:
            if self._more and len(self.data) - self.at < _LONGEST_LINE:
                raise MoreWanted
            raise self.damaged("a line that does not end")
        line = self.data[self.at : end]
        self.at = end + 1
        return line

    def number(self, size: int) -> int:
        """A little-endian integer of ``size`` bytes, without a sign."""
        return int.from_bytes(self.take(size), "little")

    def damaged(self, problem: str) -> CheckpointError:
        """The error for what was found where the cursor is."""
        return CheckpointError(f"{self._label}: damaged at byte {self.position:,}: {problem}")

    def cut_short(self, count: int) -> Exception:
        """The error for ``count`` bytes that are not at hand."""
        if count <= self.remaining:
            return MoreWanted()
        return self.damaged(f"expected {count:,} more bytes, have {self.remaining:,}")
