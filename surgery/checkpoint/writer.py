"""Drafts to new files: one, or shards with an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.progress import Progress, unwatched
from surgery.checkpoint.source import OneAtATime, denied
from surgery.checkpoint.writing import safetensors_layout, shards, torch_layout
from surgery.checkpoint.writing.atomic import lock, replacing, writable
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.moving import Layout, Target, reserve
from surgery.checkpoint.writing.shards import parse_size
from surgery.checkpoint.writing.values import Computed, Values
from surgery.errors import CheckpointError, ValueRefused
from surgery.specs import TensorSpec
from surgery.wording import printable

if TYPE_CHECKING:
    import torch
    from torch import nn

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_SAFETENSORS_SUFFIX = ".safetensors"


def save(
    model_or_state_dict: nn.Module | Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    max_shard_size: int | str | None = None,
) -> Path:
    """Write a model's state dict; the format follows the suffix. Returns the path.

    ``.safetensors``, or torch's zip format for ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` and
    ``.pkl``. Tied tensors are written once and stay tied; tensors that overlap in part are
    written in full each. Module versions are kept, so that old layers load as they should.
    ``metadata`` comes back as ``Checkpoint.metadata``. What plain
    ``torch.load(weights_only=True)`` and ``safetensors.torch.load_file`` see is an ordinary
    state dict. ``max_shard_size`` (bytes, or ``"5GB"``) cuts what is larger into several
    ``.safetensors`` files; what is returned is then the path of their index.

    The file is complete or not there: see :func:`surgery.checkpoint.writing.atomic.replacing`.
    It may be the one that the tensors were read from. Raises CheckpointError, naming every entry
    that cannot be written.
    """
    from surgery.checkpoint.tensors.memory import draft_of

    most = None if max_shard_size is None else parse_size(max_shard_size)
    draft, problems = draft_of(model_or_state_dict, metadata or {})
    if problems:
        raise _refused(Path(path), problems)
    return write(draft, Path(path), max_shard_bytes=most).files[-1]


def check_output(path: str | os.PathLike[str], *, in_shards: bool = False) -> Path:
    """``path``, if :func:`save` can be asked to write there: its suffix names a format, and there
    is a folder to hold it. Whoever has long work to do first asks before it.

    Raises CheckpointError; nothing is created.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (_SAFETENSORS_SUFFIX, *_TORCH_SUFFIXES):
        raise CheckpointError(
            f"{printable(path)}: no format has the suffix {printable(suffix) or '(none)'}",
            (f"choose {', '.join((_SAFETENSORS_SUFFIX, *_TORCH_SUFFIXES))}",),
        )
    if in_shards and suffix != _SAFETENSORS_SUFFIX:
        raise CheckpointError(f"{printable(path)}: only {_SAFETENSORS_SUFFIX} is written in shards")
    writable(path)
    index = shards.index_of(path)
    if not in_shards and index.exists():
        # Whoever opens the folder would find two, and nobody asked for the set to be removed.
        raise CheckpointError(
            f"{printable(path)}: {printable(index.name)} beside it is a set of that name",
            ("write in shards (--max-shard-size) to replace it, or choose another name",),
        )
    return path


def existing_outputs(path: Path, *, in_shards: bool = False) -> tuple[Path, ...]:
    """The files that writing to ``path`` would replace."""
    return ((path,) if path.exists() else ()) + (shards.existing(path) if in_shards else ())


@dataclass(frozen=True, slots=True)
class Written:
    """The ``files``, an index last, and the (name, elements) that casts have broken."""

    files: tuple[Path, ...]
    broken: tuple[tuple[str, int], ...] = ()


def write(
    draft: Draft,
    path: Path,
    *,
    dtypes: Mapping[str, str] | None = None,
    strict: bool = False,
    max_shard_bytes: int | None = None,
    progress: Progress = unwatched,
) -> Written:
    """Write a draft, whole or not at all; the format follows the suffix.

    ``dtypes`` by name are those of values that are not to stay in their own. What lies in files
    as it is to be goes from file to file. ``progress`` hears of bytes as they are written.

    All that can be refused is refused of the whole draft, whatever file it will be in: raises
    CheckpointError, naming every entry that cannot be written; and, when every byte is written
    and nothing is replaced yet, ValueRefused where ``strict`` and a cast has broken values.
    """
    broken: dict[str, int] = {}
    if dtypes:
        held = draft.values.items()
        cast = {n: cast_later(n, v, dtypes[n], broken) for n, v in held if n in dtypes}
        draft = replace(draft, values={**draft.values, **cast})

    def check() -> None:
        if strict:
            refuse_broken(broken)

    check_output(path, in_shards=max_shard_bytes is not None)
    if problems := _format(path).problems(draft):
        raise _refused(path, problems)
    if max_shard_bytes is None:
        _put_in_place({path: _lay_out(draft, path)}, check, progress)
        files: tuple[Path, ...] = (path,)
    else:
        files = _write_parts(draft, path, max_shard_bytes, check, progress)
    return Written(files, tuple(broken.items()))


