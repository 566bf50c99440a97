"""Raw bytes of a file as numbers, and the NaN and Inf among them by their codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgery.checkpoint.pieces import Piece

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Codes:
    """What the bit patterns of a floating dtype stand for.

    ``carrier`` is the integer of the same width. With ``flip`` and ``mask`` applied
    (``(bits ^ flip) & mask``), every pattern above ``largest`` is NaN, and ``infinity`` is
    infinite; None for a dtype without it.
    """

    carrier: str
    mask: int
    largest: int
    infinity: int | None = None
    flip: int = 0


def _ieee(bits: int, infinity: int) -> Codes:
    """Sign, exponent, fraction: NaN lies above infinity."""
    carrier = "uint8" if bits == 8 else f"int{bits}"
    return Codes(carrier, (1 << (bits - 1)) - 1, infinity, infinity)


_HALF, _SINGLE, _DOUBLE = _ieee(16, 0x7C00), _ieee(32, 0x7F80_0000), _ieee(64, 0x7FF0 << 48)

#: By dtype; the 4-bit floats have neither NaN nor Inf. IEEE 754; for 8 bits the OCP 8-bit
#: Floating Point Specification, and its variants as torch/headeronly/util/Float8_*.h has them:
#: the "fnuz" kinds have one NaN, where minus zero would be, and e8m0 is an exponent alone.
CODES: Mapping[str, Codes] = {
    "float64": _DOUBLE,
    "float32": _SINGLE,
    "float16": _HALF,
    "bfloat16": _ieee(16, 0x7F80),
    "complex128": _DOUBLE,
    "complex64": _SINGLE,
    "complex32": _HALF,
    "float8_e5m2": _ieee(8, 0x7C),
    "float8_e4m3fn": Codes("uint8", 0x7F, 0x7E),
    "float8_e4m3fnuz": Codes("uint8", 0xFF, 0xFE, flip=0x7F),
    "float8_e5m2fnuz": Codes("uint8", 0xFF, 0xFE, flip=0x7F),
    "float8_e8m0fnu": Codes("uint8", 0xFF, 0xFE),
}


def as_numbers(data: Piece, dtype: str, *, swapped: bool = False) -> torch.Tensor:
    """The bytes as a row of numbers, bit for bit; ``swapped`` ones are big-endian.

    Of complex32, with which torch can do nothing, the numbers as complex64.
    """
    import torch

    if dtype == "complex32":
        parts = as_numbers(data, "float16", swapped=swapped).float()
        return torch.view_as_complex(parts.view(-1, 2))
    kind = getattr(torch, dtype)
    if not data:
        return torch.empty(0, dtype=kind)
    # Read-only memory would draw a warning; what a reader gives is writable and not copied.
    writable = data if isinstance(data, bytearray) else bytearray(data)
    raw = torch.frombuffer(writable, dtype=torch.uint8)
    return (byteswapped(raw, kind) if swapped else raw).view(kind)


def byteswapped(raw: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Bytes (uint8) with those of each number in reverse; a complex number is two numbers."""
    width = dtype.itemsize // 2 if dtype.is_complex else dtype.itemsize
    return raw.view(-1, width).flip(1).reshape(-1)


def nan_and_inf(
    data: Piece, dtype: str, *, swapped: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Where among the numbers NaN and where Inf is, as two masks; None where neither is, which
    one pass over them tells.

    A complex number is NaN where either part is, and infinite where either part is, so that it
    may be both; torch.isnan and torch.isinf have it so.
    """
    import torch

    codes = CODES[dtype]
    bits = as_numbers(data, codes.carrier, swapped=swapped)  # of complex numbers, both parts
    bits = (bits ^ codes.flip if codes.flip else bits) & codes.mask
    highest = int(bits.max()) if len(bits) else 0
    if highest <= codes.largest and (codes.infinity is None or highest < codes.infinity):
        return None
    nan = bits > codes.largest
    inf = torch.zeros_like(nan) if codes.infinity is None else bits == codes.infinity
    if dtype.startswith("complex"):
        return nan.view(-1, 2).any(1), inf.view(-1, 2).any(1)
    return nan, inf
