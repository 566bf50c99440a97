"""Tensors to a new file. The serialisers are safetensors' and torch's own."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgery.checkpoint.atomic import replacing, writable
from surgery.checkpoint.safetensors import (
    ALIASES_KEY,
    DTYPES,
    VERSIONS_KEY,
    possible_aliases,
)
from surgery.checkpoint.wording import shown
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
) -> Path:
    """Write a model's state dict; the format follows the suffix. Returns the path.

    ``.safetensors``, or torch's zip format for ``.pt``, ``.pth``, ``.bin``, ``.ckpt`` and
    ``.pkl``. Tied tensors are written once and stay tied; tensors that overlap in part are
    written in full each. Module versions are kept, so that old layers load as they should.
    ``metadata`` comes back as ``Checkpoint.metadata``. What plain ``torch.load`` and
    ``safetensors.torch.load_file`` see is an ordinary state dict.

    The file is complete or not there: see :func:`surgery.checkpoint.atomic.replacing`. It may
    be the one that the tensors were read from. Raises CheckpointError, naming every entry that
    cannot be written.
    """
    path = check_output(path)
    draft = _gather(model_or_state_dict, path, metadata or {})
    if path.suffix.lower() == _SAFETENSORS_SUFFIX:
        _write_safetensors(draft, path)
    else:
        _write_torch(draft, path)
    return path


def check_output(path: str | os.PathLike[str]) -> Path:
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
    writable(path)
    return path


@dataclass(frozen=True, slots=True)
class _Draft:
    """What is to be written: tensors on the CPU, dense, tied names with the same tensor."""

    tensors: Mapping[str, torch.Tensor]
    extras: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, Any]]
    metadata: Mapping[str, str]

    @property
    def aliases(self) -> dict[str, str]:
        """Every further name of a tensor to its first one."""
        first: dict[int, str] = {}
        for name, tensor in self.tensors.items():
            first.setdefault(id(tensor), name)
        return {
            name: first[id(tensor)]
            for name, tensor in self.tensors.items()
            if first[id(tensor)] != name
        }


def _gather(source: Any, path: Path, metadata: Mapping[str, str]) -> _Draft:
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
    return _Draft(_dense(tensors), extras, versions, dict(metadata))


def _entry_problem(name: Any, value: Any) -> str | None:
    import torch

    if not isinstance(name, str):
        return f"expected text as its name, found {type(name).__name__}"
    if not isinstance(value, torch.Tensor):
        return f"expected a tensor, found {type(value).__name__}"
    return tensor_problem(value)


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


def _dense(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies where a tensor does not fill its storage in order; the caller's are not touched."""
    made: dict[tuple[Any, ...], torch.Tensor] = {}
    dense: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        identity = _identity(value) if value.numel() else (name,)
        if identity not in made:
            made[identity] = _owned(value)
        dense[name] = made[identity]
    return dense


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


def _owned(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().resolve_conj().resolve_neg().cpu()
    fills = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value if fills and value.is_contiguous() else value.clone().contiguous()


def _write_torch(draft: _Draft, path: Path) -> None:
    import torch

    state: OrderedDict[str, Any] = OrderedDict({**draft.tensors, **draft.extras})
    if draft.versions:
        state._metadata = draft.versions  # type: ignore[attr-defined]
    if draft.metadata:
        state._surgery = dict(draft.metadata)  # type: ignore[attr-defined]
    with replacing(path) as target, target.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if error.__context__ is not None:  # torch's own, in place of a full disk or Ctrl-C
                raise error.__context__ from None
            raise CheckpointError(f"{shown(path)}: cannot be written: {error}") from error


def _write_safetensors(draft: _Draft, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    _check_safetensors(draft, path)
    aliases = draft.aliases
    metadata = {**draft.metadata, "format": "pt", **aliases}
    if possible_aliases(metadata, draft.tensors.keys() - aliases.keys()) != aliases:
        metadata[ALIASES_KEY] = json.dumps(list(aliases))
    if versions := _plain_versions(draft.versions):
        metadata[VERSIONS_KEY] = json.dumps(versions, separators=(",", ":"))
    kept = {name: tensor for name, tensor in draft.tensors.items() if name not in aliases}
    with replacing(path) as target:
        try:
            save_file(kept, target, metadata=metadata)
            _sort_metadata(target)
        except SafetensorError as error:
            raise CheckpointError(f"{shown(path)}: cannot be written: {error}") from error


def _sort_metadata(path: Path) -> None:
    """Equal input, equal bytes: the serialiser lists the metadata in an order drawn by lot."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        assert len(text) <= length, "both spell JSON as short as it goes"
        file.seek(8)
        file.write(text.ljust(length))


def _check_safetensors(draft: _Draft, path: Path) -> None:
    known, needed = set(DTYPES.values()), {VERSIONS_KEY, ALIASES_KEY, *draft.aliases}
    problems = [
        f"{shown(name)}: safetensors has no dtype {dtype}"
        for name, tensor in draft.tensors.items()
        if (dtype := str(tensor.dtype).removeprefix("torch.")) not in known
    ]
    problems += [
        f"{shown(name)}: a pair of 4-bit numbers, which safetensors cannot keep as a scalar"
        for name, tensor in draft.tensors.items()
        if tensor.dim() == 0 and str(tensor.dtype) == "torch.float4_e2m1fn_x2"
    ]
    problems += [
        f"{shown(name)}: not a tensor, and safetensors keeps only tensors; save as .pt"
        for name, value in draft.extras.items()
        if value is not None
    ]
    problems += [
        f"{text!a}: not a name that safetensors can keep"
        for text in (*draft.tensors, *draft.metadata)
        if text == "__metadata__" or not _is_unicode(text + draft.metadata.get(text, ""))
    ]
    problems += [
        f"metadata {shown(key)}: a key that the file needs for itself"
        for key in draft.metadata
        if key in needed
    ]
    if problems:
        raise _refused(path, problems)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _plain_versions(metadata: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {
        path: entry["version"]
        for path, entry in metadata.items()
        if isinstance(entry, Mapping) and isinstance(entry.get("version"), int)
    }


def _refused(path: Path, problems: Iterable[str]) -> CheckpointError:
    first, *rest = problems
    return CheckpointError(f"{shown(path)}: cannot be written: {first}", rest)