def cast_later(name: str, values: Values, dtype: str, broken: dict[str, int]) -> Values:
    """``values`` in ``dtype`` (``"float16"``), computed only when they are written: ``broken`` then
    gets, by name, how many of them the cast has broken.
    """
    spec = TensorSpec.of(name, values)

    def pieces() -> Iterator[torch.Tensor]:
        from surgery.checkpoint.tensors.casting import cast
        from surgery.checkpoint.tensors.reading import flat_pieces

        total = 0
        for piece in flat_pieces(values):
            result, lost = cast(piece, dtype)
            total += lost
            yield result
        if total:
            broken[name] = total

    return values if spec.dtype == dtype else Computed(spec.shape, dtype, pieces)


def refuse_broken(broken: Mapping[str, int]) -> None:
    """Raise ValueRefused where casts broke values; ``broken`` counts them by tensor."""
    if broken:
        raise ValueRefused(
            f"strict: casts break {sum(broken.values())} values in "
            f"{len(broken)} tensors, the first is {next(iter(broken))}; nothing was changed"
        )


def _put_in_place(
    layouts: Mapping[Path, Layout],
    check: Callable[[], None],
    progress: Progress,
    *,
    part_of: str | None = None,
    like: Path | None = None,
) -> None:
    """All files are written before any has its name, and the first is the last to get one."""
    with ExitStack() as commits:  # they run in reverse
        for path, layout in layouts.items():
            draft = commits.enter_context(replacing(path, part_of=part_of, like=like))
            _fill(draft, layout, progress)
        check()


def _write_parts(
    draft: Draft, path: Path, most: int, check: Callable[[], None], progress: Progress
) -> tuple[Path, ...]:
    """One file where that is enough, else a set; what was there before is then removed."""
    with _alone_in(path.parent):
        like = next(iter(existing_outputs(path, in_shards=True)), None)
        parts = shards.plan_shards(draft, path, most)
        layouts = {file: _lay_out(part, file) for file, part in parts.items()}
        files = tuple(parts)
        if len(parts) == 1:
            _put_in_place(layouts, check, progress, like=like)
        else:
            index, text = shards.index_of(path), shards.index_text(parts).encode()
            layouts = {index: Layout(len(text), lambda target: target.put(0, text)), **layouts}
            try:
                _put_in_place(layouts, check, progress, part_of=path.name, like=like)
            except BaseException:
                if not (index.exists() and index.read_bytes() == text):
                    _remove(parts)
                raise
            files = (*parts, index)
        _remove(file for file in existing_outputs(path, in_shards=True) if file not in files)
        return files


def _remove(files: Iterable[Path]) -> None:
    # A read-only file system refuses to remove even what does not exist.
    for file in filter(os.path.lexists, files):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            what = "belongs to no set any more and cannot be removed"
            raise denied(file, error, what) from error


def _fill(file: Path, layout: Layout, progress: Progress) -> None:
    with file.open("r+b", buffering=0) as opened, OneAtATime() as sources:
        reserve(opened.fileno(), layout.nbytes)
        target = Target(opened.fileno(), sources, progress)
        layout.write(target)
        target.flush()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Sets of shards are written to a folder one after the other: their names are chosen by what
    is there, and what no index names is removed.
    """
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        yield
        return
    try:
        lock(handle, wait=True)
        yield
    finally:
        os.close(handle)


def _lay_out(draft: Draft, path: Path) -> Layout:
    """The file that a draft without problems would be, in the format of ``path``'s suffix."""
    try:
        layout: Layout = _format(path).lay_out(draft)
    except ValueError as error:
        raise _refused(path, [str(error)]) from error
    return layout


def _format(path: Path) -> Any:
    """The format's module, which has ``problems(draft)`` and ``lay_out(draft)``."""
    return safetensors_layout if path.suffix.lower() == _SAFETENSORS_SUFFIX else torch_layout


def _refused(path: Path, problems: Iterable[str]) -> CheckpointError:
    first, *rest = problems
    return CheckpointError(f"{printable(path)}: cannot be written: {first}", rest)
