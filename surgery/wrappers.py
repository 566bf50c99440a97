"""Names as the model's author wrote them, whatever a training run wrapped around the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

#: Segments that wrappers insert, wherever the wrapped module sits:
#: DataParallel, DDP and FSDP1 (``module``), ``torch.compile``, FSDP1, activation checkpointing,
#: and Lightning Fabric around DeepSpeed.
WRAPPER_SEGMENTS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
    }
)


def unwrap_name(name: str) -> str:
    """Drop wrapper segments: whole segments only, never text inside one, never the last one.

    >>> unwrap_name("_orig_mod.module.layers.0._checkpoint_wrapped_module.cpb_mlp.0.weight")
    'layers.0.cpb_mlp.0.weight'
    """
    *path, leaf = name.split(".")
    if WRAPPER_SEGMENTS.isdisjoint(path):
        return name
    return ".".join([*(segment for segment in path if segment not in WRAPPER_SEGMENTS), leaf])


def unwrap_names(names: Iterable[str]) -> dict[str, str]:
    """Every name to its unwrapped form.

    Where two names would become one (a network that really has a submodule called ``module``),
    both stay as they are: a look through wrappers must never merge two tensors.
    """
    unwrapped = {name: unwrap_name(name) for name in names}
    counts = Counter(unwrapped.values())
    return {name: clean if counts[clean] == 1 else name for name, clean in unwrapped.items()}


def paths_of(name: str) -> Iterator[str]:
    """Every path above a name, the shortest first, and the name itself.

    >>> list(paths_of("layer1.0.weight"))
    ['layer1', 'layer1.0', 'layer1.0.weight']
    """
    end = name.find(".")
    while end >= 0:
        yield name[:end]
        end = name.find(".", end + 1)
    yield name
