"""Every byte of a checkpoint read once: does it still agree with its checksum, is it a number?

Torch compares no checksum when it loads. Its zip files record a CRC-32 of every member; its
stream format and safetensors record none.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.formats.zipped import Archive, is_zip
from surgery.checkpoint.pieces import Garbled, pieces
from surgery.checkpoint.places import Place, Region
from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.source import Reader, Source
from surgery.errors import DamageRefused
from surgery.specs import is_floating
from surgery.wording import counted, listed, printable

if TYPE_CHECKING:
    from surgery.checkpoint.tensors.counting import Counts

#: The key of its state dict, and the tensor's name in it.
TensorName = tuple[str | None, str]

#: The views of one storage, and the names of each.
_Views = dict[Place, list[TensorName]]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something amiss with one tensor. ``names`` are all that it has, several where it is tied.

    ``damaged``: the bytes of its storage are not those whose checksum the file records.
    ``nan`` and ``inf`` count among its ``elements``, those that its view shows and no others.
    """

    names: tuple[TensorName, ...]
    elements: int
    damaged: bool
    nan: int
    inf: int

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {
            "tensors": [{"key": key, "name": name} for key, name in self.names],
            "elements": self.elements,
            "damaged": self.damaged,
            "nan": self.nan,
            "inf": self.inf,
        }


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading all of it found. ``findings`` are the tensors with something amiss.

    ``tensors`` were read, ties once, and ``nbytes`` in all, each storage once; for ``unchecked``
    of these bytes the file records no checksum, so that damage would not show. ``damaged_parts``
    are parts of the file that are no tensor shown here, such as the pickle with all the names.
    ``counted`` is false where NaN and Inf were not looked for.
    """

    path: Path
    tensors: int
    nbytes: int
    unchecked: int
    findings: tuple[Finding, ...]
    damaged_parts: tuple[str, ...]
    counted: bool

    @property
    def damaged(self) -> tuple[TensorName, ...]:
        """The tensors whose bytes have changed, by all their names."""
        return tuple(name for finding in self.findings if finding.damaged for name in finding.names)

    @property
    def is_damaged(self) -> bool:
        """Whether anything in the file has changed since it was written, as far as it tells."""
        return bool(self.damaged or self.damaged_parts)

    @property
    def nan(self) -> int:
        """Number of NaN in all."""
        return sum(finding.nan for finding in self.findings)

    @property
    def inf(self) -> int:
        """Number of infinite elements in all."""
        return sum(finding.inf for finding in self.findings)

    def refuse_damage(self) -> None:
        """Raises DamageRefused with the names of what has changed; NaN and Inf are no damage."""
        refuse_damage(self)

    def to_dict(self) -> dict[str, Any]:
        """The verification as JSON values; without counting, ``nan`` and ``inf`` are None."""
        return {
            "damaged": self.is_damaged,
            "tensors": self.tensors,
            "bytes": self.nbytes,
            "bytes_without_checksum": self.unchecked,
            "nan": self.nan if self.counted else None,
            "inf": self.inf if self.counted else None,
            "findings": [finding.to_dict() for finding in self.findings],
            "damaged_parts": list(self.damaged_parts),
        }


def refuse_damage(*verifications: Verification) -> None:
    """Raises DamageRefused where any of them found damage, with the names in every file."""
    messages = [_damage(found) for found in verifications if found.is_damaged]
    if messages:
        raise DamageRefused(messages[0], messages[1:])


def _damage(found: Verification) -> str:
    keys = {key for key, _ in found.damaged}
    names = [tensor_label(name, alone=len(keys) == 1) for name in found.damaged]
    what = [f"{counted(len(names), 'tensor')} ({listed(names, 8)})"] if names else []
    what += [listed(found.damaged_parts, 8)] if found.damaged_parts else []
    return (
        f"{printable(found.path)}: the bytes of {' and of '.join(what)} have changed since the "
        "file was written; copy or download it again"
    )


def tensor_label(name: TensorName, *, alone: bool) -> str:
    """A tensor's name, with the key of its state dict unless that is the only one."""
    return name[1] if alone else f"{name[0] or '.'}: {name[1]}"


def verify(
    path: Path,
    states: Mapping[str | None, Mapping[str, Place]],
    files: Sequence[Source] = (),
    *,
    values: bool = True,
    progress: Progress = unwatched,
) -> Verification:
    """Read every storage of the ``states``, by their keys, once and a piece at a time.

    Of a zip file the parts that say what the tensors are have checksums too; of ``files``, every
    part there is. ``values=False`` counts no NaN and no Inf, for which it needs no torch.
    ``progress`` is called with the bytes just read.

    Raises CheckpointError where a file is cut short, or has changed since it was opened.
    """
    storages: dict[Region, _Views] = {}
    for key, places in states.items():
        for name, place in places.items():
            storages.setdefault(place.region, {}).setdefault(place, []).append((key, name))
    by_source: dict[Source, list[Region]] = {file: [] for file in files}
    for region in storages:
        by_source.setdefault(region.source, []).append(region)
    findings: list[Finding] = []
    parts: list[str] = []
    unchecked = 0
    for source, regions in by_source.items():
        with source.opened() as reader:
            for region in sorted(regions, key=lambda region: region.start):
                views = storages[region]
                counts = _counts(views) if values else None
                agrees = _agrees(region, reader, progress, counts)
                for place, names in views.items():
                    nan, inf = counts.special.get(place, (0, 0)) if counts else (0, 0)
                    if agrees is False or nan or inf:
                        amiss = Finding(tuple(names), place.numel, agrees is False, nan, inf)
                        findings.append(amiss)
                unchecked += region.nbytes if agrees is None else 0
            parts += _damaged_parts(reader, regions, source in files, progress)
    return Verification(
        path,
        sum(len(views) for views in storages.values()),
        sum(region.nbytes for region in storages),
        unchecked,
        tuple(findings),
        tuple(parts),
        values,
    )


def _agrees(
    region: Region, reader: Reader, progress: Progress, counts: Counts | None = None
) -> bool | None:
    """Whether the bytes have the checksum that the file records for them; None without one.

    ``counts`` is given all of them on the way.
    """
    # Torch records 0 for every member where it is told to spend no time on checksums
    # (`torch.serialization.set_crc32_options`); other bytes have that one by chance only.
    checked = region.crc is not None and (region.crc != 0 or not region.nbytes)
    at = checksum = 0
    try:
        for data in pieces(region, reader):
            checksum = zlib.crc32(data, checksum) if checked else 0
            if counts is not None:
                counts.add(at, data)
            at += len(data)
            progress(len(data))
        if counts is not None:
            counts.look_again(reader)
    except Garbled:
        return False
    return checksum == region.crc if checked else None


def _counts(views: Iterable[Place]) -> Counts | None:
    floating = [place for place in views if is_floating(place.dtype) and place.numel]
    if not floating:
        return None
    from surgery.checkpoint.tensors.counting import Counts

    return Counts(floating)


def _damaged_parts(
    reader: Reader, regions: Iterable[Region], whole: bool, progress: Progress
) -> list[str]:
    """The members of a zip file that are none of these storages and have changed."""
    if not is_zip(reader):
        return []
    read = {region.start for region in regions}
    damaged = []
    archive = Archive(reader)
    for member in archive.members.values():
        if not whole and "/data/" in member.name:
            continue
        region = archive.region(member)
        if region.start not in read and _agrees(region, reader, progress) is False:
            damaged.append(member.name)
    return damaged
