"""Reading forward through bytes, a window at a time, with the position at hand for messages."""

from __future__ import annotations

from collections.abc import Callable

from surgery.errors import CheckpointError

_WINDOW = 1 << 18
_LONGEST_LINE = 1 << 16

# An opcode and the widest number that may follow it.
_LONGEST_STEP = 9


class Cursor:
    """A position in ``[start, stop)`` that only moves forward.

    ``fetch(start, count)`` gives the bytes: from a file, whose pickle may be followed by
    gigabytes of weights, or from a member already inflated. ``label`` opens every message.
    """

    def __init__(
        self, fetch: Callable[[int, int], bytes], start: int, stop: int, label: str
    ) -> None:
        self.label = label
        self._fetch = fetch
        self._stop = stop
        self._window = b""
        self._window_start = start
        self._at = 0

    @classmethod
    def over(cls, data: bytes, label: str) -> Cursor:
        """A cursor over bytes in memory."""
        return cls(lambda start, count: data[start : start + count], 0, len(data), label)

    @property
    def position(self) -> int:
        """Bytes from the beginning of the file or member."""
        return self._window_start + self._at

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._stop - self.position

    def ahead(self) -> tuple[bytes, int, int, int]:
        """For reading on without a call for each byte: (window, its start, position, last one).

        Both positions are in the window. From the first to the last one, an opcode and its number
        lie in the window, unless the pickle ends before. :meth:`move` takes the cursor there.
        """
        if len(self._window) - self._at < _LONGEST_STEP and self._window_end < self._stop:
            self._refill(1)
        if self._at >= len(self._window):
            raise self.cut_short(self.position, 1)
        more = self._window_end < self._stop
        last = len(self._window) - (_LONGEST_STEP if more else 1)
        return self._window, self._window_start, self._at, last

    def move(self, at: int) -> None:
        """Go to ``at``, a position in the window that :meth:`ahead` gave."""
        self._at = at

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes. Checked against what remains before anything is allocated."""
        end = self._at + count
        if end > len(self._window):
            self._refill(count)
            end = count
        piece = self._window[self._at : end]
        self._at = end
        return piece

    def line(self) -> bytes:
        r"""Up to the next ``\n``, which is read and left out."""
        end = self._window.find(b"\n", self._at)
        if end < 0:
            self._refill(min(self.remaining, _LONGEST_LINE))
            end = self._window.find(b"\n")
        if end < 0:
            raise self.damaged(self.position, "a line that does not end")
        piece = self._window[self._at : end]
        self._at = end + 1
        return piece

    def number(self, size: int, *, signed: bool = False) -> int:
        """A little-endian integer of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little", signed=signed)

    def damaged(self, position: int, problem: str) -> CheckpointError:
        """The error for what was found at ``position``."""
        return CheckpointError(f"{self.label}: damaged at byte {position:,}: {problem}")

    def cut_short(self, position: int, count: int) -> CheckpointError:
        """The error for ``count`` bytes that are not there."""
        return self.damaged(
            position, f"expected {count:,} more bytes, have {self._stop - position:,}"
        )

    @property
    def _window_end(self) -> int:
        return self._window_start + len(self._window)

    def _refill(self, count: int) -> None:
        if count > self.remaining or not self.remaining:
            raise self.cut_short(self.position, count)
        start = self.position
        self._window = self._fetch(start, min(max(count, _WINDOW), self._stop - start))
        self._window_start, self._at = start, 0
