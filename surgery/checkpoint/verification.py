"""Every byte of a checkpoint read once: does it still agree with its checksum, is it a number?

Torch compares no checksum when it loads. Its zip files record a CRC-32 of every member; its
stream format and safetensors record none.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgery.checkpoint.holding import StateDict
from surgery.checkpoint.kinds import recognise
from surgery.checkpoint.numbers import CODES, nan_and_inf
from surgery.checkpoint.pieces import Garbled, Piece, pieces
from surgery.checkpoint.places import Place
from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.regions import Region
from surgery.checkpoint.source import Reader, Source
from surgery.checkpoint.views import axes, is_dense, times_shown
from surgery.checkpoint.wording import count, listed, shown
from surgery.checkpoint.zipped import Archive
from surgery.errors import DamageRefused

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
    """What reading all of it told. ``findings`` are the tensors with something amiss.

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
    what = [f"{count(len(names), 'tensor')} ({listed(names)})"] if names else []
    what += [listed(found.damaged_parts)] if found.damaged_parts else []
    return (
        f"{shown(found.path)}: the bytes of {' and of '.join(what)} have changed since the file "
        "was written; copy or download it again"
    )


def tensor_label(name: TensorName, *, alone: bool) -> str:
    """A tensor's name, with the key of its state dict unless that is the only one."""
    return name[1] if alone else f"{name[0] or '.'}: {name[1]}"


def verify(
    path: Path,
    states: Sequence[StateDict],
    files: Sequence[Source] = (),
    *,
    values: bool = True,
    progress: Progress = untold,
) -> Verification:
    """Read every storage of ``states`` once, a piece at a time.

    Of a zip file the parts that say what the tensors are have checksums too; of ``files``, every
    part there is. ``values=False`` counts no NaN and no Inf, for which it needs no torch.
    ``progress`` is called with the bytes just read.

    Raises CheckpointError where a file is cut short, or has changed since it was opened.
    """
    held = _held(states)
    findings: list[Finding] = []
    parts: list[str] = []
    unchecked = 0
    for source, storages in _by_source(files, held).items():
        with source.opened() as reader:
            for region, places in storages:
                read = _read(region, reader, places if values else (), progress)
                findings += _findings(places, read)
                unchecked += 0 if read.checked else region.nbytes
            parts += _damaged_parts(reader, storages, source in files, progress)
    return Verification(
        path,
        sum(len(places) for places in held.values()),
        sum(region.nbytes for region in held),
        unchecked,
        tuple(findings),
        tuple(parts),
        values,
    )


def _by_source(
    files: Iterable[Source], held: Mapping[Region, _Views]
) -> dict[Source, list[tuple[Region, _Views]]]:
    """Every file, and its storages in the order in which it has them."""
    regions: dict[Source, list[tuple[Region, _Views]]] = {file: [] for file in files}
    for region, views in held.items():
        regions.setdefault(region.source, []).append((region, views))
    return {file: sorted(found, key=lambda r: r[0].start) for file, found in regions.items()}


def _held(states: Iterable[StateDict]) -> dict[Region, _Views]:
    """Every storage and the views of it."""
    held: dict[Region, _Views] = {}
    for state in states:
        for name, place in state.places.items():
            held.setdefault(place.region, {}).setdefault(place, []).append((state.key, name))
    return held


@dataclass(frozen=True, slots=True)
class _Read:
    """One storage: whether it agrees with its checksum, if it has one; (NaN, Inf) by view."""

    checked: bool
    damaged: bool
    special: Mapping[Place, tuple[int, int]]


def _findings(places: _Views, read: _Read) -> Iterator[Finding]:
    for place, names in places.items():
        nan, inf = read.special.get(place, (0, 0))
        if read.damaged or nan or inf:
            yield Finding(tuple(names), place.numel, read.damaged, nan, inf)


def _read(region: Region, reader: Reader, places: Iterable[Place], progress: Progress) -> _Read:
    at = checksum = 0
    special: dict[Place, tuple[int, int]] = {}
    passing = _Passing(places)
    try:
        for data in pieces(region, reader):
            checksum = checksum if region.crc is None else zlib.crc32(data, checksum)
            for place in passing.touching(at, at + len(data)):
                here = _special(place, at, data)
                if any(here):
                    nan, inf = special.get(place, (0, 0))
                    special[place] = nan + here[0], inf + here[1]
            at += len(data)
            progress(len(data))
    except Garbled:
        return _Read(True, True, special)
    checked = _has_checksum(region)
    return _Read(checked, checked and checksum != region.crc, special)


def _has_checksum(region: Region) -> bool:
    """Torch records 0 for every member where it is told to spend no time on checksums
    (``torch.serialization.set_crc32_options``); other bytes have that one by chance only.
    """
    return region.crc is not None and (region.crc != 0 or not region.nbytes)


class _Passing:
    """The floating views of one storage, to be asked for in the order of its bytes."""

    def __init__(self, places: Iterable[Place]) -> None:
        floating = (place for place in places if place.dtype in CODES and place.numel)
        self._waiting = sorted(floating, key=lambda place: -place.offset * place.itemsize)
        self._begun: list[Place] = []

    def touching(self, start: int, stop: int) -> list[Place]:
        """Those with an element in these bytes."""
        while self._waiting and self._waiting[-1].offset * self._waiting[-1].itemsize < stop:
            self._begun.append(self._waiting.pop())
        self._begun = [place for place in self._begun if _span(place)[1] > start]
        return self._begun


def _span(place: Place) -> tuple[int, int]:
    """The first byte of the view in its storage, and the one after its last."""
    start = place.offset * place.itemsize
    return start, start + place.extent * place.itemsize


def _special(place: Place, at: int, data: Piece) -> tuple[int, int]:
    """(NaN, Inf) among the elements of the view in a piece that begins at byte ``at``."""
    start, stop = _span(place)
    first, last = max(start - at, 0), min(stop - at, len(data))
    part = data if (first, last) == (0, len(data)) else data[first:last]
    masks = nan_and_inf(part, place.dtype, swapped=place.region.swapped)
    if masks is None:
        return 0, 0
    if is_dense(place):
        return int(masks[0].sum()), int(masks[1].sum())
    before, moving = (at + first - start) // place.itemsize, axes(place)
    nan, inf = (times_shown(mask.nonzero()[:, 0] + before, moving) for mask in masks)
    return nan, inf


def _damaged_parts(
    reader: Reader, storages: Iterable[tuple[Region, _Views]], whole: bool, progress: Progress
) -> list[str]:
    """The members of a zip file that are none of these storages and have changed."""
    if recognise(reader) != "zip":
        return []
    read = {region.start for region, _ in storages}
    damaged = []
    archive = Archive(reader)
    for member in archive.members.values():
        if not whole and "/data/" in member.name:
            continue
        region = archive.region(member)
        if region.start not in read and _read(region, reader, (), progress).damaged:
            damaged.append(member.name)
    return damaged
