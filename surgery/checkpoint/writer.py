"""Drafts to new files: one, or shards with an index."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from surgery.checkpoint.progress import Progress, untold
from surgery.checkpoint.wording import shown
from surgery.checkpoint.writing import safetensors_layout, shards, torch_layout
from surgery.checkpoint.writing.atomic import lock, replacing, writable
from surgery.checkpoint.writing.draft import Draft
from surgery.checkpoint.writing.layout import Layout
from surgery.checkpoint.writing.moving import Target, reserve
from surgery.checkpoint.writing.shards import ShardSet, parse_size
from surgery.checkpoint.writing.values import tensor_problem
from surgery.errors import CheckpointError

if TYPE_CHECKING:
    import torch
    from torch import nn

_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_SAFETENSORS_SUFFIX = ".safetensors"
_EXTRA_STATE = "_extra_state"


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
    most = None if max_shard_size is None else parse_size(max_shard_size)
    draft = _gather(model_or_state_dict, Path(path), metadata or {})
    return write(draft, Path(path), max_shard_bytes=most)[-1]


def check_output(path: str | os.PathLike[str], *, in_shards: bool = False) -> Path:
    """``path``, if :func:`save` can be asked to write there: its suffix names a format, and there
    is a folder to hold it. Whoever has long work to do first asks before it.

    Raises CheckpointError; nothing is created.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (_SAFETENSORS_SUFFIX, *_TORCH_SUFFIXES):
        raise CheckpointError(
            f"{shown(path)}: no format has the suffix {shown(suffix) or '(none)'}",
            (f"choose {', '.join((_SAFETENSORS_SUFFIX, *_TORCH_SUFFIXES))}",),
        )
    if in_shards and suffix != _SAFETENSORS_SUFFIX:
        raise CheckpointError(f"{shown(path)}: only {_SAFETENSORS_SUFFIX} is written in shards")
    writable(path)
    index = path.with_name(path.name + shards.INDEX_SUFFIX)
    if not in_shards and index.exists():
        # Whoever opens the folder would find two, and nobody asked for the set to be removed.
        raise CheckpointError(
            f"{shown(path)}: {shown(index.name)} beside it is a set of that name",
            ("write in shards (--max-shard-size) to replace it, or choose another name",),
        )
    return path


def existing_outputs(path: Path, *, in_shards: bool = False) -> tuple[Path, ...]:
    """The files that writing to ``path`` would replace."""
    return ((path,) if path.exists() else ()) + (shards.existing(path) if in_shards else ())


def write(
    draft: Draft,
    path: Path,
    *,
    max_shard_bytes: int | None = None,
    before_commit: Callable[[], None] = lambda: None,
    progress: Progress = untold,
) -> tuple[Path, ...]:
    """Write a draft; the format follows the suffix. Returns the files, an index last.

    All that can be refused is refused of the whole draft, whatever file it will be in.

    ``before_commit`` is called when every byte is written and nothing is replaced yet: what it
    raises leaves all as it was. ``progress`` hears of bytes as they are written. Raises
    CheckpointError, naming every entry that cannot be written.
    """
    check_output(path, in_shards=max_shard_bytes is not None)
    if problems := _format(path).problems(draft):
        raise _refused(path, problems)
    if max_shard_bytes is None:
        _write_one(draft, path, before_commit, progress)
        return (path,)
    with _alone_in(path.parent):
        like = next(iter(existing_outputs(path, in_shards=True)), None)
        parts = shards.plan_shards(draft, path, max_shard_bytes)
        if parts is None:
            _write_one(draft, path, before_commit, progress, like)
            left = shards.existing(path)
        else:
            _write_set(parts, path, before_commit, progress, like)
            left = (path, *shards.left_over(path, parts))
        _remove(left)
    return (path,) if parts is None else tuple(path.parent / name for name in parts.names)


def _write_one(
    draft: Draft,
    path: Path,
    before_commit: Callable[[], None],
    progress: Progress,
    like: Path | None = None,
) -> None:
    layout = _lay_out(draft, path)
    with replacing(path, like=like) as file:
        _fill(file, layout, progress)
        before_commit()


