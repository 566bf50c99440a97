"""What the values of one tensor in a new file are made from, and the segment that gives."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from surgery.checkpoint.places import Place, contiguous_strides
from surgery.checkpoint.writing.segments import Copied, Made, Segment
from surgery.specs import TensorSpec

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """Values that are computed when their turn comes.

    ``pieces`` gives them in order, as flat tensors of ``dtype`` on the CPU.
    """

    shape: tuple[int, ...]
    dtype: str
    pieces: Callable[[], Iterator[torch.Tensor]]


#: A tensor in a file, one to be computed, or one in memory.
Values: TypeAlias = "Place | Computed | torch.Tensor"


def is_tensor(value: object) -> TypeIs[torch.Tensor]:
    """Whether a value is a tensor in memory; where torch is not imported there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def tensor_problem(value: torch.Tensor) -> str | None:
    """What kind of tensor this is, where it is one whose values cannot be copied as they are."""
    import torch
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(value):
        return f"a {type(value).__name__}, a wrapper around other tensors"
    if value.is_nested:
        return "a nested tensor"
    if value.layout != torch.strided:
        return f"a tensor of layout {str(value.layout).removeprefix('torch.')}"
    if value.is_quantized:
        return f"a quantised tensor ({str(value.dtype).removeprefix('torch.')})"
    if value.is_meta:
        return "a meta tensor, which has no values"
    return None


def segment_of(values: Values) -> Segment:
    """Row-major little-endian bytes: a range of a file where they lie there as they are."""
    if isinstance(values, Place) and is_plain(values):
        return _range_of(values)
    spec = TensorSpec.of("", values)

    def bytes_of_pieces() -> Iterator[memoryview]:
        from surgery.checkpoint.tensors import flat_pieces, memory

        return map(memory, flat_pieces(values))

    return Made(spec.nbytes, bytes_of_pieces)


def is_plain(place: Place) -> bool:
    """Whether the file has the values as memory would, byte for byte."""
    return in_order(place) and not (place.region.deflated or place.region.swapped)


def in_order(place: Place) -> bool:
    """Whether the values lie one behind the other, though perhaps compressed or big-endian."""
    if place.conjugate or place.negative:
        return False
    steps = zip(place.shape, place.strides, contiguous_strides(place.shape), strict=True)
    return not place.numel or all(size == 1 or own == dense for size, own, dense in steps)


def _range_of(place: Place) -> Copied:
    region, nbytes = place.region, math.prod(place.shape) * place.itemsize
    start = region.start + place.offset * place.itemsize
    whole = (start, nbytes) == (region.start, region.nbytes)
    # Torch may be told to save without checksums (set_crc32_options); it then writes 0.
    return Copied(region.source, start, nbytes, (region.crc or None) if whole else None)
