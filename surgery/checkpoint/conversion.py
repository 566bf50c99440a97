"""One checkpoint as a file of another format or dtype; nothing is renamed, nothing left fresh."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.holding import Checkpoint
from surgery.checkpoint.opening import open_checkpoint
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.writer import check_output, write
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.shards import parse_size
from surgery.errors import CheckpointError, SurgeryError, did_you_mean
from surgery.record import Record, read_record
from surgery.showing import Shown
from surgery.specs import DTYPE_BITS, TensorSpec
from surgery.wording import first_lines, printable

if TYPE_CHECKING:
    import torch

#: What ``dtype`` may be: real floats that torch converts between.
DTYPES = tuple(name for name in DTYPE_BITS if "float" in name and "float4" not in name)


@dataclass(frozen=True)
class Conversion:
    """What is to be written: ``specs``, in the checkpoint's order, under all names.

    ``left_out`` are entries of the file beside this state dict's tensors, each with what it is:
    no other format has a place for them.
    """

    checkpoint: Checkpoint = field(repr=False)
    specs: tuple[TensorSpec, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def casts(self) -> Mapping[str, int]:
        """How many tensors each kind of cast touches, such as ``{"float32 -> float16": 12}``."""
        pairs = zip(self.checkpoint.specs, self.specs, strict=True)
        return Counter(
            f"{old.dtype} -> {new.dtype}" for old, new in pairs if old.dtype != new.dtype
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the values to be written; tied tensors once."""
        repeated = {name for names in self.checkpoint.ties for name in names[1:]}
        return sum(spec.nbytes for spec in self.specs if spec.name not in repeated)

    def write(
        self,
        path: str | os.PathLike[str],
        *,
        strict: bool = False,
        max_shard_bytes: int | None = None,
        progress: Progress = unwatched,
    ) -> ConversionOutcome:
        """Write it, whole or not at all; what needs no cast goes from file to file.

        Raises CheckpointError, and ValueRefused where ``strict`` and a cast breaks values.
        """
        opened = self.checkpoint
        draft = Draft(opened.places, opened.ties, opened.versions, metadata=self._metadata())
        written = write(
            draft,
            Path(path),
            dtypes={spec.name: spec.dtype for spec in self.specs},
            strict=strict,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )
        return ConversionOutcome(self, written.files, written.broken)

    def _metadata(self) -> dict[str, str]:
        """The file's own; a transfer's record speaks of the new dtypes."""
        texts = dict(self.checkpoint.metadata)
        record = read_record(texts, self.checkpoint.specs)
        return {**texts, **_recast(record, self.specs).to_metadata()} if record else texts


@dataclass(frozen=True)
class ConversionOutcome(Shown):
    """What a conversion did. ``files`` were written, an index last; ``overflowed`` are
    (name, elements) that a cast broke. ``str()`` is the report.
    """

    conversion: Conversion
    files: tuple[Path, ...]
    overflowed: tuple[tuple[str, int], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "output": str(self.files[-1]),
            "files": [str(file) for file in self.files],
            "tensors": len(self.conversion.specs),
            "bytes": self.conversion.nbytes,
            "casts": dict(self.conversion.casts),
            "overflowed": [[name, lost] for name, lost in self.overflowed],
            "left_out": [[name, what] for name, what in self.conversion.left_out],
        }


def convert(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    key: str | None = None,
    dtype: str | torch.dtype | None = None,
    max_shard_size: int | str | None = None,
    strict: bool = False,
) -> ConversionOutcome:
    """Write the state dict in ``source`` to ``path``, whose suffix names the format.

    ``dtype`` (``"bfloat16"``, or torch's own) is that of all real floating tensors from now on;
    integers and complex numbers stay as they are. ``key`` chooses among several state dicts,
    ``max_shard_size`` (bytes, or ``"5GB"``) cuts what is larger into shards. Raises
    CheckpointError, SurgeryError for an unknown dtype, and ValueRefused where ``strict`` and a
    cast breaks values.
    """
    most = None if max_shard_size is None else parse_size(max_shard_size)
    path = check_output(path, in_shards=most is not None)
    if dtype is not None and not isinstance(dtype, str):
        dtype = str(dtype).removeprefix("torch.")
    planned = plan_conversion(open_checkpoint(source, key=key), dtype=dtype)
    return planned.write(path, strict=strict, max_shard_bytes=most)


def plan_conversion(checkpoint: Checkpoint, *, dtype: str | None = None) -> Conversion:
    """Decide what is cast and what cannot come along.

    Raises CheckpointError for tensors of a kind that is not read: they would be lost.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SurgeryError(
            f"dtype {dtype!r} is not known; expected one of {', '.join(DTYPES)}"
            f"{did_you_mean(dtype, DTYPES)}"
        )
    if checkpoint.unreadable:
        raise CheckpointError(
            f"{printable(checkpoint.path)}: {len(checkpoint.unreadable)} tensors cannot be read "
            "and would be lost",
            first_lines(
                [f"{printable(name)}: {reason}" for name, reason in checkpoint.unreadable], 20
            ),
        )
    specs = tuple(
        replace(spec, dtype=dtype) if dtype and spec.dtype in DTYPES else spec
        for spec in checkpoint.specs
    )
    return Conversion(checkpoint, specs, (*checkpoint.unlisted, *checkpoint.others))


def _recast(record: Record, specs: tuple[TensorSpec, ...]) -> Record:
    by_name = {spec.name: spec for spec in specs}
    parameters = tuple(
        replace(parameter, tensor=replace(parameter.tensor, dtype=by_name[name].dtype))
        if (name := next((alias for alias in parameter.aliases if alias in by_name), None))
        else parameter
        for parameter in record.model.parameters
    )
    return replace(record, model=replace(record.model, tensors=specs, parameters=parameters))
