"""Numbers and counts, as reports tell them."""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, thing: str) -> str:
    """``1 tensor``, ``1,024 tensors``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def value_text(value: object) -> str:
    """A hyper-parameter as short as it can be told: floats to four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ",".join(map(value_text, value))
    return str(value)


def bytes_text(count: int) -> str:
    """Bytes in powers of 1024: ``512 B``, ``1.5 KiB``, ``2.0 GiB``."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, len(_BYTE_UNITS))
    return f"{count / 1024**power:.1f} {_BYTE_UNITS[power - 1]}"


_BYTE_UNITS = ("KiB", "MiB", "GiB", "TiB")


def percent_text(share: float) -> str:
    """A share as per cent, cut to two digits: less than all is never 100%."""
    return "100%" if share == 1 else f"{int(share * 10_000) / 100:.2f}%"


def broken_notes(overflowed: Iterable[tuple[str, int]]) -> tuple[str, ...]:
    return tuple(f"the cast broke {count:,} values of {name}" for name, count in overflowed)