def _write_set(
    parts: ShardSet,
    path: Path,
    before_commit: Callable[[], None],
    progress: Progress,
    like: Path | None,
) -> None:
    """All files are written before any has its name, and the index is the last to get one."""
    folder, whole = path.parent, path.name
    layouts = {name: _lay_out(shard, folder / name) for name, shard in parts.shards.items()}
    try:
        with ExitStack() as commits:  # they run in reverse
            part = partial(replacing, part_of=whole, like=like)
            index = commits.enter_context(part(folder / parts.index_name))
            index.write_text(parts.index, encoding="utf-8")
            for name, layout in layouts.items():
                _fill(commits.enter_context(part(folder / name)), layout, progress)
            before_commit()
    except BaseException:
        if not _counts(folder / parts.index_name, parts):
            _remove(folder / name for name in parts.shards)
        raise


def _counts(index: Path, parts: ShardSet) -> bool:
    """Whether the index that is there is the one of these shards."""
    return index.exists() and index.read_bytes() == parts.index.encode()


def _remove(files: Iterable[Path]) -> None:
    # A read-only file system refuses to remove even what does not exist.
    for file in filter(os.path.lexists, files):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"{shown(file)}: belongs to no set any more and cannot be removed: "
                f"{error.strerror or error}"
            ) from error


def _fill(file: Path, layout: Layout, progress: Progress) -> None:
    with file.open("r+b", buffering=0) as opened:
        reserve(opened.fileno(), layout.nbytes)
        with Target(opened.fileno(), progress) as target:
            layout.write(target)


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
        return _format(path).lay_out(draft)
    except ValueError as error:
        raise _refused(path, [str(error)]) from error


class _Format(Protocol):
    """What a format's module has."""

    def problems(self, draft: Draft) -> list[str]: ...

    def lay_out(self, draft: Draft) -> Layout: ...


def _format(path: Path) -> _Format:
    return safetensors_layout if path.suffix.lower() == _SAFETENSORS_SUFFIX else torch_layout


def _gather(source: Any, path: Path, metadata: Mapping[str, str]) -> Draft:
    from torch import Tensor, nn

    state = source.state_dict() if isinstance(source, nn.Module) else source
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"{shown(path)}: expected a module or a mapping of tensors, "
            f"found {type(state).__name__}"
        )
    extras = {
        name: value
        for name, value in state.items()
        if not isinstance(value, Tensor) and str(name).rpartition(".")[2] == _EXTRA_STATE
    }
    tensors = {name: value for name, value in state.items() if name not in extras}
    problems = [
        f"{shown(name)}: {problem}"
        for name, value in tensors.items()
        if (problem := _entry_problem(name, value))
    ]
    problems += [
        f"metadata {shown(key)}: expected text"
        for key, text in metadata.items()
        if not (isinstance(key, str) and isinstance(text, str))
    ]
    if problems:
        raise _refused(path, problems)
    versions = getattr(state, "_metadata", None) or {}
    return Draft(tensors, _aliases(tensors), versions, extras, dict(metadata))


def _aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Every further name of a tensor to its first one; an empty tensor is tied to nothing."""
    first: dict[tuple[Any, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, value in tensors.items():
        kept = first.setdefault(_identity(value), name) if value.numel() else name
        if kept != name:
            aliases[name] = kept
    return aliases


def _entry_problem(name: Any, value: Any) -> str | None:
    import torch

    if not isinstance(name, str):
        return f"expected text as its name, found {type(name).__name__}"
    if not isinstance(value, torch.Tensor):
        return f"expected a tensor, found {type(value).__name__}"
    return tensor_problem(value)


def _identity(value: torch.Tensor) -> tuple[Any, ...]:
    """Equal for two names of one tensor."""
    return (
        value.device,
        value.untyped_storage().data_ptr(),
        value.storage_offset(),
        tuple(value.shape),
        value.stride(),
        value.dtype,
        value.is_conj(),
        value.is_neg(),
    )


def _refused(path: Path, problems: Iterable[str]) -> CheckpointError:
    first, *rest = problems
    return CheckpointError(f"{shown(path)}: cannot be written: {first}", rest)
